//! `lockbay health`: how a server is.

use reqwest::Method;
use serde::Deserialize;

use super::client::{Client, Failure};
use super::{Ended, output};

#[derive(Deserialize)]
struct Health {
    leader_election_healthy: bool,
    job_coordination_healthy: bool,
    saga_coordination_healthy: bool,
    cleanup_service_healthy: bool,
    state_manager_healthy: bool,
    overall_healthy: bool,
    last_check: String,
    issues: Vec<String>,
    #[serde(default)]
    warnings: Vec<String>,
    #[serde(default)]
    status: Option<String>,
    #[serde(default)]
    checks: Vec<Check>,
}

/// One part, as far as it is shown.
#[derive(Deserialize)]
struct Check {
    name: String,
    status: String,
    reasons: Vec<String>,
    last_good: Option<String>,
    since: Option<String>,
    bad_for_seconds: Option<f64>,
}

/// Exit code 0 if the server is healthy, 1 if it is not.
pub(super) async fn health(client: &Client) -> Result<Ended, Failure> {
    let url = client.address(&["api", "advanced-state", "health"], &[]);
    let answer = client.ask(Method::GET, url, None).await?.refused("read health")?;
    let health: Health = answer.read()?;
    if client.json {
        answer.show_raw();
    } else {
        show_health(&health);
    }
    Ok(if health.overall_healthy { Ended::Done } else { Ended::No })
}

fn show_health(health: &Health) {
    let word = |healthy: bool| if healthy { "healthy" } else { "UNHEALTHY" }.to_owned();
    output::facts(vec![
        ("overall", overall(health)),
        ("leader election", word(health.leader_election_healthy)),
        ("job coordination", word(health.job_coordination_healthy)),
        ("saga coordination", word(health.saga_coordination_healthy)),
        ("cleanup service", word(health.cleanup_service_healthy)),
        ("state manager", word(health.state_manager_healthy)),
        ("last check", health.last_check.clone()),
    ]);
    for issue in &health.issues {
        output::data(&format!("issue: {}", output::shown(issue)));
    }
    for warning in &health.warnings {
        output::data(&format!("warning: {}", output::shown(warning)));
    }
    for check in health.checks.iter().filter(|check| !check.reasons.is_empty()) {
        show_since(check);
    }
}

fn overall(health: &Health) -> String {
    match &health.status {
        Some(status) if status == "degraded" => "healthy, degraded".into(),
        _ if health.overall_healthy => "healthy".into(),
        _ => "UNHEALTHY".into(),
    }
}

/// Since when a part is not well.
fn show_since(check: &Check) {
    let Check { name, status, since, .. } = check;
    let since = since.as_deref().unwrap_or("-");
    let lasts = check.bad_for_seconds.unwrap_or_default();
    let good = check.last_good.as_deref().unwrap_or("never seen well");
    let text = format!("{name}: {status} since {since} ({lasts:.0} s), last good: {good}");
    output::data(&output::shown(&text));
}
