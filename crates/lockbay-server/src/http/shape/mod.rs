//! What values of the library look like on the wire, for the OpenAPI document.
//!
//! The library knows no OpenAPI, so its types are described here by others with the same members.
//! None of these is ever made; tests hold real answers of every route against them, in which no
//! member may be missing here or left over. A member that is always there but may be null is
//! `required`; one that is left out when there is nothing to say is not, and is never null.

#![allow(dead_code)] // described, never made

pub(super) mod alert;
pub(super) mod audit;
pub(super) mod cleanup;
pub(super) mod health;
pub(super) mod history;
mod job;
pub(super) mod leader;
mod lease;
pub(super) mod metrics;
mod money;
pub(super) mod notify;
pub(super) mod report;
mod saga;
mod schedule;
pub(super) mod state;
pub(super) mod text;

use utoipa::ToSchema;

pub(super) use self::job::{Identity, Job, JobStatus, OnFailed};
pub(super) use self::lease::Lease;
pub(super) use self::money::{Amount, Balance, CurrencyTotals, GivenAmount, Movement};
pub(super) use self::saga::{Action, Handler, HistoryEntry, Saga, SagaStatus, TaskEffect};
pub(super) use self::schedule::{Misfire, Overlap, Schedule, ScheduleStatus, UpcomingTicks};
pub(super) use self::text::{
    Currency, FencingToken, GivenUserId, LongName, Name, PlainId, Reason, ScheduleId, TaskId,
};

/// A moment: RFC 3339 in UTC.
#[derive(ToSchema)]
#[schema(format = DateTime, examples("2026-11-30T03:15:00.000000Z"))]
pub(super) struct Moment(String);
