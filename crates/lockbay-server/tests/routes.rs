//! Every route does what `API.md` says, over a real socket.

mod support;

use serde_json::json;
use support::http;
use support::{Server, eventually};

fn server() -> Server {
    Server::start(&["--store", "memory:", "--instance-name", "web-1"])
}

fn claim(server: &Server, key: &str) -> serde_json::Value {
    let body = json!({ "job_type": "pay", "job_key": key, "parameters": { "amount": "10.00" } });
    server.post("/v1/jobs/claim", &body.to_string()).ok()
}

#[test]
fn health_has_every_field_and_is_good_on_a_fresh_server() {
    let health = server().get("/api/advanced-state/health").ok();
    for field in [
        "leader_election_healthy",
        "job_coordination_healthy",
        "saga_coordination_healthy",
        "cleanup_service_healthy",
        "state_manager_healthy",
        "overall_healthy",
    ] {
        assert_eq!(health[field], true, "{field} in {health}");
    }
    assert_eq!(health["issues"], json!([]));
    assert!(health["last_check"].as_str().unwrap().ends_with('Z'));
}

#[test]
fn metrics_count_what_was_done_and_name_every_counter() {
    let server = server();
    server.wait_until_leading();
    let job = claim(&server, "a");
    let path = format!("/v1/jobs/{}/complete", job["job_id"].as_str().unwrap());
    let body = json!({ "claim_token": job["claim_token"], "result": { "id": 7 } });
    server.post(&path, &body.to_string()).ok();
    claim(&server, "a");
    let metrics = server.get("/api/advanced-state/metrics").ok();
    let jobs = &metrics["job_idempotency_metrics"];
    assert_eq!(jobs["jobs_claimed"], 1);
    assert_eq!(jobs["jobs_completed"], 1);
    assert_eq!(jobs["duplicates_prevented"], 1);
    assert_eq!(jobs["jobs_failed"], 0);
    assert_eq!(jobs["coordination_conflicts"], 0);
    let zero = [
        ("saga_metrics", "sagas_started sagas_completed sagas_failed sagas_compensated"),
        ("saga_metrics", "steps_executed steps_compensated running_sagas"),
        ("cleanup_metrics", "total_keys_cleaned total_errors memory_freed_total_mb"),
        ("cleanup_metrics", "cleanup_efficiency active_keys_count"),
    ];
    for (group, names) in zero {
        for name in names.split(' ') {
            assert_eq!(metrics[group][name].as_f64(), Some(0.0), "{group}.{name}");
        }
    }
    // A first cycle may be over.
    for name in ["cleanup_cycles", "last_cleanup_time_ms"] {
        assert!(metrics["cleanup_metrics"][name].is_number(), "{name}");
    }
    // Those of the financial sagas.
    assert_eq!(metrics["saga_metrics"]["registered_handlers"], 9);
    assert!(metrics["state_manager_metrics"].is_object());
    assert_eq!(metrics["is_leader"], true);
    assert_eq!(metrics["leader_info"]["instance_id"], metrics["instance_id"]);
    assert_eq!(metrics["health_status"]["overall_healthy"], true);
    assert!(metrics["uptime_seconds"].as_f64().unwrap() > 0.0);
    assert!(metrics["system_metrics"]["process_memory_bytes"].as_u64().unwrap() > 1_000_000);
    assert_eq!(metrics["system_metrics"]["store"]["backend"], "memory");
}

#[test]
fn probes_and_the_index_answer() {
    let server = server();
    assert_eq!(server.get("/health/live").ok()["live"], true);
    assert_eq!(server.get("/health/ready").ok()["ready"], true);
    assert_eq!(server.get("/").ok()["name"], "lockbay");
    let metrics = server.get("/metrics");
    assert_eq!(metrics.status, 200);
    let kind = metrics.header("content-type").unwrap();
    assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
    assert!(metrics.text().contains("lockbay_jobs_claimed_total 0"));
    assert!(metrics.text().ends_with("# EOF\n"));
}

