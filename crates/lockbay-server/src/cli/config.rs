//! `lockbay config`: every setting as it is in force, and who said so.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use lockbay::Config;
use lockbay::config::{Effective, Source};
use serde_json::json;

use super::client::Failure;
use super::{Ended, output};
use crate::serve::{rehearse, told, without_credentials};

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct ConfigArgs {
    #[command(subcommand)]
    command: Option<ConfigCommand>,
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// As if the server were given this store
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// Only settings that are not at their defaults
    #[arg(long)]
    changed: bool,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Say whether a server could run with this file and this environment
    Check {
        /// Configuration file (TOML)
        file: PathBuf,
    },
}

pub(super) async fn obey(args: ConfigArgs, json: bool) -> Result<Ended, Failure> {
    match args.command {
        Some(ConfigCommand::Check { file }) => check(&file, json).await,
        None => show(&args, json),
    }
}

/// Who said so, in words.
fn origin(setting: &Effective, file: Option<&Path>) -> String {
    match setting.source {
        Source::Default => "default".into(),
        Source::File => file.map_or_else(|| "file".into(), |file| file.display().to_string()),
        Source::Environment => setting.env.to_owned(),
        Source::SecretFile => format!("{}_FILE", setting.env),
        Source::Flag => format!("--{}", setting.name.replace('_', "-")),
    }
}

/// A value fit for a screen: an address without what opens it.
fn fit(setting: &Effective) -> Option<String> {
    let value = setting.value.as_deref()?;
    Some(if value.contains("://") { without_credentials(value) } else { value.to_owned() })
}

fn show(args: &ConfigArgs, json: bool) -> Result<Ended, Failure> {
    let flags: BTreeMap<_, _> = args.store.iter().map(|url| ("store", url.clone())).collect();
    let file = args.config.as_deref();
    let (_, mut settings) = Config::explain(file, &flags).map_err(told)?;
    settings.retain(|setting| !args.changed || setting.source != Source::Default);
    let unknown = Config::unknown_environment();
    if json {
        let items: Vec<_> = settings
            .iter()
            .map(|setting| {
                json!({ "name": setting.name, "env": setting.env, "value": fit(setting),
                    "source": setting.source, "from": origin(setting, file),
                    "secret": setting.secret, "help": setting.help })
            })
            .collect();
        output::data(&json!({ "settings": items, "unknown_environment": unknown }).to_string());
    } else {
        let row = |setting: &Effective| {
            let value = fit(setting).unwrap_or_else(|| "-".into());
            vec![setting.name.to_owned(), value, origin(setting, file)]
        };
        output::table(&["SETTING", "VALUE", "FROM"], settings.iter().map(row).collect());
    }
    for name in unknown {
        output::talk(&format!("warning: there is no setting {name}; is it misspelt?"));
    }
    Ok(Ended::Done)
}

/// What [`serve`](crate::serve::serve) looks at before it opens its store.
async fn usable(file: &Path) -> anyhow::Result<Vec<Effective>> {
    let (config, settings) = Config::explain(Some(file), &BTreeMap::new()).map_err(told)?;
    rehearse(&config).await?;
    Ok(settings)
}

async fn check(file: &Path, json: bool) -> Result<Ended, Failure> {
    let shown = file.display();
    match usable(file).await {
        Ok(settings) => {
            let said = settings.iter().filter(|setting| setting.source == Source::File).count();
            match json {
                true => output::data(&json!({ "ok": true, "settings": said }).to_string()),
                false => output::data(&format!("{shown} can be used: {said} settings")),
            }
            Ok(Ended::Done)
        }
        Err(error) if json => {
            output::data(&json!({ "ok": false, "error": format!("{error:#}") }).to_string());
            Ok(Ended::No)
        }
        Err(error) => Err(Failure::Failed(error)),
    }
}
