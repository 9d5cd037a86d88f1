//! Connections: accepted, limited in number, timed, and ended in order.
//!
//! It knows nothing of what is asked over them. A connection that sends no whole request head in
//! time is closed, so that silent ones do not use up what others need.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use lockbay::clock::Clock;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::access::Peer;
use super::{App, router};

/// How long a connection may take to send the head of its next request.
const HEAD_WITHIN: Duration = Duration::from_secs(60);
/// How long a client may take to accept what it is sent.
#[cfg(target_os = "linux")]
const TAKEN_WITHIN: Duration = Duration::from_secs(60);
/// How long accepting pauses when the machine has no more room for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Serves until the app is stopping, then lets every connection finish the request it is in.
///
/// There are at most twice as many connections as requests in flight; more wait to be accepted.
pub(crate) async fn serve(listener: TcpListener, app: App) {
    let clock = app.bay.clock().clone();
    let stopping = app.stopping.clone();
    let room =
        Arc::new(Semaphore::new(app.max_in_flight.saturating_mul(2).min(Semaphore::MAX_PERMITS)));
    let router = router(app);
    let connections = TaskTracker::new();
    loop {
        let accepted = async {
            let permit = Arc::clone(&room).acquire_owned().await;
            (accept(&listener, &clock).await, permit)
        };
        let ((stream, peer), permit) = tokio::select! {
            accepted = accepted => accepted,
            () = stopping.cancelled() => break,
        };
        let (router, stopping) = (router.clone(), stopping.clone());
        connections.spawn(async move {
            let _permit = permit;
            converse(stream, Peer(peer), router, stopping).await;
        });
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn accept(listener: &TcpListener, clock: &Clock) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => {
                tracing::warn!(%error, "connection not accepted");
                clock.sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// A client that takes nothing of what it is sent is not waited for, so that it does not hold its
/// connection for ever. Only Linux has a setting for this.
#[cfg(target_os = "linux")]
fn end_with_silence(stream: &TcpStream) {
    let millis = u32::try_from(TAKEN_WITHIN.as_millis()).unwrap_or(u32::MAX);
    if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(stream, millis) {
        tracing::debug!(%error, "TCP_USER_TIMEOUT not set");
    }
}

#[cfg(not(target_os = "linux"))]
fn end_with_silence(_: &TcpStream) {}

/// One connection from its first request to its last.
async fn converse(stream: TcpStream, peer: Peer, router: Router, stopping: CancellationToken) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY not set");
    }
    end_with_silence(&stream);
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        router.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection broken");
    }
}
