//! The report as text: for a terminal, as Markdown, as a page without scripts.
//!
//! First how it is, then what is wrong and what to do, then numbers. What is said is decided once,
//! as sections of lines; a format only says how they look. Everything that others wrote, such as an
//! error or the name of an alert, is made harmless for the format first.

use std::fmt::Write;

use super::{Report, Work};
use crate::error::{Error, Result};
use crate::monitor::health::Status;
use crate::monitor::trend::{Label, Named};

/// How a report is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For a terminal.
    Text,
    /// For a ticket or a chat.
    Markdown,
    /// A page that stands for itself.
    Html,
    /// For programs.
    Json,
}

impl std::str::FromStr for Format {
    type Err = Error;
    fn from_str(name: &str) -> Result<Self> {
        Ok(match name {
            "text" => Format::Text,
            "markdown" => Format::Markdown,
            "html" => Format::Html,
            "json" => Format::Json,
            _ => {
                return Err(Error::invalid(format!(
                    "a report is written as text, markdown, html or json, not {name:?}"
                )));
            }
        })
    }
}

/// Lines under a heading.
struct Section {
    heading: &'static str,
    lines: Vec<Line>,
}

enum Line {
    /// A name and its value.
    Fact(&'static str, String),
    /// A sentence.
    Item(String),
}

impl Report {
    /// Writes it.
    ///
    /// # Errors
    /// `Internal` if it cannot be written as JSON, which is a defect.
    pub fn write(&self, format: Format) -> Result<String> {
        let title = format!(
            "lockbay is {} ({}, {})",
            self.overall_status.name(),
            self.instance_name.as_deref().unwrap_or(&self.instance_id),
            self.timestamp
        );
        Ok(match format {
            Format::Text => text(&title, &self.sections()),
            Format::Markdown => markdown(&title, &self.sections()),
            Format::Html => html(&title, &self.sections()),
            Format::Json => serde_json::to_string(self).map_err(|error| {
                Error::new(crate::ErrorKind::Internal, format!("no report as JSON: {error}"))
            })?,
        })
    }

    /// What is said, the most important first; sections without lines are left out.
    fn sections(&self) -> Vec<Section> {
        let section = |heading, lines| Section { heading, lines };
        let items = |texts: &[String]| texts.iter().cloned().map(Line::Item).collect();
        let sections = [
            section("Alerts that fire", self.alerts()),
            section("What is not well", self.bad_checks()),
            section("What to do", items(&self.next_steps)),
            section("Getting worse", self.moving(Label::Degrading)),
            section("What could not be found out", items(&self.notes)),
            section("Jobs", work(&self.performance_summary.job_processing)),
            section("Sagas", work(&self.performance_summary.saga_processing)),
            section("This instance", self.instance()),
            section("Getting better", self.moving(Label::Improving)),
            section("Unusual for this hour", self.unusual()),
        ];
        sections.into_iter().filter(|section| !section.lines.is_empty()).collect()
    }

    fn alerts(&self) -> Vec<Line> {
        let mut alerts: Vec<_> = self.active_alerts.iter().collect();
        alerts.sort_by_key(|alert| std::cmp::Reverse(alert.severity));
        let line = |alert: &&super::ActiveAlert| {
            let (severity, since) = (format!("{:?}", alert.severity).to_lowercase(), alert.since);
            Line::Item(format!("{severity}: {}: {} (since {since})", alert.rule, alert.summary))
        };
        alerts.iter().map(line).collect()
    }

    fn bad_checks(&self) -> Vec<Line> {
        let mut bad: Vec<_> =
            self.checks.iter().filter(|check| check.status != Status::Healthy).collect();
        bad.sort_by_key(|check| std::cmp::Reverse(check.status));
        bad.iter()
            .flat_map(|check| {
                let lasts = check.bad_for_seconds.map(duration).unwrap_or_default();
                let (name, status) = (check.name, check.status.name());
                check.reasons.iter().map(move |reason| {
                    Line::Item(format!("{status} for {lasts}: {name}: {reason}"))
                })
            })
            .collect()
    }

    fn moving(&self, label: Label) -> Vec<Line> {
        self.trends.iter().filter(|named| named.trend.label == label).map(trend).collect()
    }

    fn unusual(&self) -> Vec<Line> {
        let mut lines = Vec::new();
        for (path, usual) in self.baselines.iter().filter(|(_, usual)| usual.unusual) {
            lines.push(Line::Item(format!(
                "{path}: {} instead of {}, {:.1} times the usual spread off",
                number(usual.value),
                number(usual.expected),
                usual.anomaly.abs()
            )));
        }
        lines
    }

