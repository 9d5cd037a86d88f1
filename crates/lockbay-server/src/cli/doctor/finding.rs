//! What a check comes to: how grave, what was found, why it matters, and what mends it.

use serde::Serialize;

use crate::cli::output;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    Fine,
    Warning,
    Wrong,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            State::Fine => "fine",
            State::Warning => "warning",
            State::Wrong => "WRONG",
        }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) state: State,
    pub(super) finding: String,
    /// Why it matters.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<&'static str>,
    /// The setting or the command that mends it.
    pub(super) advice: Option<String>,
}

impl Check {
    pub(super) fn fine(name: &'static str, finding: impl Into<String>) -> Self {
        Check { name, state: State::Fine, finding: finding.into(), why: None, advice: None }
    }

    pub(super) fn warning(
        name: &'static str,
        finding: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        let advice = Some(advice.into());
        Check { name, state: State::Warning, finding: finding.into(), why: None, advice }
    }

    pub(super) fn wrong(
        name: &'static str,
        finding: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        let advice = Some(advice.into());
        Check { name, state: State::Wrong, finding: finding.into(), why: None, advice }
    }

    /// The same with why it matters.
    pub(super) fn because(self, why: &'static str) -> Self {
        Check { why: Some(why), ..self }
    }
}

/// Writes all of them, the table first.
pub(super) fn report(checks: &[Check], json: bool) {
    let fine = checks.iter().all(|check| check.state != State::Wrong);
    if json {
        let document = serde_json::json!({ "ok": fine, "checks": checks });
        output::data(&document.to_string());
        return;
    }
    let row = |check: &Check| {
        vec![check.name.to_owned(), check.state.name().to_owned(), check.finding.clone()]
    };
    output::table(&["CHECK", "STATE", "FINDING"], checks.iter().map(row).collect());
    for check in checks {
        if let Some(why) = check.why {
            output::data(&format!("{}: {why}", check.name));
        }
        if let Some(advice) = &check.advice {
            output::data(&format!("{}, to mend it: {}", check.name, output::shown(advice)));
        }
    }
}
