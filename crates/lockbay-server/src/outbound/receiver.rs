//! A receiver of calls for tests: reads requests from a socket, and answers as it is told, byte for
//! byte, so that it can also answer as no decent server would.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;

/// What it does with a request.
#[derive(Debug, Clone)]
pub(super) enum Answer {
    /// These bytes, then the next request.
    Bytes(Vec<u8>),
    /// These bytes, and the connection is closed.
    Last(Vec<u8>),
    /// The connection is closed as soon as the head has come.
    CloseBeforeBody,
    /// These bytes, and then nothing for ever.
    Stall(Vec<u8>),
}

/// A response with this status and body.
pub(super) fn answer(status: &str, body: &str) -> Answer {
    let length = body.len();
    Answer::Bytes(format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}").into())
}

/// What came.
#[derive(Debug, Clone)]
pub(super) struct Received {
    pub(super) head: String,
    pub(super) body: Vec<u8>,
    /// Which connection it came on.
    pub(super) connection: usize,
}

impl Received {
    /// The value of a header, given in small letters.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines.find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

#[derive(Default)]
struct Seen {
    requests: Mutex<Vec<Received>>,
    more: Notify,
}

/// A receiver that answers every request alike.
pub(super) struct Receiver {
    pub(super) address: SocketAddr,
    seen: Arc<Seen>,
}

impl Receiver {
    pub(super) async fn new(answer: Answer) -> Self {
        Self::start(Ipv4Addr::LOCALHOST.into(), answer, None).await
    }

    pub(super) async fn start(host: IpAddr, answer: Answer, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind((host, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let told = Arc::clone(&seen);
        tokio::spawn(async move {
            for connection in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                let (seen, answer, tls) = (Arc::clone(&told), answer.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => drop(converse(stream, connection, &seen, answer).await),
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                let _ = converse(stream, connection, &seen, answer).await;
                            }
                        }
                    }
                });
            }
        });
        Receiver { address, seen }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    pub(super) fn received(&self) -> Vec<Received> {
        self.seen.requests.lock().unwrap().clone()
    }

    /// The only request, once it has come.
    pub(super) async fn only(&self) -> Received {
        while self.received().is_empty() {
            self.seen.more.notified().await;
        }
        let received = self.received();
        assert_eq!(received.len(), 1, "{received:?}");
        received[0].clone()
    }
}

async fn converse(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    connection: usize,
    seen: &Seen,
    answer: Answer,
) -> std::io::Result<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8(head).unwrap();
        let mut received = Received { head, body: Vec::new(), connection };
        if !matches!(answer, Answer::CloseBeforeBody) {
            let length = received.header("content-length").map_or(0, |it| it.parse().unwrap());
            received.body.resize(length, 0);
            stream.read_exact(&mut received.body).await?;
        }
        seen.requests.lock().unwrap().push(received);
        seen.more.notify_one();
        match &answer {
            Answer::Bytes(bytes) => stream.write_all(bytes).await?,
            Answer::Last(bytes) => {
                stream.write_all(bytes).await?;
                return stream.shutdown().await;
            }
            Answer::CloseBeforeBody => return Ok(()),
            Answer::Stall(bytes) => {
                stream.write_all(bytes).await?;
                stream.flush().await?;
                std::future::pending::<()>().await;
            }
        }
        stream.flush().await?;
    }
}
