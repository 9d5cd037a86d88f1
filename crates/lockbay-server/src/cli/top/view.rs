//! How the state looks in an area of a screen. Pure: nothing is asked or kept.
//!
//! Whatever comes from a server is shown escaped, as in tables.

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Row, Table, Widget, Wrap};
use serde_json::Value;

use super::snapshot::{LATENCIES, RATES, Snapshot};
use super::state::{State, Tab};
use crate::cli::metrics::{line as spark, number};
use crate::cli::output::shown;

const KEYS: &str = "q end  tab next  ↑↓ scroll  p pause  r look now";

/// Draws all of it.
pub(super) fn view(state: &State, area: Rect, buffer: &mut Buffer) {
    let [head, tabs, body, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(2),
        Constraint::Min(0),
        Constraint::Length(1),
    ])
    .areas(area);
    Paragraph::new(header(state)).render(head, buffer);
    Paragraph::new(tab_line(state)).render(tabs, buffer);
    match (&state.now, state.tab) {
        (_, Tab::Events) => events(state, body, buffer),
        (None, _) => Paragraph::new("waiting for the server ...").render(body, buffer),
        (Some(now), Tab::Overview) => overview(state, now, body, buffer),
        (Some(now), Tab::Sagas) => sagas(state, now, body, buffer),
        (Some(now), Tab::Jobs) => jobs(state, now, body, buffer),
    }
    let foot_text = match &state.trouble {
        Some(why) => Line::styled(format!("lost: {}; coming back", shown(why)), state.bad()),
        None => Line::styled(KEYS, state.faint()),
    };
    Paragraph::new(foot_text).render(foot, buffer);
}

impl State {
    fn tint(&self, color: Color) -> Style {
        if self.coloured { Style::new().fg(color) } else { Style::new() }
    }

    fn bad(&self) -> Style {
        self.tint(Color::Red).add_modifier(Modifier::BOLD)
    }

    fn good(&self) -> Style {
        self.tint(Color::Green)
    }

    fn faint(&self) -> Style {
        if self.coloured { Style::new().add_modifier(Modifier::DIM) } else { Style::new() }
    }

    fn heading(&self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }
}

fn header(state: &State) -> Line<'static> {
    let mut parts = vec![Span::styled(shown(&state.url), state.heading()), Span::raw("  ")];
    match &state.now {
        None => parts.push(Span::raw("no answer yet")),
        Some(now) => {
            let (word, style) = match now.text("/health_status/status") {
                _ if !now.is("/health_status/overall_healthy") => ("UNHEALTHY", state.bad()),
                "degraded" => ("degraded", state.tint(Color::Yellow)),
                _ => ("healthy", state.good()),
            };
            parts.push(Span::styled(word, style));
            let role = if now.is("/is_leader") { "leads" } else { "follows" };
            let up = now.number("/uptime_seconds").unwrap_or_default();
            parts.push(Span::raw(format!("  {role}  up {}", duration(up))));
        }
    }
    if state.paused {
        parts.push(Span::styled("  PAUSED", state.heading()));
    }
    Line::from(parts)
}

fn tab_line(state: &State) -> Line<'static> {
    let spans = Tab::ALL.iter().flat_map(|tab| {
        let here = *tab == state.tab;
        let text = if here { format!("[{}]", tab.name()) } else { format!(" {} ", tab.name()) };
        let style = if here { state.heading() } else { state.faint() };
        [Span::styled(text, style), Span::raw(" ")]
    });
    Line::from(spans.collect::<Vec<_>>())
}

fn overview(state: &State, now: &Snapshot, area: Rect, buffer: &mut Buffer) {
    let rate_rows = u16::try_from(RATES.len()).unwrap_or(0) + 2;
    let latency_rows = u16::try_from(LATENCIES.len()).unwrap_or(0) + 2;
    let [facts, rates, latencies, needs] = Layout::vertical([
        Constraint::Length(4),
        Constraint::Length(rate_rows),
        Constraint::Length(latency_rows),
        Constraint::Min(0),
    ])
    .areas(area);
    Paragraph::new(about(now)).render(facts, buffer);
    let widths = [
        Constraint::Length(20),
        Constraint::Length(12),
        Constraint::Length(14),
        Constraint::Min(10),
    ];
    let rows = RATES.iter().zip(&state.rates).map(|((name, path), points)| {
        let points: Vec<Option<f64>> = points.iter().copied().collect();
        let last = points.last().copied().flatten();
        let total = now.number(path).map_or("-".into(), number);
        let rate = last.map_or("-".into(), |rate| format!("{rate:.1}"));
        Row::new([(*name).to_owned(), rate, total, spark(&points)])
    });
    table(state, ["RATE", "PER SECOND", "SINCE START", "LATELY"], rows, widths)
        .render(rates, buffer);
    let rows = LATENCIES.iter().map(|(name, path)| {
        let of = |part: &str| now.number(&format!("{path}/{part}")).map_or("-".into(), time);
        Row::new([(*name).to_owned(), of("p50"), of("p95"), of("p99")])
    });
    table(state, ["TIME", "P50", "P95", "P99"], rows, widths).render(latencies, buffer);
    Paragraph::new(needing(state, now)).wrap(Wrap { trim: false }).render(needs, buffer);
}

