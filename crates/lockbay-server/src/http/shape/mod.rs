//! What values of the library look like on the wire, for the OpenAPI document.
//!
//! The library knows no OpenAPI, so its types are described here by others with the same members.
//! None of these is ever made; tests hold real answers of every route against them. A member that
//! is always there but may be null is `required`; one that is left out when there is nothing to say
//! is not, and is never null.

#![allow(dead_code)] // described, never made

pub(super) mod alert;
pub(super) mod audit;
pub(super) mod cleanup;
pub(super) mod health;
pub(super) mod history;
pub(super) mod leader;
pub(super) mod metrics;
pub(super) mod notify;
pub(super) mod report;
pub(super) mod state;

use utoipa::ToSchema;

/// A moment: RFC 3339 in UTC.
#[derive(ToSchema)]
#[schema(format = DateTime, examples("2026-11-30T03:15:00.000000Z"))]
pub(super) struct Moment(String);
