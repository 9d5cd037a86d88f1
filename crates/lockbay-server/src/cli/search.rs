//! `lockbay search`: jobs and sagas by the words in them.

use clap::Args;
use serde::Deserialize;

use super::client::{Client, Failure};
use super::{Ended, output};

#[derive(Debug, Args)]
pub(super) struct SearchArgs {
    /// Words that must all be found; the last may be the beginning of one, as may one with *
    #[arg(required = true)]
    words: Vec<String>,
    /// Only jobs, or only sagas
    #[arg(long, value_parser = ["job", "saga"])]
    kind: Option<String>,
    /// How many at most, 1 to 1000
    #[arg(long, value_name = "N")]
    page_size: Option<u32>,
    /// Go on behind an earlier page
    #[arg(long, value_name = "TOKEN")]
    page_token: Option<String>,
}

#[derive(Deserialize)]
struct Results {
    items: Vec<Item>,
    next_page_token: Option<String>,
    indexed_until: String,
    truncated: bool,
}

#[derive(Deserialize)]
struct Item {
    kind: String,
    id: String,
    name: String,
    key: Option<String>,
    status: String,
    created_at: String,
    matched: Vec<String>,
}

pub(super) async fn search(client: &Client, args: SearchArgs) -> Result<Ended, Failure> {
    let query = [
        ("q", Some(args.words.join(" "))),
        ("kind", args.kind),
        ("page_size", args.page_size.map(|n| n.to_string())),
        ("page_token", args.page_token),
    ];
    let answer = client.get("search", client.address(&["v1", "search"], &query)).await?;
    if client.json {
        answer.show_raw();
        return Ok(Ended::Done);
    }
    let Results { items, next_page_token, indexed_until, truncated } = answer.read()?;
    if truncated {
        output::talk(
            "a beginning of a word begins so many words that not all of them were looked up: give \
             more of its letters",
        );
    }
    if items.is_empty() && next_page_token.is_none() {
        let found = if truncated { "nothing was found" } else { "nothing matches" };
        output::talk(&format!("{found} of what was entered up to {indexed_until}"));
        return Ok(Ended::Done);
    }
    if let Some(token) = next_page_token {
        output::talk(&format!("there may be more: --page-token {token}"));
    }
    let rows = items.into_iter().map(|item| {
        let key = item.key.unwrap_or_else(|| "-".into());
        let matched = item.matched.join(", ");
        vec![item.kind, item.id, item.name, key, item.status, item.created_at, matched]
    });
    let heading = ["KIND", "ID", "NAME", "KEY", "STATUS", "CREATED AT", "MATCHED"];
    output::table(&heading, rows.collect());
    Ok(Ended::Done)
}