fn about(now: &Snapshot) -> Vec<Line<'static>> {
    let text = |path: &str| shown(now.text(path));
    let leader = match now.metrics.get("leader_info").filter(|leader| !leader.is_null()) {
        Some(leader) => format!(
            "{} term {} until {}",
            text("/leader_info/instance_id"),
            leader["term"],
            text("/leader_info/expires_at")
        ),
        None => "nobody".into(),
    };
    let (backend, durability) =
        (text("/system_metrics/store/backend"), text("/system_metrics/store/durability"));
    let running = now.number("/saga_metrics/running_sagas").unwrap_or_default();
    let in_flight = now.number("/system_metrics/requests_in_flight").unwrap_or_default();
    let memory = now.number("/system_metrics/process_memory_bytes").unwrap_or_default();
    vec![
        Line::raw(format!("leader  {leader}")),
        Line::raw(format!("store   {backend} ({durability})")),
        Line::raw(format!(
            "now     {running:.0} sagas run, {in_flight:.0} requests, {:.0} MiB",
            memory / 1_048_576.0
        )),
    ]
}

/// What a person should look at.
fn needing(state: &State, now: &Snapshot) -> Vec<Line<'static>> {
    let issues = now.metrics.pointer("/health_status/issues").and_then(Value::as_array);
    let issues = issues.into_iter().flatten().filter_map(Value::as_str);
    let mut lines: Vec<Line<'static>> =
        issues.map(|issue| Line::styled(format!("issue: {}", shown(issue)), state.bad())).collect();
    lines.extend(now.alerts.iter().map(|alert| {
        let of = |name: &str| shown(alert[name].as_str().unwrap_or("-"));
        let text = format!("alert: {} ({}) {}", of("rule"), of("severity"), of("summary"));
        Line::styled(text, state.bad())
    }));
    lines.extend(now.parked.iter().map(|saga| {
        let of = |name: &str| shown(saga[name].as_str().unwrap_or("-"));
        Line::raw(format!("parked: {} {} {}", of("saga_id"), of("saga_name"), of("reason")))
    }));
    if lines.is_empty() {
        lines.push(Line::styled("nothing needs a person", state.good()));
    }
    lines
}

fn table<'a, const N: usize>(
    state: &State,
    heading: [&'static str; N],
    rows: impl Iterator<Item = Row<'a>>,
    widths: [Constraint; N],
) -> Table<'a> {
    Table::new(rows, widths).header(Row::new(heading).style(state.heading())).column_spacing(2)
}

fn sagas(state: &State, now: &Snapshot, area: Rect, buffer: &mut Buffer) {
    let rows = now.parked.iter().chain(&now.running).skip(state.scrolled).map(|saga| {
        let of = |name: &str| shown(saga[name].as_str().unwrap_or("-"));
        let style = if saga["status"] == "parked" { state.bad() } else { Style::new() };
        Row::new(["saga_id", "status", "saga_name", "updated_at", "reason"].map(of)).style(style)
    });
    let widths = [
        Constraint::Length(34),
        Constraint::Length(12),
        Constraint::Length(18),
        Constraint::Length(28),
        Constraint::Min(10),
    ];
    table(state, ["SAGA ID", "STATUS", "NAME", "SINCE", "REASON"], rows, widths)
        .render(area, buffer);
}

fn jobs(state: &State, now: &Snapshot, area: Rect, buffer: &mut Buffer) {
    let rows = now.jobs.iter().skip(state.scrolled).map(|job| {
        let of = |name: &str| shown(job[name].as_str().unwrap_or("-"));
        let status = if job["lapsed"] == true { "lapsed".to_owned() } else { of("status") };
        let style = if job["lapsed"] == true { state.bad() } else { Style::new() };
        let cells = [of("job_type"), of("job_key"), status, of("holder"), of("claimed_at")];
        Row::new(cells).style(style)
    });
    let widths = [
        Constraint::Length(16),
        Constraint::Length(28),
        Constraint::Length(10),
        Constraint::Length(20),
        Constraint::Min(10),
    ];
    table(state, ["TYPE", "KEY", "STATUS", "HOLDER", "CLAIMED"], rows, widths).render(area, buffer);
}

fn events(state: &State, area: Rect, buffer: &mut Buffer) {
    let lines: Vec<Line<'_>> =
        state.events.iter().skip(state.scrolled).map(|line| Line::raw(shown(line))).collect();
    let lines = if lines.is_empty() { vec![Line::raw("nothing has happened yet")] } else { lines };
    Paragraph::new(lines).render(area, buffer);
}

/// Seconds in the unit that fits.
fn time(seconds: f64) -> String {
    if seconds < 0.001 {
        format!("{:.0} µs", seconds * 1e6)
    } else if seconds < 1.0 {
        format!("{:.1} ms", seconds * 1e3)
    } else {
        format!("{seconds:.2} s")
    }
}

