//! The `lockbay` binary: an HTTP server over the library, and the commands that talk to it.
//!
//! [`serve`] runs one instance, [`http`] is its API, [`outbound`] calls others, [`bench`] measures,
//! [`demo`] shows every part at work, [`child`] starts servers for both, [`pem`] reads certificates,
//! [`cli`] is everything else. All business meaning is in the library; here are only words: HTTP,
//! JSON shapes, tables and exit codes.

mod bench;
mod child;
mod cli;
mod demo;
mod http;
#[cfg(feature = "otlp")]
mod otlp;
mod outbound;
mod pem;
mod serve;

use std::process::ExitCode;

/// See the reason beside the dependency, and decision 12.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::run()
}
