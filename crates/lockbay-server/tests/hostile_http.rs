//! Clients that are slow, silent, oversized or no clients at all: each loses its own connection, and
//! nobody else loses anything.
//!
//! After every scenario the server answers others, and it has let go of what was taken from it: the
//! number of its open files is what it was.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use support::http::{read_reply, send_bytes};
use support::{PATIENCE, Server, breathe, eventually};

/// Short patience, so that a test sees the end of it.
const SHORT: [(&str, &str); 5] = [
    ("LOCKBAY_HEAD_TIMEOUT", "500ms"),
    ("LOCKBAY_BODY_TIMEOUT", "500ms"),
    ("LOCKBAY_WRITE_TIMEOUT", "500ms"),
    ("LOCKBAY_MONITORING", "false"),
    ("LOCKBAY_AUDIT", "false"),
];

struct Victim {
    server: Server,
    open_files: usize,
}

impl Victim {
    fn start() -> Victim {
        let server = Server::start_with(&["--store", "memory:"], &SHORT);
        server.get("/health/live").ok();
        let open_files = server.open_files_at_rest();
        Victim { server, open_files }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.server.address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// A connection of which the system keeps as little as it can for who does not read.
    fn connect_deaf(&self) -> TcpStream {
        let stream = self.connect();
        rustix::net::sockopt::set_socket_recv_buffer_size(&stream, 4_096).unwrap();
        stream
    }

    /// Others are answered, and what was taken is given back.
    #[track_caller]
    fn is_well(&self) {
        self.server.get("/health/live").ok();
        let body = r#"{"job_type":"t","job_key":"after","parameters":{}}"#;
        let reply = self.server.post("/v1/jobs/claim", body);
        assert!([200, 409].contains(&reply.status), "{}", reply.text());
        eventually("the connections are let go", || {
            (self.server.open_files() <= self.open_files).then_some(())
        });
        assert!(!self.server.log().contains("panicked"), "{}", self.server.log());
    }
}

/// Reads to the end, which must come.
#[track_caller]
fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        let is_end = error.kind() == std::io::ErrorKind::ConnectionReset;
        assert!(is_end, "the connection was not closed: {error}");
    }
    answer
}

/// Writes a byte now and then until the other end has had enough, which must come.
#[track_caller]
fn trickle(stream: &mut TcpStream, byte: &[u8]) {
    for _ in 0..1_000 {
        if stream.write_all(byte).is_err() {
            return;
        }
        breathe(Duration::from_millis(20));
    }
    panic!("the connection was not closed");
}

