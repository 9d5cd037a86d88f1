//! `lockbay alerts`: keeping alerts quiet, and what became of those that were told. What is judged
//! is the business of `alert_rules.rs`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use lockbay::config::Span;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::alert_rules::{self, RulesCommand};
use super::client::{Client, Failure, Page};
use super::{Ended, output};

#[derive(Debug, Subcommand)]
pub(super) enum AlertsCommand {
    /// List alerts and how they stand
    List {
        /// Only those that are inactive, pending, firing, recovering or resolved
        #[arg(long)]
        state: Option<String>,
    },
    /// List the rules, or show, put, delete or back-test one
    Rules {
        #[command(subcommand)]
        command: Option<RulesCommand>,
    },
    /// Run the tests of a file of alert rules, here, without a server: exit code 1 if one fails
    Test {
        /// The file, in TOML
        file: PathBuf,
    },
    /// Keep alerts from being told for a while; what still fires then is told then
    Silence(SilenceArgs),
    /// List silences
    Silences,
    /// Show a silence as JSON
    ShowSilence {
        /// Its id
        id: String,
    },
    /// End a silence now
    Unsilence {
        /// Its id
        id: String,
    },
    /// List what was told, is to be told, or could not be
    Notifications {
        /// Which
        #[arg(long, default_value = "pending")]
        status: Status,
        /// How many at most, 1 to 1000
        #[arg(long, value_name = "N")]
        page_size: Option<u32>,
        /// Go on behind an earlier page
        #[arg(long, value_name = "TOKEN")]
        page_token: Option<String>,
    },
    /// Show a notice as JSON, with what became of it in each channel
    ShowNotification {
        /// Its id
        id: String,
    },
    /// Try a dead letter again
    Retry {
        /// The id of the notice
        id: String,
    },
    /// Send a test notice through every channel of the server: exit code 1 if one does not deliver
    NotifyTest,
}

