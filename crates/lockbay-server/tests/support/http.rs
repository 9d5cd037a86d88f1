//! A client that can say anything, the forbidden included: one request over one connection.
//!
//! It knows just enough of HTTP/1.1 to read an answer; a real client would refuse to send what
//! these tests need to send.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// The header that goes with a JSON body.
pub(crate) const JSON: (&str, &str) = ("Content-Type", "application/json");

/// How long an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("not JSON: {error}: {}", self.text()))
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header, by its name in lowercase.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// Checks that this is a success, and gives its JSON.
    #[track_caller]
    pub(crate) fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text());
        assert_eq!(self.header("content-type"), Some("application/json"));
        self.json()
    }

    /// Checks that this is a problem of this kind and status, and gives it.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16, kind: &str) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        let problem = self.json();
        assert_eq!(problem["type"], format!("/problems/{kind}"), "{problem}");
        assert_eq!(problem["status"], status);
        let whole = problem["title"].is_string()
            && problem["detail"].is_string()
            && problem["retryable"].is_boolean();
        assert!(whole, "{problem}");
        problem
    }
}

/// Sends a well-formed request.
pub(crate) fn send(
    to: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Reply> {
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() {
        request.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    request.push_str("\r\n");
    let mut bytes = request.into_bytes();
    bytes.extend_from_slice(body);
    send_bytes(to, &bytes)
}

/// Sends these bytes, whatever they are, and reads an answer.
pub(crate) fn send_bytes(to: SocketAddr, bytes: &[u8]) -> Result<Reply> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    // A server may answer and close before it has read everything.
    let written = stream.write_all(bytes);
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    match parse(&answer) {
        Some(reply) => Ok(reply),
        None => {
            written?;
            read_reply(&answer, read)
        }
    }
}

/// What these bytes answer, or why they do not.
pub(crate) fn read_reply(answer: &[u8], read: Result<usize>) -> Result<Reply> {
    match parse(answer) {
        Some(reply) => Ok(reply),
        None => {
            read?;
            Err(Error::new(ErrorKind::UnexpectedEof, "no whole answer"))
        }
    }
}

fn parse(answer: &[u8]) -> Option<Reply> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let status = head.split_whitespace().nth(1)?.parse().ok()?;
    if status == 100 {
        return parse(&answer[end + 4..]);
    }
    Some(Reply { status, head, body: answer[end + 4..].to_vec() })
}
