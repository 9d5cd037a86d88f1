//! The extension module of the Python package `lockbay`: its classes, in reading order.
//!
//! Rust does the work. Python code of the package says types, names what the guide names, and meets
//! other libraries; it decides nothing.

mod ask;
mod bay;
mod call;
mod callback;
mod cleanup;
mod error;
mod home;
mod job;
mod json;
mod kit;
mod leader;
mod life;
mod log;
mod mailbox;
mod money;
mod monitor;
mod movement;
mod payout;
mod runtime;
mod saga;
mod schedule;
mod settings;
mod state;
mod step;
mod stepped;

use pyo3::prelude::*;

/// Of Rust alone: what Python allocates, it allocates as before.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[pymodule]
fn _lockbay(module: &Bound<'_, PyModule>) -> PyResult<()> {
    log::install();
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("EVENTS", lockbay::event::Event::NAMES.to_vec())?;
    module.add_class::<bay::LockBay>()?;
    module.add_class::<leader::Leader>()?;
    module.add_class::<leader::Lease>()?;
    module.add_class::<job::Jobs>()?;
    module.add_class::<job::Job>()?;
    module.add_class::<job::Outcome>()?;
    module.add_class::<saga::Sagas>()?;
    module.add_class::<saga::StepCall>()?;
    module.add_class::<step::Step>()?;
    module.add_class::<schedule::Schedules>()?;
    module.add_class::<schedule::ScheduledTick>()?;
    module.add_class::<money::Ledger>()?;
    module.add_class::<payout::PayoutCall>()?;
    module.add_class::<movement::Movement>()?;
    module.add_class::<movement::Done>()?;
    module.add_function(wrap_pyfunction!(movement::done, module)?)?;
    module.add_function(wrap_pyfunction!(movement::undone, module)?)?;
    module.add_class::<kit::KitReport>()?;
    module.add_class::<kit::KitRun>()?;
    module.add_function(wrap_pyfunction!(kit::run_kit, module)?)?;
    module.add_class::<stepped::SteppedClock>()?;
    module.add_class::<state::State>()?;
    module.add_class::<cleanup::Cleanup>()?;
    module.add_class::<monitor::Alerts>()?;
    module.add_function(wrap_pyfunction!(json::to_text, module)?)?;
    module.add_function(wrap_pyfunction!(json::value_of, module)?)?;
    module.add_function(wrap_pyfunction!(life::end, module)?)?;
    module.add_function(wrap_pyfunction!(runtime::forked, module)?)?;
    module.add_function(wrap_pyfunction!(runtime::hold_still, module)?)?;
    module.add_function(wrap_pyfunction!(runtime::go_on, module)?)
}
