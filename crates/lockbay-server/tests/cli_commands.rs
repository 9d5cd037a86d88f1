//! Commands that no other test types, each against a real server, and what holds for all of them.

mod support;

use std::io::{BufRead, BufReader, Read};
use std::process::{Output, Stdio};

use serde_json::{Value, json};
use support::money::{hundred, wait_until_has};
use support::{Server, eventually, lockbay, run};

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

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn server() -> Server {
    let server = Server::start_with(
        &["--store", "memory:"],
        &[("LOCKBAY_AUDIT_SEAL_INTERVAL", "100ms"), ("LOCKBAY_HANDLERS_ALLOW_PRIVATE", "true")],
    );
    server.wait_until_leading();
    server
}

#[test]
fn whichever_command_meets_no_server_names_the_address_and_what_to_do() {
    for args in [
        &["report"][..],
        &["trends"],
        &["metrics", "--prometheus"],
        &["events", "--limit", "1"],
        &["top", "--once"],
        &["top", "--json"],
        &["lease", "list"],
        &["saga", "watch", "s1"],
        &["saga", "start", "-"],
        &["handler", "list"],
        &["schedule", "list"],
        &["ledger", "trial-balance"],
        &["state", "get", "a"],
        &["cleanup", "run", "--yes"],
        &["alerts", "list"],
        &["audit", "history", "job/1"],
        &["audit", "export"],
    ] {
        let mut command = lockbay();
        command.args(args).args(["--url", "http://127.0.0.1:1"]).stdin(Stdio::null());
        let output = command.output().unwrap();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.contains("http://127.0.0.1:1") && said.contains("lockbay serve"), "{said}");
        assert!(output.stdout.is_empty(), "{args:?}: {}", stdout(&output));
    }
}

#[test]
fn what_others_wrote_cannot_move_the_cursor_of_a_terminal() {
    let server = server();
    let evil = "gone\u{1b}[2J\u{9b}31m\u{202e}kcab\nnew row";
    let job_id = server.fail_job("order-1", evil);
    let shown = done(&server, &["job", "show", &job_id]);
    assert!(!shown.contains(['\u{1b}', '\u{9b}', '\u{202e}']), "{shown:?}");
    assert!(shown.contains("\\u{1b}[2J") && shown.contains("\\nnew row"), "{shown}");
    let exact = json_of(&done(&server, &["job", "show", &job_id, "--json"]));
    assert!(exact["error"].as_str().is_some_and(|error| error.contains(evil)), "{exact}");
}

