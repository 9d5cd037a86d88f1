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
        ("overall", word(health.overall_healthy)),
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
}
