//! The life of an instance: being opened, open, and closed again, in the process that opened it.
//!
//! It owns what is open, and decides what a call to open or close it comes to. What the instance is
//! told when it opens is in the registry, in `bay.rs`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use lockbay::Config;
use parking_lot::Mutex;
use pyo3::prelude::*;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::bay::Shared;
use crate::error::unavailable;
use crate::home::Home;
use crate::mailbox::Post;
use crate::stepped::Footing;

/// How long a closing instance waits for callbacks that hear of its end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What is open, and in which process. Nothing of it works in any other: a child has none of the
/// threads, and shares connections and locks of files with its parent.
pub(crate) struct Owned {
    pid: u32,
    slot: Slot,
}

enum Slot {
    /// Not open, or not any more; then what fires when the last one has been closed.
    Closed(Option<CancellationToken>),
    /// What fires when it is open, or that failed.
    Opening(CancellationToken),
    Open(Opened),
    /// Of somebody else, who sees to its end.
    Lent(lockbay::LockBay, Home),
}

pub(crate) struct Opened {
    bay: lockbay::LockBay,
    home: Home,
    pub(crate) runtime: Handle,
    footing: Option<Footing>,
}

/// How an instance stands, as seen from here.
pub(crate) enum Standing {
    Here(lockbay::LockBay, Home),
    /// Open in this process, which this one was forked off.
    Elsewhere(u32),
    Nowhere,
}

/// Every instance that may be open in this process, so that none outlives the interpreter.
static ALL: Mutex<Vec<Weak<Shared>>> = Mutex::new(Vec::new());

/// Whether something of SQLite was dropped here that a parent of this process had opened.
static INHERITED_SQLITE: AtomicBool = AtomicBool::new(false);

impl Owned {
    /// Nothing is open, here.
    pub(crate) fn nothing() -> Self {
        Owned { pid: crate::runtime::pid(), slot: Slot::Closed(None) }
    }

    /// What somebody else has open.
    pub(crate) fn lent(bay: lockbay::LockBay, home: Home) -> Self {
        Owned { pid: crate::runtime::pid(), slot: Slot::Lent(bay, home) }
    }
}

/// Notes an instance, so that it does not outlive the interpreter.
pub(crate) fn note(shared: &Arc<Shared>) {
    let mut all = ALL.lock();
    all.retain(|other| other.strong_count() > 0);
    all.push(Arc::downgrade(shared));
}

impl Shared {
    /// How it stands, as seen from this process.
    pub(crate) fn standing(&self) -> Standing {
        let owned = self.slot.lock();
        match &owned.slot {
            Slot::Open(opened) if owned.pid == crate::runtime::pid() => {
                Standing::Here(opened.bay.clone(), opened.home.clone())
            }
            Slot::Lent(bay, home) => Standing::Here(bay.clone(), home.clone()),
            Slot::Open(_) => Standing::Elsewhere(owned.pid),
            Slot::Opening(_) | Slot::Closed(_) => Standing::Nowhere,
        }
    }

    /// Whether it is to be opened now, and with which settings.
    pub(crate) fn begin(self: &Arc<Self>) -> lockbay::Result<Begun> {
        let given = self.given.lock().clone();
        let config = Box::new(given.config()?);
        let inherits = config.store.starts_with("sqlite:") && inherits_sqlite();
        let pid = crate::runtime::pid();
        let mut owned = self.slot.lock();
        if owned.pid == pid {
            match &owned.slot {
                Slot::Open(_) | Slot::Lent(..) => return Ok(Begun::Already),
                Slot::Opening(done) => return Ok(Begun::ByAnother(done.clone())),
                Slot::Closed(_) => {}
            }
        }
        if inherits {
            return Err(unavailable(
                "SQLite files cannot be carried over a fork, and this process was forked off one \
                 that had one open: open it after the fork (in gunicorn, in post_fork or in the \
                 application's startup)",
            ));
        }
        let done = CancellationToken::new();
        let opening = Slot::Opening(done.clone());
        let before = std::mem::replace(&mut *owned, Owned { pid, slot: opening });
        drop(owned);
        if before.pid != pid {
            // What the parent of this process opened has no threads here, and is left alone.
            std::mem::forget(before);
        }
        Ok(Begun::Now(config, Opening { shared: Arc::clone(self), done }))
    }

