//! Notifications of a real server: webhooks that fail in every way, dead letters, letters, and
//! silences over HTTP and on the command line.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lockbay::clock::{Clock, Tick};
use serde_json::{Value, json};
use support::sink::{Answer, Call, Sink};
use support::{Server, eventually_within, lockbay, run};

/// A call as it came, with its time.
struct Came {
    at: Tick,
    id: String,
    signature: Option<String>,
    body: Value,
}

type Calls = Arc<Mutex<Vec<Came>>>;

/// A receiver that answers each call as `answer` says of its number.
fn receiver(answer: impl Fn(usize) -> Answer + Send + Sync + 'static) -> (Sink, Calls) {
    let calls = Calls::default();
    let seen = Arc::clone(&calls);
    let answer = Arc::new(answer);
    let sink = Sink::start(move |call: Call| {
        let number = {
            let mut seen = seen.lock().unwrap();
            let signature = call.header("webhook-signature").map(str::to_owned);
            let id = call.header("webhook-id").unwrap().to_owned();
            seen.push(Came { at: Clock::system().tick(), id, signature, body: call.json() });
            seen.len()
        };
        let answer = Arc::clone(&answer);
        async move { answer(number) }
    });
    (sink, calls)
}

const QUICK: [(&str, &str); 4] = [
    ("LOCKBAY_ALERT_INTERVAL", "1s"),
    ("ADVANCED_MONITORING_INTERVAL", "1s"),
    ("LOCKBAY_ALERT_GROUP_WAIT", "0s"),
    ("LOCKBAY_HANDLERS_ALLOW_PRIVATE", "true"),
];

fn server(more: &[(&str, &str)]) -> Server {
    let environment: Vec<_> = QUICK.iter().chain(more).copied().collect();
    let server = Server::start_with(&["--store", "memory:"], &environment);
    server.wait_until_leading();
    server
}

/// A rule that fires as soon as anything is measured, or never.
fn put_rule(server: &Server, name: &str, threshold: f64) {
    let rule = json!({ "metric_path": "saga_metrics.running_sagas", "operator": ">",
        "threshold": threshold, "window_minutes": 1, "severity": "error" });
    server.put(&format!("/v1/alerts/rules/{name}"), &rule.to_string()).ok();
}

fn patiently<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    eventually_within(Duration::from_secs(40), Duration::from_millis(20), what, condition)
}

fn listed(server: &Server, status: &str) -> Vec<Value> {
    let page = server.get(&format!("/v1/alerts/notifications?status={status}")).ok();
    page["items"].as_array().unwrap().clone()
}

/// Calls about one rule.
fn of_rule(calls: &Calls, rule: &str) -> Vec<(Tick, String)> {
    let calls = calls.lock().unwrap();
    let about = calls.iter().filter(|call| call.body["alerts"][0]["rule"] == rule);
    about.map(|call| (call.at, call.id.clone())).collect()
}

