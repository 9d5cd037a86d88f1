//! `/v1/sagas/escrow|release|refund|cashout`: the sagas that move money.
//!
//! Every call names its request with an `Idempotency-Key`, because a request for money whose answer
//! was lost must be safe to repeat. Amounts are read by their text. A saga that was accepted goes
//! on whatever becomes of the request, so nothing here is undone when a client goes away.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use lockbay::finance::Finance;
use lockbay::ledger::{Amount, Currency, UserId};
use lockbay::saga::Started;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::abandoned::see_through;
use super::access::Identity;
use super::approval::{Cashout, Held, hold_cashout};
use super::extract::{JsonBody, RequiredKey};
use super::openapi::{NotFound, RequiredIdempotencyKey, Unprocessable};
use super::problem::Problem;
use super::saga::Standing;
use super::shape;
use super::{App, REPLAYED};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(escrow))
        .routes(routes!(cashout))
        .routes(routes!(release))
        .routes(routes!(refund))
}

/// Money that belongs to two parties until one of them gets it.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = StartEscrow)]
struct EscrowBody {
    /// Who pays it in.
    #[schema(value_type = shape::GivenUserId)]
    buyer_id: lockbay::Json,
    /// Who gets it when it is released.
    #[schema(value_type = shape::GivenUserId)]
    seller_id: lockbay::Json,
    #[schema(value_type = shape::GivenAmount)]
    amount: lockbay::Json,
    #[schema(value_type = shape::Currency)]
    currency: String,
}

/// Put money into escrow
///
/// The buyer's money is set apart until it is released to the seller or given back. The id of the
/// saga is the id of the escrow.
#[utoipa::path(
    post,
    path = "/v1/sagas/escrow",
    operation_id = "start_escrow",
    tag = "money",
    params(RequiredIdempotencyKey),
    request_body = EscrowBody,
    responses(
        (
            status = 202,
            description = "The saga is written down and goes on.",
            body = Standing,
            headers(
                ("Location" = String, description = "Where the saga is."),
                ("Idempotency-Replayed" = bool, description = "Whether it was answered before."),
            ),
        ),
        Unprocessable,
    ),
)]
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

/// Money that leaves.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = StartCashout)]
struct CashoutBody {
    /// Whose it is.
    #[schema(value_type = shape::GivenUserId)]
    user_id: lockbay::Json,
    #[schema(value_type = shape::GivenAmount)]
    amount: lockbay::Json,
    #[schema(value_type = shape::Currency)]
    currency: String,
    /// Where it goes, in the words of whoever pays it out.
    #[schema(min_length = 1, max_length = 512, pattern = r"^[^\x00-\x1f\x7f-\x9f]+$")]
    destination: String,
}

/// Pay money out
///
/// It is set apart, paid out, and then taken off the books; if it cannot be paid out, it is the
/// user's again.
#[utoipa::path(
    post,
    path = "/v1/sagas/cashout",
    operation_id = "start_cashout",
    tag = "money",
    params(RequiredIdempotencyKey),
    request_body = CashoutBody,
    responses(
        (
            status = 202,
            description = "The saga is written down and goes on, or waits for a second person.",
            body = Held,
            headers(
                ("Location" = String, description = "Where the saga is."),
                ("Idempotency-Replayed" = bool, description = "Whether it was answered before."),
            ),
        ),
        Unprocessable,
    ),
)]
async fn cashout(
    State(app): State<App>,
    Extension(identity): Extension<Identity>,
    RequiredKey(key): RequiredKey,
    JsonBody(body): JsonBody<CashoutBody>,
) -> Result<Response, Problem> {
    let user = user("user_id", &body.user_id)?;
    let amount = amount(&body.amount, &body.currency)?;
    let (key, to) = (key_of("cashout", &key), body.destination);
    let held = Cashout {
        user_id: user.as_str().to_owned(),
        amount: amount.to_string(),
        currency: amount.currency().code().into(),
        destination: to.clone(),
        idempotency_key: key.clone(),
    };
    if let Some(waits) = hold_cashout(&app, &identity, held, &amount).await? {
        return Ok(waits);
    }
    let key = Some(key);
    start(&app, move |finance| async move { finance.cashout(&user, &amount, &to, key).await }).await
}

/// Which escrow comes to its end.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = EndEscrow)]
struct EscrowEndBody {
    /// The id of the saga that put the money there.
    #[schema(value_type = shape::Name)]
    escrow_id: String,
}

/// Release an escrow
///
/// The seller gets the money.
#[utoipa::path(
    post,
    path = "/v1/sagas/release",
    operation_id = "release_escrow",
    tag = "money",
    params(RequiredIdempotencyKey),
    request_body = EscrowEndBody,
    responses(
        (
            status = 202,
            description = "The saga is written down and goes on.",
            body = Standing,
            headers(
                ("Location" = String, description = "Where the saga is."),
                ("Idempotency-Replayed" = bool, description = "Whether it was answered before."),
            ),
        ),
        NotFound,
        Unprocessable,
    ),
)]
async fn release(
    State(app): State<App>,
    RequiredKey(key): RequiredKey,
    JsonBody(EscrowEndBody { escrow_id }): JsonBody<EscrowEndBody>,
) -> Result<Response, Problem> {
    let key = Some(key_of("release", &key));
    start(&app, move |finance| async move { finance.release(&escrow_id, key).await }).await
}

/// Give an escrow back
///
/// The buyer gets the money back.
#[utoipa::path(
    post,
    path = "/v1/sagas/refund",
    operation_id = "refund_escrow",
    tag = "money",
    params(RequiredIdempotencyKey),
    request_body = EscrowEndBody,
    responses(
        (
            status = 202,
            description = "The saga is written down and goes on.",
            body = Standing,
            headers(
                ("Location" = String, description = "Where the saga is."),
                ("Idempotency-Replayed" = bool, description = "Whether it was answered before."),
            ),
        ),
        NotFound,
        Unprocessable,
    ),
)]
async fn refund(
    State(app): State<App>,
    RequiredKey(key): RequiredKey,
    JsonBody(EscrowEndBody { escrow_id }): JsonBody<EscrowEndBody>,
) -> Result<Response, Problem> {
    let key = Some(key_of("refund", &key));
    start(&app, move |finance| async move { finance.refund(&escrow_id, key).await }).await
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
    let body = Json(Standing { saga_id: started.saga_id, status: started.status });
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
