//! `lockbay state`: values with versions and tags, and what follows from their changes.

use clap::{Args, Subcommand};
use lockbay::Json;
use lockbay::config::Span;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::client::{Address, Answer, Client, Failure, Page};
use super::saga::read;
use super::{Ended, output};

#[derive(Debug, Subcommand)]
pub(super) enum StateCommand {
    /// Show the value of a key
    Get {
        /// The key
        key: String,
        /// If the store does not answer, a value verified at most this long ago will do
        #[arg(long, value_name = "SECONDS")]
        max_stale: Option<Span>,
    },
    /// Set the value of a key, and invalidate what depends on it
    Set(SetArgs),
    /// Remove the value of a key, and invalidate what depends on it
    Delete {
        /// The key
        key: String,
    },
    /// Invalidate keys, tags, a pattern, or what follows from a change of a key
    Invalidate(InvalidateArgs),
    /// List keys, without their values
    List {
        /// Only keys that begin like this
        #[arg(long, default_value = "")]
        prefix: String,
        #[command(flatten)]
        page: PageArgs,
    },
    /// What is invalidated when a key of some name changes
    #[command(subcommand)]
    Rules(RulesCommand),
    /// Of which keys another was made
    #[command(subcommand)]
    Depend(DependCommand),
}

#[derive(Debug, Args)]
pub(super) struct SetArgs {
    /// The key
    key: String,
    /// The value as JSON; text has quotes of its own: '"text"'
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    value: Option<String>,
    /// A file with the value as JSON; - is stdin
    #[arg(long, value_name = "FILE")]
    file: Option<String>,
    /// How long it lives; for ever if nothing is said
    #[arg(long, value_name = "SECONDS")]
    ttl: Option<Span>,
    /// By what else it can be invalidated; may be given several times
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Where it comes from, for people
    #[arg(long)]
    source: Option<String>,
    /// Only if this version is there; 0 means no value
    #[arg(long, value_name = "VERSION")]
    if_version: Option<u64>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub(super) struct InvalidateArgs {
    /// A key; may be given several times
    #[arg(long = "key", value_name = "KEY")]
    keys: Vec<String>,
    /// A tag; may be given several times
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Every key that this glob means
    #[arg(long, value_name = "GLOB")]
    pattern: Option<String>,
    /// A key that changed: what follows by rules and dependencies, and the key itself
    #[arg(long, value_name = "KEY")]
    updated: Option<String>,
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

#[derive(Debug, Subcommand)]
pub(super) enum RulesCommand {
    /// List the rules
    List(PageArgs),
    /// Show a rule
    Show {
        /// Its name
        name: String,
    },
    /// Add a rule, or replace the one of this name
    Put {
        /// Its name
        name: String,
        /// Which keys; {id} and the like stand for one part of the key
        update_pattern: String,
        /// What is invalidated then; parts of the key may be put in
        #[arg(required = true)]
        invalidate_patterns: Vec<String>,
    },
    /// Delete a rule; a built-in one stays deleted until it is put again
    Delete {
        /// Its name
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum DependCommand {
    /// Say of which keys another is made, in place of what was said before
    Put {
        /// The key that is made
        key: String,
        /// Of these
        #[arg(required = true)]
        on: Vec<String>,
    },
    /// Show of which keys another is made
    Show {
        /// The key that is made
        key: String,
    },
    /// Forget of which keys another is made
    Delete {
        /// The key that is made
        key: String,
    },
}

#[derive(Deserialize)]
struct Entry {
    key: String,
    version: String,
    tags: Vec<String>,
    source: Option<String>,
    updated_at: String,
    expires_at: Option<String>,
}

#[derive(Deserialize)]
struct Listed {
    bytes: u64,
    #[serde(flatten)]
    entry: Entry,
}

#[derive(Deserialize)]
struct Rule {
    name: String,
    update_pattern: String,
    invalidate_patterns: Vec<String>,
}

pub(super) async fn obey(client: &Client, command: StateCommand) -> Result<Ended, Failure> {
    match command {
        StateCommand::Get { key, max_stale } => get(client, &key, max_stale).await,
        StateCommand::Set(args) => set(client, args).await,
        StateCommand::Delete { key } => {
            let question = format!("Remove the value of {key:?}?");
            let url = client.address(&["v1", "state", &key], &[]);
            delete(client, &question, &format!("delete state key {key:?}"), url).await
        }
        StateCommand::Invalidate(args) => invalidate(client, args).await,
        StateCommand::List { prefix, page } => list(client, prefix, page).await,
        StateCommand::Rules(command) => rules(client, command).await,
        StateCommand::Depend(command) => depend(client, command).await,
    }
}

async fn get(client: &Client, key: &str, max_stale: Option<Span>) -> Result<Ended, Failure> {
    let age = max_stale.map(|Span(age)| age.as_secs_f64().to_string());
    let url = client.address(&["v1", "state", key], &[("max_stale_seconds", age)]);
    let answer = client.get(&format!("show state key {key:?}"), url).await?;
    if client.json {
        answer.show_raw();
        return Ok(Ended::Done);
    }
    #[derive(Deserialize)]
    struct Shown {
        value: Json,
        stale: bool,
        #[serde(flatten)]
        entry: std::collections::BTreeMap<String, Value>,
    }
    let shown: Shown = answer.read()?;
    if shown.stale {
        output::talk("the store does not answer; this value may be old");
    }
    let version = shown.entry.get("version").and_then(Value::as_str).unwrap_or_default();
    output::talk(&format!("version {version}"));
    output::data(shown.value.text());
    Ok(Ended::Done)
}

async fn set(client: &Client, args: SetArgs) -> Result<Ended, Failure> {
    let text = match (args.value, &args.file) {
        (Some(value), _) => value,
        (None, Some(file)) => String::from_utf8(read(file)?)
            .map_err(|_| Failure::Usage(format!("the value in {file:?} is not UTF-8")))?,
        (None, None) => return Err(Failure::Usage("give a value, or --file".into())),
    };
    let value = Json::parse(text.trim()).map_err(|error| {
        Failure::Usage(format!("the value is JSON, such as 7 or '\"text\"' or '{{}}': {error}"))
    })?;
    let key = args.key;
    // By hand, so that the value is sent to the last digit.
    let mut rest = json!({
        "ttl_seconds": args.ttl.map(|Span(ttl)| ttl.as_secs_f64()),
        "tags": args.tags,
        "source": args.source,
    });
    // Left out, not null, to set whatever is there.
    if let Some(version) = args.if_version {
        rest["if_version"] = json!(version.to_string());
    }
    let rest = rest.to_string();
    let body = format!(r#"{{"value":{},{}"#, value.text(), &rest[1..]);
    let url = client.address(&["v1", "state", &key], &[]);
    let answer =
        client.put_exactly(&format!("set state key {key:?}"), url, body.into_bytes()).await?;
    if client.json {
        answer.show_raw();
        return Ok(Ended::Done);
    }
    #[derive(Deserialize)]
    struct Written {
        version: String,
        expires_at: Option<String>,
    }
    let written: Written = answer.read()?;
    let until = written.expires_at.map_or("for ever".into(), |end| format!("until {end}"));
    output::data(&format!("state key {key:?} is set, version {}, {until}", written.version));
    Ok(Ended::Done)
}

/// Deletes something and says whether it was there; exit code 1 if not.
async fn delete(
    client: &Client,
    question: &str,
    what: &str,
    url: Address,
) -> Result<Ended, Failure> {
    if !client.confirm(question) {
        output::talk("nothing was done");
        return Ok(Ended::No);
    }
    let answer = client.change(what, Method::DELETE, url, None).await?;
    #[derive(Deserialize)]
    struct Deleted {
        deleted: bool,
    }
    let Deleted { deleted } = answer.read()?;
    match (client.json, deleted) {
        (true, _) => answer.show_raw(),
        (false, true) => output::data("deleted"),
        (false, false) => output::data("there was nothing to delete"),
    }
    Ok(if deleted { Ended::Done } else { Ended::No })
}

async fn invalidate(client: &Client, args: InvalidateArgs) -> Result<Ended, Failure> {
    if let Some(pattern) = &args.pattern
        && !client.confirm(&format!("Invalidate every key that {pattern:?} means?"))
    {
        output::talk("nothing was done");
        return Ok(Ended::No);
    }
    let body = json!({ "keys": args.keys, "tags": args.tags, "pattern": args.pattern,
        "updated_key": args.updated });
    let url = client.address(&["v1", "state", "invalidate"], &[]);
    let answer = client.change("invalidate state", Method::POST, url, Some(body)).await?;
    if client.json {
        answer.show_raw();
        return Ok(Ended::Done);
    }
    #[derive(Deserialize)]
    struct Invalidated {
        keys: u64,
        tags: u64,
        patterns: u64,
    }
    let Invalidated { keys, tags, patterns } = answer.read()?;
    output::data(&format!("invalidated: {keys} keys, {tags} tags; {patterns} patterns applied"));
    Ok(Ended::Done)
}

async fn list(client: &Client, prefix: String, page: PageArgs) -> Result<Ended, Failure> {
    let query = [
        ("prefix", Some(prefix).filter(|prefix| !prefix.is_empty())),
        ("page_size", page.page_size.map(|n| n.to_string())),
        ("page_token", page.page_token),
    ];
    let answer = client.get("list state", client.address(&["v1", "state"], &query)).await?;
    if client.json {
        answer.show_raw();
        return Ok(Ended::Done);
    }
    let page: Page<Listed> = answer.read()?;
    page.tell_rest();
    let dash = |value: Option<String>| value.unwrap_or_else(|| "-".into());
    let rows = page.items.into_iter().map(|Listed { bytes, entry }| {
        let tags = entry.tags.join(",");
        vec![
            entry.key,
            entry.version,
            bytes.to_string(),
            dash(Some(tags).filter(|tags| !tags.is_empty())),
            dash(entry.source),
            entry.updated_at,
            dash(entry.expires_at),
        ]
    });
    let heading = ["KEY", "VERSION", "BYTES", "TAGS", "SOURCE", "UPDATED", "EXPIRES"];
    output::table(&heading, rows.collect());
    Ok(Ended::Done)
}

async fn rules(client: &Client, command: RulesCommand) -> Result<Ended, Failure> {
    let address = |name: &str| client.address(&["v1", "state-rules", name], &[]);
    let answer = match command {
        RulesCommand::List(page) => {
            let query = [
                ("page_size", page.page_size.map(|n| n.to_string())),
                ("page_token", page.page_token),
            ];
            let url = client.address(&["v1", "state-rules"], &query);
            let answer = client.get("list state rules", url).await?;
            if !client.json {
                let page: Page<Rule> = answer.read()?;
                page.tell_rest();
                show_rules(page.items);
                return Ok(Ended::Done);
            }
            answer
        }
        RulesCommand::Show { name } => {
            client.get(&format!("show state rule {name:?}"), address(&name)).await?
        }
        RulesCommand::Put { name, update_pattern, invalidate_patterns } => {
            let body = json!({ "update_pattern": update_pattern,
                "invalidate_patterns": invalidate_patterns });
            let what = format!("put state rule {name:?}");
            client.change(&what, Method::PUT, address(&name), Some(body)).await?
        }
        RulesCommand::Delete { name } => {
            let question = format!("Delete state rule {name:?}?");
            let what = format!("delete state rule {name:?}");
            return delete(client, &question, &what, address(&name)).await;
        }
    };
    match client.json {
        true => answer.show_raw(),
        false => show_rules(vec![answer.read()?]),
    }
    Ok(Ended::Done)
}

fn show_rules(rules: Vec<Rule>) {
    let rows = rules
        .into_iter()
        .map(|rule| vec![rule.name, rule.update_pattern, rule.invalidate_patterns.join(" ")]);
    output::table(&["NAME", "UPDATE", "INVALIDATES"], rows.collect());
}

async fn depend(client: &Client, command: DependCommand) -> Result<Ended, Failure> {
    let address = |key: &str| client.address(&["v1", "state-dependencies", key], &[]);
    let answer: Answer = match command {
        DependCommand::Put { key, on } => {
            let what = format!("say on what state key {key:?} depends");
            let body = json!({ "depends_on": on });
            client.change(&what, Method::PUT, address(&key), Some(body)).await?
        }
        DependCommand::Show { key } => {
            client.get(&format!("show on what state key {key:?} depends"), address(&key)).await?
        }
        DependCommand::Delete { key } => {
            let question = format!("Forget on what state key {key:?} depends?");
            let what = format!("forget on what state key {key:?} depends");
            return delete(client, &question, &what, address(&key)).await;
        }
    };
    #[derive(Deserialize)]
    struct Dependencies {
        key: String,
        depends_on: Vec<String>,
    }
    if client.json {
        answer.show_raw();
        return Ok(Ended::Done);
    }
    let Dependencies { key, depends_on } = answer.read()?;
    let rows = depends_on.into_iter().map(|source| vec![key.clone(), source]).collect();
    output::table(&["KEY", "DEPENDS ON"], rows);
    Ok(Ended::Done)
}
