//! `lockbay serve`: one instance from start to shutdown.
//!
//! In order: settings, log, address, store, instance, requests. Whatever fails on the way is one
//! line on stderr and exit code 1. The end is bounded: requests in flight get a moment, then the
//! library hands over leadership and closes the store.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use lockbay::access::Standing;
use lockbay::clock::Clock;
use lockbay::{Config, ErrorKind, LockBay};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::cli::{output, starts_empty};
use crate::http::{self, Tls};
use crate::outbound::{Handlers, Reach, payout_provider, tell_of_alerts};

/// How long the store may take to open.
const OPEN_WITHIN: Duration = Duration::from_secs(15);
/// How long requests in flight may take to end once the server stops.
const FINISH_WITHIN: Duration = Duration::from_millis(1_500);
/// More open files than these are never needed.
const MAX_FILES: u64 = 65_536;
/// Connections that the system keeps for us until we accept them. Whoever finds no place there tries
/// again after a second, so it has room for all clients of a server that has just started.
const WAITING_CONNECTIONS: u32 = 4_096;
/// How long the library may take to hand everything over, once running work had its grace.
const HAND_OVER_WITHIN: Duration = Duration::from_secs(2);

/// Serve the HTTP API until SIGTERM or SIGINT
///
/// Settings come from the file, then the environment (LOCKBAY_STORE, LOCKBAY_LISTEN and so on),
/// then these flags.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Store URL: sqlite:PATH, memory:, redis://… or rediss://… [default: sqlite:lockbay-data/lockbay.db]
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// Address to listen on; port 0 takes any that is free [default: 127.0.0.1:5000]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// The service whose leader is elected [default: lockbay]
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// A name of this instance, for people
    #[arg(long, value_name = "NAME")]
    instance_name: Option<String>,
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Listen on an address that other machines reach, although no token is needed yet
    #[arg(long)]
    insecure: bool,
    /// End at once when stdin is closed, as it is when whoever started this has died
    #[arg(long, hide = true)]
    until_stdin_closes: bool,
}

impl ServeArgs {
    fn config(&self) -> lockbay::Result<Config> {
        let given = [
            ("store", &self.store),
            ("listen", &self.listen),
            ("service", &self.service),
            ("instance_name", &self.instance_name),
        ];
        let flags: BTreeMap<&'static str, String> =
            given.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))).collect();
        Config::load(self.config.as_deref(), &flags)
    }
}

/// Serves until told to stop.
pub(crate) async fn serve(args: &ServeArgs) -> anyhow::Result<()> {
    let config = args.config().map_err(told)?;
    let _spans = start_log()?;
    if args.until_stdin_closes {
        std::thread::spawn(end_with_stdin);
    }
    for name in Config::unknown_environment() {
        tracing::warn!(name, "there is no such setting; is it misspelt?");
    }
    raise_file_limit();
    let mut signals = Signals::listen()?;
    let tls = Tls::of(&config, &Clock::system())?.map(Arc::new);
    let guarded = args.insecure || tls.as_ref().is_some_and(|tls| tls.requires_certificates());
    let listener = bind(&addresses_of(&config.listen).await?, &config.listen)?;
    let address = listener.local_addr().context("cannot read the address listened on")?;
    let store = without_credentials(&config.store);
    let bay = open(config).await?;
    if !address.ip().is_loopback()
        && let Err(error) = check_closed(&bay, address, guarded).await
    {
        bay.shutdown().await;
        return Err(error);
    }
    let stopping = CancellationToken::new();
    let app = equip(&bay, &stopping)?.listening_on(address);
    bay.start();
    let scheme = if tls.is_some() { "https" } else { "http" };
    output::talk(&format!(
        "lockbay listening on {scheme}://{address} store={store} instance={}",
        bay.instance_id()
    ));
    tell_warnings(&bay).await;
    if let Some(tls) = &tls {
        // Without TLS there is nothing to read again, and the signal ends the process as usual.
        let hangup = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
        tokio::spawn(Arc::clone(tls).keep_fresh(bay.clock().clone(), hangup, stopping.clone()));
    }
    let mut serving = tokio::spawn(http::serve(listener, app, tls));
    signals.next().await;
    tracing::info!("stopping: requests in flight are finished, leadership is handed over");
    tokio::spawn(async move {
        signals.next().await;
        std::process::exit(130);
    });
    stopping.cancel();
    let clock = bay.clock();
    if clock.timeout(FINISH_WITHIN, &mut serving).await.is_none() {
        tracing::warn!("requests in flight were cut off");
        serving.abort();
    }
    let within = bay.config().shutdown_grace.0.saturating_add(HAND_OVER_WITHIN);
    if clock.timeout(within, bay.shutdown()).await.is_none() {
        tracing::warn!("the end did not wait for the store; what is held lapses by itself");
    }
    Ok(())
}

