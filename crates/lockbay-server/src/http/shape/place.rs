//! Leadership and leases.

use utoipa::ToSchema;

use super::{FencingToken, LongName, Moment};

/// Who leads, as the store says.
#[derive(ToSchema)]
pub(in crate::http) struct Leader {
    /// The service led.
    service: String,
    /// The random identity of the leading process.
    instance_id: String,
    /// A name for people; not an identity.
    #[schema(required)]
    instance_name: Option<String>,
    /// How many elections there were.
    term: u64,
    /// The token of the right.
    fencing_token: FencingToken,
    /// When this term began.
    elected_at: Moment,
    /// When the lease was last renewed, by the store's clock.
    last_heartbeat: Moment,
    /// When the lease lapses unless it is renewed, by the store's clock.
    expires_at: Moment,
    /// Whether that is this instance.
    is_self: bool,
}

/// A lease as the store says.
#[derive(ToSchema)]
pub(in crate::http) struct Lease {
    /// Its name.
    name: LongName,
    /// Who holds it, by its own word.
    holder: LongName,
    /// The token: show it with every call that the lease is to protect.
    fencing_token: FencingToken,
    /// When it lapses unless it is renewed, by the store's clock.
    expires_at: Moment,
}