#[test]
fn the_leader_is_shown_and_resigns_once() {
    let server = server();
    server.wait_until_leading();
    let leader = server.get("/v1/leader").ok();
    assert_eq!(leader["service"], "lockbay");
    assert_eq!(leader["instance_name"], "web-1");
    assert_eq!(leader["term"], 1);
    assert!(leader["fencing_token"].is_string());
    for time in ["elected_at", "last_heartbeat", "expires_at"] {
        assert!(leader[time].as_str().unwrap().ends_with('Z'), "{time}");
    }
    assert_eq!(server.send("POST", "/v1/leader/resign", &[], b"").ok()["resigned"], true);
    // Alone as it is, it leads again half a second later.
    eventually("nobody leads", || {
        let again = server.post("/v1/leader/resign", "{}");
        if again.status != 200 {
            again.problem(409, "held");
        }
        let looked = server.get("/v1/leader");
        (looked.status != 200).then(|| looked.problem(404, "not-found"))
    });
    let again = eventually("it leads again, alone as it is", || server.leader());
    assert!(again["term"].as_u64() >= Some(2), "{again}");
}

#[test]
fn a_lease_is_granted_refused_renewed_listed_and_released() {
    let server = server();
    let path = "/v1/leases/nightly%2Freport";
    let granted = server.post(path, r#"{"holder":"web-1","ttl_seconds":30.5}"#).ok();
    assert_eq!(granted["name"], "nightly/report");
    assert_eq!(granted["holder"], "web-1");
    assert!(granted["expires_at"].is_string());
    let token = granted["fencing_token"].as_str().unwrap();

    let refused = server.post(path, r#"{"holder":"web-2","ttl_seconds":30}"#);
    let problem = refused.problem(409, "held");
    assert_eq!(problem["holder"], "web-1");
    assert_eq!(problem["retryable"], true);
    let left = problem["retry_after_ms"].as_u64().unwrap();
    assert!((20_000..=30_500).contains(&left), "{left}");
    let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert_eq!(seconds, left.div_ceil(1_000));

    let renew = json!({ "holder": "web-1", "fencing_token": token, "ttl_seconds": 60 });
    let renewed = server.put(path, &renew.to_string()).ok();
    assert_eq!(renewed["fencing_token"], token);
    assert!(renewed["expires_at"].as_str() > granted["expires_at"].as_str());
    let stale = json!({ "holder": "web-1", "fencing_token": "1", "ttl_seconds": 60 });
    server.put(path, &stale.to_string()).problem(409, "fenced");

    assert_eq!(server.get(path).ok()["holder"], "web-1");
    let list = server.get("/v1/leases").ok();
    assert_eq!(list["items"][0]["name"], "nightly/report");
    assert_eq!(list["next_page_token"], json!(null));

    server.delete(&format!("{path}?fencing_token=1")).problem(409, "fenced");
    assert_eq!(server.delete(&format!("{path}?fencing_token={token}")).ok()["released"], true);
    server.get(path).problem(404, "not-found");
}

#[test]
fn leases_are_listed_page_by_page_none_twice_none_missing() {
    let server = server();
    for n in 0..5 {
        server.post(&format!("/v1/leases/l{n}"), r#"{"holder":"h","ttl_seconds":60}"#).ok();
    }
    let mut names = Vec::new();
    let mut token = String::new();
    loop {
        let page = server.get(&format!("/v1/leases?page_size=2{token}")).ok();
        for item in page["items"].as_array().unwrap() {
            names.push(item["name"].as_str().unwrap().to_owned());
        }
        match page["next_page_token"].as_str() {
            Some(next) => token = format!("&page_token={next}"),
            None => break,
        }
    }
    assert_eq!(names, ["l0", "l1", "l2", "l3", "l4"]);
}

#[test]
fn a_job_runs_once_and_its_outcome_is_replayed_with_every_digit() {
    let server = server();
    let body = r#"{"job_type":"pay","job_key":"order-1",
        "parameters":{"n":9007199254740993,"m":1.50,"big":123456789012345678901234567890.10},
        "scheduled_time":"2026-01-01T00:00:00Z","identity":"fingerprint","claim_ttl_seconds":30,
        "max_retries":2,"on_in_progress":"reject","on_failed":"rerun","holder":"worker-1"}"#;
    let claimed = server.post("/v1/jobs/claim", body).ok();
    assert_eq!(claimed["outcome"], "claimed");
    assert_eq!(claimed["attempt"], 1);
    for text in ["claim_token", "fencing_token", "idempotency_token", "claim_expires_at"] {
        assert!(claimed[text].is_string(), "{text} in {claimed}");
    }
    let id = claimed["job_id"].as_str().unwrap();

    let problem = server.post("/v1/jobs/claim", body).problem(409, "held");
    assert_eq!(problem["holder"], "worker-1");
    assert_eq!(problem["job_id"], id);
    assert_eq!(problem["attempt"], 1);
    assert!(problem["retry_after_ms"].as_u64().unwrap() > 20_000);

    let shown = server.get(&format!("/v1/jobs/{id}")).text();
    for digits in ["9007199254740993", "1.50", "123456789012345678901234567890.10"] {
        assert!(shown.contains(digits), "{digits} in {shown}");
    }
    let token = claimed["claim_token"].as_str().unwrap();
    let beat = server
        .post(&format!("/v1/jobs/{id}/heartbeat"), &json!({"claim_token": token}).to_string());
    assert!(beat.ok()["claim_expires_at"].as_str() >= claimed["claim_expires_at"].as_str());
    let done =
        format!(r#"{{"claim_token":"{token}","result":{{"id":9007199254740993,"x":2.50}}}}"#);
    let complete = format!("/v1/jobs/{id}/complete");
    assert_eq!(server.post(&complete, &done).ok()["status"], "completed");
    assert_eq!(server.post(&complete, &done).ok()["status"], "completed", "told twice");

    let replay = server.post("/v1/jobs/claim", body);
    let replayed = replay.ok();
    assert_eq!(replay.header("idempotency-replayed"), Some("true"));
    assert_eq!(replayed["outcome"], "replayed");
    assert_eq!(replayed["status"], "completed");
    assert_eq!(replayed["result_kept"], true);
    assert_eq!(replayed["error"], json!(null));
    assert!(replayed["completed_at"].is_string());
    assert!(replay.text().contains(r#""result":{"id":9007199254740993,"x":2.50}"#));
}

#[test]
fn a_failed_job_says_when_it_may_run_again_and_an_old_claim_is_fenced() {
    let server = server();
    let job = claim(&server, "b");
    let id = job["job_id"].as_str().unwrap();
    let fail =
        json!({ "claim_token": job["claim_token"], "error": "bank closed", "retryable": true });
    let failed = server.post(&format!("/v1/jobs/{id}/fail"), &fail.to_string()).ok();
    assert_eq!(failed["will_retry"], true);
    assert!(failed["retry_after_ms"].is_u64());
    let stale = json!({ "claim_token": job["claim_token"], "result": null });
    server.post(&format!("/v1/jobs/{id}/complete"), &stale.to_string()).problem(409, "fenced");
    server.post(&format!("/v1/jobs/{id}/retry"), r#"{"reason":"bank open"}"#).ok();
    assert_eq!(claim(&server, "b")["attempt"], 2);
}

#[test]
fn a_cancelled_job_is_replayed_as_cancelled_until_it_is_retried() {
    let server = server();
    let job = claim(&server, "c");
    let id = job["job_id"].as_str().unwrap();
    let cancelled =
        server.post(&format!("/v1/jobs/{id}/cancel"), r#"{"reason":"duplicate order"}"#);
    assert_eq!(cancelled.ok()["status"], "cancelled");
    let beat = json!({ "claim_token": job["claim_token"] });
    server.post(&format!("/v1/jobs/{id}/heartbeat"), &beat.to_string()).problem(409, "fenced");
    let replayed = claim(&server, "c");
    assert_eq!(replayed["status"], "cancelled");
    assert!(replayed["error"].as_str().unwrap().contains("duplicate order"));
    server.post(&format!("/v1/jobs/{id}/retry"), r#"{"reason":"it was not"}"#).ok();
    assert_eq!(claim(&server, "c")["outcome"], "claimed");
}

#[test]
fn the_same_key_with_other_parameters_is_refused_when_the_key_is_the_identity() {
    let server = server();
    let body = |n: u32| {
        json!({ "job_type": "t", "job_key": "k", "parameters": n, "identity": "key" }).to_string()
    };
    server.post("/v1/jobs/claim", &body(1)).ok();
    server.post("/v1/jobs/claim", &body(2)).problem(422, "key-reused");
}

#[test]
fn a_waiting_claim_gets_the_outcome_when_it_comes() {
    let server = server();
    let job = claim(&server, "w");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let body = json!({ "job_type": "pay", "job_key": "w", "parameters": { "amount": "10.00" },
                "on_in_progress": "wait", "wait_seconds": 20 });
            server.post("/v1/jobs/claim", &body.to_string()).ok()
        });
        let id = job["job_id"].as_str().unwrap();
        eventually("the waiter has been told to wait", || {
            let metrics = server.get("/api/advanced-state/metrics").ok();
            (metrics["job_idempotency_metrics"]["coordination_conflicts"] != 0).then_some(())
        });
        let done = json!({ "claim_token": job["claim_token"], "result": "paid" });
        server.post(&format!("/v1/jobs/{id}/complete"), &done.to_string()).ok();
        let replayed = waiting.join().expect("the waiter ends");
        assert_eq!(replayed["outcome"], "replayed");
        assert_eq!(replayed["result"], "paid");
    });
}

#[test]
fn jobs_are_listed_by_status_type_and_key() {
    let server = server();
    for key in ["x", "y", "z"] {
        claim(&server, key);
    }
    let count = |query: &str| {
        server.get(&format!("/v1/jobs?{query}")).ok()["items"].as_array().unwrap().len()
    };
    assert_eq!(count(""), 3);
    assert_eq!(count("status=claimed"), 3);
    assert_eq!(count("status=completed"), 0);
    assert_eq!(count("job_key=y"), 1);
    assert_eq!(count("job_type=other"), 0);
    let first = server.get("/v1/jobs?page_size=2").ok();
    let token = first["next_page_token"].as_str().unwrap();
    assert_eq!(count(&format!("page_size=2&page_token={token}")), 1);
}

#[test]
fn a_job_for_the_leader_is_refused_elsewhere_with_the_leaders_id() {
    let directory = tempfile::tempdir().unwrap();
    let store = format!("sqlite:{}", directory.path().join("lockbay.db").display());
    let leader = Server::start(&["--store", &store]);
    leader.wait_until_leading();
    let follower = Server::start(&["--store", &store]);
    let body = r#"{"job_type":"t","job_key":"k","parameters":{},"leader_only":true}"#;
    let problem = follower.post("/v1/jobs/claim", body).problem(409, "held");
    assert_eq!(problem["holder"], leader.instance_id());
    assert!(problem["detail"].as_str().unwrap().contains("only the leader"));
    assert_eq!(leader.post("/v1/jobs/claim", body).ok()["outcome"], "claimed");
}

#[test]
fn a_request_repeated_with_its_idempotency_key_gets_its_claim_or_lease_again() {
    let server = Server::start(&["--store", "memory:"]);
    let headers = [http::JSON, ("Idempotency-Key", "request-1")];
    let claim = br#"{"job_type":"t","job_key":"k","parameters":null}"#;
    let lease = br#"{"holder":"h","ttl_seconds":30}"#;
    for (path, body, token) in [
        ("/v1/jobs/claim", &claim[..], "claim_token"),
        ("/v1/leases/l", &lease[..], "fencing_token"),
    ] {
        let first = server.send("POST", path, &headers, body);
        assert_eq!(first.header("idempotency-replayed"), None);
        let again = server.send("POST", path, &headers, body);
        assert_eq!(again.header("idempotency-replayed"), Some("true"));
        assert_eq!(first.ok()[token], again.ok()[token]);
        let other = [http::JSON, ("Idempotency-Key", "request-2")];
        server.send("POST", path, &other, body).problem(409, "held");
        server.send("POST", path, &[http::JSON], body).problem(409, "held");
    }
}
