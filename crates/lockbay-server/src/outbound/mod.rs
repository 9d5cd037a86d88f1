//! Calls that the server makes to others: which addresses it may reach, how it signs, one POST,
//! the steps of sagas that are HTTP endpoints, the endpoint that pays money out, and whoever is told
//! of alerts.
//!
//! Nothing here knows which endpoints there are; whoever keeps them hands one in. The only state is
//! the pool of open connections in the [`Caller`], and there is one of these in a process.

mod alert;
mod call;
mod command;
#[cfg(test)]
mod corpus;
mod handlers;
mod letter;
mod payout;
#[cfg(test)]
mod receiver;
mod sign;
mod step;
mod vet;

pub(crate) use alert::tell_of_alerts;
pub(crate) use call::{tls, tls_trusting};
pub(crate) use handlers::Handlers;
pub(crate) use payout::payout_provider;
pub(crate) use vet::Reach;
