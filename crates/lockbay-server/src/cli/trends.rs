//! `lockbay trends`: whether it gets better or worse, for a person.

use clap::Args;
use serde::Deserialize;

use super::client::{Client, Failure};
use super::{Ended, output};

#[derive(Debug, Args)]
pub(super) struct TrendsArgs {
    /// Hours to look back, 1 to 720
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=720))]
    hours: Option<u32>,
    /// Only this metric, such as saga_metrics.saga_seconds.p95
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
}

#[derive(Deserialize)]
struct Told {
    window_hours: u32,
    items: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    path: String,
    unit: String,
    #[serde(flatten)]
    trend: serde_json::Map<String, serde_json::Value>,
}

impl Item {
    fn text(&self, name: &str) -> String {
        let value = self.trend.get(name).and_then(serde_json::Value::as_str);
        value.unwrap_or("-").to_owned()
    }

    fn number(&self, name: &str) -> String {
        let value = self.trend.get(name).and_then(serde_json::Value::as_f64);
        value.map_or("-".into(), super::metrics::number)
    }
}

/// Shows how the important metrics move, or one.
pub(super) async fn trends(client: &Client, args: TrendsArgs) -> Result<Ended, Failure> {
    let query = [("hours", args.hours.map(|hours| hours.to_string())), ("path", args.path)];
    let url = client.address(&["v1", "trends"], &query);
    let answer = client.get("read the trends", url).await?;
    if client.json {
        answer.show_raw();
        return Ok(Ended::Done);
    }
    let told: Told = answer.read()?;
    let row = |item: &Item| {
        vec![
            item.path.clone(),
            item.text("label"),
            item.text("direction"),
            item.number("level"),
            item.number("change"),
            item.unit.clone(),
            item.number("observed"),
        ]
    };
    let heading = ["METRIC", "TREND", "MOVES", "STANDS AT", "CHANGED BY", "UNIT", "POINTS"];
    output::table(&heading, told.items.iter().map(row).collect());
    output::talk(&format!("over the last {} hours", told.window_hours));
    Ok(Ended::Done)
}
