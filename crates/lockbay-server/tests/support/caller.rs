//! A client that keeps its connection, for tests that send very many requests.

use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// How long an answer may take unless the test says otherwise.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// A connection to one server, made anew whenever it breaks.
pub(crate) struct Caller {
    to: SocketAddr,
    within: Duration,
    stream: Option<BufReader<TcpStream>>,
}

impl Caller {
    pub(crate) fn new(to: SocketAddr) -> Self {
        Caller::within(to, ANSWER_WITHIN)
    }

    /// One that gives up an answer after so long.
    pub(crate) fn within(to: SocketAddr, within: Duration) -> Self {
        Caller { to, within, stream: None }
    }

    /// Turns to another server, unless it is the same.
    pub(crate) fn turn_to(&mut self, to: SocketAddr) {
        if self.to != to {
            (self.to, self.stream) = (to, None);
        }
    }

    /// Sends a POST, and gives the status and the JSON of the answer. An error means that the
    /// request may or may not have been carried out.
    pub(crate) fn post(&mut self, path: &str, body: &str) -> Result<(u16, Value)> {
        self.send("POST", path, "", body)
    }

    /// The same with an idempotency key.
    pub(crate) fn post_once(&mut self, path: &str, key: &str, body: &str) -> Result<(u16, Value)> {
        self.send("POST", path, &format!("Idempotency-Key: {key}\r\n"), body)
    }

    /// Sends a GET, and gives the status and the JSON of the answer.
    pub(crate) fn get(&mut self, path: &str) -> Result<(u16, Value)> {
        self.send("GET", path, "", "")
    }

    fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &str,
        body: &str,
    ) -> Result<(u16, Value)> {
        let answer = self.exchange(method, path, headers, body);
        if answer.is_err() {
            self.stream = None;
        }
        answer
    }

    fn exchange(
        &mut self,
        method: &str,
        path: &str,
        headers: &str,
        body: &str,
    ) -> Result<(u16, Value)> {
        if self.stream.is_none() {
            let stream = TcpStream::connect_timeout(&self.to, self.within)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(self.within))?;
            self.stream = Some(BufReader::new(stream));
        }
        let Some(stream) = &mut self.stream else { return Err(ErrorKind::NotConnected.into()) };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\n{headers}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            self.to,
            body.len()
        );
        stream.get_mut().write_all((head + body).as_bytes())?;
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| Error::new(ErrorKind::UnexpectedEof, line.clone()))?;
        let mut length = 0;
        loop {
            line.clear();
            stream.read_line(&mut line)?;
            if line.trim().is_empty() {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().map_err(|_| ErrorKind::InvalidData)?;
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body)?;
        Ok((status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
    }
}
