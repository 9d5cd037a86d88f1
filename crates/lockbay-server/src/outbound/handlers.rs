//! How the library's push handlers are called: over HTTP, at vetted addresses.

use std::sync::Arc;
use std::time::Duration;

use lockbay::Error;
use lockbay::clock::Clock;
use lockbay::saga::{self, Step};

use super::call::Caller;
use super::step::{Endpoint, PushStep};
use super::vet::Reach;

/// Calls push handlers.
pub(crate) struct Handlers {
    caller: Caller,
    reach: Reach,
}

impl Handlers {
    /// Calls what this reach allows.
    pub(crate) fn new(clock: Clock, reach: Reach) -> anyhow::Result<Self> {
        Ok(Handlers { caller: Caller::new(clock, reach)?, reach })
    }

    /// What calls them, for whoever else is called.
    pub(super) fn caller(&self) -> &Caller {
        &self.caller
    }
}

impl saga::Caller for Handlers {
    fn step(&self, name: &str, endpoint: &saga::Endpoint) -> Arc<dyn Step> {
        Arc::new(PushStep::new(self.caller.clone(), of(name, endpoint)))
    }

    fn check(&self, endpoint: &saga::Endpoint) -> lockbay::Result<()> {
        of("", endpoint).check(self.reach).map_err(Error::invalid)
    }
}

fn of(name: &str, endpoint: &saga::Endpoint) -> Endpoint {
    Endpoint {
        name: name.to_owned(),
        url: endpoint.url.clone(),
        secret: endpoint.secret.clone(),
        timeout: endpoint.timeout_us.map(Duration::from_micros),
    }
}