#[test]
fn a_head_that_trickles_in_is_cut_off() {
    let victim = Victim::start();
    let mut clients: Vec<TcpStream> = (0..32).map(|_| victim.connect()).collect();
    for client in &mut clients {
        client.write_all(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nX-A: ").unwrap();
    }
    victim.server.get("/health/live").ok();
    trickle(&mut clients[0], b"a");
    for mut client in clients {
        read_to_end(&mut client);
    }
    victim.is_well();
}

#[test]
fn a_second_head_that_trickles_in_is_cut_off_and_an_idle_connection_is_not() {
    let victim = Victim::start();
    let ask = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let (mut slow, mut idle) = (victim.connect(), victim.connect());
    for client in [&mut slow, &mut idle] {
        client.write_all(ask).unwrap();
        assert!(client.read(&mut [0; 1_024]).unwrap() > 0);
    }
    slow.write_all(b"GET").unwrap();
    trickle(&mut slow, b" ");
    // The other was silent for as long, and has said nothing.
    idle.write_all(ask).unwrap();
    assert!(idle.read(&mut [0; 1_024]).unwrap() > 0);
    drop((slow, idle));
    victim.is_well();
}

#[test]
fn a_body_that_trickles_in_is_answered_408_and_nothing_was_done() {
    let victim = Victim::start();
    let heads = [
        "Content-Length: 100000\r\n\r\n{",
        "Content-Length: 5000000\r\n\r\n{",
        "Transfer-Encoding: chunked\r\n\r\nffff\r\n{",
    ];
    for (head, status) in heads.iter().zip([408, 413, 408]) {
        let mut client = victim.connect();
        let request = format!(
            "POST /v1/jobs/claim HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{head}"
        );
        client.write_all(request.as_bytes()).unwrap();
        let mut writer = client.try_clone().unwrap();
        let answered = AtomicBool::new(false);
        let answer = std::thread::scope(|scope| {
            let writing = scope.spawn(|| {
                while !answered.load(Ordering::Relaxed) && writer.write_all(b" ").is_ok() {
                    breathe(Duration::from_millis(20));
                }
            });
            let mut answer = vec![0; 4_096];
            let length = client.read(&mut answer).unwrap();
            answer.truncate(length);
            answered.store(true, Ordering::Relaxed);
            writing.join().unwrap();
            answer
        });
        let reply = read_reply(&answer, Ok(0)).unwrap();
        assert_eq!(reply.status, status, "{head}: {}", reply.text());
        read_to_end(&mut client);
    }
    victim.is_well();
    let jobs = victim.server.get("/v1/jobs").ok();
    assert_eq!(jobs["items"].as_array().unwrap().len(), 1, "{jobs}");
}

#[test]
fn a_client_that_never_reads_its_answer_is_cut_off() {
    let victim = Victim::start();
    let body = format!(r#"{{"value":"{}"}}"#, "v".repeat(500_000));
    victim.server.put("/v1/state/long", &body).ok();
    let mut clients: Vec<TcpStream> = (0..8).map(|_| victim.connect_deaf()).collect();
    for client in &mut clients {
        // Sent ahead, so that the answers are longer than what the system holds for both sides.
        let ask = "GET /v1/state/long HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(64);
        client.write_all(ask.as_bytes()).unwrap();
    }
    victim.server.get("/health/live").ok();
    // The clients are there and never read; still the server lets go of them.
    victim.is_well();
    drop(clients);
}

#[test]
fn a_listener_to_events_that_never_reads_is_cut_off() {
    let victim = Victim::start();
    let mut client = victim.connect_deaf();
    client.write_all(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    assert!(client.read(&mut [0; 64]).unwrap() > 0);
    let open_before = victim.open_files;
    let mut turn = 0_u64;
    eventually("the listener is let go", || {
        for _ in 0..20 {
            turn += 1;
            victim.server.fail_job(&turn.to_string(), &"e".repeat(4_000));
        }
        // The connections of the calls just made are closed in a moment.
        let is_alone = |_| {
            breathe(Duration::from_millis(5));
            victim.server.open_files() <= open_before
        };
        (0..20).any(is_alone).then_some(())
    });
    victim.is_well();
    drop(client);
}

#[test]
fn a_body_of_ten_mebibytes_is_refused_and_told_so() {
    let victim = Victim::start();
    let body = vec![b' '; 10 * 1024 * 1024];
    victim
        .server
        .send("POST", "/v1/jobs/claim", &[support::http::JSON], &body)
        .problem(413, "invalid");
    // In pieces, so that nobody announced its length.
    let mut request = b"POST /v1/jobs/claim HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
        Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        .to_vec();
    for piece in body.chunks(65_536) {
        request.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        request.extend_from_slice(piece);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"0\r\n\r\n");
    if let Ok(reply) = send_bytes(victim.server.address(), &request) {
        assert_eq!(reply.status, 413, "{}", reply.text());
    }
    victim.is_well();
}

/// The answers of the HTTP library itself have no body of ours; they are answers all the same.
#[test]
fn a_head_that_is_too_large_is_answered_431_and_one_that_is_none_400() {
    let victim = Victim::start();
    let head =
        |headers: &str| format!("GET /health/live HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
    let many: String = (0..100_000).map(|number| format!("x-{number}: y\r\n")).collect();
    let few: String = (0..101).map(|number| format!("x-{number}: y\r\n")).collect();
    let long = format!("x-long: {}\r\n", "y".repeat(1024 * 1024));
    let longish = format!("x-long: {}\r\n", "y".repeat(65 * 1024));
    for (what, request, status) in [
        ("a header of 1 MiB", head(&long), 431),
        ("a header of 65 KiB", head(&longish), 431),
        ("100,000 headers", head(&many), 431),
        ("101 headers", head(&few), 431),
        (
            "a long path",
            format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "y".repeat(70_000)),
            431,
        ),
        ("no method", "\r\n\r\n \r\n\r\n".into(), 400),
        ("no version", "GET /health/live\r\nHost: localhost\r\n\r\n".into(), 400),
        ("another protocol", "GET / SPDY/3\r\n\r\n".into(), 400),
        ("a header without a colon", head("nonsense\r\n"), 400),
        ("two lengths", head("Content-Length: 1\r\nContent-Length: 2\r\n"), 400),
        ("a length that is none", head("Content-Length: -1\r\n"), 400),
        ("a zero in a header", head("x: \0\r\n"), 400),
    ] {
        let mut client = victim.connect();
        // Whoever sends more than is read may lose the answer; the end is what counts then.
        let sent = client.write_all(request.as_bytes());
        let answer = read_to_end(&mut client);
        match read_reply(&answer, Ok(0)) {
            Ok(reply) => {
                assert_eq!(reply.status, status, "{what}: {}", reply.text());
                let length = reply.body.len().to_string();
                assert_eq!(reply.header("content-length"), Some(length.as_str()), "{what}");
            }
            Err(error) => assert!(sent.is_err() || request.len() > 65_536, "{what}: {error}"),
        }
        victim.server.get("/health/live").ok();
    }
    victim.is_well();
}

#[test]
fn requests_that_are_sent_ahead_are_answered_in_their_order() {
    let victim = Victim::start();
    let mut client = victim.connect();
    let mut requests = String::new();
    for number in 0..500 {
        let body = format!(r#"{{"value":{number}}}"#);
        requests.push_str(&format!(
            "PUT /v1/state/ahead HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        ));
    }
    requests
        .push_str("GET /v1/state/ahead HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    client.write_all(requests.as_bytes()).unwrap();
    let answers = String::from_utf8(read_to_end(&mut client)).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 501, "{answers}");
    assert!(answers.rsplit("\r\n\r\n").next().unwrap().contains(r#""value":499"#), "{answers}");
    victim.is_well();
}

#[test]
fn bytes_that_are_no_http_end_that_connection_alone() {
    let victim = Victim::start();
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..64 {
        let mut bytes = Vec::new();
        while bytes.len() < 1 << (round % 14) {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            bytes.extend_from_slice(&seed.to_le_bytes());
        }
        let mut client = victim.connect();
        let _ = client.write_all(&bytes);
        let _ = client.shutdown(Shutdown::Write);
        let answer = read_to_end(&mut client);
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "round {round}");
    }
    // TLS where plain HTTP is spoken.
    let mut client = victim.connect();
    client.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n").unwrap();
    assert!(read_to_end(&mut client).starts_with(b"HTTP/1.1 400"));
    victim.is_well();
}

#[test]
fn connections_that_say_nothing_or_break_off_leave_nothing_behind() {
    let victim = Victim::start();
    let silent: Vec<TcpStream> = (0..200).map(|_| victim.connect()).collect();
    victim.server.get("/health/live").ok();
    drop(silent);
    for cut in [
        &b"G"[..],
        b"GET /health/live HTTP/1.1\r\n",
        b"POST /v1/jobs/claim HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{",
        b"POST /v1/jobs/claim HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{",
    ] {
        let mut client = victim.connect();
        client.write_all(cut).unwrap();
    }
    victim.is_well();
}
