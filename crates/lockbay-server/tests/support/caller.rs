//! A client that keeps its connection, for tests that send very many requests.

use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// A connection to one server, made anew whenever it breaks.
pub(crate) struct Caller {
    to: SocketAddr,
    stream: Option<BufReader<TcpStream>>,
}

impl Caller {
    pub(crate) fn new(to: SocketAddr) -> Self {
        Caller { to, stream: None }
    }

    /// Sends a POST, and gives the status and the JSON of the answer. An error means that the
    /// request may or may not have been carried out.
    pub(crate) fn post(&mut self, path: &str, body: &str) -> Result<(u16, Value)> {
        let answer = self.exchange(path, body);
        if answer.is_err() {
            self.stream = None;
        }
        answer
    }

    fn exchange(&mut self, path: &str, body: &str) -> Result<(u16, Value)> {
        if self.stream.is_none() {
            let stream = TcpStream::connect(self.to)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(Duration::from_secs(30)))?;
            self.stream = Some(BufReader::new(stream));
        }
        let Some(stream) = &mut self.stream else { return Err(ErrorKind::NotConnected.into()) };
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
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
