//! What a second person has to approve, over a real socket.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support;

use serde_json::{Value, json};
use support::Server;

/// A server where money above 1,000 dollars needs two, and the tokens of two operators.
struct House {
    server: Server,
    ana: String,
    ben: String,
}

impl House {
    fn new() -> Self {
        let server =
            Server::start_with(&["--store", "memory:"], &[("LOCKBAY_FOUR_EYES_ABOVE", "USD:1000")]);
        let admin = token(&server, None, "root", "admin");
        let ana = token(&server, Some(&admin), "ana", "operator");
        let ben = token(&server, Some(&admin), "ben", "operator");
        House { server, ana, ben }
    }

    fn ask(
        &self,
        who: &str,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &Value,
    ) -> (u16, Value) {
        let bearer = format!("Bearer {who}");
        let mut all = vec![("authorization", bearer.as_str())];
        all.extend_from_slice(headers);
        let reply = self.server.send(method, path, &all, body.to_string().as_bytes());
        (reply.status, reply.json())
    }

    fn deposit(&self, who: &str, amount: &str, key: &str) -> (u16, Value) {
        let body = json!({ "user_id": "u1", "amount": amount, "currency": "USD" });
        self.ask(who, "POST", "/v1/ledger/deposits", &[("idempotency-key", key)], &body)
    }

    fn answer(&self, who: &str, approval: &Value, verb: &str) -> (u16, Value) {
        let id = approval["approval_id"].as_str().unwrap();
        let path = format!("/v1/approvals/{id}/{verb}");
        self.ask(who, "POST", &path, &[], &json!({ "reason": "seen" }))
    }

    fn available(&self) -> Value {
        let path = "/v1/ledger/accounts/u1?currency=USD";
        let (status, account) = self.ask(&self.ana, "GET", path, &[], &Value::Null);
        assert_eq!(status, 200, "{account}");
        account["available"].clone()
    }
}

fn token(server: &Server, by: Option<&str>, name: &str, role: &str) -> String {
    let bearer = by.map(|by| format!("Bearer {by}"));
    let headers: Vec<(&str, &str)> =
        bearer.iter().map(|bearer| ("authorization", bearer.as_str())).collect();
    let body = json!({ "name": name, "role": role, "expires_in_seconds": 3600 });
    let reply = server.send("POST", "/v1/tokens", &headers, body.to_string().as_bytes());
    assert_eq!(reply.status, 201, "{}", reply.text());
    reply.json()["token"].as_str().unwrap().to_owned()
}

#[test]
fn a_large_deposit_needs_two_people_and_is_made_once() {
    let house = House::new();
    assert_eq!(house.deposit(&house.ana, "1000.00", "small").0, 201);
    let (status, waiting) = house.deposit(&house.ana, "1000.01", "large");
    assert_eq!((status, &waiting["status"]), (202, &json!("waiting")), "{waiting}");
    let (again, same) = house.deposit(&house.ana, "1000.01", "large");
    assert_eq!((again, &same["approval_id"]), (202, &waiting["approval_id"]));
    assert_eq!(house.available(), "1000.00");
    let (own, problem) = house.answer(&house.ana, &waiting, "approve");
    assert_eq!(own, 422, "{problem}");
    let (status, done) = house.answer(&house.ben, &waiting, "approve");
    assert_eq!((status, &done["status"]), (200, &json!("done")), "{done}");
    assert_eq!(house.available(), "2000.01");
    assert_eq!(house.answer(&house.ben, &waiting, "approve").0, 422);
    assert_eq!(house.deposit(&house.ana, "1000.01", "large").0, 200, "answered as a repeated one");
    assert_eq!(house.available(), "2000.01");
    let (_, other) = house.deposit(&house.ana, "5000.00", "other");
    assert_eq!(house.answer(&house.ben, &other, "reject").0, 200);
    assert_eq!(house.deposit(&house.ana, "5000.00", "other").0, 403);
    assert_eq!(house.available(), "2000.01");
}

