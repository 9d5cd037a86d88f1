//! The command line: what can be said to `lockbay`, and the exit code it ends with.
//!
//! One file per group of commands. `serve`, `doctor` and `backup` (and `bench`, in a module of its
//! own) open a store, and `token` if it is told to, and `demo`, in one too, starts its own servers; all others are clients of a server's HTTP API and know nothing that another program
//! could not know. Exit codes: 0 done, 1 refused or failed, 2 unreachable or wrong usage.

mod alert_rules;
mod alerts;
mod approval;
mod audit;
mod audit_read;
mod backup;
mod bulk;
mod cleanup;
pub(crate) mod client;
mod config;
mod doctor;
mod events;
mod handler;
mod help;
mod job;
mod job_bulk;
mod leader;
mod lease;
mod ledger;
mod metrics;
pub(crate) mod output;
mod report;
mod saga;
mod saga_operate;
mod saga_watch;
mod schedule;
mod search;
mod state;
mod status;
mod token;
#[cfg(feature = "top")]
mod top;
mod trends;
mod trust;

use std::io::Read;
use std::process::ExitCode;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;

use self::client::{Client, Failure};
pub(crate) use self::doctor::starts_empty;
use crate::bench;
use crate::demo;
use crate::serve::{self, ServeArgs};

/// Leader election, idempotent jobs, sagas and leases for services that move money.
#[derive(Debug, Parser)]
#[command(name = "lockbay", version, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    shared: Shared,
    #[command(subcommand)]
    command: Command,
}

/// How much of a file is read that holds a token.
const MAX_TOKEN_FILE_BYTES: u64 = 4_096;

/// What every command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Every command")]
struct Shared {
    /// Write data as JSON
    #[arg(long, global = true)]
    json: bool,
    /// The server to talk to
    #[arg(
        long,
        global = true,
        env = "LOCKBAY_URL",
        default_value = "http://127.0.0.1:5000",
        hide_env_values = true
    )]
    url: String,
    /// The bearer token to show it
    #[arg(long, global = true, env = "LOCKBAY_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// A file that holds it, unless it is given: other users see the arguments of a command
    #[arg(
        long,
        global = true,
        env = "LOCKBAY_TOKEN_FILE",
        hide_env_values = true,
        value_name = "FILE"
    )]
    token_file: Option<String>,
    /// Show the token to another machine over plain http too, where whoever listens reads it
    #[arg(long, global = true, env = "LOCKBAY_ALLOW_PLAIN_HTTP", hide_env_values = true)]
    allow_plain_http: bool,
    /// Who asks, for the audit trail; nothing proves it [default: $USER]
    #[arg(long, global = true, env = "LOCKBAY_ACTOR", hide_env_values = true)]
    actor: Option<String>,
    #[command(flatten)]
    trust: trust::Trust,
    /// Do not ask before a change that hurts
    #[arg(long, short, global = true)]
    yes: bool,
}

impl Shared {
    /// The token to show, if there is one.
    fn token(&self) -> Result<Option<String>, Failure> {
        let named = |text: &String| !text.is_empty();
        if let Some(token) = self.token.clone().filter(named) {
            return Ok(Some(token));
        }
        let Some(path) = self.token_file.clone().filter(named) else { return Ok(None) };
        let wrong = |why: String| {
            Failure::Usage(format!("--token-file or LOCKBAY_TOKEN_FILE, {path:?}: {why}"))
        };
        let file = std::fs::File::open(&path).map_err(|error| wrong(error.to_string()))?;
        let mut text = String::new();
        file.take(MAX_TOKEN_FILE_BYTES)
            .read_to_string(&mut text)
            .map_err(|error| wrong(error.to_string()))?;
        let token = text.trim();
        if token.is_empty() {
            return Err(wrong("there is no token in it".into()));
        }
        Ok(Some(token.to_owned()))
    }

