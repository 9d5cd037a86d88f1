//! `/v1/approvals`, and what waits for one: money that one person alone does not move.
//!
//! Above an amount, a deposit and a decision about a saga that says what happened to money are kept
//! as a request, until somebody else allows them. Whoever asks and whoever allows are known by
//! tokens; while there are none, nobody could tell two people apart, and such a request is refused.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use lockbay::approval::{Allowed, Approval, ApprovalStatus, Approvals, Wish};
use lockbay::clock::Timestamp;
use lockbay::ledger::{Amount, Currency, UserId};
use lockbay::saga::{Decision, SagaInfo};
use lockbay::{Caller, ErrorKind, LockBay};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::abandoned::see_through;
use super::access::{Identity, Means};
use super::extract::{JsonBody, Name, Nothing, Query, check_reason};
use super::four_eyes::at_stake;
use super::openapi::{Conflict, NotFound, Unprocessable, page_size, page_token};
use super::page::{self, Page};
use super::problem::Problem;
use super::shape;

/// What page tokens of this list are bound to.
const APPROVALS: &str = "approvals";
/// Beyond this length the name of who did it is cut.
const MAX_ACTOR_BYTES: usize = 256;
/// How often one decision about one saga as it stands can be asked for, answered, and asked for anew.
const MAX_ASKED_ANEW: usize = 20;
/// How the names of our own handlers begin, which move money.
const OURS: &str = "finance.";

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show))
        .routes(routes!(approve))
        .routes(routes!(reject))
}

/// What is kept until it was allowed.
#[derive(Default, Serialize, Deserialize)]
struct Request {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deposit: Option<Deposit>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cashout: Option<Cashout>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    decision: Option<Decided>,
}

#[derive(Serialize, Deserialize)]
struct Deposit {
    user_id: String,
    amount: String,
    currency: String,
    idempotency_key: String,
}

/// A payout, as it was asked for.
#[derive(Serialize, Deserialize)]
pub(super) struct Cashout {
    pub(super) user_id: String,
    pub(super) amount: String,
    pub(super) currency: String,
    pub(super) destination: String,
    pub(super) idempotency_key: String,
}

#[derive(Serialize, Deserialize)]
struct Decided {
    saga_id: String,
    verb: String,
    step: Option<String>,
    /// What a step gets from now on, or would have returned.
    given: Option<lockbay::Json>,
    reason: String,
    /// How the saga stood, as whoever asked saw it.
    seen: String,
}

/// What was asked for and now waits for somebody else.
#[derive(Serialize, ToSchema)]
#[schema(as = WaitsForApproval)]
pub(super) struct Waiting {
    approval_id: String,
    #[schema(value_type = String)]
    status: ApprovalStatus,
    /// Until when somebody can allow it.
    #[schema(value_type = String, format = DateTime)]
    expires_at: Timestamp,
}

/// A saga that was started, or what waits for somebody else.
#[derive(ToSchema)]
#[schema(as = StandingOrApproval)]
#[serde(untagged)]
#[allow(dead_code)] // described, never made
pub(super) enum Held {
    Started(super::saga::Standing),
    Waits(Waiting),
}

/// Keeps a deposit until it was allowed; nothing if it may be made now.
pub(super) async fn hold_deposit(
    app: &App,
    identity: &Identity,
    user: &UserId,
    amount: &Amount,
    key: &str,
) -> Result<Option<Response>, Problem> {
    if !app.four_eyes.covers(amount) {
        return Ok(None);
    }
    let deposit = Deposit {
        user_id: user.as_str().to_owned(),
        amount: amount.to_string(),
        currency: amount.currency().code().into(),
        idempotency_key: key.to_owned(),
    };
    let request = Request { deposit: Some(deposit), ..Request::default() };
    let subject = user.as_str().to_owned();
    hold(app, identity, "deposit", subject, amount, &request, key.to_owned()).await
}

