//! Payouts leave once, by whoever the settings name, or come back to their user.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};

use serde_json::Value;
use support::money::{CASHOUT, accepted, has, hundred, in_balance, keyed, postings};
use support::{PATIENCE, Server, eventually, lockbay};

/// An endpoint that pays: it answers each request in turn, and shows what it was sent.
fn bank(answers: &'static [(&'static str, &'static str)]) -> (String, Receiver<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}/pay", listener.local_addr().expect("an address"));
    let (tell, told) = channel();
    std::thread::spawn(move || {
        for (status, body) in answers {
            let (stream, _) = listener.accept().expect("a call");
            let mut stream = BufReader::new(stream);
            let (mut line, mut length) = (String::new(), 0);
            while line != "\r\n" {
                line.clear();
                stream.read_line(&mut line).expect("a head");
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().expect("a number");
                }
            }
            let mut order = vec![0; length];
            stream.read_exact(&mut order).expect("a body");
            let answer = format!(
                "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            stream.get_mut().write_all(answer.as_bytes()).expect("it listens");
            let order = serde_json::from_slice(&order).expect("JSON");
            if tell.send(order).is_err() {
                return;
            }
        }
    });
    (url, told)
}

#[test]
fn an_endpoint_that_does_not_say_is_asked_again_under_the_same_key_and_paid_once() {
    let (url, orders) = bank(&[
        ("500 Internal Server Error", ""),
        ("409 Conflict", "later"),
        ("200 OK", r#"{"reference":"po_77"}"#),
    ]);
    let server = Server::start_with(
        &["--store", "memory:"],
        &[
            ("LOCKBAY_PAYOUT_PROVIDER", &url),
            ("LOCKBAY_PAYOUT_SECRET", "hush-4711"),
            ("LOCKBAY_HANDLERS_ALLOW_PRIVATE", "true"),
        ],
    );
    hundred(&server, "ann");
    let body = r#"{"user_id":"ann","amount":"25","currency":"USD","destination":"IBAN 1"}"#;
    let id = accepted(&keyed(&server, CASHOUT, "k", body));
    let [first, second, third] =
        [(); 3].map(|()| orders.recv_timeout(PATIENCE).expect("the endpoint is asked"));
    assert_eq!((&first, &first), (&second, &third));
    for (member, value) in [
        ("action", "pay"),
        ("user_id", "ann"),
        ("amount", "25.00"),
        ("currency", "USD"),
        ("destination", "IBAN 1"),
    ] {
        assert_eq!(first[member], value, "{first}");
    }
    assert!(first["key"].as_str().is_some_and(|key| key.starts_with(&id)), "{first}");
    eventually("it is posted", || (postings(&server, &id).len() == 2).then_some(()));
    let legs = postings(&server, &id).into_iter().map(|movement| movement["legs"].to_string());
    assert!(legs.collect::<String>().contains("external/http/USD/"));
    assert_eq!(has(&server, "ann"), ("75.00".into(), "0.00".into()));
    in_balance(&server);
    let log = server.log();
    assert!(!log.contains("hush") && !log.contains("simulated"), "{log}");
}

#[test]
fn a_payout_that_is_refused_for_good_comes_back_to_its_user() {
    let (url, orders) = bank(&[("422 Unprocessable Entity", r#"{"error":"account closed"}"#)]);
    let server = Server::start_with(
        &["--store", "memory:"],
        &[("LOCKBAY_PAYOUT_PROVIDER", &url), ("LOCKBAY_HANDLERS_ALLOW_PRIVATE", "true")],
    );
    hundred(&server, "ann");
    let body = r#"{"user_id":"ann","amount":"25","currency":"USD","destination":"IBAN 1"}"#;
    let id = accepted(&keyed(&server, CASHOUT, "k", body));
    orders.recv_timeout(PATIENCE).expect("the endpoint is asked");
    eventually("the hold is given back", || (postings(&server, &id).len() == 2).then_some(()));
    assert_eq!(has(&server, "ann"), ("100.00".into(), "0.00".into()));
    in_balance(&server);
}

#[test]
fn simulated_payouts_are_warned_about_and_a_wrong_provider_does_not_start() {
    let server = Server::start(&["--store", "memory:"]);
    assert!(server.log().contains("payouts are simulated: no money leaves"), "{}", server.log());
    for provider in ["bank", "simulated:refused=many", "http://127.0.0.1:1/hush", "ftp://x"] {
        let mut command = lockbay();
        command.args(["serve", "--store", "memory:", "--listen", "127.0.0.1:0"]);
        let output = command.env("LOCKBAY_PAYOUT_PROVIDER", provider).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{provider}: {said}");
        assert!(said.contains("payout_provider") && !said.contains("hush"), "{provider}: {said}");
    }
}
