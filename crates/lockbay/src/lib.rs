//! Leader election, idempotent jobs and leases for services that move money.
//!
//! Several instances of a service must not do things twice, half, or never. A [`LockBay`] handle
//! gives each of them the same view of who leads ([`leader`]), which job ran and how it ended
//! ([`job`]), and who holds which lease ([`lease`]), over a store that may be a file, a Redis, or
//! memory ([`store`]).
//!
//! The modules in reading order: [`store`] is the seam on which everything stands; [`leader`],
//! [`lease`] and [`job`] are the services; [`LockBay`] owns them; [`monitor`] tells the truth.

pub mod clock;
pub mod config;
pub mod error;
pub mod event;
pub mod job;
pub mod json;
pub mod keeper;
pub mod leader;
pub mod lease;
mod lockbay;
pub mod metrics;
pub mod monitor;
mod name;
pub mod store;

pub use config::Config;
pub use error::{Error, ErrorKind, Result};
pub use json::Json;
pub use lockbay::{LockBay, Placement};