/// Keeps a payout until it was allowed; nothing if it may be made now.
pub(super) async fn hold_cashout(
    app: &App,
    identity: &Identity,
    cashout: Cashout,
    amount: &Amount,
) -> Result<Option<Response>, Problem> {
    if !app.four_eyes.covers(amount) {
        return Ok(None);
    }
    let (subject, key) = (cashout.user_id.clone(), cashout.idempotency_key.clone());
    let request = Request { cashout: Some(cashout), ..Request::default() };
    hold(app, identity, "cashout", subject, amount, &request, key).await
}

/// Keeps what has a key of its own: once it was carried out, it is answered as repeated.
async fn hold(
    app: &App,
    identity: &Identity,
    verb: &str,
    subject: String,
    amount: &Amount,
    request: &Request,
    key: String,
) -> Result<Option<Response>, Problem> {
    let wish = Wish {
        verb: verb.into(),
        subject,
        amount: amount.to_string(),
        currency: amount.currency().code().into(),
        request: lockbay::Json::from_value(request)?,
        asked_by: known(identity)?,
        reason: None,
        ttl: app.four_eyes.ttl,
        key: Some(key),
    };
    let approval = app.bay.approvals().ask(wish).await?.approval;
    match approval.status {
        ApprovalStatus::Waiting | ApprovalStatus::Approved => Ok(Some(waits(&approval))),
        // It was done under this key, and its answer is given again.
        ApprovalStatus::Done => Ok(None),
        ApprovalStatus::Failed | ApprovalStatus::Rejected | ApprovalStatus::Expired => {
            let (id, status) = (&approval.approval_id, approval.status.name());
            let detail = format!(
                "the approval {id} of this {verb} is {status}; to ask again, send it with another \
                 Idempotency-Key"
            );
            Err(Problem::forbidden(detail))
        }
    }
}

/// Keeps a decision about a saga until it was allowed; nothing if it may be taken now.
pub(super) async fn hold_decision(
    app: &App,
    identity: &Identity,
    saga_id: &str,
    decision: &Decision,
    reason: &str,
) -> Result<Option<Response>, Problem> {
    let Some((verb, step, given)) = parts(decision) else { return Ok(None) };
    if !app.four_eyes.is_on() {
        return Ok(None);
    }
    let saga = app.bay.sagas().show(saga_id).await?;
    let Some((amount, currency)) = at_stake(&app.four_eyes, &saga, decision) else {
        return Ok(None);
    };
    let seen = standing_of(&saga);
    let digest = given.as_ref().map(lockbay::Json::digest).transpose()?;
    let decided = Decided {
        saga_id: saga_id.to_owned(),
        verb: verb.into(),
        step,
        given,
        reason: reason.to_owned(),
        seen: seen.clone(),
    };
    let named = format!("{saga_id} {verb} {:?} {digest:?} {seen}", decided.step);
    let request = Request { decision: Some(decided), ..Request::default() };
    let wish = Wish {
        verb: format!("saga_{verb}"),
        subject: saga_id.to_owned(),
        amount,
        currency,
        request: lockbay::Json::from_value(&request)?,
        asked_by: known(identity)?,
        reason: Some(reason.to_owned()),
        ttl: app.four_eyes.ttl,
        key: None,
    };
    // Asked again while it waits, it is the same; after an answer it is asked anew.
    for attempt in 0..MAX_ASKED_ANEW {
        let key = Some(format!("{named} {attempt}"));
        let asked = app.bay.approvals().ask(Wish { key, ..wish.clone() }).await;
        match asked {
            Ok(asked) => match asked.approval.status {
                ApprovalStatus::Waiting | ApprovalStatus::Approved => {
                    return Ok(Some(waits(&asked.approval)));
                }
                ApprovalStatus::Done
                | ApprovalStatus::Failed
                | ApprovalStatus::Rejected
                | ApprovalStatus::Expired => {}
            },
            // With other words for the reason, it is another request.
            Err(error) if error.kind() == ErrorKind::KeyReused => {}
            Err(error) => return Err(error.into()),
        }
    }
    let detail = "this has been asked and answered too often; nothing was done";
    Err(Problem::forbidden(detail))
}

/// Everything by which one sees that a saga has moved.
fn standing_of(saga: &SagaInfo) -> String {
    let mut standing = format!("{} {}", saga.status.name(), saga.updated_at);
    for step in &saga.steps {
        let tried = (step.attempts, step.compensation_attempts);
        standing.push_str(&format!(" {:?} {tried:?}", step.status));
    }
    standing
}

