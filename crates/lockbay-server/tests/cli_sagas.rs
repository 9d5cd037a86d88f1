//! `lockbay saga` and `lockbay handler`: every subcommand against a real server.

mod support;

use std::io::Write;
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json as document};
use support::sink::{Answer, Sink};
use support::{Server, lockbay, run};

/// A saga whose handler may come later, and is waited for in vain.
const SAGA: &str = r#"{"saga_name":"payout","defer_handlers":true,"context":{"n":9007199254740993},
    "steps":[{"name":"pay out","handler":"bank","parameters":{},"timeout_seconds":0.01}]}"#;

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

/// Runs a command that must end with this code, and gives its stdout.
#[track_caller]
fn ends(server: &Server, code: i32, args: &[&str]) -> String {
    let output = run(server, args);
    let said = format!("{}{}", stdout(&output), stderr(&output));
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    stdout(&output)
}

#[track_caller]
fn done(server: &Server, args: &[&str]) -> String {
    ends(server, 0, args)
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Starts a saga from stdin with more arguments, and gives what came of it.
fn start(server: &Server, body: &str, more: &[&str]) -> Output {
    let mut command = lockbay();
    command.args(["saga", "start", "-"]).args(more).env("LOCKBAY_URL", server.url());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary runs");
    let mut stdin = child.stdin.take().expect("stdin is piped");
    stdin.write_all(body.as_bytes()).expect("it reads");
    drop(stdin);
    child.wait_with_output().expect("it ends")
}

/// A saga that waits for a person.
fn parked(server: &Server) -> String {
    let output = start(server, SAGA, &["--wait", "10", "--json"]);
    assert_eq!(output.status.code(), Some(1), "parked is not completed: {}", stderr(&output));
    let saga = json(&stdout(&output));
    assert_eq!(saga["status"], "parked");
    saga["saga_id"].as_str().expect("an id").to_owned()
}

fn server() -> Server {
    Server::start(&["--store", "memory:"])
}

#[test]
fn a_saga_is_started_from_a_file_or_stdin_and_shown_with_every_digit() {
    let server = server();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("saga.json");
    std::fs::write(&file, SAGA).unwrap();
    let file = file.to_str().unwrap();
    let keyed = ["saga", "start", file, "--idempotency-key", "k", "--json"];
    let first = json(&done(&server, &keyed));
    let again = run(&server, &keyed);
    assert_eq!(json(&stdout(&again))["saga_id"], first["saga_id"]);
    assert!(stderr(&again).contains("had started it before"), "{}", stderr(&again));

    let output = start(&server, SAGA, &["--wait", "10s"]);
    assert_eq!(output.status.code(), Some(1));
    for part in ["parked", "pay out", "9007199254740993", "nobody is known to handle"] {
        assert!(stdout(&output).contains(part), "{part} in {}", stdout(&output));
    }
    let id = first["saga_id"].as_str().unwrap();
    let shown = done(&server, &["saga", "show", id, "--wait", "10"]);
    assert!(shown.contains("parked") && shown.contains("NEXT RETRY"), "{shown}");
    let raw = done(&server, &["saga", "show", id, "--json"]);
    assert!(raw.contains("9007199254740993"), "{raw}");
    assert!(done(&server, &["saga", "history", id]).contains("nobody is known to handle"));
    assert_eq!(json(&done(&server, &["saga", "history", id, "--json"]))["items"][0]["number"], 1);

    let refused = start(&server, "{", &[]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("cannot start the saga"), "{}", stderr(&refused));
    ends(&server, 1, &["saga", "show", "nope"]);
}

#[test]
fn sagas_are_listed_by_what_they_are() {
    let server = server();
    let id = parked(&server);
    for more in [&[][..], &["--status", "parked"], &["--name", "payout"], &["--step", "pay out"]] {
        let list = done(&server, &[&["saga", "list"], more].concat());
        assert!(list.starts_with("SAGA ID") && list.contains(&id), "{more:?}: {list}");
    }
    for more in [["--status", "running"], ["--name", "other"], ["--older-than", "5m"]] {
        let list = done(&server, &[&["saga", "list"], &more[..]].concat());
        assert!(!list.contains(&id), "{more:?}: {list}");
    }
    parked(&server);
    let output = run(&server, &["saga", "list", "--page-size", "1"]);
    let said = stderr(&output);
    let token = said.trim().rsplit(' ').next().unwrap();
    let rest = done(&server, &["saga", "list", "--page-size", "1", "--page-token", token]);
    assert!(!rest.contains(&id) && rest.lines().count() == 2, "{rest}");
}

#[test]
fn every_decision_is_carried_out_with_its_actor_and_reason() {
    let server = server();
    let why = ["--reason", "as agreed", "--actor", "ann"];
    let decide = |args: &[&str]| done(&server, &[&["saga"], args, &why[..]].concat());
    let id = parked(&server);
    let parameters = r#"{"n":9007199254740993}"#;
    assert!(decide(&["retry", &id, "pay out", "--parameters", parameters]).contains("running"));
    let shown = done(&server, &["saga", "show", &id, "--wait", "10", "--json"]);
    assert!(shown.contains(parameters), "{shown}");
    decide(&["resume", &id]);
    done(&server, &["saga", "show", &id, "--wait", "10"]);
    decide(&["resolve", &id, "pay out", "--outcome", "done", "--result", "1.50"]);
    let shown = done(&server, &["saga", "show", &id, "--wait", "10"]);
    assert!(shown.contains("completed") && shown.contains("1.50"), "{shown}");
    let history = done(&server, &["saga", "history", &id]);
    assert!(
        history.contains("step_resolved_done") && history.contains("ann: as agreed"),
        "{history}"
    );
    let refused = run(&server, &["saga", "cancel", &id, "--reason", "late"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("ended") && stderr(&refused).contains("next: look how"));

    let outcome = |id: &str| {
        let shown = done(&server, &["saga", "show", id, "--wait", "10", "--json"]);
        json(&shown)["status"].as_str().unwrap().to_owned()
    };
    let id = parked(&server);
    decide(&["resolve", &id, "pay out", "--outcome", "undone", "--yes"]);
    assert_eq!(outcome(&id), "compensated");
    let id = parked(&server);
    decide(&["skip", &id, "pay out"]);
    assert_eq!(outcome(&id), "completed");
    let id = parked(&server);
    decide(&["cancel", &id]);
    assert_eq!(outcome(&id), "compensated");
    let id = parked(&server);
    assert!(decide(&["abandon", &id]).contains("abandoned"));
}

#[test]
fn the_actor_is_the_user_unless_another_is_named() {
    let server = server();
    let id = parked(&server);
    let mut command = lockbay();
    command.args(["saga", "abandon", &id, "--reason", "x"]).env("USER", "zoe");
    command.env("LOCKBAY_URL", server.url()).stdin(Stdio::null());
    assert!(command.output().unwrap().status.success());
    assert!(done(&server, &["saga", "history", &id]).contains("zoe: x"));
}

#[test]
fn all_that_match_are_decided_upon_after_a_look() {
    let server = server();
    let ids = [parked(&server), parked(&server), parked(&server)];
    let all = |verb: &str, more: &[&str]| {
        [&["saga", verb, "--all-matching", "--reason", "x", "--yes"], more]
            .concat()
            .to_vec()
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    let run_all = |code: i32, args: Vec<String>| {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        ends(&server, code, &args)
    };
    let matching = ["--status", "parked", "--name", "payout", "--step", "pay out"];
    let dry = run_all(0, all("abandon", &[&matching[..], &["--dry-run"]].concat()));
    assert!(ids.iter().all(|id| dry.contains(id)) && dry.contains("parked"), "{dry}");
    let none = run_all(0, all("abandon", &["--older-than", "5m"]));
    assert_eq!(none, "");
    let done = run_all(0, all("abandon", &[&matching[..], &["--json"]].concat()));
    assert_eq!(json(&done)["operated"].as_array().unwrap().len(), 3);
    let refused = run_all(1, all("resume", &["--everything"]));
    assert!(refused.contains("refused") && refused.contains("ended"), "{refused}");
}

#[test]
fn handlers_are_put_listed_and_deleted() {
    let server = server();
    let directory = tempfile::tempdir().unwrap();
    let secret = directory.path().join("secret");
    std::fs::write(&secret, "hush\n").unwrap();
    let secret = secret.to_str().unwrap();
    let put = ["handler", "put", "bank", "https://bank.example/pay"];
    let more = ["--secret-file", secret, "--timeout", "500ms"];
    done(&server, &[&put[..], &more[..]].concat());
    done(&server, &["handler", "put", "worker", "--pull"]);
    let list = done(&server, &["handler", "list"]);
    for part in ["bank", "https://bank.example/pay", "yes", "0.5 s", "worker", "pull"] {
        assert!(list.contains(part), "{part} in {list}");
    }
    assert!(!list.contains("hush"));
    done(&server, &["handler", "delete", "bank"]);
    ends(&server, 1, &["handler", "delete", "bank"]);
    let list = json(&done(&server, &["handler", "list", "--json"]));
    let items = list["items"].as_array().unwrap().iter();
    assert_eq!(items.filter(|handler| handler["kind"] != "local").count(), 1);
    ends(&server, 1, &["handler", "put", "bank", "nowhere"]);
}

#[test]
fn what_was_decided_before_a_page_failed_is_told() {
    for (noun, command) in [
        ("saga", &["saga", "abandon", "--all-matching", "--everything"][..]),
        ("job", &["job", "bulk", "cancel", "--everything"][..]),
    ] {
        let page = |place: &str, next: Option<&str>| {
            let one = document!({ format!("{noun}_id"): format!("{noun}-{place}"), "status": "x" });
            document!({ "matched": 1, "operated": [one], "refused": [], "next_page_token": next })
        };
        // The first call looks, the next ones decide: the second page of that fails.
        let calls = AtomicUsize::new(0);
        let (first, second) = (page("1", Some("p")), page("1", Some("p")));
        let sink = Sink::start(move |_| {
            let answer = match calls.fetch_add(1, Ordering::Relaxed) {
                0 => Answer::Says(200, first.clone()),
                1 => Answer::Says(200, second.clone()),
                _ => Answer::Says(500, document!({})),
            };
            async move { answer }
        });
        let ended = lockbay()
            .args(command)
            .args(["--reason", "x", "--yes"])
            .env("LOCKBAY_URL", sink.url())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let told = String::from_utf8(ended.stdout).unwrap();
        assert!(told.contains(&format!("{noun}-1")), "{noun}: {told}");
        assert_eq!(ended.status.code(), Some(2), "{noun}: the server broke down");
        let error = String::from_utf8(ended.stderr).unwrap();
        assert!(error.contains("500"), "{noun}: {error}");
    }
}
