//! `lockbay handler`: who does the steps of sagas, at an address or by polling.

use clap::Subcommand;
use lockbay::config::Span;
use reqwest::Method;
use serde::Deserialize;
use serde_json::json;

use super::client::{Client, Failure, Page};
use super::saga::read;
use super::{Ended, output};

#[derive(Debug, Subcommand)]
pub(super) enum HandlerCommand {
    /// List the handlers that are known
    List {
        /// How many at most, 1 to 1000
        #[arg(long, value_name = "N")]
        page_size: Option<u32>,
        /// Go on behind an earlier page
        #[arg(long, value_name = "TOKEN")]
        page_token: Option<String>,
    },
    /// Say how a handler is reached, in place of what was said before
    Put {
        /// Its name, as steps give it
        name: String,
        /// The address at which it is called
        #[arg(required_unless_present = "pull", conflicts_with = "pull")]
        address: Option<String>,
        /// It polls for its steps
        #[arg(long)]
        pull: bool,
        /// A file with the secret that calls are signed with; - is stdin
        #[arg(long, value_name = "FILE", conflicts_with = "pull")]
        secret_file: Option<String>,
        /// How long one call may take, if less than the step may
        #[arg(long, value_name = "SECONDS", conflicts_with = "pull")]
        timeout: Option<Span>,
    },
    /// Forget a handler; sagas that need it wait for a person
    Delete {
        /// Its name
        name: String,
    },
}

#[derive(Deserialize)]
struct Handler {
    name: String,
    kind: String,
    url: Option<String>,
    signed: bool,
    timeout_seconds: Option<f64>,
}

pub(super) async fn obey(client: &Client, command: HandlerCommand) -> Result<Ended, Failure> {
    match command {
        HandlerCommand::List { page_size, page_token } => list(client, page_size, page_token).await,
        HandlerCommand::Put { name, address, pull, secret_file, timeout } => {
            let secret = secret_file.as_deref().map(read_secret).transpose()?;
            let mut body = json!({ "url": address, "secret": secret,
                "timeout_seconds": timeout.map(|Span(timeout)| timeout.as_secs_f64()) });
            if pull {
                body = json!({ "pull": true });
            }
            put(client, &name, body).await
        }
        HandlerCommand::Delete { name } => delete(client, &name).await,
    }
}

/// A secret, without the end of its line.
fn read_secret(file: &str) -> Result<String, Failure> {
    let secret = String::from_utf8(read(file)?)
        .map_err(|_| Failure::Usage(format!("the secret in {file:?} is not UTF-8")))?;
    Ok(secret.trim_end().to_owned())
}

async fn list(
    client: &Client,
    page_size: Option<u32>,
    page_token: Option<String>,
) -> Result<Ended, Failure> {
    let query = [("page_size", page_size.map(|n| n.to_string())), ("page_token", page_token)];
    let url = client.address(&["v1", "handlers"], &query);
    let answer = client.get("list handlers", url).await?;
    if client.json {
        answer.show_raw();
        return Ok(Ended::Done);
    }
    let page: Page<Handler> = answer.read()?;
    page.tell_rest();
    let rows = page.items.into_iter().map(|handler| {
        let dash = |value: Option<String>| value.unwrap_or_else(|| "-".into());
        let timeout = handler.timeout_seconds.map(|seconds| format!("{seconds} s"));
        let signed = if handler.signed { "yes" } else { "no" }.to_owned();
        vec![handler.name, handler.kind, dash(handler.url), signed, dash(timeout)]
    });
    output::table(&["NAME", "KIND", "ADDRESS", "SIGNED", "TIMEOUT"], rows.collect());
    Ok(Ended::Done)
}

async fn put(client: &Client, name: &str, body: serde_json::Value) -> Result<Ended, Failure> {
    let url = client.address(&["v1", "handlers", name], &[]);
    let what = format!("put handler {name:?}");
    let answer = client.change(&what, Method::PUT, url, Some(body)).await?;
    if client.json {
        answer.show_raw();
        return Ok(Ended::Done);
    }
    let handler: Handler = answer.read()?;
    let way = handler.url.map_or("it polls".into(), |url| format!("it is called at {url}"));
    output::data(&format!("handler {name:?} is known: {way}"));
    Ok(Ended::Done)
}

async fn delete(client: &Client, name: &str) -> Result<Ended, Failure> {
    let question = format!("Forget handler {name:?}? Sagas that need it wait for a person.");
    if !client.confirm(&question) {
        output::talk("nothing was done");
        return Ok(Ended::No);
    }
    let url = client.address(&["v1", "handlers", name], &[]);
    let what = format!("delete handler {name:?}");
    let answer = client.change(&what, Method::DELETE, url, None).await?;
    match client.json {
        true => answer.show_raw(),
        false => output::data(&format!("handler {name:?} is forgotten")),
    }
    Ok(Ended::Done)
}
