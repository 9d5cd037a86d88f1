//! `/v1/ledger`: money that comes in, what users have, and proof that nothing is lost.
//!
//! Sums are decimal text with all the decimals of their currency, because a float would round them.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use lockbay::clock::Timestamp;
use lockbay::ledger::{Amount, Balance, Currency, Sum, Totals, UserId};
use lockbay::{ErrorKind, LockBay};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::abandoned::see_through;
use super::access::Identity;
use super::approval::{Waiting, hold_deposit};
use super::extract::{JsonBody, Name, Nothing, Query, RequiredKey};
use super::finance::{amount, user};
use super::openapi::{RequiredIdempotencyKey, Unprocessable, page_size, page_token};
use super::page::{self, Page};
use super::problem::Problem;
use super::shape;
use super::{App, REPLAYED};

/// How many trial balances are taken at once: each reads every account.
pub(super) const MAX_TRIALS: usize = 4;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(deposit))
        .routes(routes!(account))
        .routes(routes!(trial_balance))
        .routes(routes!(postings))
}

/// Money that came in.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Deposit)]
struct DepositBody {
    /// Whose it is.
    #[schema(value_type = shape::GivenUserId)]
    user_id: lockbay::Json,
    #[schema(value_type = shape::GivenAmount)]
    amount: lockbay::Json,
    #[schema(value_type = shape::Currency)]
    currency: String,
}

/// A deposit that was made, and what its user has now.
#[derive(Serialize, ToSchema)]
struct Deposited {
    movement_id: String,
    #[schema(value_type = shape::PlainId)]
    user_id: UserId,
    #[schema(value_type = shape::Amount)]
    amount: Amount,
    #[schema(value_type = shape::Currency)]
    currency: Currency,
    /// What may be spent.
    #[schema(value_type = shape::Amount)]
    available: Sum,
    /// What is set apart in open holds.
    #[schema(value_type = shape::Amount)]
    held: Sum,
}

/// Enter a deposit
///
/// Money has come in and is the user's to spend. Repeated with its `Idempotency-Key`, it is the same
/// deposit.
#[utoipa::path(
    post,
    path = "/v1/ledger/deposits",
    operation_id = "deposit_money",
    tag = "money",
    params(RequiredIdempotencyKey),
    request_body = DepositBody,
    responses(
        (status = 201, description = "It is entered.", body = Deposited),
        (
            status = 200,
            description = "It was entered before.",
            body = Deposited,
            headers(("Idempotency-Replayed" = bool, description = "Whether it was answered before.")),
        ),
        (status = 202, description = "It waits for the approval of a second person.", body = Waiting),
        Unprocessable,
    ),
)]
async fn deposit(
    State(app): State<App>,
    Extension(identity): Extension<Identity>,
    RequiredKey(key): RequiredKey,
    JsonBody(body): JsonBody<DepositBody>,
) -> Result<Response, Problem> {
    let user = user("user_id", &body.user_id)?;
    let amount = amount(&body.amount, &body.currency)?;
    if let Some(waits) = hold_deposit(&app, &identity, &user, &amount, &key).await? {
        return Ok(waits);
    }
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

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Asked {
    /// In which currency.
    #[param(value_type = shape::Currency)]
    currency: String,
}

/// What a user has; nothing if they never had any.
#[derive(Serialize, ToSchema)]
struct Account {
    #[schema(value_type = shape::PlainId)]
    user_id: UserId,
    #[serde(flatten)]
    #[schema(value_type = shape::Balance)]
    balance: Balance,
}

/// Show what a user has
///
/// In one currency. A user who never had any has nothing.
#[utoipa::path(
    get,
    path = "/v1/ledger/accounts/{user_id}",
    operation_id = "get_account",
    tag = "money",
    params(("user_id" = shape::PlainId, Path, description = "The user."), Asked),
    responses((status = 200, description = "What they have.", body = Account)),
)]
async fn account(
    State(app): State<App>,
    Name(user_id): Name,
    Query(Asked { currency }): Query<Asked>,
) -> Result<Json<Account>, Problem> {
    let (user_id, currency) = (UserId::parse(&user_id)?, Currency::parse(&currency)?);
    let balance = app.bay.ledger().balance(&user_id, currency).await?;
    Ok(Json(Account { user_id, balance }))
}

/// All accounts added up, as they were at one moment.
#[derive(Serialize, ToSchema)]
#[schema(as = TrialBalance)]
struct Trial {
    /// Whether every currency comes to zero, and what users hold is there.
    balanced: bool,
    /// The last commit that is in it.
    #[schema(value_type = shape::FencingToken)]
    as_of: String,
    /// The store's time of asking.
    #[schema(value_type = shape::Moment)]
    at: Timestamp,
    /// In the order of their codes.
    #[schema(value_type = Vec<shape::CurrencyTotals>)]
    currencies: Vec<Totals>,
}

/// Take a trial balance
///
/// It reads every account, so few are taken at once. Whatever is moved, every currency comes to
/// zero.
#[utoipa::path(
    get,
    path = "/v1/ledger/trial-balance",
    operation_id = "get_trial_balance",
    tag = "money",
    responses((status = 200, description = "All accounts added up.", body = Trial)),
)]
async fn trial_balance(State(app): State<App>, _: Query<Nothing>) -> Result<Json<Trial>, Problem> {
    let Ok(_permit) = app.trials.try_acquire() else {
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

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Listing {
    /// The saga.
    #[param(value_type = shape::PlainId)]
    saga_id: String,
    /// How many movements the page has at most.
    #[param(schema_with = page_size)]
    page_size: Option<usize>,
    /// The `next_page_token` of the page before.
    #[param(schema_with = page_token)]
    page_token: Option<String>,
}

/// List what a saga has moved
///
/// Every movement with its sides, in the order of their ids. A saga that moved nothing, or that there
/// never was, has none.
#[utoipa::path(
    get,
    path = "/v1/ledger/postings",
    operation_id = "list_postings",
    tag = "money",
    params(Listing),
    responses((status = 200, description = "A page of movements.", body = Page<shape::Movement>)),
)]
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
