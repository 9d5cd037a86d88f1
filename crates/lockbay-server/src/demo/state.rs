//! Act 4: a value that every instance keeps at hand is invalidated at one, and nobody shows it on.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::stage::{Answered, Reply, Stage};
use super::tell::Check;

/// Who writes, who keeps a copy at hand, and who invalidates.
const WRITER: usize = 0;
const READER: usize = 1;
const INVALIDATOR: usize = 2;

/// How long others may show a value after an invalidation was acknowledged.
const STALENESS: Duration = Duration::from_secs(1);

const KEY: [&str; 3] = ["v1", "state", "user:7:profile"];

pub(super) async fn act(stage: &mut Stage) -> anyhow::Result<()> {
    stage.tell.heading(
        "A cache that does not go stale",
        &[
            "Values are kept at hand by every instance that reads them, so most reads ask nobody.",
            "One instance revokes a tag. From its answer on it shows the value no more, and the",
            "others not later than a second after, even if they are never told.",
        ],
    );
    let value = json!({ "name": "Ann" });
    let body = json!({ "value": value, "ttl_seconds": 600, "tags": ["user:7"] });
    let what = "a profile, tagged user:7";
    let written = stage.send_as(Method::PUT, WRITER, &KEY, None, body, what).await?;
    stage.tell.answered(written.status, &format!("version {}", written.text("version")));

    let read = read(stage, READER).await?;
    let kept = look(stage, INVALIDATOR).await?;
    stage.tell.check(given_everywhere(&written, &[&read, &kept], &value));

    let path = ["v1", "state", "invalidate"];
    let body = json!({ "tags": ["user:7"] });
    let what = "whatever is tagged user:7";
    let revoked = stage.send(INVALIDATOR, &path, None, body, what).await?;
    let acknowledged = stage.clock.tick();
    stage.tell.answered(revoked.status, &format!("{} invalidated", revoked.text("invalidated")));
    let after = look(stage, INVALIDATOR).await?;
    stage.tell.check(gone_at_once(&revoked, &after));

    // Until when whoever asked was shown it, however long the answer took.
    let mut shown = Duration::ZERO;
    let again = async || {
        let asked = stage.clock.tick();
        let reply = look(stage, READER).await?;
        if reply.status != 404 {
            shown = asked.since(acknowledged);
        }
        Ok(reply)
    };
    let last = stage.watch("the others know", again, |reply| reply.status == 404).await?;
    stage.tell.check(gone_in_time(&last, shown));
    Ok(())
}

async fn look(stage: &Stage, at: usize) -> Answered {
    stage.get(at, &KEY, &[]).await
}

async fn read(stage: &Stage, at: usize) -> Answered {
    stage.tell.asked(stage.servers[at].name, "GET /v1/state/user:7:profile");
    let reply = look(stage, at).await?;
    stage.tell.answered(reply.status, &reply.text("value"));
    Ok(reply)
}

fn given_everywhere(written: &Reply, reads: &[&Reply], value: &Value) -> Check {
    let same = |read: &&Reply| {
        read.status == 200
            && read.body["value"] == *value
            && read.body["version"] == written.body["version"]
    };
    let held = written.status == 200 && written.body["version"].is_string();
    let seen = reads.iter().filter(|read| same(read)).count();
    Check::new(
        "what one instance wrote the others give",
        held && seen == reads.len(),
        format!("{seen} of {} gave it", reads.len()),
    )
}

fn gone_at_once(revoked: &Reply, after: &Reply) -> Check {
    let held = revoked.status == 200 && after.status == 404;
    Check::new(
        "where a tag was revoked, its values are gone at once",
        held,
        format!("{}, then {}", revoked.status, after.status),
    )
}

fn gone_in_time(last: &Reply, shown: Duration) -> Check {
    let held = last.status == 404 && shown <= STALENESS;
    let seen = format!("{}, shown for {:.3} s", last.status, shown.as_secs_f64());
    Check::new("the others show them for a second more at most", held, seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, body: Value) -> Reply {
        Reply { status, replayed: false, body }
    }

    #[test]
    fn an_instance_that_gives_something_else_fails() {
        let value = json!({ "name": "Ann" });
        let written = reply(200, json!({ "version": "7" }));
        let fine = reply(200, json!({ "value": value, "version": "7" }));
        assert!(given_everywhere(&written, &[&fine, &fine], &value).held);
        let older = reply(200, json!({ "value": value, "version": "6" }));
        assert!(!given_everywhere(&written, &[&fine, &older], &value).held);
        assert!(!given_everywhere(&written, &[&fine, &reply(404, json!({}))], &value).held);
        assert!(!given_everywhere(&reply(503, json!({})), &[&fine], &value).held);
    }

    #[test]
    fn a_value_that_survives_its_invalidation_fails() {
        let (fine, shown) = (reply(404, json!({})), reply(200, json!({})));
        assert!(gone_at_once(&shown, &fine).held);
        assert!(!gone_at_once(&shown, &shown).held);
        assert!(!gone_at_once(&reply(503, json!({})), &fine).held);
        assert!(gone_in_time(&fine, STALENESS).held);
        assert!(!gone_in_time(&fine, STALENESS + Duration::from_millis(1)).held);
        assert!(!gone_in_time(&shown, Duration::ZERO).held);
    }
}