#[derive(Debug, Args)]
pub(super) struct SilenceArgs {
    /// Which rules: * is any text, ? any character
    #[arg(default_value = "*")]
    rules: String,
    /// For how long, such as 2h
    #[arg(long = "for", value_name = "TIME")]
    length: Option<Span>,
    /// Only alerts of this severity; may be given several times
    #[arg(long, value_name = "SEVERITY", value_delimiter = ',')]
    severity: Vec<String>,
    /// From when on, as 2026-01-31T22:00:00Z [default: now]
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Only at these times: when each begins, such as "0 3 * * 0"
    #[arg(long, value_name = "EXPRESSION", requires = "window_for")]
    window: Option<String>,
    /// How long each of these times lasts
    #[arg(long, value_name = "TIME", requires = "window")]
    window_for: Option<Span>,
    /// The time zone of the expression
    #[arg(long, value_name = "ZONE", default_value = "UTC")]
    time_zone: String,
    /// Why
    #[arg(long)]
    reason: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Status {
    /// A channel is still to deliver it
    Pending,
    /// Every channel has delivered it
    Delivered,
    /// A channel gave it up
    Dead,
    /// It fires, and something keeps it from being told
    Held,
}

#[derive(Deserialize)]
struct Silence {
    id: String,
    rules: String,
    severities: Vec<String>,
    from: String,
    until: Option<String>,
    window: Option<Value>,
    actor: String,
    reason: String,
    state: String,
}

pub(super) async fn obey(client: &Client, command: AlertsCommand) -> Result<Ended, Failure> {
    match command {
        AlertsCommand::List { state } => alert_rules::list(client, state).await,
        AlertsCommand::Rules { command } => alert_rules::rules(client, command).await,
        AlertsCommand::Test { file } => alert_rules::test(client, &file),
        AlertsCommand::Silence(args) => silence(client, args).await,
        AlertsCommand::Silences => silences(client).await,
        AlertsCommand::ShowSilence { id } => {
            let url = client.address(&["v1", "alerts", "silences", &id], &[]);
            client.get(&format!("show silence {id:?}"), url).await?.show_raw();
            Ok(Ended::Done)
        }
        AlertsCommand::ShowNotification { id } => {
            let url = client.address(&["v1", "alerts", "notifications", &id], &[]);
            client.get(&format!("show notice {id:?}"), url).await?.show_raw();
            Ok(Ended::Done)
        }
        AlertsCommand::Unsilence { id } => unsilence(client, &id).await,
        AlertsCommand::Notifications { status, page_size, page_token } => {
            notifications(client, status, page_size, page_token).await
        }
        AlertsCommand::Retry { id } => retry(client, &id).await,
        AlertsCommand::NotifyTest => test(client).await,
    }
}

async fn silence(client: &Client, args: SilenceArgs) -> Result<Ended, Failure> {
    if args.length.is_none() && args.window.is_none() {
        return Err(Failure::Usage("say for how long: --for 2h, or --window for times".into()));
    }
    let window = args.window.zip(args.window_for).map(|(expression, Span(length))| {
        json!({ "schedule_expression": expression, "time_zone": args.time_zone,
            "duration_seconds": length.as_secs() })
    });
    let body = json!({ "rules": args.rules, "severities": args.severity, "from": args.from,
        "duration_seconds": args.length.map(|Span(length)| length.as_secs_f64()),
        "window": window, "actor": client.actor, "reason": args.reason });
    let url = client.address(&["v1", "alerts", "silences"], &[]);
    let answer = client.change("silence alerts", Method::POST, url, Some(body)).await?;
    if client.json {
        answer.show_raw();
        return Ok(Ended::Done);
    }
    let Silence { id, rules, until, state, .. } = answer.read()?;
    let until = until.map_or(String::new(), |until| format!(", until {until}"));
    output::data(&format!("silence {id} of {rules:?} is {state}{until}"));
    Ok(Ended::Done)
}

async fn silences(client: &Client) -> Result<Ended, Failure> {
    let query = [("page_size", Some("1000".to_owned()))];
    let url = client.address(&["v1", "alerts", "silences"], &query);
    let answer = client.get("list silences", url).await?;
    if client.json {
        answer.show_raw();
        return Ok(Ended::Done);
    }
    let page: Page<Silence> = answer.read()?;
    page.tell_rest();
    let rows = page.items.into_iter().map(|silence| {
        let severities = silence.severities.join(",");
        let window = silence.window.map_or("-".into(), |window| {
            format!("{} for {} s", window["schedule_expression"], window["duration_seconds"])
        });
        vec![
            silence.id,
            silence.state,
            silence.rules,
            if severities.is_empty() { "all".into() } else { severities },
            silence.from,
            silence.until.unwrap_or_else(|| "-".into()),
            window,
            silence.actor,
            silence.reason,
        ]
    });
    let heading =
        ["ID", "STATE", "RULES", "SEVERITIES", "FROM", "UNTIL", "WINDOW", "ACTOR", "REASON"];
    output::table(&heading, rows.collect());
    Ok(Ended::Done)
}

async fn unsilence(client: &Client, id: &str) -> Result<Ended, Failure> {
    let query = [("actor", client.actor.clone())];
    let url = client.address(&["v1", "alerts", "silences", id], &query);
    let answer = client.change(&format!("end silence {id:?}"), Method::DELETE, url, None).await?;
    match client.json {
        true => answer.show_raw(),
        false => output::data(&format!("silence {id} is ended")),
    }
    Ok(Ended::Done)
}

async fn notifications(
    client: &Client,
    status: Status,
    page_size: Option<u32>,
    page_token: Option<String>,
) -> Result<Ended, Failure> {
    let name = match status {
        Status::Pending => "pending",
        Status::Delivered => "delivered",
        Status::Dead => "dead",
        Status::Held => "held",
    };
    let query = [
        ("status", Some(name.to_owned())),
        ("page_size", page_size.map(|size| size.to_string())),
        ("page_token", page_token),
    ];
    let url = client.address(&["v1", "alerts", "notifications"], &query);
    let answer = client.get("list notifications", url).await?;
    if client.json {
        answer.show_raw();
        return Ok(Ended::Done);
    }
    let page: Page<Value> = answer.read()?;
    page.tell_rest();
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let rows = page.items.iter();
    match status {
        Status::Held => {
            let rows = rows.map(|item| vec![text(&item["rule"]), text(&item["why"])]);
            output::table(&["RULE", "HELD BACK BY"], rows.collect());
        }
        Status::Pending | Status::Delivered | Status::Dead => {
            let row = |item: &Value| {
                let notice = &item["notice"];
                let alerts = notice["alerts"].as_array().map_or(&[][..], Vec::as_slice);
                let rules: Vec<String> = alerts.iter().map(|alert| text(&alert["rule"])).collect();
                vec![
                    text(&notice["id"]),
                    text(&notice["at"]),
                    text(&notice["status"]),
                    text(&notice["severity"]),
                    rules.join(","),
                    channels(&item["channels"]),
                ]
            };
            let heading = ["ID", "AT", "STATUS", "SEVERITY", "RULES", "CHANNELS"];
            output::table(&heading, rows.map(row).collect());
        }
    }
    Ok(Ended::Done)
}

/// How far each channel has come.
fn channels(channels: &Value) -> String {
    let Some(channels) = channels.as_object() else { return "-".into() };
    let each = channels.iter().map(|(name, progress)| {
        let state = progress["standing"]["state"].as_str().unwrap_or("?");
        match progress["error"].as_str().filter(|_| state != "delivered") {
            Some(error) => format!("{name} {state}: {error}"),
            None => format!("{name} {state}"),
        }
    });
    each.collect::<Vec<_>>().join("; ")
}

async fn retry(client: &Client, id: &str) -> Result<Ended, Failure> {
    let url = client.address(&["v1", "alerts", "notifications", id, "retry"], &[]);
    let body = Some(json!({ "actor": client.actor }));
    let answer = client.change(&format!("retry notice {id:?}"), Method::POST, url, body).await?;
    match client.json {
        true => answer.show_raw(),
        false => output::data(&format!("notice {id} is tried again")),
    }
    Ok(Ended::Done)
}

async fn test(client: &Client) -> Result<Ended, Failure> {
    #[derive(Deserialize)]
    struct Tests {
        channels: Vec<Tested>,
    }
    #[derive(Deserialize)]
    struct Tested {
        channel: String,
        delivered: bool,
        error: Option<String>,
    }
    let url = client.address(&["v1", "alerts", "notifications", "test"], &[]);
    let answer = client.change("test notifications", Method::POST, url, Some(json!({}))).await?;
    let tests: Tests = answer.read()?;
    if client.json {
        answer.show_raw();
    } else {
        let rows = tests.channels.iter().map(|test| {
            let outcome = if test.delivered { "delivered" } else { "not delivered" };
            vec![test.channel.clone(), outcome.into(), test.error.clone().unwrap_or("-".into())]
        });
        output::table(&["CHANNEL", "OUTCOME", "WHY"], rows.collect());
    }
    let all = tests.channels.iter().all(|test| test.delivered);
    Ok(if all { Ended::Done } else { Ended::No })
}
