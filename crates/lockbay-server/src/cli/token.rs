//! `lockbay token`: who may do what, by which secret.
//!
//! With `--store` a command works on the store itself, without a server: that is how the first admin
//! token is made where a server must not be open even for a moment, and how one gets in again when
//! the last one is lost. Whoever reaches the store can do everything there anyway.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use lockbay::access::{Expiry, LastAdmin, NewToken, Role, TokenInfo};
use lockbay::clock::Clock;
use lockbay::config::Span;
use lockbay::{Caller, Config, LockBay};
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::client::{Client, Failure, Page};
use super::doctor::{is_missing, path_of};
use super::{Ended, Shared, output};
use crate::serve::{told, without_credentials};

/// How long the store may take to open.
const OPEN_WITHIN: Duration = Duration::from_secs(15);

#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Make a token; it is written to stdout, this once
    ///
    /// From the first admin token on, a server does nothing for whoever shows no token.
    Create {
        /// viewer, operator or admin
        #[arg(long, value_name = "ROLE")]
        role: Role,
        /// What the audit trail calls whoever uses it
        #[arg(long, value_name = "NAME")]
        name: String,
        /// How long it lasts, such as 90d; for ever if this is not given
        #[arg(long, value_name = "DURATION")]
        expires: Option<Span>,
        #[command(flatten)]
        place: Place,
    },
    /// List tokens, oldest first, without their secrets
    List {
        /// How many at most, 1 to 1000
        #[arg(long, value_name = "N")]
        page_size: Option<u32>,
        /// Go on behind an earlier page
        #[arg(long, value_name = "TOKEN")]
        page_token: Option<String>,
        #[command(flatten)]
        place: Place,
    },
    /// Revoke a token: within a second nobody takes it any more
    Revoke {
        /// Its id, as the list shows it
        id: String,
        /// Why, for the audit trail
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        place: Place,
    },
}

/// Where tokens are.
#[derive(Debug, Args)]
pub(super) struct Place {
    /// Work on this store itself, not through a server
    #[arg(long, value_name = "URL")]
    store: Option<String>,
}

#[derive(Deserialize)]
struct Token {
    token_id: String,
    name: String,
    role: String,
    status: String,
    created_at: String,
    expires_at: Option<String>,
    last_used_at: Option<String>,
}

pub(super) async fn obey(shared: &Shared, command: TokenCommand) -> Result<Ended, Failure> {
    match command {
        TokenCommand::Create { role, name, expires, place } => {
            let life = expires.map(|Span(life)| life);
            let made = match place.store {
                Some(url) => create_in(shared, &url, &name, role, life).await?,
                None => create_at(&Client::new(shared)?, &name, role, life).await?,
            };
            show_made(shared, &made)
        }
        TokenCommand::List { page_size, page_token, place } => {
            let listed = match place.store {
                Some(url) => list_in(shared, &url, page_size, page_token).await?,
                None => list_at(&Client::new(shared)?, page_size, page_token).await?,
            };
            show_list(shared, &listed)
        }
        TokenCommand::Revoke { id, reason, place } => revoke(shared, &id, &reason, place).await,
    }
}

async fn create_at(
    client: &Client,
    name: &str,
    role: Role,
    life: Option<Duration>,
) -> Result<Value, Failure> {
    let url = client.address(&["v1", "tokens"], &[]);
    let seconds = life.map(|life| life.as_secs_f64());
    let body = json!({ "name": name, "role": role, "expires_in_seconds": seconds });
    client.change("make a token", Method::POST, url, Some(body)).await?.read()
}

async fn create_in(
    shared: &Shared,
    url: &str,
    name: &str,
    role: Role,
    life: Option<Duration>,
) -> Result<Value, Failure> {
    let wish = NewToken { name: name.to_owned(), role, expiry: life.map(Expiry::In) };
    let work = async |bay: &LockBay| bay.access().create(&wish).await;
    if missing(url).is_some() {
        // A token that would be refused does not make a store: it is made in memory first.
        on_config(shared, Config { store: "memory:".into(), ..settings(url)? }, work).await?;
    }
    let issued = on_store(shared, url, work).await?;
    let mut made = shown(&issued.info)?;
    if let Value::Object(members) = &mut made {
        members.insert("token".into(), issued.token.into());
    }
    Ok(made)
}

fn shown(info: &TokenInfo) -> Result<Value, Failure> {
    serde_json::to_value(info).map_err(|error| Failure::Failed(error.into()))
}

/// The secret alone is data; everything else is talk.
fn show_made(shared: &Shared, made: &Value) -> Result<Ended, Failure> {
    if shared.json {
        output::data(&made.to_string());
        return Ok(Ended::Done);
    }
    let member = |name: &str| made.get(name).and_then(Value::as_str);
    let token = member("token").ok_or_else(|| {
        Failure::Unreachable("the server's answer holds no token; its version may differ".into())
    })?;
    let (id, role) = (member("token_id").unwrap_or("?"), member("role").unwrap_or("?"));
    let end = member("expires_at").map_or("it never expires".into(), |end| format!("until {end}"));
    output::talk(&format!("{role} token {id}, {end}; it is shown this once:"));
    output::data(token);
    Ok(Ended::Done)
}

