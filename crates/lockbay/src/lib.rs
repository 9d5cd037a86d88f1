//! LockBay: leader election, idempotent jobs and sagas for services that move money.

pub mod clock;
pub mod error;
pub mod store;

pub use error::{Error, ErrorKind, Result};
