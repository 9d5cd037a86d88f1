//! Leases.

use utoipa::ToSchema;

use super::{FencingToken, LongName, Moment};

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
