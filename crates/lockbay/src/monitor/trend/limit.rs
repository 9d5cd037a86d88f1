//! When a series that moves reaches its limit, if it goes on as it does.

use serde::Serialize;

use super::slope::Line;

/// No time beyond this is told: nothing that was seen speaks about it.
const FARTHEST_HOURS: f64 = 10.0 * 365.0 * 24.0;

/// When a limit is reached.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct TimeToLimit {
    /// The limit.
    pub limit: f64,
    /// Hours from the last point, by the slope.
    pub hours: f64,
    /// At the steepest slope of the interval.
    pub earliest_hours: f64,
    /// At the flattest; none if that does not lead to the limit, or not within ten years.
    pub latest_hours: Option<f64>,
}

/// When a line that stands at `level` now reaches the limit; none if it does not lead there. Zero
/// if it is there.
pub(super) fn time_to(limit: f64, level: f64, line: &Line) -> Option<TimeToLimit> {
    let hours = hours_to(limit, level, line.slope)?;
    let (a, b) = (hours_to(limit, level, line.low), hours_to(limit, level, line.high));
    let earliest_hours = [a, b].into_iter().flatten().fold(hours, f64::min);
    let latest_hours = a.zip(b).map(|(a, b)| a.max(b));
    Some(TimeToLimit { limit, hours, earliest_hours, latest_hours })
}

fn hours_to(limit: f64, level: f64, slope: f64) -> Option<f64> {
    let hours = (limit - level) / slope;
    (slope != 0.0 && (0.0..=FARTHEST_HOURS).contains(&hours)).then_some(hours)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_of_the_slope_is_that_of_the_time() {
        let line = Line { slope: 2.0, low: 1.0, high: 4.0, start: 0.0, p: 0.0 };
        let time = time_to(100.0, 60.0, &line).unwrap();
        assert_eq!((time.hours, time.earliest_hours), (20.0, 10.0));
        assert_eq!(time.latest_hours, Some(40.0));
        let unsure = Line { low: -1.0, ..line };
        assert_eq!(time_to(100.0, 60.0, &unsure).unwrap().latest_hours, None);
        assert_eq!(time_to(100.0, 120.0, &line), None, "it leads away from the limit");
        assert_eq!(time_to(100.0, 60.0, &Line { slope: 0.0, ..line }), None);
    }
}
