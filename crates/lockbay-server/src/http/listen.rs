//! Connections: accepted, limited in number, in all and of each address, and ended in order.
//!
//! It knows nothing of what is asked over them. A connection that sends no whole request head in
//! time is closed, so that silent ones do not use up what others need; so is one that reads nothing
//! (`wire.rs`), and one that takes too long to agree on TLS.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use axum::response::IntoResponse;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use lockbay::clock::Clock;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::access::{Encrypted, Peer};
use super::peers::Peers;
use super::tls::{Client, Tls};
use super::wire::{Answer, Patience, Pulse, Wire};
use super::{App, Problem, router};

/// How long a connection may be without a request.
const IDLE_WITHIN: Duration = Duration::from_secs(60);
/// How long accepting pauses when the machine has no more room for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// The longest head of a request, in bytes. A longer one gets 431.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// The most headers of a request; with more it gets 431.
const MAX_HEADERS: usize = 100;
/// The first byte of every TLS connection: a handshake record.
const TLS_HANDSHAKE: u8 = 22;
/// How much of a request in plain HTTP is read before it is told to use TLS.
const MAX_PLAIN_BYTES: u64 = 64 * 1024;
/// How long that may take.
const PLAIN_WITHIN: Duration = Duration::from_secs(1);
/// What is answered to plain HTTP where TLS is spoken.
const SPEAK_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\
    content-type: text/plain; charset=utf-8\r\ncontent-length: 48\r\nconnection: close\r\n\r\n\
    this port speaks https; repeat it with https://\n";

/// What every connection shares.
#[derive(Clone)]
struct Ground {
    router: Router,
    clock: Clock,
    patience: Patience,
    tls: Option<Arc<Tls>>,
    /// Connections that agree on TLS: half of all, so that they never take every place.
    handshakes: Arc<Semaphore>,
    stopping: CancellationToken,
}

/// Who is at the other end of a connection.
struct End {
    peer: Peer,
    client: Client,
    encrypted: bool,
}