/// Steps that pay out may only be started where they can be held.
pub(super) fn refuse_payouts<'a>(
    app: &App,
    handlers: impl Iterator<Item = &'a str>,
) -> Result<(), Problem> {
    let mut handlers = handlers;
    match handlers.find(|handler| app.four_eyes.is_on() && handler.starts_with(OURS)) {
        None => Ok(()),
        Some(handler) => Err(Problem::forbidden(format!(
            "four_eyes_above is set, so the handler {handler:?} is only used by /v1/sagas/escrow, \
             release, refund and cashout; nothing was done"
        ))),
    }
}

/// Decisions about many at once say nothing of each one's money.
pub(super) fn refuse_many(app: &App, decision: &Decision) -> Result<(), Problem> {
    if app.four_eyes.is_on() && parts(decision).is_some() {
        let detail = "four_eyes_above is set: this decision is taken about one saga at a time, so \
                      that somebody else can approve it; nothing was done";
        return Err(Problem::forbidden(detail));
    }
    Ok(())
}

fn waits(approval: &Approval) -> Response {
    let waiting = Waiting {
        approval_id: approval.approval_id.clone(),
        status: approval.status,
        expires_at: approval.expires_at,
    };
    (StatusCode::ACCEPTED, Json(waiting)).into_response()
}

/// The name by which two people are told apart.
fn known(identity: &Identity) -> Result<String, Problem> {
    match (&identity.means, &identity.actor) {
        (Means::Nothing, _) | (_, None) => Err(Problem::forbidden(
            "this needs the approval of a second person, and without tokens nobody can be told \
             from another; make tokens with 'lockbay token create'; nothing was done",
        )),
        (_, Some(actor)) => Ok(actor.clone()),
    }
}

/// What of a decision says that something happened, or did not; the others go the usual way of a
/// saga, which keeps the books straight by itself.
fn parts(decision: &Decision) -> Option<(&'static str, Option<String>, Option<lockbay::Json>)> {
    match decision {
        Decision::Cancel | Decision::Resume | Decision::Retry { parameters: None, .. } => None,
        Decision::Retry { step, parameters } => {
            Some(("retry", Some(step.clone()), parameters.clone()))
        }
        Decision::Skip { step } => Some(("skip", Some(step.clone()), None)),
        Decision::ResolveDone { step, result } => {
            Some(("resolve_done", Some(step.clone()), Some(result.clone())))
        }
        Decision::ResolveUndone { step } => Some(("resolve_undone", Some(step.clone()), None)),
        Decision::Abandon => Some(("abandon", None, None)),
    }
}

impl Decided {
    fn decision(&self) -> Result<Decision, Problem> {
        let step = || self.step.clone().unwrap_or_default();
        Ok(match self.verb.as_str() {
            "retry" => Decision::Retry { step: step(), parameters: self.given.clone() },
            "skip" => Decision::Skip { step: step() },
            "resolve_done" => Decision::ResolveDone {
                step: step(),
                result: self.given.clone().unwrap_or_default(),
            },
            "resolve_undone" => Decision::ResolveUndone { step: step() },
            "abandon" => Decision::Abandon,
            other => {
                let detail = format!("this version of LockBay knows no decision {other:?}");
                return Err(Problem::new(ErrorKind::Internal, detail));
            }
        })
    }
}

/// An approval as it is shown.
#[derive(Serialize, ToSchema)]
#[schema(as = Approval)]
struct Shown {
    approval_id: String,
    /// `waiting`, `approved`, `done`, `failed`, `rejected` or `expired`.
    #[schema(value_type = String)]
    status: ApprovalStatus,
    /// What shall be done, such as `deposit` or `saga_skip`.
    verb: String,
    /// To what: a user, or the id of a saga.
    subject: String,
    amount: String,
    currency: String,
    /// Everything that will be done.
    #[schema(value_type = Value)]
    request: lockbay::Json,
    asked_by: String,
    #[schema(required)]
    reason: Option<String>,
    #[schema(value_type = String, format = DateTime)]
    asked_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    expires_at: Timestamp,
    #[schema(required)]
    decided_by: Option<String>,
    #[schema(required, value_type = Option<String>, format = DateTime)]
    decided_at: Option<Timestamp>,
    #[schema(required)]
    decision_reason: Option<String>,
    /// What came of it.
    #[schema(required)]
    outcome: Option<String>,
}