#[test]
fn a_webhook_that_was_down_or_lost_its_answer_gets_the_notice_again_under_the_same_identity() {
    let (sink, calls) = receiver(|number| match number {
        1 => Answer::Says(500, json!({ "error": "not now" })),
        2 => Answer::HangsUp,
        _ => Answer::Says(204, json!({})),
    });
    let (url, secret) = (sink.url(), "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    let server =
        server(&[("LOCKBAY_ALERT_WEBHOOK_URL", &url), ("LOCKBAY_ALERT_WEBHOOK_SECRET", secret)]);
    put_rule(&server, "t0", -1.0);
    let delivered = patiently("it is delivered", || {
        listed(&server, "delivered").into_iter().find(|n| n["notice"]["alerts"][0]["rule"] == "t0")
    });
    let came = of_rule(&calls, "t0");
    assert_eq!(came.len(), 3);
    assert!(came.iter().all(|(_, id)| *id == delivered["notice"]["id"]), "{came:?}");
    {
        let calls = calls.lock().unwrap();
        assert!(calls.iter().all(|call| call.signature.as_ref().unwrap().starts_with("v1,")));
        let body = &calls[0].body;
        assert_eq!((&body["status"], &body["severity"]), (&json!("firing"), &json!("error")));
        let alert = &body["alerts"][0];
        for field in ["rule", "severity", "state", "episode", "summary", "since"] {
            assert!(alert[field].is_string(), "{field} in {alert}");
        }
    }
    put_rule(&server, "t0", 1e9);
    patiently("its end is told", || {
        let calls = calls.lock().unwrap();
        let over = calls.last().unwrap();
        (over.body["status"] == "resolved" && over.body["alerts"][0]["rule"] == "t0").then_some(())
    });
    assert!(!server.log().contains(secret));
}

#[test]
fn a_refused_notice_is_a_dead_letter_that_a_person_sees_and_tries_again() {
    let (sink, calls) = receiver(|number| match number {
        1 => Answer::Says(410, json!({})),
        _ => Answer::Says(200, json!({})),
    });
    let server = server(&[("LOCKBAY_ALERT_WEBHOOK_URL", &sink.url())]);
    put_rule(&server, "t0", -1.0);
    let dead = patiently("it is a dead letter", || listed(&server, "dead").pop());
    let id = dead["notice"]["id"].as_str().unwrap();
    let told =
        String::from_utf8(run(&server, &["alerts", "notifications", "--status", "dead"]).stdout)
            .unwrap();
    assert!(told.contains(id) && told.contains("410"), "{told}");
    assert!(server.get("/metrics").text().contains("lockbay_notifications_dead 1"));
    assert_eq!(run(&server, &["alerts", "retry", id]).status.code(), Some(0));
    patiently("it is delivered", || {
        let notice = server.get(&format!("/v1/alerts/notifications/{id}")).ok();
        (notice["status"] == "delivered").then_some(())
    });
    assert!(of_rule(&calls, "t0").iter().all(|(_, other)| other == id));
    let again = server.post(&format!("/v1/alerts/notifications/{id}/retry"), "{}");
    assert!(again.status == 409 || again.status == 422, "{}", again.text());
    server.post("/v1/alerts/notifications/ntc_0/retry", "{}").problem(404, "not-found");
}

#[test]
fn a_receiver_that_asks_for_a_pause_gets_it_and_redirects_are_not_followed() {
    let (elsewhere, wrongly) = receiver(|_| Answer::Says(200, json!({})));
    let (sink, calls) = receiver(|number| match number {
        1 => Answer::With(429, "retry-after: 4"),
        2 => Answer::With(302, "location: http://127.0.0.1:1/"),
        _ => Answer::Says(200, json!({})),
    });
    let server = server(&[("LOCKBAY_ALERT_WEBHOOK_URL", &sink.url())]);
    put_rule(&server, "t0", -1.0);
    let came = patiently("it is tried three times", || {
        Some(of_rule(&calls, "t0")).filter(|came| came.len() == 3)
    });
    assert!(came[1].0.since(came[0].0) >= Duration::from_secs(4), "the pause is kept");
    assert!(wrongly.lock().unwrap().is_empty());
    drop(elsewhere);
}

/// What `serve` says when it refuses to start.
fn refusal(environment: &[(&str, &str)]) -> String {
    let mut command = lockbay();
    command.args(["serve", "--store", "memory:"]).env("LOCKBAY_LISTEN", "127.0.0.1:0");
    command.envs(environment.iter().copied());
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{environment:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn wrong_settings_are_refused_at_the_start_by_their_names_and_without_their_secrets() {
    for (setting, environment) in [
        ("alert_webhook_url", &[("LOCKBAY_ALERT_WEBHOOK_URL", "http://127.0.0.1/hush")][..]),
        ("alert_webhook_url", &[("LOCKBAY_ALERT_WEBHOOK_URL", "ftp://hush@example.com")]),
        ("alert_command", &[("LOCKBAY_ALERT_COMMAND", "/no/such/program")]),
        ("alert_min_severity", &[("LOCKBAY_ALERT_MIN_SEVERITY", "fatal")]),
        ("alert_group_wait", &[("LOCKBAY_ALERT_GROUP_WAIT", "2d")]),
        ("alert_email_from", &[("LOCKBAY_ALERT_SMTP_URL", "smtps://a:hush@example.com")]),
        (
            "alert_smtp_url",
            &[
                ("LOCKBAY_ALERT_SMTP_URL", "http://a:hush@example.com"),
                ("LOCKBAY_ALERT_EMAIL_FROM", "a@example.com"),
                ("LOCKBAY_ALERT_EMAIL_TO", "b@example.com"),
            ],
        ),
        (
            "alert_email_to",
            &[
                ("LOCKBAY_ALERT_SMTP_URL", "smtps://a:hush@example.com"),
                ("LOCKBAY_ALERT_EMAIL_FROM", "a@example.com"),
                ("LOCKBAY_ALERT_EMAIL_TO", "nobody"),
            ],
        ),
    ] {
        let said = refusal(environment);
        assert!(said.contains(setting) && !said.contains("hush"), "{environment:?}: {said}");
    }
}

#[test]
fn silences_are_made_listed_shown_and_ended_over_http_and_by_commands() {
    let server = server(&[]);
    let body = json!({ "rules": "t*", "duration_seconds": 600, "actor": "ann", "reason": "known" });
    let made = server.post("/v1/alerts/silences", &body.to_string());
    assert_eq!(made.status, 201);
    let made = made.json();
    assert_eq!(made["state"], "active");
    let key = [("Content-Type", "application/json"), ("Idempotency-Key", "night-1")];
    let keyed = |body: &Value| {
        server.send("POST", "/v1/alerts/silences", &key, body.to_string().as_bytes())
    };
    let (one, again) = (keyed(&body), keyed(&body));
    assert_eq!(
        (one.status, again.status, one.json()["id"] == again.json()["id"]),
        (201, 201, true)
    );
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    for length in [0, 601] {
        let mut other = body.clone();
        other["duration_seconds"] = json!(length);
        keyed(&other).problem(422, "key-reused");
    }
    let one = one.json()["id"].as_str().unwrap().to_owned();
    server.delete(&format!("/v1/alerts/silences/{one}")).ok();
    let id = made["id"].as_str().unwrap();
    assert_eq!(server.get(&format!("/v1/alerts/silences/{id}")).ok(), made);
    put_rule(&server, "t0", -1.0);
    let held = patiently("it is held back", || listed(&server, "held").pop());
    assert_eq!((&held["rule"], &held["why"]["silence"]), (&json!("t0"), &json!(id)));
    let ended = server.delete(&format!("/v1/alerts/silences?id={id}&actor=bob")).ok();
    assert_eq!((&ended["state"], &ended["ended_by"]), (&json!("ended"), &json!("bob")));
    patiently("it is told then", || listed(&server, "delivered").pop());
    for wrong in [
        json!({ "rules": "*", "duration_seconds": 60, "actor": "a" }),
        json!({ "rules": "[", "duration_seconds": 60, "actor": "a", "reason": "r" }),
        json!({ "duration_seconds": 0, "actor": "a", "reason": "r" }),
        json!({ "actor": "a", "reason": "r" }),
        json!({ "actor": "a", "reason": "r", "window": { "schedule_expression": "soon",
            "duration_seconds": 60 } }),
    ] {
        server.post("/v1/alerts/silences", &wrong.to_string()).problem(400, "invalid");
    }
    server.get("/v1/alerts/silences/sil_0").problem(404, "not-found");
    server.delete("/v1/alerts/silences").problem(400, "invalid");
    let window = [
        "alerts",
        "silence",
        "t*",
        "--window",
        "0 3 29 2 *", // when hardly anybody runs this
        "--window-for",
        "1h",
        "--reason",
        "backup",
        "--actor",
        "ann",
    ];
    assert_eq!(run(&server, &window).status.code(), Some(0));
    let listed = String::from_utf8(run(&server, &["alerts", "silences"]).stdout).unwrap();
    assert!(listed.contains("backup") && listed.contains("waiting"), "{listed}");
    let tested = run(&server, &["alerts", "notify-test"]);
    assert_eq!(tested.status.code(), Some(0));
    assert!(String::from_utf8(tested.stdout).unwrap().contains("log"));
}

/// Takes letters: just enough SMTP for one client at a time.
fn mail_server() -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let letters: Arc<Mutex<Vec<String>>> = Arc::default();
    let kept = Arc::clone(&letters);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut out = stream.try_clone().unwrap();
            let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
            let _ = out.write_all(b"220 mail\r\n");
            while let Some(line) = lines.next() {
                let verb = line.split(' ').next().unwrap_or_default().to_ascii_uppercase();
                let answer = match verb.as_str() {
                    "EHLO" => "250-mail\r\n250 AUTH PLAIN\r\n",
                    "AUTH" => "235 in\r\n",
                    "DATA" => {
                        let _ = out.write_all(b"354 go on\r\n");
                        let text = lines.by_ref().take_while(|line| line != ".");
                        let text = text.collect::<Vec<_>>().join("\n");
                        kept.lock().unwrap().push(text);
                        "250 taken\r\n"
                    }
                    "QUIT" => "221 bye\r\n",
                    _ => "250 ok\r\n",
                };
                if out.write_all(answer.as_bytes()).is_err() || verb == "QUIT" {
                    break;
                }
            }
        }
    });
    (port, letters)
}

