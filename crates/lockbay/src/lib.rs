//! Leader election, idempotent jobs, leases and a ledger for services that move money.
//!
//! Several instances of a service must not do things twice, half, or never. A [`LockBay`] handle
//! gives each of them the same view of who leads ([`leader`]), which job ran and how it ended
//! ([`job`]), who holds which lease ([`lease`]), and whose money is where ([`ledger`]), over a store
//! that may be a file, a Redis, or memory ([`store`]).
//!
//! A job runs once, and a duplicate gets its outcome:
//!
//! ```
//! # tokio_test(async {
//! use lockbay::job::{ClaimRequest, JobOutcome, RunOptions};
//! use lockbay::{Config, Json, LockBay, Placement};
//!
//! let bay = LockBay::open(Config { store: "memory:".into(), ..Config::default() }).await?;
//! let request = ClaimRequest::new("payment", "order_17", Json::parse(r#"{"amount":10.00}"#)?);
//! let pay = |_| async { Ok(Json::parse(r#"{"transaction":"t1"}"#)?) };
//! let options = RunOptions::default();
//! let first = bay.run_job(request.clone(), Placement::Anywhere, options, pay).await?;
//! assert!(matches!(first, JobOutcome::Completed(_)));
//! let second = bay.run_job(request, Placement::Anywhere, options, pay).await?;
//! assert!(matches!(second, JobOutcome::Replayed(_)));
//! # Ok(()) });
//! # fn tokio_test(f: impl Future<Output = lockbay::Result<()>>) {
//! #     tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(f).unwrap()
//! # }
//! ```
//!
//! A job for the leader alone is refused where nobody leads:
//!
//! ```
//! # tokio_test(async {
//! use lockbay::job::ClaimRequest;
//! use lockbay::{Config, ErrorKind, Json, LockBay, Placement};
//!
//! let bay = LockBay::open(Config { store: "memory:".into(), ..Config::default() }).await?;
//! // Not started: it does not run for leadership.
//! let request = ClaimRequest::new("reconcile", "2026-11-24", Json::null());
//! let refused = bay.claim(request, Placement::LeaderOnly).await.unwrap_err();
//! assert_eq!(refused.kind(), ErrorKind::Held);
//! # Ok(()) });
//! # fn tokio_test(f: impl Future<Output = lockbay::Result<()>>) {
//! #     tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(f).unwrap()
//! # }
//! ```
//!
//! The modules in reading order: [`store`] is the seam on which everything stands; [`leader`],
//! [`lease`], [`job`], [`saga`], [`schedule`], [`ledger`] and [`state`] are the services; [`sweep`]
//! removes what has ended; [`audit`] shows what was changed, and that nothing of it was touched; [`search`] finds jobs and sagas
//! by their words; [`LockBay`] owns them; [`monitor`] tells the truth.

pub mod access;
pub mod approval;
pub mod audit;
pub mod clock;
pub mod config;
pub mod error;
pub mod event;
pub mod finance;
mod glob;
mod hex;
pub mod instance;
pub mod job;
pub mod json;
pub mod keeper;
pub mod leader;
pub mod lease;
pub mod ledger;
mod lockbay;
pub mod mask;
pub mod metrics;
pub mod monitor;
mod name;
mod retire;
pub mod saga;
pub mod schedule;
mod scribe;
pub mod search;
pub mod state;
pub mod store;
pub mod sweep;
#[cfg(any(test, feature = "test-util"))]
pub mod testing;

pub use config::Config;
pub use error::{Error, ErrorKind, Result};
pub use json::Json;
pub use lockbay::overview::Overview;
pub use lockbay::{LockBay, Placement};
pub use scribe::Caller;

/// The snippets of the documents are tests.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
#[doc = include_str!("../../../docs/guide.md")]
#[doc = include_str!("../../../docs/jobs.md")]
struct Documents;