impl From<Approval> for Shown {
    fn from(approval: Approval) -> Self {
        Shown {
            approval_id: approval.approval_id,
            status: approval.status,
            verb: approval.verb,
            subject: approval.subject,
            amount: approval.amount,
            currency: approval.currency,
            request: approval.request,
            asked_by: approval.asked_by,
            reason: approval.reason,
            asked_at: approval.asked_at,
            expires_at: approval.expires_at,
            decided_by: approval.decided_by,
            decided_at: approval.decided_at,
            decision_reason: approval.decision_reason,
            outcome: approval.outcome,
        }
    }
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Listing {
    /// Only approvals that stand so: `waiting`, `approved`, `done`, `failed`, `rejected`, `expired`.
    #[param(value_type = Option<String>, pattern = "^(waiting|approved|done|failed|rejected|expired)$")]
    status: Option<String>,
    #[param(schema_with = page_size)]
    page_size: Option<usize>,
    #[param(schema_with = page_token)]
    page_token: Option<String>,
}

/// List approvals
///
/// The newest first. A page may have fewer than its size and still go on.
#[utoipa::path(
    get,
    path = "/v1/approvals",
    operation_id = "list_approvals",
    tag = "approvals",
    params(Listing),
    responses((status = 200, body = Page<Shown>, description = "The approvals"))
)]
async fn list(State(app): State<App>, Query(listing): Query<Listing>) -> Result<Response, Problem> {
    let limit = page::size(listing.page_size)?;
    let status = listing.status.as_deref().map(ApprovalStatus::parse).transpose()?;
    let list = format!("{APPROVALS} {}", status.map_or("", ApprovalStatus::name));
    let place = page::place(&list, listing.page_token.as_deref())?;
    let found = app.bay.approvals().list(status, place, limit).await?;
    let items = found.items.into_iter().map(Shown::from).collect();
    Ok(Page::new(&list, items, found.next).into_response())
}

/// Show one approval
///
/// With everything that will be done, who asked, and who answered.
#[utoipa::path(
    get,
    path = "/v1/approvals/{approval_id}",
    operation_id = "get_approval",
    tag = "approvals",
    params(("approval_id" = shape::Name, Path, description = "The approval.")),
    responses((status = 200, body = Shown, description = "The approval."), NotFound)
)]
async fn show(
    State(app): State<App>,
    Name(id): Name,
    _: Query<Nothing>,
) -> Result<Json<Shown>, Problem> {
    Ok(Json(app.bay.approvals().show(&id).await?.into()))
}

/// Why something is allowed or refused.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ApprovalAnswer)]
struct AnswerBody {
    #[schema(min_length = 1, max_length = 1024)]
    reason: String,
}

/// Allow what somebody else asked for, and do it
///
/// One that was allowed and is not known to have been done is done when it is allowed again.
#[utoipa::path(
    post,
    path = "/v1/approvals/{approval_id}/approve",
    operation_id = "approve_approval",
    tag = "approvals",
    params(("approval_id" = shape::Name, Path, description = "The approval.")),
    request_body = AnswerBody,
    responses(
        (status = 200, body = Shown, description = "What came of it."),
        NotFound,
        Conflict,
        Unprocessable,
    )
)]
async fn approve(
    State(app): State<App>,
    Extension(identity): Extension<Identity>,
    Name(id): Name,
    JsonBody(body): JsonBody<AnswerBody>,
) -> Result<Json<Shown>, Problem> {
    check_reason(&body.reason)?;
    let actor = known(&identity)?;
    let bay = app.bay.clone();
    let work = async move {
        let approvals = bay.approvals();
        let allowed = approvals.allow(&id, &actor, &body.reason).await?;
        carry_out(&bay, approvals, allowed, &actor).await
    };
    let approval = see_through(work, |_| async {}).await??;
    Ok(Json(approval.into()))
}