    pub(crate) fn opened_by_another(&self) -> lockbay::Result<()> {
        match self.standing() {
            Standing::Here(..) => Ok(()),
            Standing::Elsewhere(_) | Standing::Nowhere => {
                Err(unavailable("another call was opening this LockBay, and failed; try again"))
            }
        }
    }

    /// The instance if it is open here; from then on it is not.
    fn take(&self) -> Taken {
        let mut owned = self.slot.lock();
        if owned.pid != crate::runtime::pid() {
            // What the parent closes fires in no child.
            return Taken::ClosedBefore(None);
        }
        match &owned.slot {
            Slot::Open(_) => {}
            Slot::Closed(before) => return Taken::ClosedBefore(before.clone()),
            Slot::Opening(done) => return Taken::Opening(done.clone()),
            Slot::Lent(..) => return Taken::ClosedBefore(None),
        }
        let closed = CancellationToken::new();
        let slot = std::mem::replace(&mut owned.slot, Slot::Closed(Some(closed.clone())));
        match slot {
            Slot::Open(opened) => Taken::Open(Box::new(opened), closed),
            Slot::Opening(_) | Slot::Closed(_) | Slot::Lent(..) => Taken::ClosedBefore(None),
        }
    }

    /// Begins to close what is open here, or will be when a call that opens it is through. Gives what
    /// fires when that is done; nothing, if it is.
    pub(crate) fn close(self: &Arc<Self>, runtime: &Handle) -> Option<CancellationToken> {
        match self.take() {
            Taken::Open(opened, closed) => {
                runtime.spawn(closing(*opened, closed.clone()));
                Some(closed)
            }
            Taken::Opening(done) => {
                let closed = CancellationToken::new();
                let done_with = closed.clone().drop_guard();
                let (shared, inside) = (Arc::clone(self), runtime.clone());
                runtime.spawn(async move {
                    let _done_with = done_with;
                    done.cancelled().await;
                    if let Some(closed) = shared.close(&inside) {
                        closed.cancelled().await;
                    }
                });
                Some(closed)
            }
            Taken::ClosedBefore(closed) => closed,
        }
    }

    /// Closes what is open here, and waits for nothing.
    pub(crate) fn let_go(&self) {
        if let Taken::Open(opened, closed) = self.take() {
            let runtime = opened.runtime.clone();
            runtime.spawn(closing(*opened, closed));
        }
    }
}

/// Whether this process was forked off one that had a SQLite file open. That library then takes the
/// parent's locks for its own.
fn inherits_sqlite() -> bool {
    let pid = crate::runtime::pid();
    let all: Vec<_> = ALL.lock().iter().filter_map(Weak::upgrade).collect();
    let is_inherited = |shared: &Arc<Shared>| {
        let owned = shared.slot.lock();
        owned.pid != pid && owned.slot.uses_sqlite()
    };
    // Looked at first, as an instance that is dropped meanwhile says so there.
    all.iter().any(is_inherited) || INHERITED_SQLITE.load(Ordering::Acquire)
}

impl Slot {
    /// Whether a file of SQLite is or may be open.
    fn uses_sqlite(&self) -> bool {
        match self {
            Slot::Open(opened) => opened.bay.config().store.starts_with("sqlite:"),
            Slot::Opening(_) => true,
            Slot::Lent(..) => false,
            Slot::Closed(closed) => closed.as_ref().is_some_and(|closed| !closed.is_cancelled()),
        }
    }
}

/// What became of a call to open an instance.
pub(crate) enum Begun {
    Now(Box<Config>, Opening),
    ByAnother(CancellationToken),
    Already,
}

/// What there is to close.
enum Taken {
    /// What is open, and what is to fire when it is closed.
    Open(Box<Opened>, CancellationToken),
    /// What fires when it is open, or that failed.
    Opening(CancellationToken),
    /// What fires when it is closed, if that is not long ago.
    ClosedBefore(Option<CancellationToken>),
}

/// Closes an instance in order, and says when that is done.
async fn closing(opened: Opened, closed: CancellationToken) {
    // Fires also if this panics.
    let _closed = closed.drop_guard();
    let Opened { bay, home, footing, .. } = opened;
    match footing {
        Some(footing) => footing.see_through(bay.shutdown()).await,
        None => bay.shutdown().await,
    }
    home.end();
    let clock = bay.clock().clone();
    drop(bay);
    // Callbacks hear of the end, unless they take too long.
    home.listeners().close();
    let _ = clock.timeout(LAST_WORDS, home.listeners().wait()).await;
}