fn duration(seconds: f64) -> String {
    let minutes = (seconds / 60.0).floor();
    match minutes {
        few if few < 1.0 => format!("{seconds:.0} s"),
        few if few < 120.0 => format!("{few:.0} min"),
        many if many < 2_880.0 => format!("{:.0} h", many / 60.0),
        many => format!("{:.0} d", many / 1_440.0),
    }
}

#[cfg(test)]
mod tests {
    use lockbay::clock::Clock;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::crossterm::event::{KeyCode, KeyEvent};
    use serde_json::json;

    use super::super::state::Wish;
    use super::*;

    fn snapshot(jobs: u64) -> Snapshot {
        Snapshot {
            taken: Clock::system().tick(),
            metrics: json!({
                "instance_id": "i1", "uptime_seconds": 7_300.0, "is_leader": true,
                "leader_info": { "instance_id": "i1", "term": 3, "expires_at": "later" },
                "health_status": { "overall_healthy": true, "status": "healthy", "issues": [] },
                "job_idempotency_metrics": { "jobs_completed": jobs,
                    "job_seconds": { "p50": 0.0005, "p95": 0.02, "p99": 1.5 } },
                "system_metrics": { "store": { "backend": "sqlite", "durability": "full" } },
            }),
            parked: vec![json!({ "saga_id": "s1", "saga_name": "payout", "status": "parked",
                "reason": "the bank \u{1b}[2J is down" })],
            running: vec![json!({ "saga_id": "s2", "saga_name": "escrow", "status": "running" })],
            jobs: vec![json!({ "job_type": "pay", "job_key": "order\n1", "status": "claimed",
                "lapsed": true, "holder": "web-1" })],
            alerts: vec![
                json!({ "rule": "saga_parked", "severity": "critical", "summary": "one" }),
            ],
        }
    }

    fn drawn(state: &State, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| view(state, frame.area(), frame.buffer_mut())).unwrap();
        terminal.backend().to_string()
    }

    fn press(state: &mut State, code: KeyCode) -> Wish {
        state.press(KeyEvent::from(code))
    }

    #[test]
    fn the_overview_shows_health_leader_latencies_and_what_needs_a_person() {
        let mut state = State::new("http://127.0.0.1:5000/".into(), false);
        assert!(drawn(&state, 100, 30).contains("no answer yet"));
        state.saw(snapshot(5));
        let text = drawn(&state, 100, 30);
        for part in [
            "healthy",
            "leads",
            "up 2 h",
            "term 3",
            "sqlite (full)",
            "500 µs",
            "20.0 ms",
            "1.50 s",
            "alert: saga_parked (critical)",
            "parked: s1 payout",
            "\\u{1b}[2J",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }

    #[test]
    fn keys_lead_through_the_tabs_and_what_a_server_says_is_escaped() {
        let mut state = State::new("http://h/".into(), true);
        state.saw(snapshot(5));
        assert_eq!(press(&mut state, KeyCode::Tab), Wish::Nothing);
        let text = drawn(&state, 120, 20);
        assert!(text.contains("[sagas]") && text.contains("s2"), "{text}");
        press(&mut state, KeyCode::Char('j'));
        assert!(!drawn(&state, 120, 20).contains("payout"), "the first row is scrolled away");
        press(&mut state, KeyCode::Right);
        let text = drawn(&state, 120, 20);
        assert!(text.contains("order\\n1") && text.contains("lapsed"), "{text}");
        press(&mut state, KeyCode::Right);
        state.happened("saga_parked s1".into());
        assert!(drawn(&state, 120, 20).contains("saga_parked s1"));
        press(&mut state, KeyCode::Right);
        assert!(drawn(&state, 120, 20).contains("[overview]"), "round and round");
        assert_eq!(press(&mut state, KeyCode::Char('q')), Wish::End);
    }

    #[test]
    fn a_server_that_went_is_told_and_what_was_seen_stays() {
        let mut state = State::new("http://h/".into(), false);
        state.saw(snapshot(5));
        state.missed("connection refused".into());
        let text = drawn(&state, 100, 30);
        assert!(text.contains("lost: connection refused; coming back"), "{text}");
        assert!(text.contains("healthy"), "{text}");
        state.saw(snapshot(6));
        assert!(!drawn(&state, 100, 30).contains("lost"));
    }

    #[test]
    fn a_pause_keeps_events_away_and_a_tiny_screen_is_no_error() {
        let mut state = State::new("http://h/".into(), false);
        state.saw(snapshot(5));
        press(&mut state, KeyCode::Char('p'));
        state.happened("late".into());
        assert!(state.events.is_empty() && drawn(&state, 100, 30).contains("PAUSED"));
        for (width, height) in [(1, 1), (10, 3), (40, 8), (300, 100)] {
            drawn(&state, width, height);
        }
    }

    #[test]
    fn a_rate_is_not_told_over_a_restart() {
        let (before, mut now) = (snapshot(50), snapshot(60));
        let path = "/job_idempotency_metrics/jobs_completed";
        assert!(now.rate(&before, path).is_some_and(|rate| rate > 0.0));
        now.metrics["instance_id"] = json!("i2");
        assert_eq!(now.rate(&before, path), None);
        assert_eq!(snapshot(40).rate(&before, path), None, "a counter never goes back");
    }
}