#[test]
fn top_writes_a_frame_as_text_and_looks_as_lines_of_json() {
    let server = server();
    server.post("/v1/jobs/claim", r#"{"job_type":"pay","job_key":"a","parameters":{}}"#).ok();
    let frame = done(&server, &["top", "--once"]);
    for part in ["healthy", "leads", "P99", "jobs claimed", "nothing needs a person"] {
        assert!(frame.contains(part), "{part} in\n{frame}");
    }
    let look = json_of(&done(&server, &["top", "--once", "--json"]));
    assert_eq!((&look["healthy"], &look["claimed_jobs"]), (&json!(true), &json!(1)));
    assert!(look["per_second"]["jobs_claimed"].is_number(), "{look}");

    let mut command = lockbay();
    command.args(["top", "--json", "--interval", "200ms", "--url", &server.url()]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    for first in [true, false] {
        line.clear();
        lines.read_line(&mut line).unwrap();
        let look = json_of(&line);
        assert_eq!(look["per_second"]["jobs_claimed"].is_null(), first, "{look}");
    }
    // Nobody reads any more, so it ends.
    drop(lines);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    // Without a terminal there is no view.
    ends(&server, 2, &["top"]);
}

#[test]
fn values_are_got_listed_voided_and_deleted() {
    let server = server();
    done(&server, &["state", "set", "user:7", "1", "--tag", "users"]);
    done(&server, &["state", "set", "cart:7", "2"]);
    assert!(done(&server, &["state", "get", "user:7", "--json"]).contains("users"));
    assert_eq!(done(&server, &["state", "get", "user:7"]), "1\n");
    assert_eq!(done(&server, &["state", "list", "--prefix", "user:"]).lines().count(), 2);
    let rule = ["state", "rules", "put", "carts", "user:{id}", "cart:{id}"];
    done(&server, &rule);
    assert!(done(&server, &["state", "rules", "list"]).contains("carts"));
    assert!(done(&server, &["state", "rules", "show", "carts"]).contains("cart:{id}"));
    done(&server, &["state", "depend", "put", "page", "user:7"]);
    assert!(done(&server, &["state", "depend", "show", "page"]).contains("user:7"));
    done(&server, &["state", "invalidate", "--updated", "user:7"]);
    ends(&server, 1, &["state", "get", "cart:7"]);
    done(&server, &["state", "depend", "delete", "page"]);
    done(&server, &["state", "rules", "delete", "carts"]);
    done(&server, &["state", "set", "user:8", "1"]);
    done(&server, &["state", "delete", "user:8"]);
    ends(&server, 1, &["state", "get", "user:8"]);
}

#[test]
fn money_moves_by_commands_and_adds_up() {
    let server = server();
    hundred(&server, "ann");
    let usd = ["--currency", "USD"];
    let all = json_of(&done(&server, &["ledger", "account", "ann", "--json"]));
    assert_eq!(all["items"][0]["currency"], "USD", "{all}");
    let account = done(&server, &[&["ledger", "account", "ann"], &usd[..]].concat());
    assert!(account.contains("100.00"), "{account}");
    let escrow = |key| {
        let args =
            ["ledger", "escrow", "ann", "bob", "25.00", "USD", "--idempotency-key", key, "--json"];
        json_of(&done(&server, &args))["saga_id"].as_str().expect("an id").to_owned()
    };
    let id = escrow("order-1");
    assert_eq!(escrow("order-1"), id, "the same request is the same escrow");
    wait_until_has(&server, "ann", "75.00", "0.00");
    done(&server, &["ledger", "release", &id, "--idempotency-key", "paid-1"]);
    wait_until_has(&server, "bob", "25.00", "0.00");
    let out = ["ledger", "cashout", "bob", "5.00", "USD", "DE02", "--idempotency-key", "out-1"];
    done(&server, &out);
    wait_until_has(&server, "bob", "20.00", "0.00");
    assert_eq!(json_of(&done(&server, &["ledger", "trial-balance", "--json"]))["balanced"], true);
}

#[test]
fn a_silence_is_shown_and_ended_and_a_missing_notice_is_refused() {
    let server = server();
    let silence = ["alerts", "silence", "saga_*", "--for", "1h", "--reason", "moving", "--json"];
    let id = json_of(&done(&server, &silence))["id"].as_str().expect("an id").to_owned();
    let shown = json_of(&done(&server, &["alerts", "show-silence", &id]));
    assert_eq!(shown["reason"], "moving");
    done(&server, &["alerts", "unsilence", &id]);
    ends(&server, 1, &["alerts", "show-notification", "nope"]);
}

#[test]
fn rules_are_shown_one_by_one_and_memory_is_given_back() {
    let server = server();
    let rules = json_of(&done(&server, &["cleanup", "rules", "--json"]));
    let name = rules["items"][0]["name"].as_str().expect("a rule").to_owned();
    let rule = json_of(&done(&server, &["cleanup", "show-rule", &name]));
    assert_eq!(rule["name"], name.as_str());
    let given = json_of(&done(&server, &["cleanup", "optimize-memory", "--yes", "--json"]));
    assert!(given["memory_freed_mb"].is_number(), "{given}");
}

#[test]
fn the_trail_of_one_entity_its_seals_proof_and_key_are_shown() {
    let server = server();
    done(&server, &["handler", "put", "send", "--pull"]);
    let tail = done(&server, &["audit", "tail", "--entity", "handler/send", "--json"]);
    let entry = json_of(tail.lines().next().expect("an entry"));
    let history = done(&server, &["audit", "history", "handler/send"]);
    assert!(history.contains("handler/send") && history.contains("put"), "{history}");
    let revision = entry["revision"].as_str().expect("a revision");
    let proof = eventually("it is sealed", || {
        let output = run(&server, &["audit", "proof", revision]);
        output.status.success().then(|| stdout(&output))
    });
    assert_eq!(json_of(&proof)["revision"], revision);
    let seals = done(&server, &["audit", "checkpoints"]);
    assert!(seals.starts_with("NUMBER") && seals.lines().count() > 1, "{seals}");
    assert!(!done(&server, &["audit", "key"]).trim().is_empty());
    for nobody in [["audit", "history", "saga/nope"], ["audit", "tail", "--actor=nobody"]] {
        let output = run(&server, &nobody);
        assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(0), ""));
        assert!(stderr(&output).contains("nothing is recorded"), "{}", stderr(&output));
    }
}

#[test]
fn a_negative_number_is_refused_for_what_it_is() {
    let server = server();
    for args in [
        &["ledger", "deposit", "ann", "-5", "USD"][..],
        &["job", "list", "--page-size", "-1"],
        &["audit", "tail", "--lines", "-1"],
    ] {
        let output = run(&server, args);
        let said = stderr(&output);
        assert!(!output.status.success() && !said.contains("unexpected"), "{args:?}: {said}");
        assert!(said.contains("-5") || said.contains("-1"), "{args:?}: {said}");
    }
}