    fn instance(&self) -> Vec<Line> {
        let load = &self.system_load;
        let leader = match (&self.leader_status.leader, self.leader_status.is_leader) {
            (_, true) => "this instance".to_owned(),
            (Some(leader), false) => {
                leader.instance_name.as_deref().unwrap_or(&leader.instance_id).to_owned()
            }
            (None, false) => "not known".to_owned(),
        };
        let mut lines = vec![
            Line::Fact("instance", self.instance_id.clone()),
            Line::Fact("leader", leader),
            Line::Fact("up for", duration(self.system_uptime)),
        ];
        let mut fact = |name, value: Option<String>| {
            lines.extend(value.map(|value| Line::Fact(name, value)));
        };
        fact("memory", load.process_memory_bytes.map(|b| format!("{:.0} MiB", b / 1_048_576.0)));
        fact(
            "requests in flight",
            load.requests_in_flight.map(|n| format!("{n:.0} of at most {}", load.max_in_flight)),
        );
        fact("running sagas", Some(format!("{:.0}", load.running_sagas)));
        fact("store round trip", load.store_round_trip_ms.map(|ms| format!("{ms:.1} ms")));
        let efficiency = self.performance_summary.cleanup_efficiency;
        fact("cleanup efficiency", efficiency.map(|share| format!("{share:.2}")));
        lines
    }
}

fn work(work: &Work) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut fact = |name, value: Option<String>| {
        lines.extend(value.map(|value| Line::Fact(name, value)));
    };
    fact("completed", work.completed.map(|n| format!("{n:.0}")));
    fact("failed", work.failed.map(|n| format!("{n:.0}")));
    fact("success", work.success_rate.map(|share| format!("{:.2} %", share * 100.0)));
    let usual = work.usual_per_second.map(|usual| format!(", usual now {} /s", number(usual)));
    let usual = usual.unwrap_or_default();
    fact("throughput", work.per_second.map(|rate| format!("{} /s{usual}", number(rate))));
    let times = [("p50", work.p50_ms), ("p95", work.p95_ms), ("p99", work.p99_ms)];
    for (name, time) in times {
        fact(name, time.map(|ms| format!("{ms:.1} ms")));
    }
    let own = &work.this_instance;
    let own = format!("{:.0} completed, {:.0} failed", own.completed, own.failed);
    fact("by this instance", Some(own));
    lines
}

fn trend(named: &Named) -> Line {
    let (trend, unit) = (&named.trend, named.unit);
    let from = trend.level - trend.change;
    let mut text = format!(
        "{}: from {} to {} {unit} within {} h",
        named.path,
        number(from),
        number(trend.level),
        named.window_hours
    );
    match trend.change_points.last() {
        Some(change) => {
            let _ = write!(text, ", by {} at {}", number(change.size), change.at);
        }
        None => {
            let (slope, p) = (number(trend.slope_per_hour), trend.p_value);
            let _ = write!(text, ", {slope} per hour (p {p:.1e})");
        }
    }
    if let Some(limit) = trend.time_to_limit {
        let (at, hours) = (number(limit.limit), number(limit.hours));
        let _ = write!(text, "; reaches its limit of {at} in {hours} h");
    }
    Line::Item(text)
}

/// A number with three digits that mean something.
fn number(value: f64) -> String {
    let size = value.abs();
    if size >= 1e9 {
        return format!("{value:.2e}");
    }
    match size {
        _ if size >= 100.0 || size == 0.0 => format!("{value:.0}"),
        _ if size >= 1.0 => format!("{value:.1}"),
        _ if size >= 0.001 => format!("{value:.4}"),
        _ => format!("{value:.1e}"),
    }
}

fn duration(seconds: f64) -> String {
    match seconds {
        _ if seconds < 120.0 => format!("{seconds:.0} s"),
        _ if seconds < 7_200.0 => format!("{:.0} min", seconds / 60.0),
        _ if seconds < 172_800.0 => format!("{:.1} h", seconds / 3_600.0),
        _ => format!("{:.1} days", seconds / 86_400.0),
    }
}

