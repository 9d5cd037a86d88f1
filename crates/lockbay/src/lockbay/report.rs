//! Putting the report together: who is asked what, and what is said when nobody answers.

use std::time::Duration;

use super::LockBay;
use crate::error::Result;
use crate::monitor::alert::Alert;
use crate::monitor::alert::decide::Phase;
use crate::monitor::health::Health;
use crate::monitor::report::{
    self, ActiveAlert, JOBS, LeaderStatus, PerformanceSummary, Report, SAGAS, SystemLoad, Work,
};
use crate::monitor::trend::Named;

/// How long history may take to be read.
const WITHIN: Duration = Duration::from_secs(5);

impl LockBay {
    /// What a person at night should know, over the last so many hours: 1 to 720. Works without
    /// history and with a store that does not answer, and says so then in `notes`.
    ///
    /// # Errors
    /// `Invalid` for another number of hours.
    pub async fn report(&self, hours: u32) -> Result<Report> {
        let health = self.health().await;
        self.refresh_metrics();
        let mut notes = Vec::new();
        let answers = health.state_manager_healthy;
        let leader = if answers { self.leadership().current().await.ok().flatten() } else { None };
        let trends = self.report_trends(hours, &health, &mut notes).await?;
        let baselines = report::baselines(&trends);
        let performance = self.performance(hours, answers, &mut notes).await;
        let active_alerts = self.active_alerts(answers, &mut notes).await;
        let mut report = Report {
            // By the store's clock, as all that is told in it; by our own, if that is not known.
            timestamp: self.history().now().await.unwrap_or_else(|_| self.clock().now()),
            instance_id: self.instance_id().to_owned(),
            instance_name: self.config().instance_name.clone(),
            overall_status: health.status,
            system_uptime: self.uptime().as_secs_f64(),
            leader_status: LeaderStatus { is_leader: self.is_leader(), leader },
            performance_summary: performance,
            system_load: SystemLoad::of(self.metrics(), &health, self.config().max_in_flight),
            next_steps: report::next_steps(&health, &trends, &active_alerts),
            health_issues: health.issues,
            warnings: health.warnings,
            checks: health.checks,
            trends,
            baselines,
            active_alerts,
            notes,
        };
        let summary = &mut report.performance_summary;
        summary.job_processing.compare(&JOBS, &report.baselines);
        summary.saga_processing.compare(&SAGAS, &report.baselines);
        Ok(report)
    }

    async fn active_alerts(&self, answers: bool, notes: &mut Vec<String>) -> Vec<ActiveAlert> {
        if !answers {
            notes.push("which alerts fire is not known: their states are in the store".into());
            return Vec::new();
        }
        let listed = self.clock().timeout(WITHIN, self.alerts().list(None)).await;
        match listed {
            Some(Ok(alerts)) => alerts.into_iter().filter_map(active).collect(),
            Some(Err(error)) => {
                notes.push(format!("alerts were not read: {error}"));
                Vec::new()
            }
            None => {
                notes.push(format!("alerts did not answer within {WITHIN:?}"));
                Vec::new()
            }
        }
    }

    async fn report_trends(
        &self,
        hours: u32,
        health: &Health,
        notes: &mut Vec<String>,
    ) -> Result<Vec<Named>> {
        if !self.config().monitoring {
            notes.push(
                "monitoring is off: there is no history of this instance, and alerts and \
                        trends are not judged"
                    .into(),
            );
        }
        if !health.state_manager_healthy {
            crate::monitor::trend::check_hours(hours)?;
            notes.push(
                "the store does not answer: history and trends were not read, and the \
                        numbers are those of this instance alone"
                    .into(),
            );
            return Ok(Vec::new());
        }
        self.trends().important(hours).await
    }

    async fn performance(
        &self,
        hours: u32,
        answers: bool,
        notes: &mut Vec<String>,
    ) -> PerformanceSummary {
        let mut jobs = Work::own(&JOBS, self.metrics());
        let mut sagas = Work::own(&SAGAS, self.metrics());
        if answers {
            let looked_up = async {
                let _turn = self.history().turn().await?;
                let to = self.history().now().await?;
                let window = (to - Duration::from_secs(3_600) * hours, to);
                jobs.look_up(&JOBS, self.history(), window).await?;
                sagas.look_up(&SAGAS, self.history(), window).await
            };
            match self.clock().timeout(WITHIN, looked_up).await {
                Some(Ok(())) => {}
                Some(Err(error)) => notes.push(format!("history was not read: {error}")),
                None => notes.push(format!("history did not answer within {WITHIN:?}")),
            }
        }
        PerformanceSummary {
            window_hours: hours,
            job_processing: jobs,
            saga_processing: sagas,
            cleanup_efficiency: self.sweeper().efficiency(),
        }
    }
}

/// An alert that fires to others, if it does.
fn active(alert: Alert) -> Option<ActiveAlert> {
    match alert.state {
        Phase::Firing | Phase::Recovering => Some(ActiveAlert {
            since: alert.fired_at.or(alert.since)?,
            rule: alert.rule,
            severity: alert.severity,
            value: alert.value,
            summary: alert.summary,
        }),
        Phase::Inactive | Phase::Pending | Phase::Resolved => None,
    }
}
