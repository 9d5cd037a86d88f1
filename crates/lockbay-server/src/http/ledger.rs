//! `/v1/ledger`: money that comes in, what users have, and proof that nothing is lost.
//!
//! Sums are decimal text with all the decimals of their currency, because a float would round them.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use lockbay::clock::Timestamp;
use lockbay::ledger::{Amount, Balance, Currency, Sum, Totals, UserId};
use lockbay::{ErrorKind, LockBay};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::abandoned::see_through;
use super::extract::{JsonBody, Name, Nothing, Query, RequiredKey};
use super::finance::{amount, user};
use super::page::{self, Page};
use super::problem::Problem;
use super::{App, REPLAYED};

/// How many trial balances are taken at once: each reads every account.
const MAX_TRIALS: usize = 4;

pub(super) fn routes() -> Router<App> {
    let trials = Arc::new(Semaphore::new(MAX_TRIALS));
    Router::new()
        .route("/v1/ledger/deposits", post(deposit))
        .route("/v1/ledger/accounts/{user_id}", get(account))
        .route(
            "/v1/ledger/trial-balance",
            get(move |app, query| trial_balance(app, query, Arc::clone(&trials))),
        )
        .route("/v1/ledger/postings", get(postings))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DepositBody {
    user_id: lockbay::Json,
    amount: lockbay::Json,
    currency: String,
}

/// A deposit that was made, and what its user has now.
#[derive(Serialize)]
struct Deposited {
    movement_id: String,
    user_id: UserId,
    amount: Amount,
    currency: Currency,
    available: Sum,
    held: Sum,
}

async fn deposit(
    State(app): State<App>,
    RequiredKey(key): RequiredKey,
    JsonBody(body): JsonBody<DepositBody>,
) -> Result<Response, Problem> {
    let user = user("user_id", &body.user_id)?;
    let amount = amount(&body.amount, &body.currency)?;
    let bay = app.bay.clone();
    // Money that came in stays in, whoever has gone meanwhile.
    let keep = |_| async {};
    let work = async move { make_deposit(&bay, user, amount, &key).await };
    let (deposited, replayed) = see_through(work, keep).await??;
    Ok(match replayed {
        true => (StatusCode::OK, REPLAYED, Json(deposited)).into_response(),
        false => (StatusCode::CREATED, Json(deposited)).into_response(),
    })
}

async fn make_deposit(
    bay: &LockBay,
    user_id: UserId,
    amount: Amount,
    key: &str,
) -> Result<(Deposited, bool), Problem> {
    let applied = bay.ledger().deposit(&user_id, &amount, key).await?;
    let balance = bay.ledger().balance(&user_id, amount.currency()).await;
    let Balance { available, held, currency } = balance.map_err(|error| {
        let detail = format!(
            "the deposit was made, and the balance could not be read; repeat it with its key: \
             {error}"
        );
        Problem::new(ErrorKind::Unknown, detail)
    })?;
    let movement_id = applied.movement.movement_id;
    let deposited = Deposited { movement_id, user_id, amount, currency, available, held };
    Ok((deposited, applied.replayed))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    currency: String,
}

/// What a user has; nothing if they never had any.
#[derive(Serialize)]
struct Account {
    user_id: UserId,
    #[serde(flatten)]
    balance: Balance,
}

async fn account(
    State(app): State<App>,
    Name(user_id): Name,
    Query(Asked { currency }): Query<Asked>,
) -> Result<Json<Account>, Problem> {
    let (user_id, currency) = (UserId::parse(&user_id)?, Currency::parse(&currency)?);
    let balance = app.bay.ledger().balance(&user_id, currency).await?;
    Ok(Json(Account { user_id, balance }))
}

#[derive(Serialize)]
struct Trial {
    balanced: bool,
    as_of: String,
    at: Timestamp,
    currencies: Vec<Totals>,
}

async fn trial_balance(
    State(app): State<App>,
    _: Query<Nothing>,
    at_once: Arc<Semaphore>,
) -> Result<Json<Trial>, Problem> {
    let Ok(_permit) = at_once.try_acquire() else {
        let detail = format!("{MAX_TRIALS} trial balances are being taken already");
        return Err(Problem::new(ErrorKind::Busy, detail));
    };
    let trial = app.bay.ledger().trial_balance().await?;
    Ok(Json(Trial {
        balanced: trial.balanced(),
        as_of: trial.as_of.to_string(),
        at: trial.at,
        currencies: trial.totals,
    }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listing {
    saga_id: String,
    page_size: Option<usize>,
    page_token: Option<String>,
}

async fn postings(
    State(app): State<App>,
    Query(listing): Query<Listing>,
) -> Result<Response, Problem> {
    let limit = page::size(listing.page_size)?;
    let list_name = format!("postings {:?}", listing.saga_id);
    let next = page::place(&list_name, listing.page_token.as_deref())?;
    let page = app.bay.ledger().postings(&listing.saga_id, next, limit).await?;
    Ok(Page::new(&list_name, page.items, page.next).into_response())
}