/// Serves until the app is stopping, then lets every connection finish the request it is in.
///
/// There are at most twice as many connections as requests in flight; more wait to be accepted.
pub(crate) async fn serve(listener: TcpListener, app: App, tls: Option<Arc<Tls>>) {
    let config = app.bay.config();
    let patience = Patience { head: config.head_timeout.0, write: config.write_timeout.0 };
    let peers = Peers::new(usize::try_from(config.max_peer_connections).unwrap_or(usize::MAX));
    let room =
        Arc::new(Semaphore::new(app.max_in_flight.saturating_mul(2).min(Semaphore::MAX_PERMITS)));
    let ground = Ground {
        clock: app.bay.clock().clone(),
        patience,
        tls,
        handshakes: Arc::new(Semaphore::new(app.max_in_flight)),
        stopping: app.stopping.clone(),
        router: router(app),
    };
    let connections = TaskTracker::new();
    loop {
        let accepted = async {
            let permit = Arc::clone(&room).acquire_owned().await;
            (accept(&listener, &ground.clock).await, permit)
        };
        let ((stream, peer), permit) = tokio::select! {
            accepted = accepted => accepted,
            () = ground.stopping.cancelled() => break,
        };
        let Some(admitted) = peers.admit(peer.ip()) else {
            tracing::debug!(%peer, "connection refused: its address has too many");
            continue;
        };
        let ground = ground.clone();
        connections.spawn(async move {
            let _kept = (permit, admitted);
            ground.receive(stream, Peer(peer)).await;
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

/// A client that takes nothing of what it was sent last is not waited for by the system either.
/// Only Linux has a setting for this.
#[cfg(target_os = "linux")]
fn end_with_silence(stream: &TcpStream, within: Duration) {
    let millis = u32::try_from(within.as_millis()).unwrap_or(u32::MAX);
    if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(stream, millis) {
        tracing::debug!(%error, "TCP_USER_TIMEOUT not set");
    }
}

#[cfg(not(target_os = "linux"))]
fn end_with_silence(_: &TcpStream, _: Duration) {}

impl Ground {
    /// One connection from its first byte to its last.
    async fn receive(self, stream: TcpStream, peer: Peer) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY not set");
        }
        end_with_silence(&stream, self.patience.write);
        let pulse = Pulse::default();
        match &self.tls {
            None => {
                let wire = Wire::new(stream, self.clock.clone(), self.patience, pulse.clone());
                let end = End { peer, client: Client::Unnamed, encrypted: false };
                self.converse(wire, pulse, end).await;
            }
            Some(tls) => {
                let within = self.patience.head;
                let agreed = self.clock.timeout(within, self.agree(tls, stream, &pulse));
                let agreed = tokio::select! {
                    agreed = agreed => agreed,
                    () = self.stopping.cancelled() => return,
                };
                match agreed {
                    Some(Some(stream)) => {
                        let client = tls.client(stream.get_ref().1);
                        let end = End { peer, client, encrypted: true };
                        self.converse(stream, pulse, end).await;
                    }
                    Some(None) => {}
                    None => tracing::debug!("no agreement on TLS within {within:?}"),
                }
            }
        }
    }

    /// Agrees on TLS; none if the client does not.
    async fn agree(&self, tls: &Tls, stream: TcpStream, pulse: &Pulse) -> Option<TlsStream<Wire>> {
        let mut first = [0];
        let came = stream.peek(&mut first).await;
        if !came.is_ok_and(|came| came > 0) {
            return None;
        }
        if first[0] != TLS_HANDSHAKE {
            self.clock.timeout(PLAIN_WITHIN, refuse_plain(stream)).await;
            return None;
        }
        let _turn = self.handshakes.acquire().await;
        let _shaking = pulse.begin(); // no head of a request yet
        let wire = Wire::new(stream, self.clock.clone(), self.patience, pulse.clone());
        match tls.acceptor().accept(wire).await {
            Ok(stream) => Some(stream),
            Err(error) => {
                tracing::debug!(%error, "no agreement on TLS");
                None
            }
        }
    }

    /// Every request of a connection, from the first to the last.
    async fn converse<S>(&self, stream: S, pulse: Pulse, end: End)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let router = TowerToHyperService::new(self.router.clone());
        let answering = service_fn(|request: Request<Incoming>| {
            let serving = pulse.begin();
            let answer = answer(&router, &end, request);
            async {
                let answer = answer.await;
                Ok::<_, Infallible>(answer.map(|body| Answer::new(body, serving)))
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.patience.head.max(IDLE_WITHIN))
            .max_header_size(MAX_HEAD_BYTES)
            .max_headers(MAX_HEADERS)
            .serve_connection(TokioIo::new(stream), answering);
        let mut connection = pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.stopping.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "connection broken");
        }
    }
}

/// The answer to one request of this client.
fn answer(
    router: &TowerToHyperService<Router>,
    end: &End,
    mut request: Request<Incoming>,
) -> impl Future<Output = Response<Body>> + use<> {
    request.extensions_mut().insert(end.peer);
    if end.encrypted {
        request.extensions_mut().insert(Encrypted);
    }
    if let Client::Named(certificate) = &end.client {
        request.extensions_mut().insert(certificate.clone());
    }
    let answer = match &end.client {
        Client::Unnamed | Client::Named(_) => Ok(router.call(request)),
        Client::Stranger(subject) => Err(Problem::forbidden(format!(
            "the settings give the client certificate of {subject:?} no role; nothing was done"
        ))),
    };
    async {
        match answer {
            Ok(answer) => answer.await.unwrap_or_else(|never| match never {}),
            Err(problem) => problem.into_response(),
        }
    }
}

/// Tells a client that speaks plain HTTP what to do, once it has said what it wanted: an answer
/// that crosses a request would be lost.
async fn refuse_plain(mut stream: TcpStream) {
    let told = async {
        stream.write_all(SPEAK_TLS).await?;
        stream.shutdown().await?;
        let mut rest = stream.take(MAX_PLAIN_BYTES);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    };
    if let Err(error) = told.await {
        tracing::debug!(%error, "plain HTTP was not told to use TLS");
    }
}
