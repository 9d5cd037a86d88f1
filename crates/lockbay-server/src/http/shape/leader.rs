//! Who leads.

use utoipa::ToSchema;

use super::Moment;

/// Who leads.
#[derive(ToSchema)]
pub(in crate::http) struct Leader {
    /// The service that is led.
    service: String,
    /// The random identity of the leading process.
    instance_id: String,
    /// A name for people; not an identity.
    #[schema(required)]
    instance_name: Option<String>,
    /// How many elections there were.
    term: u64,
    /// The token of the right, as a string because it passes 2^53.
    #[schema(pattern = r"^[0-9]+$")]
    fencing_token: String,
    /// When this term began.
    elected_at: Moment,
    /// When the lease was last renewed, by the store's clock.
    last_heartbeat: Moment,
    /// When it lapses unless it is renewed.
    expires_at: Moment,
    /// Whether that is the instance that answers.
    is_self: bool,
}
