//! `lockbay leader`: who leads, and giving leadership up.

use clap::Subcommand;
use reqwest::Method;
use serde::Deserialize;

use super::client::{Client, Failure};
use super::{Ended, output};

/// What completes "cannot …" where nobody leads.
pub(super) const WHO_LEADS: &str = "tell who leads";

#[derive(Debug, Subcommand)]
pub(super) enum LeaderCommand {
    /// Show who leads, and until when
    Status,
    /// Let the server that is talked to give leadership up, so that another may lead
    Resign,
}

#[derive(Deserialize)]
struct Leader {
    service: String,
    instance_id: String,
    instance_name: Option<String>,
    term: u64,
    fencing_token: String,
    elected_at: String,
    last_heartbeat: String,
    expires_at: String,
    is_self: bool,
}

#[derive(Deserialize)]
struct Resigned {
    instance_id: String,
}

pub(super) async fn obey(client: &Client, command: LeaderCommand) -> Result<Ended, Failure> {
    match command {
        LeaderCommand::Status => status(client).await,
        LeaderCommand::Resign => resign(client).await,
    }
}

async fn status(client: &Client) -> Result<Ended, Failure> {
    let answer = client.get(WHO_LEADS, client.address(&["v1", "leader"], &[])).await?;
    if client.json {
        answer.show_raw();
        return Ok(Ended::Done);
    }
    let leader: Leader = answer.read()?;
    let place = if leader.is_self { "this server" } else { "another server" };
    output::facts(vec![
        ("service", leader.service),
        ("leader", format!("{} ({place})", leader.instance_id)),
        ("name", leader.instance_name.unwrap_or_else(|| "-".into())),
        ("term", leader.term.to_string()),
        ("fencing token", leader.fencing_token),
        ("elected at", leader.elected_at),
        ("last heartbeat", leader.last_heartbeat),
        ("expires at", leader.expires_at),
    ]);
    Ok(Ended::Done)
}

async fn resign(client: &Client) -> Result<Ended, Failure> {
    if !client.confirm("Let this server give leadership up?") {
        output::talk("nothing was done");
        return Ok(Ended::No);
    }
    let url = client.address(&["v1", "leader", "resign"], &[]);
    let answer = client.change("resign", Method::POST, url, None).await?;
    if client.json {
        answer.show_raw();
        return Ok(Ended::Done);
    }
    let resigned: Resigned = answer.read()?;
    output::data(&format!("{} has resigned", resigned.instance_id));
    Ok(Ended::Done)
}
