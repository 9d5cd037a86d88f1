//! What a dotted path means: a row of the table, or a part of a histogram.
//!
//! A histogram has parts: `.count`, `.sum`, `.p50`, `.p95` and `.p99` behind its path.

use serde::Serialize;

use super::table::{Merge, Row, TABLE, Type, Unit};

/// Paths of the guide's document that name what has another path, too.
const ALSO: [(&str, &str); 4] = [
    ("is_leader", "system_metrics.is_leader"),
    ("health_status.overall_healthy", "system_metrics.healthy"),
    ("health_status.store_round_trip_ms", "system_metrics.store_round_trip_ms"),
    ("system_metrics.uptime_seconds", "uptime_seconds"),
];

/// Which part of a metric a path names.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Part {
    /// A counter, a gauge, or a histogram as a whole.
    Whole,
    /// How many observations a histogram has.
    Count,
    /// Their sum, in seconds.
    Sum,
    /// The value below which this share of them lies.
    Quantile(f64),
}

/// The parts of a histogram, by the name behind its path.
pub const PARTS: [(&str, Part); 5] = [
    ("count", Part::Count),
    ("sum", Part::Sum),
    ("p50", Part::Quantile(0.5)),
    ("p95", Part::Quantile(0.95)),
    ("p99", Part::Quantile(0.99)),
];

/// What a path names.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Series {
    /// The path of the metric, without the part.
    pub path: &'static str,
    /// Which part of it.
    #[serde(skip)]
    pub part: Part,
    /// How the metric behaves.
    #[serde(rename = "type")]
    pub kind: Type,
    /// What its value is in.
    pub unit: Unit,
    /// What several instances come to.
    pub merge: Merge,
    /// What it tells.
    pub help: &'static str,
}

/// Every metric by its path.
pub fn paths() -> impl Iterator<Item = Series> {
    TABLE.iter().map(|row| series(row, Part::Whole))
}

/// What a path names; `None` if it names nothing.
pub fn find(path: &str) -> Option<Series> {
    let (row, part) = locate(path)?;
    Some(series(row, part))
}

/// Paths that look like this one, the most alike first; five at most.
pub fn alike(path: &str) -> Vec<&'static str> {
    let wanted = last_word(path);
    let mut found: Vec<(usize, &'static str)> = TABLE
        .iter()
        .map(|row| {
            let word = last_word(row.path);
            let inside = !wanted.is_empty() && (word.contains(wanted) || wanted.contains(word));
            let far = if inside { 0 } else { distance(wanted, word) };
            (far * 2 + usize::from(first_word(row.path) != first_word(path)), row.path)
        })
        .filter(|(far, _)| *far <= 8)
        .collect();
    found.sort_unstable();
    found.into_iter().take(5).map(|(_, path)| path).collect()
}

pub(super) fn locate(path: &str) -> Option<(&'static Row, Part)> {
    let path = ALSO.iter().find(|(also, _)| *also == path).map_or(path, |(_, path)| path);
    if let Some(row) = TABLE.iter().find(|row| row.path == path) {
        return Some((row, Part::Whole));
    }
    let (whole, name) = path.rsplit_once('.')?;
    let (_, part) = PARTS.iter().find(|(part, _)| *part == name)?;
    let row = TABLE.iter().find(|row| row.path == whole)?;
    (row.kind == Type::Histogram).then_some((row, *part))
}

fn series(row: &Row, part: Part) -> Series {
    let unit = if part == Part::Count { Unit::None } else { row.unit };
    Series { path: row.path, part, kind: row.kind, unit, merge: row.merge, help: row.help }
}

fn first_word(path: &str) -> &str {
    path.split('.').next().unwrap_or_default()
}

fn last_word(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or_default()
}

/// How many letters differ. What somebody sent is cut, as no path is that long.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (at, letter) in left.chars().take(64).enumerate() {
        let mut corner = row[0];
        row[0] = at + 1;
        for (to, other) in right.iter().enumerate() {
            let changed = corner + usize::from(letter != *other);
            corner = row[to + 1];
            row[to + 1] = changed.min(row[to] + 1).min(corner + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_one_metric_and_its_parts() {
        for row in TABLE {
            assert_eq!(TABLE.iter().filter(|other| other.path == row.path).count(), 1);
            assert_eq!(find(row.path).unwrap().part, Part::Whole, "{}", row.path);
            let p95 = find(&format!("{}.p95", row.path));
            assert_eq!(p95.is_some(), row.kind == Type::Histogram, "{}", row.path);
        }
        assert_eq!(find("is_leader").unwrap().path, "system_metrics.is_leader");
        for nothing in ["", ".", "p95", "saga_metrics", "saga_metrics.step_seconds.p96"] {
            assert_eq!(find(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn a_misspelt_path_finds_what_was_meant() {
        assert_eq!(alike("saga_metrics.saga_failed")[0], "saga_metrics.sagas_failed");
        assert_eq!(alike("sagas_failed")[0], "saga_metrics.sagas_failed");
        assert!(alike(&"x".repeat(100_000)).is_empty());
    }
}
