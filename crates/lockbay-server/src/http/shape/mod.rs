//! What the wire looks like where the library writes or reads it: schemas, and nothing else.
//!
//! The library knows no HTTP, so its types do not describe themselves. Each type here has the name,
//! the members and the words of one of the library's; none is ever made. That they are true is
//! tested with real answers, in which no member may be missing here or left over.

#![allow(dead_code)] // described, never made

mod job;
mod money;
mod place;
mod saga;
mod schedule;
mod text;

pub(super) use self::job::{Identity, Job, JobStatus, OnFailed};
pub(super) use self::money::{Amount, Balance, CurrencyTotals, GivenAmount, Movement};
pub(super) use self::place::{Leader, Lease};
pub(super) use self::saga::{Action, Handler, HistoryEntry, Saga, SagaStatus, TaskEffect};
pub(super) use self::schedule::{Misfire, Overlap, Schedule, ScheduleStatus, UpcomingTicks};
pub(super) use self::text::{
    Currency, FencingToken, GivenUserId, LongName, Name, PlainId, Reason, ScheduleId, TaskId,
};
