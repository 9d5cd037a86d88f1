//! Who may ask the server that `--url` names, if there is one: whether everybody may, and which
//! tokens end soon.
//!
//! A server that is not there, or knows no tokens, is no finding.

use std::time::Duration;

use lockbay::clock::{Clock, Timestamp};
use serde_json::Value;

use super::finding::Check;
use crate::cli::Shared;
use crate::cli::client::Client;

/// How long that server may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// A token that ends within this time is told.
const SOON: Duration = Duration::from_secs(14 * 86_400);

pub(super) async fn ask(shared: &Shared, clock: &Clock) -> Vec<Check> {
    let Ok(client) = Client::new(shared) else { return Vec::new() };
    let asked = clock.timeout(ANSWER_WITHIN, questions(&client, clock)).await;
    asked.unwrap_or_default()
}

async fn questions(client: &Client, clock: &Clock) -> Vec<Check> {
    let session = client.address(&["v1", "session"], &[]);
    let answer = client.get("ask who may do what", session).await;
    let Some(session) = answer.ok().and_then(|answer| answer.read::<Value>().ok()) else {
        return Vec::new();
    };
    let mut checks: Vec<Check> = openness(&session).into_iter().collect();
    let query = [("page_size", Some("1000".to_owned()))];
    let tokens = client.address(&["v1", "tokens"], &query);
    // Only an admin is told of them.
    if let Ok(answer) = client.get("list tokens", tokens).await
        && let Ok(page) = answer.read::<Value>()
    {
        checks.extend(ending(&page, clock.now()));
    }
    checks
}

/// Whether everybody is let in as admin.
fn openness(session: &Value) -> Option<Check> {
    let by = session["authentication"].as_str()?;
    if by != "none" {
        return Some(Check::fine("tokens", format!("the server asks who one is, here by {by}")));
    }
    let advice = "lockbay token create --role admin --name ops, and give its secret with --token or \
                  LOCKBAY_TOKEN from then on";
    let warning = Check::warning("tokens", "the server has no admin token", advice);
    Some(warning.because("whoever reaches it may do everything"))
}

/// Tokens that end soon.
fn ending(page: &Value, now: Timestamp) -> Option<Check> {
    let items = page["items"].as_array()?;
    let soon = items.iter().filter(|token| {
        let standing = token["status"].as_str().is_none_or(|status| status == "active");
        let ends = token["expires_at"].as_str().and_then(|at| at.parse::<Timestamp>().ok());
        standing && ends.is_some_and(|ends| ends >= now && ends.since(now) < SOON)
    });
    let names: Vec<String> = soon
        .map(|token| {
            let of = |name: &str| token[name].as_str().unwrap_or("-").to_owned();
            format!("{} at {}", of("name"), of("expires_at"))
        })
        .collect();
    if names.is_empty() {
        return None;
    }
    let finding = format!("these end soon: {}", names.join(", "));
    let advice = "make another with `lockbay token create`, give it to who has the old one, then \
                  revoke that";
    Some(Check::warning("tokens", finding, advice).because("who has it is locked out then"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::finding::State;
    use super::*;

    #[test]
    fn an_open_server_is_told_and_one_that_asks_is_fine() {
        let judged = |session: Value| openness(&session).map(|check| check.state);
        assert_eq!(
            judged(json!({ "authentication": "none", "role": "admin" })),
            Some(State::Warning)
        );
        assert_eq!(judged(json!({ "authentication": "token" })), Some(State::Fine));
        assert_eq!(judged(json!({ "something": "else" })), None);
    }

    #[test]
    fn tokens_that_end_soon_are_told_and_those_that_ended_are_not() {
        let now: Timestamp = "2026-11-30T00:00:00Z".parse().unwrap();
        let page = json!({ "items": [
            { "name": "deploy", "expires_at": "2026-12-05T00:00:00Z" },
            { "name": "ci", "expires_at": "2027-12-05T00:00:00Z" },
            { "name": "old", "expires_at": "2026-11-01T00:00:00Z" },
            { "name": "gone", "status": "revoked", "expires_at": "2026-12-05T00:00:00Z" },
            { "name": "ever", "expires_at": null },
        ] });
        let found = ending(&page, now).unwrap().finding;
        assert!(found.contains("deploy at 2026-12-05"), "{found}");
        assert!(!["ci", "old", "gone", "ever"].iter().any(|name| found.contains(name)), "{found}");
        assert!(ending(&json!({ "items": [] }), now).is_none());
    }
}
