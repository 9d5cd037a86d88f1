//! Spans reach a collector with their ids, nested as the work was, and a collector that is away
//! hurts nobody.

#![cfg(feature = "otlp")]
#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use serde_json::json;
use support::{PATIENCE, Server, eventually};

/// Collects what is posted to it, and says so with an empty answer.
fn collector() -> (String, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let received = Arc::new(Mutex::new(Vec::new()));
    let into = Arc::clone(&received);
    std::thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            let into = Arc::clone(&into);
            std::thread::spawn(move || {
                let mut reader = BufReader::new(socket);
                loop {
                    let (mut head, mut line, mut length) = (String::new(), String::new(), 0);
                    while reader.read_line(&mut line).unwrap_or(0) > 2 {
                        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                            length = value.trim().parse().unwrap();
                        }
                        head.push_str(&std::mem::take(&mut line));
                    }
                    if head.is_empty() {
                        return;
                    }
                    assert!(head.starts_with("POST /v1/traces HTTP/1.1"), "{head}");
                    assert!(head.to_lowercase().contains("application/x-protobuf"), "{head}");
                    let mut body = vec![0; length];
                    reader.read_exact(&mut body).unwrap();
                    into.lock().unwrap().extend(body);
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                    reader.get_mut().write_all(answer).unwrap();
                }
            });
        }
    });
    (endpoint, received)
}

fn has(received: &Mutex<Vec<u8>>, text: &str) -> bool {
    received.lock().unwrap().windows(text.len()).any(|part| part == text.as_bytes())
}

#[test]
fn spans_of_requests_sagas_steps_and_commits_reach_the_collector_with_their_ids() {
    let (endpoint, received) = collector();
    let environment = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("LOCKBAY_TRACE", "lockbay=trace"),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
    ];
    let mut server = Server::start_with(&["--store", "memory:"], &environment);
    server.wait_until_leading();
    let deposit = json!({ "user_id": "ann", "amount": "10.00", "currency": "EUR" }).to_string();
    let key = ("Idempotency-Key", "one");
    let json = support::http::JSON;
    let reply = server.send("POST", "/v1/ledger/deposits", &[json, key], deposit.as_bytes());
    assert_eq!(reply.status, 201, "{}", reply.text());
    let escrow =
        json!({ "buyer_id": "ann", "seller_id": "bob", "amount": "1.00", "currency": "EUR" });
    let request_id = ("X-Request-Id", "req-4711");
    let reply = server.send(
        "POST",
        "/v1/sagas/escrow",
        &[json, key, request_id],
        escrow.to_string().as_bytes(),
    );
    assert_eq!(reply.status, 202, "{}", reply.text());
    let saga = reply.json()["saga_id"].as_str().unwrap().to_owned();
    let names = ["request", "saga", "step", "commit", "/v1/sagas/escrow", "req-4711", &saga];
    eventually("the spans arrive", || names.iter().all(|name| has(&received, name)).then_some(()));
    server.sigterm();
    assert!(server.wait_exit(PATIENCE).success());
}

#[test]
fn a_collector_that_is_away_is_no_trouble() {
    let environment = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")];
    let mut server = Server::start_with(&["--store", "memory:"], &environment);
    server.wait_until_leading();
    for _ in 0..20 {
        server.get("/v1/jobs").ok();
    }
    server.sigterm();
    assert!(server.wait_exit(PATIENCE).success());
}