/// Gives an instance what reaches others, as its settings say, and makes the API of it.
fn equip(bay: &LockBay, stopping: &CancellationToken) -> anyhow::Result<http::App> {
    let reach = std::env::var(Reach::VARIABLE).ok();
    let reach = Reach::of(reach.as_deref()).map_err(anyhow::Error::msg)?;
    let handlers = Handlers::new(bay.clock().clone(), reach)?;
    bay.finance().pay_through(payout_provider(bay, &handlers)?).map_err(told)?;
    tell_of_alerts(bay, &handlers)?;
    bay.sagas().call_with(Arc::new(handlers));
    http::App::new(bay.clone(), stopping.clone()).map_err(told)
}

/// Whether a server could start with these settings, as far as that is known without its store and
/// without listening: an instance is built on a store in memory, which is gone at once.
///
/// # Errors
/// As those with which [`serve`] would end.
pub(crate) async fn rehearse(config: &Config) -> anyhow::Result<()> {
    let tls = Tls::of(config, &Clock::system())?;
    let addresses = addresses_of(&config.listen).await?;
    let bay = open(Config { store: stand_in(&config.store), ..config.clone() }).await?;
    let mut fits = equip(&bay, &CancellationToken::new()).map(drop);
    let reached = addresses.into_iter().find(|address| !address.ip().is_loopback());
    // Of a store that is there already, only the store knows whether it has an admin token.
    if let (Ok(()), Some(address), true) = (&fits, reached, starts_empty(&config.store)) {
        let guarded = tls.is_some_and(|tls| tls.requires_certificates());
        fits = check_closed(&bay, address, guarded).await;
    }
    bay.shutdown().await;
    fits
}

/// A store in memory of the same namespace, where a URL names a store that may be there; otherwise
/// the URL, to be refused.
fn stand_in(url: &str) -> String {
    let base = url.split_once('?').map_or(url, |(base, _)| base);
    let may_be_there = match base.split_once(':') {
        Some(("memory" | "redis" | "rediss", _)) => true,
        Some(("sqlite", path)) => !path.is_empty(),
        Some(_) | None => false,
    };
    match lockbay::store::namespace_of(url) {
        Ok(namespace) if may_be_there => format!("memory:?namespace={namespace}"),
        Ok(_) | Err(_) => url.to_owned(),
    }
}

/// Waits until nobody can write to our stdin any more. Nothing needs to be tidied up: ending at any
/// moment is what the store is made for.
fn end_with_stdin() {
    drop(std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink()));
    std::process::exit(0);
}

/// Allows as many open files as the system lets us have: connections that only wait must not keep
/// the store from opening its own.
pub(crate) fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.unwrap_or(MAX_FILES).min(MAX_FILES);
    let raised = Rlimit { current: Some(wanted), maximum: limit.maximum };
    if limit.current.is_some_and(|current| current < wanted)
        && let Err(error) = setrlimit(Resource::Nofile, raised)
    {
        tracing::warn!(%error, wanted, "the limit of open files stays as it is");
    }
}

/// Logs to stderr, at `info` unless RUST_LOG says otherwise. Gives what keeps the export of spans
/// alive, if this build has one.
fn start_log() -> anyhow::Result<impl Sized> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let log = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(!plain && std::io::stderr().is_terminal())
        .with_filter(filter);
    let registry = tracing_subscriber::registry().with(log);
    #[cfg(feature = "otlp")]
    let (registry, kept) = {
        let (layer, kept) = crate::otlp::layer()?.unzip();
        (registry.with(layer), kept)
    };
    #[cfg(not(feature = "otlp"))]
    let kept = ();
    registry.init();
    Ok(kept)
}

/// The signals that end the server.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        let terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
        let interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
        Ok(Signals { terminate, interrupt })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// The addresses that a setting names.
