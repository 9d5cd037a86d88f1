//! `lockbay report`: how the service does, for a person.

use clap::{Args, ValueEnum};

use super::client::{Client, Failure};
use super::{Ended, output};

#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    /// Hours to look back, 1 to 720
    #[arg(long, default_value_t = 24)]
    hours: u32,
    /// How it is written; --json is the same as --format json
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum Format {
    Text,
    Markdown,
    Html,
    Json,
}

/// Shows the report of a server; exit code 0 however the service is.
pub(super) async fn report(client: &Client, args: &ReportArgs) -> Result<Ended, Failure> {
    let format = match (client.json, args.format) {
        (true, _) | (false, Format::Json) => "json",
        (false, Format::Text) => "text",
        (false, Format::Markdown) => "markdown",
        (false, Format::Html) => "html",
    };
    let query = [("hours", Some(args.hours.to_string())), ("format", Some(format.to_owned()))];
    let url = client.address(&["api", "advanced-state", "report"], &query);
    let text = client.get_text("read the report", url).await?;
    output::data(text.trim_end());
    Ok(Ended::Done)
}
