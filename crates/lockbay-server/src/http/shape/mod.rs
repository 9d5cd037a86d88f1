//! What the wire looks like where the library writes or reads it: schemas, and nothing else.
//!
//! The library knows no HTTP, so its types do not describe themselves. Each type here has the name,
//! the members and the words of one of the library's; none is ever made. That they are true is
//! tested with real answers, in which no member may be missing here or left over. A member that is
//! always there but may be null is `required`; one that is left out when there is nothing to say is
//! not, and is never null.

#![allow(dead_code)] // described, never made

pub(super) mod alert;
pub(super) mod audit;
pub(super) mod cleanup;
pub(super) mod health;
pub(super) mod history;
mod job;
pub(super) mod metrics;
mod money;
pub(super) mod notify;
mod place;
pub(super) mod report;
mod saga;
mod schedule;
pub(super) mod state;
pub(super) mod text;

use utoipa::ToSchema;

pub(super) use self::job::{Identity, Job, JobStatus, OnFailed};
pub(super) use self::money::{Amount, Balance, CurrencyTotals, GivenAmount, Movement};
pub(super) use self::place::{Leader, Lease};
pub(super) use self::saga::{Action, Handler, HistoryEntry, Saga, SagaStatus, TaskEffect};
pub(super) use self::schedule::{Misfire, Overlap, Schedule, ScheduleStatus, UpcomingTicks};
pub(super) use self::text::{
    Currency, FencingToken, GivenUserId, LongName, Name, PlainId, Reason, ScheduleId, TaskId,
};

/// A moment: RFC 3339 in UTC.
#[derive(ToSchema)]
#[schema(format = DateTime, examples("2026-11-30T03:15:00.000000Z"))]
pub(super) struct Moment(String);
