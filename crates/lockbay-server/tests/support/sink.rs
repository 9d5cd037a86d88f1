//! A receiver of push calls in the test's own process, which does with each call as the test says.
//!
//! It speaks just enough HTTP/1.1 to keep its connections. A call that was received is seen through
//! although its caller has gone away by then, as a real receiver would.

use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};

/// A call as it came.
pub(crate) struct Call {
    head: String,
    pub(crate) body: Vec<u8>,
}

impl Call {
    /// The value of a header, given in small letters.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("calls are JSON")
    }
}

/// What a call gets for an answer.
pub(crate) enum Answer {
    Says(u16, Value),
    /// With this line more in its head.
    With(u16, &'static str),
    /// No answer: the connection is closed.
    HangsUp,
}

type Handle = Arc<dyn Fn(Call) -> BoxFuture<'static, Answer> + Send + Sync>;

/// A receiver on a free loopback port, gone when dropped.
pub(crate) struct Sink {
    address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Sink {
    /// Starts one that does this with each call.
    pub(crate) fn start<F: Future<Output = Answer> + Send + 'static>(
        handle: impl Fn(Call) -> F + Send + Sync + 'static,
    ) -> Sink {
        let handle: Handle = Arc::new(move |call| Box::pin(handle(call)));
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a free port");
        let address = listener.local_addr().expect("it has an address");
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&handle)));
            }
        });
        Sink { address, runtime: Some(runtime) }
    }

    /// Where it is.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        // Calls may be held for ever.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Answers the calls of one connection until either side closes it.
async fn serve(stream: TcpStream, handle: Handle) {
    // Without it an answer may be 40 ms late, and the test only slower.
    let _ = stream.set_nodelay(true);
    let mut stream = BufReader::new(stream);
    while let Some(call) = receive(&mut stream).await {
        let (status, more, body) = match handle(call).await {
            Answer::Says(status, body) => (status, String::new(), body.to_string()),
            Answer::With(status, line) => (status, format!("{line}\r\n"), String::new()),
            Answer::HangsUp => return,
        };
        let length = body.len();
        let kind = "content-type: application/json";
        let answer = format!(
            "HTTP/1.1 {status} X\r\n{more}{kind}\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        if stream.get_mut().write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn receive(stream: &mut BufReader<TcpStream>) -> Option<Call> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await.ok()? == 0 {
            return None;
        }
    }
    let mut call = Call { head, body: Vec::new() };
    let length = call.header("content-length").and_then(|length| length.parse().ok());
    call.body = vec![0; length.expect("calls say their length")];
    stream.read_exact(&mut call.body).await.ok()?;
    Some(call)
}
