//! Everything wrong with a request is a clear problem; nothing is written, nothing breaks.

mod support;

use std::io::Write;
use std::net::TcpStream;

use support::http::{JSON, send_bytes};
use support::{Server, eventually};

fn server() -> Server {
    Server::start(&["--store", "memory:"])
}

const CLAIM: &str = r#""job_type":"t","job_key":"k","parameters":{}"#;

#[test]
fn every_wrong_body_is_an_invalid_problem_and_writes_nothing() {
    let server = server();
    let deep = format!(
        r#"{{"job_type":"t","job_key":"k","parameters":{}1{}}}"#,
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    let long = format!(r#"{{"job_type":"{}","job_key":"k","parameters":{{}}}}"#, "t".repeat(129));
    let with = |more: &str| format!("{{{CLAIM},{more}}}");
    let bodies = [
        String::new(),
        "null".into(),
        "[]".into(),
        "{".into(),
        "{} {}".into(),
        "{}".into(),
        r#"["t","k",{}]"#.into(),
        r#"{"job_type":"t","job_key":"k"}"#.into(),
        r#"{"job_type":7,"job_key":"k","parameters":{}}"#.into(),
        r#"{"job_type":"","job_key":"k","parameters":{}}"#.into(),
        r#"{"job_type":"t\u0000","job_key":"k","parameters":{}}"#.into(),
        r#"{"job_type":"t","job_key":"k","parameters":{"a":1,"a":2}}"#.into(),
        r#"{"job_type":"t","job_key":"k","parameters":1e99999999999}"#.into(),
        r#"{"job_type":"t","job_key":"k","parameters":NaN}"#.into(),
        long,
        deep,
        with(r#""surprise":1"#),
        with(r#""job_key":"again""#),
        with(r#""identity":"other""#),
        with(r#""claim_ttl_seconds":-1"#),
        with(r#""claim_ttl_seconds":0"#),
        with(r#""claim_ttl_seconds":1e308"#),
        with(r#""claim_ttl_seconds":1e999"#),
        with(r#""claim_ttl_seconds":NaN"#),
        with(r#""claim_ttl_seconds":"30""#),
        with(r#""claim_ttl_seconds":18446744073709551616"#),
        with(r#""max_retries":-1"#),
        with(r#""max_retries":1001"#),
        with(r#""max_retries":4294967296"#),
        with(r#""on_in_progress":"reject","wait_seconds":5"#),
        with(r#""wait_seconds":61"#),
        with(r#""on_in_progress":"wait","wait_seconds":61"#),
        with(r#""scheduled_time":"yesterday""#),
        with(r#""leader_only":"yes""#),
        with(r#""holder":"""#),
    ];
    for body in &bodies {
        let shown: String = body.chars().take(120).collect();
        let reply = server.post("/v1/jobs/claim", body);
        assert_eq!(reply.status, 400, "{shown}: {}", reply.text());
        let problem = reply.problem(400, "invalid");
        assert_eq!(problem["retryable"], false, "{shown}");
    }
    let invalid_utf8 = b"{\"job_type\":\"\xff\",\"job_key\":\"k\",\"parameters\":{}}";
    server.send("POST", "/v1/jobs/claim", &[JSON], invalid_utf8).problem(400, "invalid");
    assert_eq!(server.get("/v1/jobs").ok()["items"].as_array().unwrap().len(), 0);
}

#[test]
fn a_body_must_be_called_json_and_be_of_sane_size() {
    let server = server();
    let claim = format!("{{{CLAIM}}}");
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    server.send("POST", "/v1/jobs/claim", &form, claim.as_bytes()).problem(415, "invalid");
    server.send("POST", "/v1/jobs/claim", &[], claim.as_bytes()).problem(415, "invalid");
    let charset = [("Content-Type", "Application/JSON; charset=utf-8")];
    server.send("POST", "/v1/jobs/claim", &charset, claim.as_bytes()).ok();
    let large = vec![b' '; 2 * 1024 * 1024 + 1];
    server.send("POST", "/v1/jobs/claim", &[JSON], &large).problem(413, "invalid");
    let mut chunked = b"POST /v1/jobs/claim HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
        Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n200001\r\n"
        .to_vec();
    chunked.extend(std::iter::repeat_n(b' ', 0x20_0001));
    chunked.extend(b"\r\n0\r\n\r\n");
    send_bytes(server.address(), &chunked).unwrap().problem(413, "invalid");
}

#[test]
fn wrong_paths_methods_and_queries_are_told_apart() {
    let server = server();
    for path in
        ["/nope", "/v1", "/v1/sagas/a/b/c", "/v1/state/x/y", "/v1/jobs/a/b/c", "/v1/leases/"]
    {
        server.get(path).problem(404, "not-found");
    }
    let wrong = server.send("PATCH", "/v1/jobs", &[], b"");
    wrong.problem(405, "invalid");
    assert!(wrong.header("allow").is_some_and(|allow| allow.contains("GET")));
    let wrong = server.delete("/v1/jobs/claim");
    wrong.problem(405, "invalid");
    assert_eq!(wrong.header("allow"), Some("POST"));
    for path in [
        "/v1/leases/%ff",
        "/v1/jobs/%ff",
        "/v1/leases/%00",
        "/v1/jobs?surprise=1",
        "/v1/jobs?page_size=0",
        "/v1/jobs?page_size=1001",
        "/v1/jobs?page_size=-1",
        "/v1/jobs?page_size=many",
        "/v1/jobs?page_size=1&page_size=2",
        "/v1/jobs?page_token=nonsense",
        "/v1/jobs?page_token=61626364",
        "/v1/jobs?status=claimed&page_token=61626364",
        "/v1/jobs?status=running",
        "/v1/jobs?job_key=%ff",
        "/v1/leases?page_token=zz",
        "/v1/leases?page_token=",
        "/v1/leader?x=1",
        "/health/live?x=1",
        "/metrics?x",
        "/api/advanced-state/health?verbose=true",
        "/v1/jobs/abc?x=1",
    ] {
        let reply = server.get(path);
        assert_eq!(reply.status, 400, "{path}: {}", reply.text());
        reply.problem(400, "invalid");
    }
    server.get("/v1/jobs/unknown").problem(404, "not-found");
}

#[test]
fn wrong_lease_requests_are_refused_with_the_reason() {
    let server = server();
    let long = format!("/v1/leases/{}", "x".repeat(257));
    server.post(&long, r#"{"holder":"h","ttl_seconds":5}"#).problem(400, "invalid");
    for body in [
        r#"{"holder":"h"}"#,
        r#"{"holder":"","ttl_seconds":5}"#,
        r#"{"holder":"h","ttl_seconds":0.01}"#,
        r#"{"holder":"h","ttl_seconds":86401}"#,
        r#"{"holder":"h","ttl_seconds":5,"x":1}"#,
    ] {
        server.post("/v1/leases/a", body).problem(400, "invalid");
    }
    let number = r#"{"holder":"h","fencing_token":5,"ttl_seconds":5}"#;
    let problem = server.put("/v1/leases/a", number).problem(400, "invalid");
    assert!(problem["detail"].as_str().unwrap().contains("string"), "{problem}");
    for query in ["", "?fencing_token=x", "?fencing_token=-1", "?fencing_token=1&x=2"] {
        server.delete(&format!("/v1/leases/a{query}")).problem(400, "invalid");
    }
    assert_eq!(server.get("/v1/leases").ok()["items"].as_array().unwrap().len(), 0);
}

#[test]
fn operators_must_give_a_reason() {
    let server = server();
    for call in ["cancel", "retry"] {
        for body in ["{}", r#"{"reason":""}"#, r#"{"reason":"  "}"#, r#"{"reason":"a\nb"}"#, ""] {
            server.post(&format!("/v1/jobs/x/{call}"), body).problem(400, "invalid");
        }
        let body = r#"{"reason":"because"}"#;
        server.post(&format!("/v1/jobs/x/{call}"), body).problem(404, "not-found");
    }
}

#[test]
fn an_idempotency_key_is_taken_if_it_is_visible_ascii_of_sane_length() {
    let server = server();
    let post = |key: &str, n: u32| {
        let body = format!(r#"{{"job_type":"t","job_key":"{n}","parameters":{{}}}}"#);
        let headers = [JSON, ("Idempotency-Key", key)];
        server.send("POST", "/v1/jobs/claim", &headers, body.as_bytes())
    };
    post("order-1", 1).ok();
    post(&"k".repeat(255), 2).ok();
    for key in ["", "a b", &"k".repeat(256), "é"] {
        post(key, 3).problem(400, "invalid");
    }
}

#[test]
fn a_server_that_is_full_says_busy_at_once_and_still_looks_alive() {
    let server = Server::start_with(&["--store", "memory:"], &[("LOCKBAY_MAX_IN_FLIGHT", "1")]);
    let claim = format!("{{{CLAIM}}}");
    server.post("/v1/jobs/claim", &claim).ok();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let wait = format!(r#"{{{CLAIM},"on_in_progress":"wait","wait_seconds":4}}"#);
            // The one place may just be taken by a look at whether it is.
            eventually("the waiter gets a place", || {
                Some(server.post("/v1/jobs/claim", &wait)).filter(|reply| reply.status != 429)
            })
        });
        let busy = eventually("the server is full", || {
            let reply = server.get("/v1/jobs");
            (reply.status != 200).then_some(reply)
        });
        let problem = busy.problem(429, "busy");
        assert_eq!(problem["retryable"], true);
        assert_eq!(busy.header("retry-after"), Some("1"));
        server.get("/health/live").ok();
        server.get("/health/ready").ok();
        let waited = waiter.join().expect("the waiter ends");
        waited.problem(409, "held");
    });
    server.get("/v1/jobs").ok();
}

#[test]
fn a_client_that_goes_away_frees_its_place() {
    let server = Server::start_with(&["--store", "memory:"], &[("LOCKBAY_MAX_IN_FLIGHT", "1")]);
    server.post("/v1/jobs/claim", &format!("{{{CLAIM}}}")).ok();
    let wait = format!(r#"{{{CLAIM},"on_in_progress":"wait","wait_seconds":60}}"#);
    let head =
        "POST /v1/jobs/claim HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    // The one place may just be taken by a look at whether it is: then the client asks again.
    let client = eventually("the server is full", || {
        let mut client = TcpStream::connect(server.address()).unwrap();
        write!(client, "{head}Content-Length: {}\r\n\r\n{wait}", wait.len()).unwrap();
        (server.get("/v1/jobs").status == 429).then_some(client)
    });
    drop(client);
    eventually("there is room again", || (server.get("/v1/jobs").status == 200).then_some(()));
}

#[test]
fn a_web_page_from_elsewhere_changes_nothing() {
    let server = Server::start(&["--store", "memory:"]);
    server.wait_until_leading();
    for headers in [
        [("Origin", "http://evil.example"), ("Accept", "*/*")],
        [("Origin", "null"), ("Accept", "*/*")],
        [("Origin", "http://localhost.evil.example:5000"), ("Accept", "*/*")],
        [("Sec-Fetch-Site", "cross-site"), ("Accept", "*/*")],
    ] {
        let refused = server.send("POST", "/v1/leader/resign", &headers, b"");
        refused.problem(403, "forbidden");
    }
    assert_eq!(server.leader().map(|leader| leader["term"].clone()), Some(1.into()));
    let own = [("Origin", "http://localhost:5000")];
    assert_eq!(server.send("POST", "/v1/leader/resign", &own, b"").status, 200);
}

#[test]
fn a_refusal_that_waiting_cannot_change_is_not_called_retryable() {
    let server = Server::start(&["--store", "memory:"]);
    let claimed = server.post("/v1/jobs/claim", &format!("{{{CLAIM}}}")).ok();
    let held = server.post("/v1/jobs/claim", &format!("{{{CLAIM}}}")).problem(409, "held");
    assert_eq!(held["retryable"], true);
    let job = claimed["job_id"].as_str().unwrap();
    let complete = format!(r#"{{"claim_token":{},"result":1}}"#, claimed["claim_token"]);
    server.post(&format!("/v1/jobs/{job}/complete"), &complete).ok();
    for verb in ["cancel", "retry"] {
        let refused = server.post(&format!("/v1/jobs/{job}/{verb}"), r#"{"reason":"x"}"#);
        assert_eq!(refused.problem(409, "held")["retryable"], false);
    }
}

/// The token of a place in a list, as whoever reads the source can make one.
fn forged(list: &str, place: &str) -> String {
    let bytes = list.bytes().chain([0]).chain(place.bytes());
    let checksum = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let place: String = place.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("{checksum:016x}{place}")
}

#[test]
fn a_forged_place_far_behind_the_end_is_an_empty_page_or_a_refusal() {
    let server = server();
    let saga = r#"{"saga_name":"s","defer_handlers":true,"steps":[
        {"name":"a","handler":"nobody","parameters":{},"timeout_seconds":60}]}"#;
    let saga = server.post("/v1/sagas", saga).json()["saga_id"].as_str().unwrap().to_owned();
    let (past, history) = (format!("history {saga}"), format!("/v1/sagas/{saga}/history?"));
    let lists = [
        ("alerts", "/v1/alerts?"),
        ("alert rules", "/v1/alerts/rules?"),
        ("silences", "/v1/alerts/silences?"),
        ("cleanup rules", "/v1/cleanup/rules?"),
        ("audit checkpoints", "/v1/audit/checkpoints?"),
        ("audit history \"job/1\"", "/v1/audit/history?entity=job/1&"),
        (past.as_str(), history.as_str()),
    ];
    for (list, path) in lists {
        for place in ["0", "7", "18446744073709551614", "18446744073709551615", "x", ""] {
            let reply = server.get(&format!("{path}page_token={}", forged(list, place)));
            assert!(matches!(reply.status, 200 | 400 | 404), "{list} {place}: {}", reply.text());
            assert!(!reply.text().contains("a page_token is the"), "{list}: not its name");
        }
    }
}