async fn list_at(
    client: &Client,
    page_size: Option<u32>,
    page_token: Option<String>,
) -> Result<Value, Failure> {
    let query = [("page_size", page_size.map(|n| n.to_string())), ("page_token", page_token)];
    client.get("list tokens", client.address(&["v1", "tokens"], &query)).await?.read()
}

/// Behind a page of the store itself one goes on by the id of its last token.
async fn list_in(
    shared: &Shared,
    url: &str,
    page_size: Option<u32>,
    after: Option<String>,
) -> Result<Value, Failure> {
    let limit = usize::try_from(page_size.unwrap_or(100)).unwrap_or(usize::MAX);
    if limit == 0 || limit > lockbay::store::MAX_PAGE {
        return Err(Failure::Usage(format!("--page-size is from 1 to 1000, not {limit}")));
    }
    is_there(url)?;
    let work = async |bay: &LockBay| bay.access().list(after.clone(), limit).await;
    let (tokens, next) = on_store(shared, url, work).await?;
    let items: Result<Vec<Value>, Failure> = tokens.iter().map(shown).collect();
    Ok(json!({ "items": items?, "next_page_token": next }))
}

fn show_list(shared: &Shared, listed: &Value) -> Result<Ended, Failure> {
    if shared.json {
        output::data(&listed.to_string());
        return Ok(Ended::Done);
    }
    let page: Page<Token> = serde_json::from_value(listed.clone())
        .map_err(|error| Failure::Unreachable(format!("the answer is not understood: {error}")))?;
    page.tell_rest();
    let rows = page.items.into_iter().map(|token| {
        let or = |value: Option<String>, none: &str| value.unwrap_or_else(|| none.to_owned());
        vec![
            token.token_id,
            token.name,
            token.role,
            token.status,
            token.created_at,
            or(token.expires_at, "never"),
            or(token.last_used_at, "-"),
        ]
    });
    let heading = ["ID", "NAME", "ROLE", "STATUS", "CREATED", "EXPIRES", "LAST USED"];
    output::table(&heading, rows.collect());
    Ok(Ended::Done)
}

async fn revoke(shared: &Shared, id: &str, reason: &str, place: Place) -> Result<Ended, Failure> {
    place.store.as_deref().map_or(Ok(()), is_there)?;
    let question = format!("Revoke token {id:?}? Whoever uses it is refused within a second.");
    if !shared.yes && output::ask(&question) == Some(false) {
        output::talk("nothing was changed");
        return Ok(Ended::No);
    }
    let revoked: Value = match place.store {
        Some(url) => {
            let work =
                async |bay: &LockBay| bay.access().revoke(id, reason, LastAdmin::MayGo).await;
            shown(&on_store(shared, &url, work).await?)?
        }
        None => {
            let client = Client::new(shared)?;
            let url = client.address(&["v1", "tokens", id], &[("reason", Some(reason.to_owned()))]);
            let what = format!("revoke token {id:?}");
            client.change(&what, Method::DELETE, url, None).await?.read()?
        }
    };
    if shared.json {
        output::data(&revoked.to_string());
    } else {
        output::data(&format!("token {id:?} is revoked"));
    }
    Ok(Ended::Done)
}

/// Where a store in a file would be that is not there.
fn missing(url: &str) -> Option<PathBuf> {
    path_of(url).filter(|path| is_missing(path))
}

/// Refuses a store that is not there: to open it would make it, and there is no token in it.
fn is_there(url: &str) -> Result<(), Failure> {
    let Some(path) = missing(url) else { return Ok(()) };
    Err(Failure::Usage(format!("there is no store at {}; correct --store", path.display())))
}

fn settings(url: &str) -> Result<Config, Failure> {
    let flags: BTreeMap<_, _> = [("store", url.to_owned())].into();
    Ok(Config::load(None, &flags).map_err(told)?)
}

/// Does this with the store itself, in the name of who asks.
async fn on_store<T>(
    shared: &Shared,
    url: &str,
    work: impl AsyncFnOnce(&LockBay) -> lockbay::Result<T>,
) -> Result<T, Failure> {
    if url.starts_with("memory:") {
        let text = "--store memory: is gone when this command ends; name the store of the server";
        return Err(Failure::Usage(text.into()));
    }
    on_config(shared, settings(url)?, work).await
}

async fn on_config<T>(
    shared: &Shared,
    config: Config,
    work: impl AsyncFnOnce(&LockBay) -> lockbay::Result<T>,
) -> Result<T, Failure> {
    let caller = Caller::new(Some(shared.actor()), None).map_err(told)?;
    let clock = Clock::system();
    let shown = without_credentials(&config.store);
    let bay = match clock.timeout(OPEN_WITHIN, LockBay::open(config)).await {
        Some(Ok(bay)) => bay,
        Some(Err(error)) => {
            return Err(Failure::Unreachable(format!("cannot open the store {shown}: {error}")));
        }
        None => {
            let text = format!("cannot open the store {shown}: no answer within {OPEN_WITHIN:?}");
            return Err(Failure::Unreachable(text));
        }
    };
    let done = caller.scope(work(&bay)).await;
    bay.shutdown().await;
    Ok(done.map_err(told)?)
}
