//! Notices, silences, and what holds an alert back.

use std::collections::BTreeMap;

use utoipa::ToSchema;

use super::Moment;
use super::alert::Severity;

/// Times that come again.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct MaintenanceWindow {
    /// When each begins: a cron expression or an interval, as of schedules.
    #[schema(min_length = 1, examples("0 3 * * *"))]
    schedule_expression: String,
    /// The time zone of the expression.
    #[serde(default)]
    #[schema(default = "UTC")]
    time_zone: String,
    /// How long each lasts; a week at most.
    #[schema(minimum = 1, maximum = 604_800)]
    duration_seconds: u64,
}

/// How a silence stands: it begins later or waits for its next time, it covers, or it is over.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::http) enum SilenceState {
    Waiting,
    Active,
    Ended,
}

/// A silence: what is not told for a while, because somebody said so.
#[derive(ToSchema)]
pub(in crate::http) struct Silence {
    id: String,
    /// Which rules, as a glob.
    rules: String,
    /// Only of these severities; all if it is empty.
    severities: Vec<Severity>,
    from: Moment,
    /// Until when; a maintenance window may be without end.
    #[schema(required)]
    until: Option<Moment>,
    /// Only at these times in between.
    #[schema(required = false)]
    window: ShownWindow,
    /// Who said so.
    actor: String,
    /// Why.
    reason: String,
    created_at: Moment,
    /// Who ended it before its time, if somebody did.
    #[schema(required = false)]
    ended_by: String,
    state: SilenceState,
}

/// Times that come again, as they are shown.
#[derive(ToSchema)]
pub(in crate::http) struct ShownWindow {
    schedule_expression: String,
    time_zone: String,
    duration_seconds: u64,
}

/// Whether alerts have begun to fire or are over.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::http) enum NoticeTurn {
    Firing,
    Resolved,
}

/// One alert of a notice.
#[derive(ToSchema)]
pub(in crate::http) struct NoticeAlert {
    rule: String,
    severity: Severity,
    state: NoticeTurn,
    /// The same for a firing and its end.
    #[schema(pattern = "^[0-9]+$")]
    episode: String,
    /// The value that was judged, if there was one.
    #[schema(required)]
    value: Option<f64>,
    summary: String,
    /// When it began to fire.
    since: Moment,
    /// When it was over.
    #[schema(required = false)]
    until: Moment,
    /// Where to read what to do.
    #[schema(required = false)]
    runbook: String,
    labels: BTreeMap<String, String>,
}

/// One message to people, as every channel gets it.
#[derive(ToSchema)]
pub(in crate::http) struct NoticeText {
    /// The same whenever this notice is delivered.
    id: String,
    at: Moment,
    /// What its alerts have in common.
    group: String,
    status: NoticeTurn,
    /// The worst of them.
    severity: Severity,
    alerts: Vec<NoticeAlert>,
    /// The instance that judged them.
    instance: String,
}

/// How a notice stands on one channel.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case", tag = "state")]
pub(in crate::http) enum ChannelStanding {
    /// It is to be delivered, not before this.
    Waiting { next: Moment },
    /// It has arrived.
    Delivered { at: Moment },
    /// It was given up.
    Dead { at: Moment },
}

/// How far a notice has come on one channel.
#[derive(ToSchema)]
pub(in crate::http) struct ChannelProgress {
    attempts: u32,
    standing: ChannelStanding,
    /// Since when it is tried.
    since: Moment,
    /// Why the last attempt failed, if one did.
    #[schema(required = false)]
    error: String,
}

/// Whether some channel is still to deliver it, every channel has, or some channel gave it up.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::http) enum NoticeStatus {
    Pending,
    Delivered,
    Dead,
}

/// A notice and how far it has come.
#[derive(ToSchema)]
pub(in crate::http) struct Notice {
    notice: NoticeText,
    status: NoticeStatus,
    /// By channel, how far it has come.
    channels: BTreeMap<String, ChannelProgress>,
    /// Its place among all notices.
    order: u64,
    /// When it came to stand as it does.
    changed_at: Moment,
}

/// What holds an alert back.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::http) enum HeldBy {
    /// It is less severe than what is told here.
    Severity,
    /// A silence or a maintenance window, by its id.
    Silence(String),
    /// It follows from an alert of this rule, which fires too.
    Inhibited(String),
}

/// An alert that fires and is not told.
#[derive(ToSchema)]
pub(in crate::http) struct HeldAlert {
    rule: String,
    /// Which firing of the rule.
    episode: u64,
    why: HeldBy,
}

/// A notice with how far it has come; or, for the status `held`, an alert that fires and is not told.
#[derive(ToSchema)]
#[serde(untagged)]
pub(in crate::http) enum NoticeOrHeld {
    Notice(Notice),
    Held(HeldAlert),
}

/// What a test notice came to on a channel.
#[derive(ToSchema)]
pub(in crate::http) struct TestedChannel {
    channel: String,
    delivered: bool,
    /// Why not.
    #[schema(required)]
    error: Option<String>,
}
