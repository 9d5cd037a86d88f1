//! The stream of events: in order, resumed without loss or repetition, honest about what is missing,
//! bounded, and ended with the server.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use serde_json::{Value, json};
use support::{PATIENCE, Server, eventually, lockbay};

fn server() -> Server {
    let server = Server::start(&["--store", "memory:"]);
    server.wait_until_leading();
    server
}

struct Stream(BufReader<TcpStream>, String);

type Message = BTreeMap<String, String>;

impl Stream {
    fn open(server: &Server, path: &str, after: Option<&str>) -> Stream {
        let mut socket = TcpStream::connect(server.address()).unwrap();
        socket.set_read_timeout(Some(PATIENCE * 2)).unwrap();
        let after = after.map(|id| format!("Last-Event-ID: {id}\r\n")).unwrap_or_default();
        write!(socket, "GET {path} HTTP/1.1\r\nHost: localhost\r\n{after}\r\n").unwrap();
        let mut reader = BufReader::new(socket);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(reader.read_line(&mut head).unwrap(), 0, "{head}");
        }
        Stream(reader, head.to_lowercase())
    }

    /// The next message; none at the end of the stream.
    fn next(&mut self) -> Option<Message> {
        let mut message = Message::new();
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            let line = line.trim_end();
            if let Some((name, value)) = line.split_once(": ") {
                message.insert(name.to_owned(), value.to_owned());
            } else if line.is_empty() && !message.is_empty() {
                return Some(message);
            }
        }
    }

    #[track_caller]
    fn event(&mut self, name: &str) -> (String, Value) {
        let message = self.next().expect("the stream goes on");
        assert_eq!(message["event"], name, "{message:?}");
        (message["id"].clone(), serde_json::from_str(&message["data"]).unwrap())
    }
}

#[test]
fn events_come_as_they_happen_and_a_client_goes_on_where_it_stopped() {
    let server = server();
    let instance = server.instance_id();
    let mut stream = Stream::open(&server, "/v1/events?events=job_failed", None);
    for header in ["content-type: text/event-stream", "cache-control: no-store", "200 ok"] {
        assert!(stream.1.contains(header), "{}", stream.1);
    }
    assert!(!stream.1.contains("content-encoding"), "{}", stream.1);
    let (first, hello) = stream.event("listening");
    assert_eq!(hello["instance_id"], instance.as_str());
    let a = server.fail_job("a", "a");
    let (id, told) = stream.event("job_failed");
    assert_eq!((&told["job_id"], &told["error"]), (&json!(a), &json!("a")));
    assert_eq!(id, format!("{instance}:{}", told["sequence"]));
    drop(stream);
    // What happens while nobody listens is there when the client comes back, once each.
    let (b, c) = (server.fail_job("b", "b"), server.fail_job("c", "c"));
    let mut again = Stream::open(&server, "/v1/events?events=job_failed", Some(&id));
    again.event("listening");
    assert_eq!(again.event("job_failed").1["job_id"], json!(b));
    assert_eq!(again.event("job_failed").1["job_id"], json!(c));
    let d = server.fail_job("d", "d");
    assert_eq!(again.event("job_failed").1["job_id"], json!(d));
    // From before the first event on, nothing is missing either.
    let mut whole = Stream::open(&server, "/v1/events?events=job_failed", Some(&first));
    whole.event("listening");
    let ids: Vec<_> = (0..4).map(|_| whole.event("job_failed").1["job_id"].clone()).collect();
    assert_eq!(ids, [json!(a), json!(b), json!(c), json!(d)]);
}

#[test]
fn a_client_that_cannot_go_on_is_told_of_the_gap_first() {
    let server = server();
    let job = server.fail_job("a", "a");
    for (id, reason) in [
        ("ffffffffffffffffffffffffffffffff:7".to_owned(), "other_instance"),
        ("nonsense".to_owned(), "unknown_id"),
        (format!("{}:x", server.instance_id()), "unknown_id"),
        (format!("{}:999999", server.instance_id()), "too_old"),
    ] {
        let mut stream = Stream::open(&server, "/v1/events?events=job_failed", Some(&id));
        assert_eq!(stream.event("gap").1["reason"], reason, "{id}");
        assert_eq!(stream.event("job_failed").1["job_id"], json!(job), "{id}");
    }
}

#[test]
fn a_name_that_is_no_event_is_refused_and_so_are_too_many_clients() {
    let server = server();
    server.get("/v1/events?events=job_failed,nothing").problem(400, "invalid");
    let open = || Stream::open(&server, "/v1/events", None);
    let mut streams: Vec<Stream> = (0..128).map(|_| open()).collect();
    assert!(streams.iter().all(|stream| stream.1.contains("200 ok")));
    server.get("/v1/events").problem(429, "busy");
    drop(streams.split_off(64));
    eventually("those that left make room", || open().1.contains("200 ok").then_some(()));
}

#[test]
fn a_stream_ends_when_the_server_stops() {
    let mut server = server();
    let mut stream = Stream::open(&server, "/v1/events?events=store_rolled_back", None);
    stream.event("listening");
    server.sigterm();
    assert!(stream.next().is_none(), "the stream ends in order");
    assert!(server.wait_exit(PATIENCE).success());
}

#[test]
fn the_command_shows_events_one_a_line() {
    let server = server();
    let instance = server.instance_id();
    server.fail_job("a", "a");
    let from_the_first = format!("{instance}:0");
    let arguments =
        ["events", "--json", "--events", "job_failed", "--limit", "1", "--after", &from_the_first];
    let output = lockbay().args(arguments).env("LOCKBAY_URL", server.url()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&told["event"], &told["error"]), (&json!("job_failed"), &json!("a")));
}
