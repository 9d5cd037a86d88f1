//! Calls that the server makes to others: which addresses it may reach, how it signs, one POST,
//! and the steps of sagas that are HTTP endpoints.
//!
//! Nothing here knows which endpoints there are; whoever keeps them hands one in. The only state is
//! the pool of open connections in the [`Caller`], and there is one of these in a process.

// Used by the tests alone until handlers can be registered over HTTP.
#![allow(dead_code, unused_imports)]

mod call;
#[cfg(test)]
mod receiver;
mod sign;
mod step;
mod vet;

pub(crate) use call::{CallError, Caller, Post, Reply, tls};
pub(crate) use sign::{Secret, message_id};
pub(crate) use step::{Endpoint, PushStep};
pub(crate) use vet::{Reach, Refused, vet_url};
