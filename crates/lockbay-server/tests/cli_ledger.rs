//! `lockbay ledger` shows money to the last decimal, and moves it once for each request.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::Output;

use serde_json::Value;
use support::{Server, eventually, lockbay, run};

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

/// Runs a command of `lockbay ledger` that must succeed, and gives its stdout.
#[track_caller]
fn done(server: &Server, args: &[&str]) -> String {
    let output = run(server, &[&["ledger"], args].concat());
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
    stdout(&output)
}

/// Runs one that must be refused, and gives its stderr.
#[track_caller]
fn refused(server: &Server, args: &[&str]) -> String {
    let output = run(server, &[&["ledger"], args].concat());
    assert_eq!(output.status.code(), Some(1), "{args:?}: {}", stderr(&output));
    assert!(stderr(&output).contains("next: "), "{}", stderr(&output));
    stderr(&output)
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn server() -> Server {
    let server = Server::start(&["--store", "memory:"]);
    done(&server, &["deposit", "ann", "100", "USD", "--idempotency-key", "first"]);
    server
}

/// Waits until the account of a user shows this.
fn wait_until_shown(server: &Server, user: &str, available: &str) {
    eventually(&format!("{user} has {available}"), || {
        let account = done(server, &["account", user, "--currency", "USD", "--json"]);
        (json(&account)["available"] == available).then_some(())
    });
}

/// The id of the saga that a command started.
fn saga(said: &str) -> String {
    json(said)["saga_id"].as_str().expect("an id").to_owned()
}

#[test]
fn a_deposit_says_its_key_and_repeated_with_it_is_not_made_again() {
    let server = server();
    let args = ["ledger", "deposit", "bob", "0.10", "USD"];
    let first = run(&server, &args);
    assert_eq!(stdout(&first).trim(), "user bob has 0.10 USD available, 0.00 held");
    let said = stderr(&first);
    let key = said.trim().rsplit(' ').next().expect("a key");
    let again = run(&server, &[&args[..], &["--idempotency-key", key]].concat());
    assert_eq!(stdout(&again), stdout(&first));
    assert!(stderr(&again).contains("carried out before"), "{}", stderr(&again));
    let other = ["deposit", "bob", "0.11", "USD", "--idempotency-key", key];
    assert!(refused(&server, &other).contains("key-reused"));
    let shown = done(&server, &["account", "bob", "--currency", "USD"]);
    assert!(shown.contains("0.10") && shown.contains("USD"), "{shown}");
    assert!(refused(&server, &["account", "bob", "--currency", "usd"]).contains("upper case"));
    assert!(refused(&server, &["deposit", "bob", "0.001", "USD"]).contains("decimals"));
}

#[test]
fn money_goes_through_an_escrow_to_its_seller_and_out() {
    let server = server();
    let escrow = saga(&done(&server, &["escrow", "ann", "bob", "30", "USD", "--json"]));
    eventually("the escrow is there", || {
        let movements = done(&server, &["postings", &escrow, "--json"]);
        (json(&movements)["items"].as_array().map(Vec::len) == Some(2)).then_some(())
    });
    let shown = done(&server, &["postings", &escrow]);
    assert!(shown.starts_with("MOVEMENT") && shown.contains("-30.00 USD"), "{shown}");
    let first = run(&server, &["ledger", "postings", &escrow, "--page-size", "1"]);
    assert!(stderr(&first).contains("--page-token"), "{}", stderr(&first));
    assert!(done(&server, &["release", &escrow]).starts_with("saga "));
    wait_until_shown(&server, "bob", "30.00");
    assert!(refused(&server, &["refund", &escrow]).contains("released or refunded"));
    done(&server, &["cashout", "bob", "12.34", "USD", "IBAN 1", "--yes"]);
    wait_until_shown(&server, "bob", "17.66");
    let short = refused(&server, &["cashout", "bob", "17.67", "USD", "IBAN 1"]);
    assert!(short.contains("17.66 USD available"), "{short}");

    let trial = eventually("it is paid out", || {
        Some(done(&server, &["trial-balance"])).filter(|trial| trial.contains("-87.66"))
    });
    assert!(trial.contains("USD"), "{trial}");
    assert_eq!(json(&done(&server, &["trial-balance", "--json"]))["balanced"], true);
}

#[test]
fn a_refund_goes_back_to_the_buyer() {
    let server = server();
    let escrow = saga(&done(&server, &["escrow", "ann", "bob", "30", "USD", "--json"]));
    eventually("the escrow can be given back", || {
        let output = run(&server, &["ledger", "refund", &escrow]);
        (output.status.code() == Some(0)).then_some(())
    });
    wait_until_shown(&server, "ann", "100.00");
}

#[test]
fn an_unbalanced_ledger_is_exit_code_1_and_says_what_is_wrong() {
    // No server of ours is ever like this, so one is played.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        let body = r#"{"balanced":false,"as_of":"7","at":"2026-01-01T00:00:00Z","currencies":[
            {"currency":"USD","sum":"0.01","available":"1.00","held":"0.00",
             "held_by_users":"0.50","escrow":"0.00","external":"-0.99"}]}"#;
        for stream in listener.incoming().map_while(Result::ok) {
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            while line != "\r\n" {
                line.clear();
                stream.read_line(&mut line).expect("a request");
            }
            let length = body.len();
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close";
            let answer = format!("{head}\r\ncontent-length: {length}\r\n\r\n{body}");
            stream.get_mut().write_all(answer.as_bytes()).expect("it listens");
        }
    });
    for json in [&[][..], &["--json"]] {
        let args = [&["ledger", "trial-balance", "--url", &url], json].concat();
        let output = lockbay().args(args).output().expect("the binary runs");
        assert_eq!(output.status.code(), Some(1));
        assert!(stdout(&output).contains("0.01") && stdout(&output).contains("0.50"));
        assert!(stderr(&output).contains("unbalanced"), "{}", stderr(&output));
    }
}
