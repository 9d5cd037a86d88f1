//! Money for tests of the HTTP API: putting some in, moving it, and looking where it is.

use serde_json::{Value, json};

use super::http::{JSON, Reply};
use super::{Server, eventually};

pub(crate) const DEPOSITS: &str = "/v1/ledger/deposits";
pub(crate) const ESCROW: &str = "/v1/sagas/escrow";
pub(crate) const CASHOUT: &str = "/v1/sagas/cashout";

/// Posts under an idempotency key.
pub(crate) fn keyed(server: &Server, path: &str, key: &str, body: &str) -> Reply {
    server.send("POST", path, &[JSON, ("Idempotency-Key", key)], body.as_bytes())
}

/// Gives a user 100 dollars.
pub(crate) fn hundred(server: &Server, user: &str) {
    let body = json!({ "user_id": user, "amount": "100.00", "currency": "USD" }).to_string();
    let reply = keyed(server, DEPOSITS, &format!("hundred-{user}"), &body);
    assert_eq!(reply.status, 201, "{}", reply.text());
}

/// What a user has available and held, in dollars.
pub(crate) fn has(server: &Server, user: &str) -> (String, String) {
    let account = server.get(&format!("/v1/ledger/accounts/{user}?currency=USD")).ok();
    let text = |member: &str| account[member].as_str().expect("decimal text").to_owned();
    (text("available"), text("held"))
}

/// The saga that was accepted, by its id.
#[track_caller]
pub(crate) fn accepted(reply: &Reply) -> String {
    assert_eq!(reply.status, 202, "{}", reply.text());
    let saga = reply.json();
    assert!(saga["status"].is_string(), "{saga}");
    let id = saga["saga_id"].as_str().expect("an id").to_owned();
    assert_eq!(reply.header("location"), Some(&*format!("/v1/sagas/{id}")));
    id
}

/// Waits until a user has so much available and held.
pub(crate) fn wait_until_has(server: &Server, user: &str, available: &str, held: &str) {
    let wanted = (available.to_owned(), held.to_owned());
    eventually(&format!("{user} has {wanted:?}"), || (has(server, user) == wanted).then_some(()));
}

/// The movements of a saga.
pub(crate) fn postings(server: &Server, saga: &str) -> Vec<Value> {
    let page = server.get(&format!("/v1/ledger/postings?saga_id={saga}")).ok();
    page["items"].as_array().expect("items").clone()
}

/// A trial balance, which must come to zero.
#[track_caller]
pub(crate) fn in_balance(server: &Server) -> Value {
    let trial = server.get("/v1/ledger/trial-balance").ok();
    assert_eq!(trial["balanced"], true, "{trial}");
    assert!(trial["as_of"].is_string() && trial["at"].is_string(), "{trial}");
    for currency in trial["currencies"].as_array().expect("currencies") {
        let sum = currency["sum"].as_str().expect("decimal text");
        assert!(sum.chars().all(|digit| matches!(digit, '0' | '.')), "{trial}");
    }
    trial
}