#[test]
fn a_decision_about_large_money_needs_two_people() {
    let house = House::new();
    let saga = json!({
        "saga_name": "pay",
        "steps": [{ "name": "send", "handler": "nobody_polls_this",
            "parameters": { "amount": "5000.00", "currency": "USD" }, "max_retries": 0,
            "timeout_seconds": 1 }],
    });
    let (status, started) = house.ask(&house.ana, "POST", "/v1/sagas", &[], &saga);
    assert_eq!(status, 202, "{started}");
    let path = format!("/v1/sagas/{}", started["saga_id"].as_str().unwrap());
    let reason = json!({ "reason": "the provider says no" });
    let abandon = format!("{path}/abandon");
    let (status, waiting) = house.ask(&house.ana, "POST", &abandon, &[], &reason);
    assert_eq!(status, 202, "{waiting}");
    let (_, saga) = house.ask(&house.ana, "GET", &path, &[], &Value::Null);
    assert_ne!(saga["status"], "abandoned");
    let (status, done) = house.answer(&house.ben, &waiting, "approve");
    assert_eq!((status, &done["status"]), (200, &json!("done")), "{done}");
    let (_, saga) = house.ask(&house.ana, "GET", &path, &[], &Value::Null);
    assert_eq!(saga["status"], "abandoned");
    let (_, audit) = house.ask(
        &house.ana,
        "GET",
        "/v1/audit?actor=ana%20(approved%20by%20ben)",
        &[],
        &Value::Null,
    );
    assert!(!audit["items"].as_array().unwrap().is_empty(), "both are named: {audit}");
}

#[test]
fn where_nobody_is_known_large_money_does_not_move() {
    let server =
        Server::start_with(&["--store", "memory:"], &[("LOCKBAY_FOUR_EYES_ABOVE", "*:10")]);
    let body = json!({ "user_id": "u1", "amount": "11", "currency": "EUR" }).to_string();
    let reply =
        server.send("POST", "/v1/ledger/deposits", &[("idempotency-key", "k")], body.as_bytes());
    assert_eq!(reply.status, 403, "{}", reply.text());
    assert!(reply.text().contains("lockbay token create"), "{}", reply.text());
}

#[test]
fn approvals_are_listed_shown_and_answered_from_the_command_line() {
    let house = House::new();
    let typed = |who: &str, args: &[&str]| {
        let args: Vec<&str> = args.iter().copied().chain(["--token", who, "--yes"]).collect();
        let output = support::run(&house.server, &args);
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), told + &String::from_utf8_lossy(&output.stderr))
    };
    let deposit =
        ["ledger", "deposit", "u1", "2500.00", "USD", "--idempotency-key", "from-a-terminal"];
    let (code, told) = typed(&house.ana, &deposit);
    assert_eq!(code, Some(0), "{told}");
    let id = told.split_whitespace().find(|word| word.starts_with("apr_")).unwrap().to_owned();
    let (_, listed) = typed(&house.ben, &["approval", "list", "--status", "waiting"]);
    assert!(listed.contains(&id) && listed.contains("2500.00 USD"), "{listed}");
    let (code, told) = typed(&house.ana, &["approval", "approve", &id, "--reason", "mine"]);
    assert_eq!(code, Some(1), "{told}");
    let (code, told) = typed(&house.ben, &["approval", "approve", &id, "--reason", "seen"]);
    assert_eq!(code, Some(0), "{told}");
    let (_, shown) = typed(&house.ben, &["approval", "show", &id]);
    assert!(shown.contains("done") && shown.contains("ben"), "{shown}");
    assert_eq!(house.available(), "2500.00");
    let (code, told) = typed(&house.ben, &["approval", "reject", &id, "--reason", "late"]);
    assert_eq!(code, Some(1), "{told}");
}