    /// Who asks.
    fn actor(&self) -> String {
        let named = |name: &String| !name.is_empty();
        let user = || std::env::var("USER").ok().filter(named);
        self.actor.clone().filter(named).or_else(user).unwrap_or_else(|| "command line".into())
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(ServeArgs),
    /// See every part at work: three servers of its own, a saga that rolls back, a leader killed
    ///
    /// It works in a directory of its own, which it removes, and takes some seconds. Exit code 0
    /// only if everything that is promised was seen; with --json, one object for each promise.
    Demo,
    Doctor(doctor::DoctorArgs),
    /// Show every setting and where it comes from, or check a file of them
    Config(config::ConfigArgs),
    /// Copy a store that is in use into a file that is whole
    Backup(backup::BackupArgs),
    /// Say whether a server is healthy: exit code 0 if it is, 1 if not, 2 if it is not reached
    Health,
    /// Say how the service does, what is wrong and what to do
    Report(report::ReportArgs),
    /// Say whether the important metrics get better or worse
    Trends(trends::TrendsArgs),
    /// Watch a server: health, rates, latencies, what is parked, what fires
    #[cfg(feature = "top")]
    Top(top::TopArgs),
    /// Follow what happens in a server
    Events(events::EventsArgs),
    /// Show what a server has done and how it is, or with --path how one metric went
    Metrics(metrics::MetricsArgs),
    /// Who leads
    #[command(subcommand)]
    Leader(leader::LeaderCommand),
    /// Named leases
    #[command(subcommand)]
    Lease(lease::LeaseCommand),
    /// Jobs
    #[command(subcommand)]
    Job(job::JobCommand),
    /// Sagas
    #[command(subcommand)]
    Saga(saga::SagaCommand),
    /// Find jobs and sagas by the words in them
    Search(search::SearchArgs),
    /// Who does the steps of sagas
    #[command(subcommand)]
    Handler(handler::HandlerCommand),
    /// What is due when
    #[command(subcommand)]
    Schedule(schedule::ScheduleCommand),
    /// What users have, and moving it
    #[command(subcommand)]
    Ledger(ledger::LedgerCommand),
    /// What waits for a second person, and answering
    #[command(subcommand)]
    Approval(approval::ApprovalCommand),
    /// Values with versions, tags and times to live
    #[command(subcommand)]
    State(state::StateCommand),
    /// What is kept for how long, and cleaning up
    #[command(subcommand)]
    Cleanup(cleanup::CleanupCommand),
    /// What is judged and what fires, its rules and their tests, and who is told
    #[command(subcommand)]
    Alerts(alerts::AlertsCommand),
    /// Who changed what and when, and whether anything of that was touched
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Who may do what: tokens and their roles
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Measure what the services reach here, beside the bare store doing the same writes
    Bench(bench::BenchArgs),
    /// Write completions for a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
}

/// How a command that was carried out ended.
enum Ended {
    /// It is done.
    Done,
    /// It is done, and the answer is no: unhealthy, wrong, not confirmed.
    No,
}

/// Reads the arguments and does what they say.
pub(crate) fn run() -> ExitCode {
    let matches = help::dressed(Cli::command()).get_matches();
    let Cli { shared, command } =
        Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::talk(&format!("lockbay: cannot start its threads: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(obey(&shared, command));
    // What still runs has been given its time already.
    runtime.shutdown_background();
    let code = match ended {
        Ok(Ended::Done) => ExitCode::SUCCESS,
        Ok(Ended::No) => ExitCode::FAILURE,
        Err(failure) => {
            failure.tell(shared.json);
            failure.exit_code()
        }
    };
    match output::lost() {
        Some(why) => {
            output::talk(&format!(
                "lockbay: cannot write to stdout, and what it wrote is lost: {why}"
            ));
            ExitCode::FAILURE
        }
        None => code,
    }
}

async fn obey(shared: &Shared, command: Command) -> Result<Ended, Failure> {
    match command {
        Command::Serve(args) => {
            serve::serve(&args).await?;
            Ok(Ended::Done)
        }
        Command::Demo => Ok(match demo::run(shared.json).await? {
            demo::Outcome::Held => Ended::Done,
            demo::Outcome::Failed => Ended::No,
        }),
        Command::Doctor(args) => doctor::doctor(&args, shared).await,
        Command::Config(args) => config::obey(args, shared.json).await,
        Command::Backup(args) => backup::backup(args, shared.json).await,
        Command::Trends(args) => trends::trends(&Client::new(shared)?, args).await,
        #[cfg(feature = "top")]
        Command::Top(args) => top::top(&Client::new(shared)?, args).await,
        Command::Health => status::health(&Client::new(shared)?).await,
        Command::Report(args) => report::report(&Client::new(shared)?, &args).await,
        Command::Events(args) => events::follow(&Client::new(shared)?, &args).await,
        Command::Metrics(args) => metrics::obey(&Client::new(shared)?, args).await,
        Command::Leader(command) => leader::obey(&Client::new(shared)?, command).await,
        Command::Lease(command) => lease::obey(&Client::new(shared)?, command).await,
        Command::Job(command) => job::obey(&Client::new(shared)?, command).await,
        Command::Saga(command) => saga::obey(&Client::new(shared)?, command).await,
        Command::Search(args) => search::search(&Client::new(shared)?, args).await,
        Command::Handler(command) => handler::obey(&Client::new(shared)?, command).await,
        Command::Schedule(command) => schedule::obey(shared, command).await,
        Command::Ledger(command) => ledger::obey(&Client::new(shared)?, command).await,
        Command::Approval(command) => approval::obey(&Client::new(shared)?, command).await,
        Command::State(command) => state::obey(&Client::new(shared)?, command).await,
        Command::Cleanup(command) => cleanup::obey(&Client::new(shared)?, command).await,
        Command::Alerts(command) => alerts::obey(&Client::new(shared)?, command).await,
        Command::Audit(command) => audit::obey(shared, command).await,
        Command::Token(command) => token::obey(shared, command).await,
        Command::Bench(args) => {
            bench::run(args, shared.json, &|| Client::new(shared)).await?;
            Ok(Ended::Done)
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "lockbay", &mut script);
            output::raw(&script);
            output::hint(help::install(shell));
            Ok(Ended::Done)
        }
    }
}