/// What would move the cursor, split a line or turn its direction is shown escaped.
fn one_line(text: &str) -> String {
    let turns = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{61c}');
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || turns(c) { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}

fn text(title: &str, sections: &[Section]) -> String {
    let mut page = format!("{}\n", one_line(title));
    for section in sections {
        let _ = write!(page, "\n{}\n", section.heading);
        for line in &section.lines {
            let _ = match line {
                Line::Fact(name, value) => writeln!(page, "  {name:<20} {}", one_line(value)),
                Line::Item(item) => writeln!(page, "  - {}", one_line(item)),
            };
        }
    }
    page
}

/// What has a meaning in Markdown loses it, HTML included.
fn quoted(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in one_line(text).chars() {
        match c {
            '<' => shown.push_str("&lt;"),
            '&' => shown.push_str("&amp;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '#' | '!' | '~' | '>' => {
                shown.push('\\');
                shown.push(c);
            }
            _ => shown.push(c),
        }
    }
    shown
}

fn markdown(title: &str, sections: &[Section]) -> String {
    let mut page = format!("# {}\n", quoted(title));
    for section in sections {
        let _ = write!(page, "\n## {}\n\n", section.heading);
        for line in &section.lines {
            let _ = match line {
                Line::Fact(name, value) => writeln!(page, "- {name}: **{}**", quoted(value)),
                Line::Item(item) => writeln!(page, "- {}", quoted(item)),
            };
        }
    }
    page
}

fn escaped(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in one_line(text).chars() {
        match c {
            '<' => shown.push_str("&lt;"),
            '>' => shown.push_str("&gt;"),
            '&' => shown.push_str("&amp;"),
            '"' => shown.push_str("&quot;"),
            '\'' => shown.push_str("&#39;"),
            _ => shown.push(c),
        }
    }
    shown
}

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;\
padding:0 1rem;color:#1a1a1a;background:#fff}h1{font-size:1.4rem}h2{font-size:1.1rem}\
table{border-collapse:collapse}td{padding:.1rem 1.5rem .1rem 0}\
@media(prefers-color-scheme:dark){body{color:#eee;background:#161616}}";

fn html(title: &str, sections: &[Section]) -> String {
    let title = escaped(title);
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title>\
         <style>{STYLE}</style></head>\n<body><h1>{title}</h1>\n"
    );
    for section in sections {
        let _ = writeln!(page, "<h2>{}</h2>", section.heading);
        let facts = section.lines.iter().filter_map(|line| match line {
            Line::Fact(name, value) => Some((name, value)),
            Line::Item(_) => None,
        });
        let rows: String = facts
            .map(|(name, value)| format!("<tr><td>{name}</td><td>{}</td></tr>\n", escaped(value)))
            .collect();
        let items: String = section
            .lines
            .iter()
            .filter_map(|line| match line {
                Line::Item(item) => Some(format!("<li>{}</li>\n", escaped(item))),
                Line::Fact(..) => None,
            })
            .collect();
        for (tag, inside) in [("table", rows), ("ul", items)] {
            if !inside.is_empty() {
                let _ = write!(page, "<{tag}>\n{inside}</{tag}>\n");
            }
        }
    }
    page.push_str("</body></html>\n");
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_is_harmless_in_every_format() {
        let evil =
            "<script>alert(1)</script>\n# x\u{1b}[2J\u{202e}\u{2028} [a](http://b) \"'".to_owned();
        let sections = [Section {
            heading: "Jobs",
            lines: vec![Line::Item(evil.clone()), Line::Fact("name", evil.clone())],
        }];
        let text = text(&evil, &sections);
        assert!(!text.contains('\u{1b}') && text.lines().count() == 5, "{text}");
        assert!(!text.contains(['\u{202e}', '\u{2028}']), "{text}");
        let page = html(&evil, &sections);
        assert!(!page.contains("<script") && !page.contains('\u{1b}'), "{page}");
        assert!(page.contains("&lt;script&gt;"));
        let markdown = markdown(&evil, &sections);
        assert!(!markdown.contains("<script") && markdown.contains("\\[a\\]"), "{markdown}");
        assert!(!markdown.contains("\n# x"));
    }

    #[test]
    fn numbers_are_as_long_as_they_mean_something() {
        for (value, shown) in
            [(0.0, "0"), (0.12345, "0.1235"), (3.1559, "3.2"), (1234.5, "1234"), (-0.5, "-0.5000")]
        {
            assert_eq!(number(value), shown);
        }
        assert_eq!((duration(90.0), duration(5_400.0)), ("90 s".into(), "90 min".into()));
    }
}
