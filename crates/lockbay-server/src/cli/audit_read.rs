//! The part of `lockbay audit` that looks one thing up: the history of an entity, and what was
//! sealed.

use clap::Args;
use serde::Deserialize;
use serde_json::Value;

use super::client::{Client, Failure, Page};
use super::{Ended, audit, output};

#[derive(Debug, Args)]
pub(super) struct HistoryArgs {
    /// Which one, such as saga/ID or job/ID
    entity: String,
    #[command(flatten)]
    page: PageArgs,
}

#[derive(Debug, Args)]
pub(super) struct PageArgs {
    /// How many at most, 1 to 1000
    #[arg(long, value_name = "N")]
    page_size: Option<u32>,
    /// Go on behind an earlier page
    #[arg(long, value_name = "TOKEN")]
    page_token: Option<String>,
}

#[derive(Deserialize)]
struct Checkpoint {
    number: u64,
    first: Option<String>,
    last: Option<String>,
    count: Option<u64>,
    total: Option<u64>,
    at: Option<String>,
    hash: String,
}

/// Every entry of one entity, the newest first.
pub(super) async fn history(client: &Client, args: HistoryArgs) -> Result<Ended, Failure> {
    let HistoryArgs { entity, page: PageArgs { page_size, page_token } } = args;
    let what = format!("show the history of {entity:?}");
    let query = [
        ("entity", Some(entity)),
        ("page_size", page_size.map(|n| n.to_string())),
        ("page_token", page_token),
    ];
    let url = client.address(&["v1", "audit", "history"], &query);
    let answer = client.get(&what, url).await?;
    if client.json {
        answer.show_raw();
        return Ok(Ended::Done);
    }
    let page: Page<Value> = answer.read()?;
    page.tell_rest();
    if page.items.is_empty() && page.next_page_token.is_none() {
        output::talk("nothing is recorded of that entity");
    }
    page.items.iter().try_for_each(audit::show)?;
    Ok(Ended::Done)
}

/// What was sealed, the oldest first.
pub(super) async fn checkpoints(client: &Client, args: PageArgs) -> Result<Ended, Failure> {
    let query =
        [("page_size", args.page_size.map(|n| n.to_string())), ("page_token", args.page_token)];
    let url = client.address(&["v1", "audit", "checkpoints"], &query);
    let answer = client.get("list checkpoints", url).await?;
    if client.json {
        answer.show_raw();
        return Ok(Ended::Done);
    }
    let page: Page<Checkpoint> = answer.read()?;
    page.tell_rest();
    let dash = |value: Option<String>| value.unwrap_or_else(|| "-".into());
    let number = |value: Option<u64>| value.map_or("-".into(), |value| value.to_string());
    let rows = page.items.into_iter().map(|found| {
        vec![
            found.number.to_string(),
            dash(found.at),
            dash(found.first),
            dash(found.last),
            number(found.count),
            number(found.total),
            found.hash,
        ]
    });
    let heading = ["NUMBER", "AT", "FIRST", "LAST", "LINES", "ALTOGETHER", "HASH"];
    output::table(&heading, rows.collect());
    Ok(Ended::Done)
}
