//! The command line: what can be said to `lockbay`, and the exit code it ends with.
//!
//! One file per group of commands. All but `serve` and `doctor` are clients of a server's HTTP
//! API; they know nothing that another program could not know. Exit codes: 0 done, 1 refused or
//! failed, 2 unreachable or wrong usage.

pub(crate) mod output;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::serve::{self, ServeArgs};

/// Leader election, idempotent jobs and leases for services that move money.
#[derive(Debug, Parser)]
#[command(name = "lockbay", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(ServeArgs),
}

/// Reads the arguments and does what they say.
pub(crate) fn run() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::talk(&format!("lockbay: cannot start its threads: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let ended = match cli.command {
        Command::Serve(args) => runtime.block_on(serve::serve(&args)),
    };
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::talk(&format!("lockbay: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
