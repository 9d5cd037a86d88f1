//! Act 1: one of the three leads, and all agree on which.

use super::stage::{Reply, Stage, text};
use super::tell::Check;

pub(super) async fn act(stage: &mut Stage) -> anyhow::Result<()> {
    stage.tell.heading(
        "One leader",
        &[
            "Work that only one instance may do needs one that leads, and all must agree on which.",
            "Its fencing token only grows, so what a former leader sends too late can be refused.",
        ],
    );
    let replies = stage
        .watch(
            "all three name the same leader",
            async || everywhere(stage).await,
            |replies| agreed(replies).held,
        )
        .await?;
    for (server, reply) in stage.servers.iter().zip(&replies) {
        stage.tell.asked(server.name, "GET /v1/leader");
        stage.tell.answered(reply.status, &told(reply));
    }
    stage.tell.check(agreed(&replies));
    Ok(())
}

async fn everywhere(stage: &Stage) -> anyhow::Result<Vec<Reply>> {
    let mut replies = Vec::new();
    for at in 0..stage.servers.len() {
        replies.push(stage.get(at, &["v1", "leader"], &[]).await?);
    }
    Ok(replies)
}

/// A leader in short.
pub(super) fn told(reply: &Reply) -> String {
    if reply.status != 200 {
        return reply.refusal();
    }
    let me = if reply.body["is_self"] == true { " (this one)" } else { "" };
    let [name, term, token] =
        ["instance_name", "term", "fencing_token"].map(|member| reply.text(member));
    format!("{name} leads{me}, term {term}, token {token}")
}

/// Everybody names the same leader under the same token, and one says that it is the one.
fn agreed(replies: &[Reply]) -> Check {
    const PROMISE: &str = "exactly one leads, and all name it";
    let who =
        |reply: &Reply| [reply.body["instance_id"].clone(), reply.body["fencing_token"].clone()];
    let known = replies.iter().all(|reply| reply.status == 200 && who(reply)[0].is_string());
    let same = replies.windows(2).all(|pair| who(&pair[0]) == who(&pair[1]));
    let selves = replies.iter().filter(|reply| reply.body["is_self"] == true).count();
    let named: Vec<String> = replies.iter().map(name).collect();
    let held = known && same && selves == 1 && !replies.is_empty();
    let seen = match named.first() {
        Some(leader) if held => format!("{leader} leads, say all {}", replies.len()),
        Some(_) | None => format!("named: {}; {selves} say that they lead", named.join(", ")),
    };
    Check::new(PROMISE, held, seen)
}

/// The fencing token of a leader or a lease.
pub(super) fn token(granted: &Reply) -> Option<u64> {
    granted.body["fencing_token"].as_str()?.parse().ok()
}

fn name(reply: &Reply) -> String {
    let name = &reply.body["instance_name"];
    if name.is_null() { "nobody".into() } else { text(name) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn reply(instance: &str, token: &str, is_self: bool) -> Reply {
        let body = json!({ "instance_id": instance, "instance_name": instance,
            "fencing_token": token, "term": 1, "is_self": is_self });
        Reply { status: 200, replayed: false, body }
    }

    #[test]
    fn two_leaders_none_or_another_token_fail() {
        let fine = [reply("a", "1", true), reply("a", "1", false)];
        assert!(agreed(&fine).held);
        let none =
            Reply { status: 404, replayed: false, body: json!({ "detail": "nobody leads" }) };
        for wrong in [
            vec![reply("a", "1", true), reply("b", "1", false)],
            vec![reply("a", "1", true), reply("a", "2", false)],
            vec![reply("a", "1", true), reply("a", "1", true)],
            vec![reply("a", "1", false), reply("a", "1", false)],
            vec![reply("a", "1", true), none.clone()],
            vec![none.clone(), none],
            vec![],
        ] {
            assert!(!agreed(&wrong).held, "{wrong:?}");
        }
    }
}