/// A saga whose handler never comes.
const SAGA: &str = r#"{"saga_name":"payout","defer_handlers":true,
    "steps":[{"name":"send","handler":"bank","parameters":{},"timeout_seconds":0.01}]}"#;

#[test]
fn a_saga_is_watched_to_its_end_and_the_exit_code_tells_which() {
    let server = server();
    let id = server.post("/v1/sagas", SAGA).json()["saga_id"].as_str().expect("an id").to_owned();
    let told = ends(&server, 1, &["saga", "watch", &id]);
    assert!(told.ends_with(&format!("saga {id} is parked\n")), "{told}");
    let lines = ends(&server, 1, &["saga", "watch", &id, "--json"]);
    let lines: Vec<Value> = lines.lines().map(json_of).collect();
    let (saga, entries) = lines.split_last().expect("the saga at the end");
    assert_eq!(saga["status"], "parked");
    let history = server.get(&format!("/v1/sagas/{id}/history?page_size=1000")).ok();
    assert_eq!(json!(entries), history["items"], "each entry is told once, in order");

    done(&server, &["saga", "resume", &id, "--reason", "again"]);
    ends(&server, 1, &["saga", "watch", &id]);
    done(&server, &["saga", "skip", &id, "send", "--reason", "done by hand", "--yes"]);
    let told = done(&server, &["saga", "watch", &id]);
    assert!(told.ends_with(&format!("saga {id} is completed\n")), "{told}");
    ends(&server, 1, &["saga", "watch", "nope"]);
}

#[test]
fn trends_and_the_export_of_metrics_are_shown() {
    let server = server();
    assert!(done(&server, &["trends", "--hours", "1"]).starts_with("METRIC"));
    let one = ["trends", "--path", "saga_metrics.saga_seconds.p95", "--json"];
    assert_eq!(json_of(&done(&server, &one))["items"].as_array().map(Vec::len), Some(1));
    assert!(done(&server, &["metrics", "--prometheus"]).contains("lockbay_jobs_claimed_total"));
}

#[test]
fn settings_tell_where_they_come_from_and_secrets_are_not_told() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let written = "leader_ttl = 7\npayout_secret = \"hush-4711\"\nstore = \"redis://u:hush@h\"\n";
    std::fs::write(file.path(), written).unwrap();
    let path = file.path().to_str().unwrap();
    let config = |args: &[&str]| {
        let mut command = lockbay();
        command.args(["config"]).args(args).env("LOCKBAY_SERVICE", "pay").env("LOCKBAY_LISTN", "x");
        command.stdin(Stdio::null()).output().unwrap()
    };
    let output = config(&["--config", path, "--changed"]);
    let table = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("LOCKBAY_LISTN"), "{}", stderr(&output));
    assert_eq!(table.lines().count(), 5, "{table}");
    for part in ["leader_ttl", "7s", path, "LOCKBAY_SERVICE", "(hidden)", "redis://h"] {
        assert!(table.contains(part), "{part} in {table}");
    }
    assert!(!table.contains("hush"), "{table}");
    let all = json_of(&stdout(&config(&["--config", path, "--json"])));
    let settings = all["settings"].as_array().expect("a list");
    let listen = settings.iter().find(|setting| setting["name"] == "listen").expect("it is there");
    assert_eq!((&listen["source"], &listen["env"]), (&json!("default"), &json!("LOCKBAY_LISTEN")));
    assert!(!all.to_string().contains("hush"));

    let check = |path: &str| lockbay().args(["config", "check", path]).output().unwrap();
    assert_eq!(check(path).status.code(), Some(0));
    std::fs::write(file.path(), "saga_step_timeout = \"31m\"\n").unwrap();
    let output = check(path);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("saga_step_timeout"), "{}", stderr(&output));
    assert_eq!(check("/no/such/file").status.code(), Some(1));
}

#[test]
fn help_tells_examples_exit_codes_and_environment() {
    for args in [&["saga", "start", "--help"][..], &["help", "backup"], &["--help"]] {
        let output = lockbay().args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        for part in ["Exit codes:", "Environment:"] {
            assert!(stdout(&output).contains(part), "{args:?}: {part}");
        }
    }
    // A reader of events that goes away ends the command, which would wait for ever.
    let server = server();
    let mut command = lockbay();
    command.args(["events", "--after", "x:0", "--url", &server.url()]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut [0; 1]).unwrap();
    drop(out);
    eventually("it ends with the next event", || {
        server.fail_job(&lockbay::clock::Clock::system().random_id(), "card closed");
        child.try_wait().unwrap()
    });
}

