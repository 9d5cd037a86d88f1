//! `/v1/sagas/escrow|release|refund|cashout`: the sagas that move money.
//!
//! Every call names its request with an `Idempotency-Key`, because a request for money whose answer
//! was lost must be safe to repeat. Amounts are read by their text. A saga that was accepted goes
//! on whatever becomes of the request, so nothing here is undone when a client goes away.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use lockbay::finance::Finance;
use lockbay::ledger::{Amount, Currency, UserId};
use lockbay::saga::Started;
use serde::{Deserialize, Serialize};

use super::abandoned::see_through;
use super::extract::{JsonBody, RequiredKey};
use super::problem::Problem;
use super::{App, REPLAYED};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/sagas/escrow", post(escrow))
        .route("/v1/sagas/cashout", post(cashout))
        .route("/v1/sagas/release", post(release))
        .route("/v1/sagas/refund", post(refund))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EscrowBody {
    buyer_id: lockbay::Json,
    seller_id: lockbay::Json,
    amount: lockbay::Json,
    currency: String,
}

async fn escrow(
    State(app): State<App>,
    RequiredKey(key): RequiredKey,
    JsonBody(body): JsonBody<EscrowBody>,
) -> Result<Response, Problem> {
    let buyer = user("buyer_id", &body.buyer_id)?;
    let seller = user("seller_id", &body.seller_id)?;
    let amount = amount(&body.amount, &body.currency)?;
    let key = Some(key_of("escrow", &key));
    start(&app, move |finance| async move { finance.escrow(&buyer, &seller, &amount, key).await })
        .await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CashoutBody {
    user_id: lockbay::Json,
    amount: lockbay::Json,
    currency: String,
    destination: String,
}

async fn cashout(
    State(app): State<App>,
    RequiredKey(key): RequiredKey,
    JsonBody(body): JsonBody<CashoutBody>,
) -> Result<Response, Problem> {
    let user = user("user_id", &body.user_id)?;
    let amount = amount(&body.amount, &body.currency)?;
    let (key, to) = (Some(key_of("cashout", &key)), body.destination);
    start(&app, move |finance| async move { finance.cashout(&user, &amount, &to, key).await }).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EscrowEndBody {
    escrow_id: String,
}

async fn release(
    State(app): State<App>,
    RequiredKey(key): RequiredKey,
    JsonBody(EscrowEndBody { escrow_id }): JsonBody<EscrowEndBody>,
) -> Result<Response, Problem> {
    let key = Some(key_of("release", &key));
    start(&app, move |finance| async move { finance.release(&escrow_id, key).await }).await
}

async fn refund(
    State(app): State<App>,
    RequiredKey(key): RequiredKey,
    JsonBody(EscrowEndBody { escrow_id }): JsonBody<EscrowEndBody>,
) -> Result<Response, Problem> {
    let key = Some(key_of("refund", &key));
    start(&app, move |finance| async move { finance.refund(&escrow_id, key).await }).await
}

/// A saga that was accepted.
#[derive(Serialize)]
struct Accepted {
    saga_id: String,
    status: &'static str,
}

/// Starts a saga, in a task of its own: a client that goes away does not stop it half way.
async fn start<W, F>(app: &App, work: W) -> Result<Response, Problem>
where
    W: FnOnce(Finance) -> F,
    F: Future<Output = lockbay::Result<Started>> + Send + 'static,
{
    // A saga that nobody waits for any more was still asked for.
    let keep = |_| async {};
    let started = see_through(work(app.bay.finance().clone()), keep).await??;
    let place = [(header::LOCATION, format!("/v1/sagas/{}", started.saga_id))];
    let body = Json(Accepted { saga_id: started.saga_id, status: started.status.name() });
    Ok(match started.replayed {
        true => (StatusCode::ACCEPTED, REPLAYED, place, body).into_response(),
        false => (StatusCode::ACCEPTED, place, body).into_response(),
    })
}

/// The key of a saga. The keys of all sagas are one space; the blank, which no header's key has,
/// keeps those of this route apart from those of the others and of `POST /v1/sagas`.
fn key_of(route: &str, key: &str) -> String {
    format!("{route} {key}")
}

/// A user, as the member of this name gives them.
pub(super) fn user(member: &str, id: &lockbay::Json) -> Result<UserId, Problem> {
    UserId::from_json(id).map_err(|error| Problem::invalid(format!("{member}: {error}")))
}

/// An amount of money.
pub(super) fn amount(amount: &lockbay::Json, currency: &str) -> Result<Amount, Problem> {
    Ok(Amount::from_json(amount, Currency::parse(currency)?)?)
}
