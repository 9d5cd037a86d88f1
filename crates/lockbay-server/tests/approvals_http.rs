//! What a second person has to approve, over a real socket.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support;

use serde_json::{Value, json};
use support::Server;

const JSON: (&str, &str) = ("content-type", "application/json");

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
        let mut all = vec![("authorization", bearer.as_str()), JSON];
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
    let mut headers = vec![JSON];
    headers.extend(bearer.iter().map(|bearer| ("authorization", bearer.as_str())));
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

impl House {
    /// A saga whose one step failed for good, so that it is parked: what it gets, and its path.
    fn parked(&self, parameters: &Value) -> String {
        let known = json!({ "handlers": ["send"], "holder": "w", "wait_seconds": 0 });
        self.ask(&self.ana, "POST", "/v1/tasks/poll", &[], &known);
        let saga = json!({ "saga_name": "pay", "steps": [{ "name": "send", "handler": "send",
            "parameters": parameters, "max_retries": 0, "idempotent": false, "pivot": true }] });
        let (status, started) = self.ask(&self.ana, "POST", "/v1/sagas", &[], &saga);
        assert_eq!(status, 202, "{started}");
        let path = format!("/v1/sagas/{}", started["saga_id"].as_str().unwrap());
        self.fails(&path);
        path
    }

    /// Has the step fail, so that nobody knows what it did.
    fn fails(&self, path: &str) {
        let task = support::eventually("the step is given out", || {
            let poll = json!({ "handlers": ["send"], "holder": "w", "wait_seconds": 1 });
            let (_, tasks) = self.ask(&self.ana, "POST", "/v1/tasks/poll", &[], &poll);
            tasks["tasks"].get(0).cloned()
        });
        let fail = format!("/v1/tasks/{}/fail", task["task_id"].as_str().unwrap());
        let unknown = json!({ "task_token": task["task_token"], "error": "no answer",
            "effect": "unknown", "retryable": false });
        let (status, told) = self.ask(&self.ana, "POST", &fail, &[], &unknown);
        assert_eq!(status, 200, "{told}");
        support::eventually("it is parked", || (self.status(path) == "parked").then_some(()));
    }

    fn status(&self, path: &str) -> String {
        let (_, saga) = self.ask(&self.ana, "GET", path, &[], &Value::Null);
        saga["status"].as_str().unwrap_or_default().to_owned()
    }

    /// The status with which a retry with these parameters is answered.
    fn retried(&self, path: &str, parameters: &Value) -> u16 {
        let body = json!({ "reason": "again", "parameters": parameters });
        self.ask(&self.ana, "POST", &format!("{path}/steps/send/retry"), &[], &body).0
    }
}

#[test]
fn a_decision_about_large_money_needs_two_people() {
    let house = House::new();
    let path = house.parked(&json!({ "amount": "5000.00", "currency": "USD" }));
    let abandon = format!("{path}/abandon");
    let reason = json!({ "reason": "the provider says no" });
    let (status, waiting) = house.ask(&house.ana, "POST", &abandon, &[], &reason);
    assert_eq!(status, 202, "{waiting}");
    let (_, same) = house.ask(&house.ana, "POST", &abandon, &[], &reason);
    assert_eq!(same["approval_id"], waiting["approval_id"], "asked again, it is the same");
    assert_eq!(house.status(&path), "parked");
    let (status, done) = house.answer(&house.ben, &waiting, "approve");
    assert_eq!((status, &done["status"]), (200, &json!("done")), "{done}");
    assert_eq!(house.status(&path), "abandoned");
    let audit = "/v1/audit?actor=ana%20(approved%20by%20ben)";
    let (_, audit) = house.ask(&house.ana, "GET", audit, &[], &Value::Null);
    assert!(!audit["items"].as_array().unwrap().is_empty(), "both are named: {audit}");
}

