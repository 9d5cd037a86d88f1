//! `lockbay lease`: who holds which named lease, and taking one away.

use clap::Subcommand;
use reqwest::Method;
use serde::Deserialize;

use super::client::{Answer, Client, Failure, Page};
use super::{Ended, output};

#[derive(Debug, Subcommand)]
pub(super) enum LeaseCommand {
    /// List the leases that are held
    List {
        /// How many at most, 1 to 1000
        #[arg(long, value_name = "N")]
        page_size: Option<u32>,
        /// Go on behind an earlier page
        #[arg(long, value_name = "TOKEN")]
        page_token: Option<String>,
    },
    /// Show one lease
    Show {
        /// Its name
        name: String,
    },
    /// Take a lease away from its holder, who is fenced from then on
    Release {
        /// Its name
        name: String,
        /// Only if it is held under this token [default: whoever holds it]
        #[arg(long, value_name = "TOKEN")]
        fencing_token: Option<String>,
    },
}

#[derive(Deserialize)]
struct Lease {
    name: String,
    holder: String,
    fencing_token: String,
    expires_at: String,
}

pub(super) async fn obey(client: &Client, command: LeaseCommand) -> Result<Ended, Failure> {
    match command {
        LeaseCommand::List { page_size, page_token } => list(client, page_size, page_token).await,
        LeaseCommand::Show { name } => {
            let answer = read(client, "show", &name).await?;
            show(client, &answer)
        }
        LeaseCommand::Release { name, fencing_token } => {
            release(client, &name, fencing_token).await
        }
    }
}

async fn list(
    client: &Client,
    page_size: Option<u32>,
    page_token: Option<String>,
) -> Result<Ended, Failure> {
    let query = [("page_size", page_size.map(|n| n.to_string())), ("page_token", page_token)];
    let url = client.address(&["v1", "leases"], &query);
    let answer = client.get("list leases", url).await?;
    if client.json {
        answer.show_raw();
        return Ok(Ended::Done);
    }
    let page: Page<Lease> = answer.read()?;
    page.tell_rest();
    let row = |lease: Lease| vec![lease.name, lease.holder, lease.fencing_token, lease.expires_at];
    let heading = ["NAME", "HOLDER", "FENCING TOKEN", "EXPIRES AT"];
    output::table(&heading, page.items.into_iter().map(row).collect());
    Ok(Ended::Done)
}

async fn read(client: &Client, verb: &str, name: &str) -> Result<Answer, Failure> {
    let url = client.address(&["v1", "leases", name], &[]);
    client.get(&format!("{verb} lease {name:?}"), url).await
}

fn show(client: &Client, answer: &Answer) -> Result<Ended, Failure> {
    if client.json {
        answer.show_raw();
        return Ok(Ended::Done);
    }
    let lease: Lease = answer.read()?;
    output::facts(vec![
        ("name", lease.name),
        ("holder", lease.holder),
        ("fencing token", lease.fencing_token),
        ("expires at", lease.expires_at),
    ]);
    Ok(Ended::Done)
}

async fn release(
    client: &Client,
    name: &str,
    fencing_token: Option<String>,
) -> Result<Ended, Failure> {
    let lease: Lease = read(client, "release", name).await?.read()?;
    let question = format!("Take lease {name:?} away from {:?}?", lease.holder);
    if !client.confirm(&question) {
        output::talk("nothing was done");
        return Ok(Ended::No);
    }
    let token = fencing_token.unwrap_or(lease.fencing_token);
    let url = client.address(&["v1", "leases", name], &[("fencing_token", Some(token))]);
    let what = format!("release lease {name:?}");
    let answer = client.change(&what, Method::DELETE, url, None).await?;
    if client.json {
        answer.show_raw();
    } else {
        output::data(&format!("lease {name:?} is released; {:?} held it", lease.holder));
    }
    Ok(Ended::Done)
}