#[test]
fn what_cannot_be_written_fails_the_command() {
    let directory = tempfile::tempdir().unwrap();
    let store = format!("sqlite:{}", directory.path().join("lockbay.db").display());
    let create = ["token", "create", "--role", "admin", "--name", "ann", "--store", &store];
    for args in [&["config"][..], &["config", "--json"], &create] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let output = lockbay().args(args).stdin(Stdio::null()).stdout(full).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains("cannot write to stdout"), "{}", stderr(&output));
    }
}

#[test]
fn a_file_with_which_no_server_starts_cannot_be_used() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lockbay.toml");
    let check = |text: &str| {
        std::fs::write(&path, text).unwrap();
        let mut command = lockbay();
        command.arg("config").arg("check").arg(&path).current_dir(directory.path());
        let output = command.stdin(Stdio::null()).output().unwrap();
        (output.status.code(), format!("{}{}", stdout(&output), stderr(&output)))
    };
    for (text, told) in [
        ("store = \"foo:bar\"", "there is no store \"foo\""),
        ("listen = \"6101\"", "an address is like"),
        ("audit_key = \"zzz\"", "audit_key is"),
        ("alert_webhook_url = \"zzz\"", "alert_webhook_url"),
        ("alert_smtp_url = \"smtps://u:p@mail.example.com\"", "alert_email_from"),
        ("tls_cert = \"cert.pem\"", "tls_key"),
        ("four_eyes_above = \"lots\"", "four_eyes_above"),
        ("listen = \"0.0.0.0:6190\"", "can be reached from other machines"),
    ] {
        let (code, said) = check(text);
        assert!(code == Some(1) && said.contains(told), "{text}: {said}");
    }
    assert_eq!(check("listen = \"0.0.0.0:6190\"\nauth = \"required\"").0, Some(0));
    assert_eq!(check("store = \"redis://127.0.0.1:1?namespace=pay\"").0, Some(0));
    let left = std::fs::read_dir(directory.path()).unwrap().count();
    assert_eq!(left, 1, "no store was made");
    // A server says the same, and does not blame the store.
    let mut command = lockbay();
    command.args(["serve", "--store", "memory:", "--listen", "127.0.0.1:0"]);
    let output = command.env("LOCKBAY_AUDIT_KEY", "zzz").stdin(Stdio::null()).output().unwrap();
    let said = stderr(&output);
    assert!(said.contains("audit_key is") && !said.contains("cannot open"), "{said}");
}

#[test]
fn a_name_that_no_address_can_have_is_refused() {
    let server = server();
    done(&server, &["state", "set", "a", "1"]);
    for name in ["", ".", ".."] {
        for args in [
            &["state", "get", name][..],
            &["state", "delete", name],
            &["saga", "cancel", name, "--reason", "x"],
            &["saga", "watch", name],
            &["handler", "put", name, "--pull"],
        ] {
            let output = run(&server, args);
            let said = stderr(&output);
            assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
            assert!(said.contains(&format!("{name:?} is no name")), "{args:?}: {said}");
        }
    }
    done(&server, &["state", "get", "a"]);
}

#[test]
fn only_a_token_that_is_made_makes_a_store() {
    let directory = tempfile::tempdir().unwrap();
    let store = format!("sqlite:{}", directory.path().join("typo.db").display());
    let token = |args: &[&str]| {
        let mut command = lockbay();
        command.arg("token").args(args).args(["--store", &store]).stdin(Stdio::null());
        command.output().unwrap()
    };
    for args in [&["list"][..], &["revoke", "t1", "--reason", "x"]] {
        let output = token(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains("there is no store at"), "{}", stderr(&output));
    }
    let refused = token(&["create", "--role", "admin", "--name", " ann"]);
    assert_eq!(refused.status.code(), Some(1), "{}", stderr(&refused));
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "nothing was made");
    let made = token(&["create", "--role", "admin", "--name", "ann"]);
    assert_eq!(made.status.code(), Some(0), "{}", stderr(&made));
    assert!(stdout(&token(&["list"])).contains("ann"));
}

#[test]
fn a_refusal_names_what_was_asked_for() {
    let server = server();
    for (args, told) in [
        (&["lease", "release", "none"][..], "cannot release lease \"none\""),
        (&["handler", "delete", "finance.lock_funds"], "is built in and cannot be deleted"),
    ] {
        let output = run(&server, args);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(told), "{args:?}: {}", stderr(&output));
    }
    assert!(done(&server, &["handler", "list"]).contains("finance.lock_funds"));
    let metrics = done(&server, &["metrics"]);
    assert!(metrics.contains("health_status.checks.") && !metrics.contains("[{"), "{metrics}");
    let rules = done(&server, &["cleanup", "rules"]);
    let line = |name: &str| rules.lines().find(|line| line.starts_with(name)).expect("a rule");
    assert!(line("saga").contains("400 d") && line("history").contains("as each says"), "{rules}");
}