/// Refuse what was asked for
///
/// Who asked may take it back so.
#[utoipa::path(
    post,
    path = "/v1/approvals/{approval_id}/reject",
    operation_id = "reject_approval",
    tag = "approvals",
    params(("approval_id" = shape::Name, Path, description = "The approval.")),
    request_body = AnswerBody,
    responses((status = 200, body = Shown, description = "The approval."), NotFound, Conflict, Unprocessable)
)]
async fn reject(
    State(app): State<App>,
    Extension(identity): Extension<Identity>,
    Name(id): Name,
    JsonBody(body): JsonBody<AnswerBody>,
) -> Result<Json<Shown>, Problem> {
    check_reason(&body.reason)?;
    let actor = known(&identity)?;
    let approvals = app.bay.approvals().clone();
    let work = async move { approvals.reject(&id, &actor, &body.reason).await };
    Ok(Json(see_through(work, |_| async {}).await??.into()))
}

/// Does what was allowed, in the name of both.
async fn carry_out(
    bay: &LockBay,
    approvals: &Approvals,
    allowed: Allowed,
    approver: &str,
) -> Result<Approval, Problem> {
    let request: Request = allowed.approval.request.to_value()?;
    let mut actor = format!("{} (approved by {approver})", allowed.approval.asked_by);
    actor.truncate(actor.floor_char_boundary(MAX_ACTOR_BYTES));
    // Both names were proven; the text has them in the order in which they spoke.
    let caller = Caller { actor: Some(actor.clone()), proven: None, ..Caller::current() };
    let done = caller.scope(perform(bay, &request, &actor)).await;
    let outcome = match done {
        Ok(words) => Ok(words),
        // It stays allowed, so that it can be tried again.
        Err(error) if may_pass(error.kind()) => return Err(error.into()),
        Err(error) => Err(error.to_string()),
    };
    Ok(approvals.finish(allowed, outcome).await?)
}

/// Whether it may come to something else when it is tried again.
fn may_pass(kind: ErrorKind) -> bool {
    !matches!(
        kind,
        ErrorKind::Held
            | ErrorKind::Fenced
            | ErrorKind::KeyReused
            | ErrorKind::Refused
            | ErrorKind::NotFound
            | ErrorKind::Invalid
            | ErrorKind::Unauthorized
    )
}

async fn perform(bay: &LockBay, request: &Request, actor: &str) -> lockbay::Result<String> {
    if let Some(deposit) = &request.deposit {
        let user = UserId::parse(&deposit.user_id)?;
        let amount = Amount::parse(&deposit.amount, Currency::parse(&deposit.currency)?)?;
        let applied = bay.ledger().deposit(&user, &amount, &deposit.idempotency_key).await?;
        return Ok(format!("movement {}", applied.movement.movement_id));
    }
    if let Some(cashout) = &request.cashout {
        let user = UserId::parse(&cashout.user_id)?;
        let amount = Amount::parse(&cashout.amount, Currency::parse(&cashout.currency)?)?;
        let key = Some(cashout.idempotency_key.clone());
        let started = bay.finance().cashout(&user, &amount, &cashout.destination, key).await?;
        return Ok(format!("saga {}", started.saga_id));
    }
    let unknown = "this version of LockBay does not know what was approved";
    let Some(decided) = &request.decision else {
        return Err(lockbay::Error::new(ErrorKind::Internal, unknown));
    };
    let decision =
        decided.decision().map_err(|_| lockbay::Error::new(ErrorKind::Internal, unknown))?;
    // Also of a decision that was taken before its end could be entered: it is not taken twice.
    if standing_of(&bay.sagas().show(&decided.saga_id).await?) != decided.seen {
        let moved = "the saga has moved since this was asked for; look at it, and ask again";
        return Err(lockbay::Error::new(ErrorKind::Refused, moved));
    }
    let operated = bay.sagas().operate(&decided.saga_id, &decision, actor, &decided.reason).await?;
    Ok(format!("saga {} is {}", operated.saga_id, operated.status.name()))
}