/// An instance that is being opened; dropped before it is, it is closed again.
pub(crate) struct Opening {
    shared: Arc<Shared>,
    done: CancellationToken,
}

impl Opening {
    /// Takes what was opened, and tells it of every handler, callback and wish.
    pub(crate) async fn opened(
        self,
        bay: lockbay::LockBay,
        home: Post,
        runtime: Handle,
    ) -> lockbay::Result<()> {
        // Closed again on every way out of here but the last.
        let unless_opened = Unwanted(Some((bay.clone(), runtime.clone())));
        loop {
            let (wished, wishes) = {
                let registry = self.shared.registry.lock();
                (registry.wished, registry.wishes.clone())
            };
            for (_, wish) in &wishes {
                wish(bay.clone()).await?;
            }
            let (bay, runtime) = (bay.clone(), runtime.clone());
            let footing = self.shared.footing.clone();
            let opened = Opened { bay, home: Home::new(home.clone()), runtime, footing };
            if self.take_over(wished, opened)? {
                break;
            }
        }
        unless_opened.keep();
        Ok(())
    }

    /// Tells it of handlers and callbacks, and has it open, unless more was wished meanwhile.
    fn take_over(&self, wished: u64, opened: Opened) -> lockbay::Result<bool> {
        let shared = &self.shared;
        let registry = shared.registry.lock();
        if registry.wished > wished {
            return Ok(false);
        }
        crate::payout::pay_through(&registry, &opened.bay, &opened.home)?;
        for (name, handler) in &registry.handlers {
            handler.register(name, &opened.bay, &opened.home)?;
        }
        for (name, handler) in &registry.tick_handlers {
            handler.register(name, &opened.bay, &opened.home)?;
        }
        for callback in &registry.callbacks {
            callback.listen(&opened.bay, &opened.home);
        }
        let before = std::mem::replace(&mut shared.slot.lock().slot, Slot::Open(opened));
        debug_assert!(matches!(before, Slot::Opening(_)), "one opens it at a time");
        Ok(true)
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        let mut owned = self.shared.slot.lock();
        if owned.pid == crate::runtime::pid() && matches!(owned.slot, Slot::Opening(_)) {
            owned.slot = Slot::Closed(None);
        }
        drop(owned);
        self.done.cancel();
    }
}

/// An instance that is closed if this goes out of scope.
struct Unwanted(Option<(lockbay::LockBay, Handle)>);

impl Unwanted {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Unwanted {
    fn drop(&mut self) {
        if let Some((bay, runtime)) = self.0.take() {
            runtime.spawn(async move { bay.shutdown().await });
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let Owned { pid, slot } = self.slot.get_mut();
        let slot = std::mem::replace(slot, Slot::Closed(None));
        if *pid != crate::runtime::pid() {
            if slot.uses_sqlite() {
                INHERITED_SQLITE.store(true, Ordering::Release);
            }
            std::mem::forget(slot);
        } else if let Slot::Open(opened) = slot {
            opened.home.end();
            let Opened { bay, runtime, .. } = opened;
            runtime.spawn(async move { bay.shutdown().await });
        }
    }
}

/// Closes everything that is open, for the end of the interpreter.
#[pyfunction]
pub(crate) fn end(py: Python<'_>) -> PyResult<()> {
    let all: Vec<_> = ALL.lock().iter().filter_map(Weak::upgrade).collect();
    let mut closing = Vec::new();
    for shared in all {
        match shared.take() {
            Taken::Open(opened, closed) => {
                let runtime = crate::runtime::handle(py)?;
                closing.push(closed.clone());
                runtime.spawn(self::closing(*opened, closed));
            }
            // No loop is left that it could be opened for.
            Taken::Opening(_) => {}
            Taken::ClosedBefore(closed) => closing.extend(closed),
        }
    }
    if closing.iter().any(|closed| !closed.is_cancelled()) {
        let runtime = crate::runtime::handle(py)?;
        // Each of them ends in time by itself.
        py.detach(|| {
            runtime.block_on(async {
                for closed in &closing {
                    closed.cancelled().await;
                }
            });
        });
    }
    crate::runtime::end(py);
    crate::log::deliver(py);
    Ok(())
}