async fn addresses_of(listen: &str) -> anyhow::Result<Vec<SocketAddr>> {
    let found = tokio::net::lookup_host(listen).await.with_context(|| {
        format!("cannot listen on {listen:?}: an address is like 127.0.0.1:5000")
    })?;
    Ok(found.collect())
}

/// Listens on one of the addresses that a setting names.
fn bind(addresses: &[SocketAddr], listen: &str) -> anyhow::Result<TcpListener> {
    listen_on(addresses).with_context(|| {
        format!("cannot listen on {listen}; stop what listens there, or choose another --listen")
    })
}

/// Listens on the first of these addresses on which that can be done.
fn listen_on(addresses: &[SocketAddr]) -> std::io::Result<TcpListener> {
    let mut last = std::io::Error::from(std::io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        let listening = (|| {
            let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            // So that a server that starts again does not wait for connections of the one before.
            socket.set_reuseaddr(true)?;
            socket.bind(*address)?;
            socket.listen(WAITING_CONNECTIONS)
        })();
        match listening {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Other machines are only let in where they need a token or a certificate, unless `guarded`
/// otherwise.
async fn check_closed(bay: &LockBay, address: SocketAddr, guarded: bool) -> anyhow::Result<()> {
    let standing = bay.access().standing().await.map_err(told);
    match standing.with_context(|| "cannot find out whether there is an admin token")? {
        Standing::Closed => Ok(()),
        Standing::Open if guarded => {
            tracing::warn!(
                %address,
                "whoever is let in at this address may do everything until there is an admin token"
            );
            Ok(())
        }
        Standing::Open => bail!(
            "{address} can be reached from other machines, and without an admin token everybody \
             there could do everything: make one with `lockbay token create --role admin --name \
             NAME --store URL`, set auth to required, set tls_client_auth to required so that only \
             owners of certificates come in, or pass --insecure on a network that you trust"
        ),
    }
}

/// Opens the store and builds the instance, within a bounded time.
async fn open(config: Config) -> anyhow::Result<LockBay> {
    let clock = Clock::system();
    let store = without_credentials(&config.store);
    match clock.timeout(OPEN_WITHIN, LockBay::open(config)).await {
        Some(Ok(bay)) => Ok(bay),
        // A setting is wrong, and the error says which: it need not be that of the store.
        Some(Err(error)) if error.kind() == ErrorKind::Invalid => Err(told(error)),
        Some(Err(error)) => {
            Err(told(error)).with_context(|| format!("cannot open the store {store}"))
        }
        None => bail!("cannot open the store {store}: no answer within {OPEN_WITHIN:?}"),
    }
}

/// The library's errors tell their sources already; told once is enough.
pub(crate) fn told(error: lockbay::Error) -> anyhow::Error {
    anyhow::Error::msg(error.to_string())
}

/// Logs which promises the store's settings do not let us keep.
async fn tell_warnings(bay: &LockBay) {
    if bay.store().describe().backend == "memory" {
        tracing::warn!("the store is memory: everything is gone when this process ends");
    }
    let pong = bay.clock().timeout(Duration::from_secs(2), bay.store().ping()).await;
    for warning in pong.and_then(Result::ok).map(|pong| pong.warnings).unwrap_or_default() {
        tracing::warn!("store: {warning}");
    }
}

/// A store URL fit for a log: no user, no password, and of the query only the namespace.
pub(crate) fn without_credentials(url: &str) -> String {
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let base = match base.split_once("://") {
        Some((scheme, rest)) => {
            let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
            format!("{scheme}://{host}")
        }
        None => base.to_owned(),
    };
    match query.split('&').find(|part| part.starts_with("namespace=")) {
        Some(namespace) => format!("{base}?{namespace}"),
        None => base,
    }
}

#[cfg(test)]
mod tests {
    use super::without_credentials;

    #[test]
    fn a_store_is_shown_without_its_password() {
        for (url, shown) in [
            (
                "redis://user:p@ss@host:6379/0?namespace=pay&x=y",
                "redis://host:6379/0?namespace=pay",
            ),
            ("rediss://:secret@host", "rediss://host"),
            ("sqlite:a@b/lockbay.db", "sqlite:a@b/lockbay.db"),
            ("memory:", "memory:"),
        ] {
            assert_eq!(without_credentials(url), shown);
        }
    }
}
