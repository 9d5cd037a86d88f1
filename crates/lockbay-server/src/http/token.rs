//! `/v1/tokens`: making, listing and revoking tokens.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use lockbay::access::{Access, Expiry, Issued, LastAdmin, NewToken, Role, TokenInfo};
use lockbay::clock::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::abandoned::see_through;
use super::access::{Identity, Means};
use super::extract::{JsonBody, Name, Query, Seconds, check_reason};
use super::openapi::{NotFound, Unprocessable, page_size, page_token};
use super::page::{self, Page};
use super::problem::Problem;

/// What page tokens of this list are bound to.
const LIST: &str = "tokens";
/// Why a token was revoked, if nobody says so.
const NO_REASON: &str = "no reason was given";

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list_tokens, create_token)).routes(routes!(revoke_token))
}

/// A token as it is asked for. It ends after so many seconds or at a moment, or never.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewToken)]
struct Wish {
    /// What the audit trail calls whoever uses it, in 1 to 128 bytes.
    name: String,
    /// `viewer`, `operator` or `admin`; the first token of a store is an admin token.
    #[schema(value_type = String)]
    role: Role,
    /// How long it lasts.
    #[schema(value_type = Option<f64>)]
    expires_in_seconds: Option<Seconds>,
    /// When it ends, as RFC 3339.
    #[schema(value_type = Option<String>)]
    expires_at: Option<Timestamp>,
}

/// A token, without its secret.
#[derive(Serialize, ToSchema)]
struct Token {
    /// What names it.
    token_id: String,
    /// What the audit trail calls whoever uses it.
    name: String,
    /// `viewer`, `operator` or `admin`.
    role: String,
    /// `active`, `expired` or `revoked`.
    status: String,
    /// When it was made.
    created_at: String,
    /// Who made it.
    created_by: Option<String>,
    /// When it expires; never if there is nothing.
    expires_at: Option<String>,
    /// When it was last used, to the minute.
    last_used_at: Option<String>,
    /// When it was revoked.
    revoked_at: Option<String>,
    /// Who revoked it.
    revoked_by: Option<String>,
    /// Why it was revoked.
    reason: Option<String>,
}

/// A token that was made.
#[derive(Serialize, ToSchema)]
struct NewlyIssued {
    /// The token itself. It is shown this once.
    token: String,
    #[serde(flatten)]
    info: Token,
}

/// A page of tokens.
#[derive(ToSchema)]
#[allow(dead_code)] // says how a `Page` of them looks
struct TokenPage {
    items: Vec<Token>,
    next_page_token: Option<String>,
}

impl From<TokenInfo> for Token {
    fn from(info: TokenInfo) -> Self {
        let text = |time: Timestamp| time.to_string();
        Token {
            token_id: info.token_id,
            name: info.name,
            role: info.role.to_string(),
            status: info.status.name().into(),
            created_at: text(info.created_at),
            created_by: info.created_by,
            expires_at: info.expires_at.map(text),
            last_used_at: info.last_used_at.map(text),
            revoked_at: info.revoked_at.map(text),
            revoked_by: info.revoked_by,
            reason: info.reason,
        }
    }
}

/// Make a token
///
/// The token is in this answer and nowhere else. Asked again, another one is made; an
/// Idempotency-Key does not give it again, because it is not kept.
#[utoipa::path(
    post, path = "/v1/tokens", operation_id = "create_token", tag = "tokens", request_body = Wish,
    responses(
        (status = 201, body = NewlyIssued, description = "The token, shown this once"),
        Unprocessable,
    ),
)]
async fn create_token(
    State(app): State<App>,
    Extension(identity): Extension<Identity>,
    JsonBody(wish): JsonBody<Wish>,
) -> Result<Response, Problem> {
    let expiry = match (wish.expires_in_seconds, wish.expires_at) {
        (Some(_), Some(_)) => {
            return Err(Problem::invalid(
                "a token has either expires_in_seconds or expires_at, not both; nothing was done",
            ));
        }
        (Some(Seconds(life)), None) => Some(Expiry::In(life)),
        (None, end) => end.map(Expiry::At),
    };
    let access = app.bay.access().clone();
    let wish = NewToken { name: wish.name, role: wish.role, expiry };
    let work = {
        let access = access.clone();
        // Who was let in while nobody is known may find the store closed by now.
        let is_anybody = identity.means == Means::Nothing;
        async move {
            match is_anybody {
                true => access.create_first(&wish).await,
                false => access.create(&wish).await,
            }
        }
    };
    let issued = see_through(work, move |issued| give_back(access, issued)).await??;
    let shown = NewlyIssued { token: issued.token, info: issued.info.into() };
    Ok((StatusCode::CREATED, Json(shown)).into_response())
}

/// Nobody saw this token, and nobody will. The last admin token stays, to be revoked by a person:
/// without it the store would be closed to everybody.
async fn give_back(access: Access, issued: lockbay::Result<Issued>) {
    let Ok(Issued { info, .. }) = issued else { return };
    let reason = "whoever asked for it had gone before it could be shown";
    if let Err(error) = access.revoke(&info.token_id, reason, LastAdmin::Stays).await {
        tracing::warn!(token = info.token_id, %error, "a token that nobody saw was not revoked");
    }
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Listing {
    /// How many at most, 1 to 1000.
    #[param(schema_with = page_size)]
    page_size: Option<usize>,
    /// Goes on behind an earlier page.
    #[param(schema_with = page_token)]
    page_token: Option<String>,
}

/// List tokens
///
/// The oldest first, without their secrets.
#[utoipa::path(
    get, path = "/v1/tokens", operation_id = "list_tokens", tag = "tokens", params(Listing),
    responses((status = 200, body = TokenPage, description = "Tokens, without their secrets")),
)]
async fn list_tokens(
    State(app): State<App>,
    Query(listing): Query<Listing>,
) -> Result<Response, Problem> {
    let limit = page::size(listing.page_size)?;
    let after = page::place(LIST, listing.page_token.as_deref())?;
    let (tokens, next) = app.bay.access().list(after, limit).await?;
    let tokens: Vec<Token> = tokens.into_iter().map(Token::from).collect();
    Ok(Page::new(LIST, tokens, next).into_response())
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Ending {
    /// Why, for the audit trail.
    reason: Option<String>,
}

/// Revoke a token
///
/// Within a second no instance takes it any more, nor any session that it began. Asked again, the
/// answer is the same. The last admin token is not revoked here.
#[utoipa::path(
    delete, path = "/v1/tokens/{token_id}", operation_id = "revoke_token", tag = "tokens",
    params(("token_id" = super::shape::Name, Path, description = "The id of the token."), Ending),
    responses(
        (status = 200, body = Token, description = "The token, revoked"),
        NotFound,
        Unprocessable,
    ),
)]
async fn revoke_token(
    State(app): State<App>,
    Name(id): Name,
    Query(ending): Query<Ending>,
) -> Result<Json<Token>, Problem> {
    let reason = ending.reason.unwrap_or_else(|| NO_REASON.to_owned());
    check_reason(&reason)?;
    Ok(Json(app.bay.access().revoke(&id, &reason, LastAdmin::Stays).await?.into()))
}