#[test]
fn an_amount_that_cannot_be_read_needs_two_people_as_well() {
    let house = House::new();
    let small = house.parked(&json!({ "amount": "50.00", "currency": "USD" }));
    for hidden in [
        json!({ "amount": "900000.00 ", "currency": "USD" }),
        json!({ "amount": "900000.001", "currency": "USD" }),
        json!({ "amount": "900000.00", "currency": "usd" }),
        json!({ "Amount": "900000.00", "Currency": "USD" }),
        json!({ "amount": "900000.00" }),
        json!({ "payment": [{ "amount": "900000.00", "currency": "USD" }] }),
        json!({ "sum": "900000.00" }),
    ] {
        assert_eq!(house.retried(&small, &hidden), 202, "{hidden}");
    }
    assert_eq!(house.status(&small), "parked");
    assert_eq!(house.retried(&small, &json!({ "amount": "60.00", "currency": "USD" })), 200);
}

#[test]
fn who_approves_sees_the_larger_amount() {
    let house = House::new();
    let path = house.parked(&json!({ "amount": "2000.00", "currency": "USD" }));
    let body =
        json!({ "reason": "more", "parameters": { "amount": "90000.00", "currency": "USD" } });
    let retry = format!("{path}/steps/send/retry");
    let (_, waiting) = house.ask(&house.ana, "POST", &retry, &[], &body);
    let shown = format!("/v1/approvals/{}", waiting["approval_id"].as_str().unwrap());
    let (_, shown) = house.ask(&house.ben, "GET", &shown, &[], &Value::Null);
    assert_eq!(shown["amount"], "90000.00", "{shown}");
}

#[test]
fn a_saga_that_has_moved_is_not_decided_upon() {
    let house = House::new();
    let path = house.parked(&json!({ "amount": "2000.00", "currency": "USD" }));
    let (reason, skip) = (json!({ "reason": "more" }), format!("{path}/steps/send/skip"));
    let (status, waiting) = house.ask(&house.ana, "POST", &skip, &[], &reason);
    assert_eq!(status, 202, "{waiting}");
    let (status, told) = house.ask(&house.ana, "POST", &format!("{path}/resume"), &[], &reason);
    assert_eq!(status, 200, "{told}");
    house.fails(&path);
    let (_, answered) = house.answer(&house.ben, &waiting, "approve");
    assert_eq!(answered["status"], "failed", "{answered}");
    assert!(answered["outcome"].as_str().unwrap().contains("moved"), "{answered}");
    assert_eq!(house.status(&path), "parked");
}

#[test]
fn a_large_payout_needs_two_people_and_its_steps_are_not_started_otherwise() {
    let house = House::new();
    let (_, waiting) = house.deposit(&house.ana, "9000.00", "in");
    house.answer(&house.ben, &waiting, "approve");
    let out =
        json!({ "user_id": "u1", "amount": "5000.00", "currency": "USD", "destination": "DE1" });
    let key = [("idempotency-key", "out")];
    let ask = || house.ask(&house.ana, "POST", "/v1/sagas/cashout", &key, &out);
    let (status, waiting) = ask();
    assert_eq!((status, &waiting["status"]), (202, &json!("waiting")), "{waiting}");
    assert_eq!(house.available(), "9000.00");
    let (_, done) = house.answer(&house.ben, &waiting, "approve");
    assert_eq!(done["status"], "done", "{done}");
    let (status, started) = ask();
    assert_eq!(status, 202, "the saga is answered from then on: {started}");
    assert!(started["saga_id"].is_string(), "{started}");
    let steps =
        json!([{ "name": "pay", "handler": "finance.process_withdrawal", "parameters": out }]);
    let saga = json!({ "saga_name": "mine", "steps": steps });
    assert_eq!(house.ask(&house.ana, "POST", "/v1/sagas", &[], &saga).0, 403);
}

#[test]
fn where_nobody_is_known_large_money_does_not_move() {
    let server =
        Server::start_with(&["--store", "memory:"], &[("LOCKBAY_FOUR_EYES_ABOVE", "*:10")]);
    let body = json!({ "user_id": "u1", "amount": "11", "currency": "EUR" }).to_string();
    let reply = server.send(
        "POST",
        "/v1/ledger/deposits",
        &[JSON, ("idempotency-key", "k")],
        body.as_bytes(),
    );
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
    assert!(told.contains(&format!("lockbay approval approve {id} --reason")), "{told}");
    let (code, none) = typed(&house.ben, &["approval", "approve", "none", "--reason", "seen"]);
    assert!(code == Some(1) && none.contains("cannot approve approval \"none\""), "{none}");
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