#[test]
fn an_alert_goes_out_as_a_letter_and_the_password_is_told_nobody() {
    let (port, letters) = mail_server();
    let url = format!("smtp://ann:hush%2B4711@127.0.0.1:{port}");
    let server = server(&[
        ("LOCKBAY_ALERT_SMTP_URL", &url),
        ("LOCKBAY_ALERT_EMAIL_FROM", "LockBay <lockbay@example.com>"),
        ("LOCKBAY_ALERT_EMAIL_TO", "ann@example.com, Bob <bob@example.com>"),
    ]);
    put_rule(&server, "t0", -1.0);
    let came = patiently("each has a letter", || {
        let letters = letters.lock().unwrap();
        let to = |name: &str| letters.iter().find(|letter| letter.contains(name)).cloned();
        Some([to("To: ann@example.com")?, to("To: Bob <bob@example.com>")?])
    });
    for letter in &came {
        assert!(letter.contains("Subject: firing: error: t0"), "{letter}");
        assert!(letter.contains("Message-ID: <ntc_"), "{letter}");
    }
    let tested = server.post("/v1/alerts/notifications/test", "{}").ok();
    assert!(
        tested["channels"].as_array().unwrap().iter().all(|c| c["delivered"] == true),
        "{tested}"
    );
    assert!(!server.log().contains("hush"), "{}", server.log());
}

#[test]
fn a_test_notice_says_of_every_channel_what_came_of_it() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{closed}/hush");
    let server = server(&[("LOCKBAY_ALERT_WEBHOOK_URL", &url)]);
    let tested = server.post("/v1/alerts/notifications/test", "{}").ok();
    let channels = tested["channels"].as_array().unwrap();
    let webhook = channels.iter().find(|c| c["channel"].as_str().unwrap().starts_with("webhook"));
    let webhook = webhook.unwrap();
    assert_eq!(webhook["delivered"], false);
    assert!(webhook["error"].as_str().unwrap().len() > 5);
    assert!(!tested.to_string().contains("hush"), "{tested}");
    assert_eq!(run(&server, &["alerts", "notify-test"]).status.code(), Some(1));
    assert!(listed(&server, "pending").is_empty(), "a test is not kept");
}
