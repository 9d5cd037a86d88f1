//! Keys of others on the same server: looked for by pattern, as slowly as the server needs it, and
//! deleted by the store, which checks each in the same step.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use super::Mode;
use super::deletion::Deleter;
use super::pattern::Pattern;
use super::report::RuleReport;
use super::rule::{Expiring, Rule};
use super::term::Lost;
use crate::error::{Error, ErrorKind};
use crate::store::{Foreign, ForeignRule};

/// How many keys of the server one call looks at, at least, at first and at most.
const LEAST: usize = 10;
const FIRST: usize = 100;
const MOST: usize = 2_000;
/// What a call may take before fewer keys are asked for.
const SLOW: Duration = Duration::from_millis(5);
/// How many errors in a row end a pass.
const ERRORS: u32 = 3;
/// How many keys a dry run remembers, so that one that is shown twice counts once.
const REMEMBERED: usize = 1_000_000;

/// One rule's pass through keys of others.
pub(super) struct Sweep<'a> {
    pub(super) rule: &'a Rule,
    pub(super) ttl: Duration,
    /// Only names that this matches, too.
    pub(super) also: Option<&'a Pattern>,
    pub(super) batch: usize,
}

impl Sweep<'_> {
    pub(super) async fn run(
        &self,
        deleter: &mut Deleter<'_>,
        report: &mut RuleReport,
    ) -> Result<(), Lost> {
        let Some(foreign) = deleter.store.upkeep().foreign() else { return Ok(()) };
        let (mut cursor, mut count, mut errors) = (0, FIRST, Errors::default());
        let mut seen = HashSet::new();
        loop {
            let began = deleter.term.clock.tick();
            let page = foreign.keys(&self.rule.pattern, cursor, count);
            match deleter.term.alive(page).await? {
                Ok((next, keys)) => {
                    let took = deleter.term.clock.tick().since(began);
                    let next_count = if took > SLOW { count / 2 } else { count * 2 };
                    count = next_count.clamp(LEAST, MOST);
                    let keys = self.wanted(keys, &mut seen, deleter.mode);
                    errors.looking = 0;
                    match self.delete(foreign, &keys, &mut errors, deleter, report).await? {
                        Pass::GoesOn if next != 0 => cursor = next,
                        Pass::GoesOn | Pass::Ends => return Ok(()),
                    }
                }
                Err(error) => {
                    errors.looking += 1;
                    if errors.looking == ERRORS || is_final(&error) {
                        report.failed(error.to_string());
                        return Ok(());
                    }
                }
            }
            deleter.rest().await?;
        }
    }

    /// Keys that a dry run has not counted yet, and that the run asks for.
    fn wanted(&self, keys: Vec<Vec<u8>>, seen: &mut HashSet<u64>, mode: Mode) -> Vec<Vec<u8>> {
        let asked = |key: &Vec<u8>| {
            self.also.is_none_or(|pattern| pattern.matches(&String::from_utf8_lossy(key)))
        };
        let mut wanted: Vec<Vec<u8>> = keys.into_iter().filter(asked).collect();
        wanted.sort();
        wanted.dedup();
        if mode == Mode::DryRun {
            wanted.retain(|key| {
                let mut hasher = DefaultHasher::new();
                key.hash(&mut hasher);
                seen.len() >= REMEMBERED || seen.insert(hasher.finish())
            });
        }
        wanted
    }

    async fn delete(
        &self,
        foreign: &dyn Foreign,
        keys: &[Vec<u8>],
        errors: &mut Errors,
        deleter: &mut Deleter<'_>,
        report: &mut RuleReport,
    ) -> Result<Pass, Lost> {
        let rule = ForeignRule {
            idle: self.ttl,
            expiring: self.rule.expiring == Expiring::Include,
            dry_run: deleter.mode == Mode::DryRun,
            fence: deleter.term.fence.clone(),
        };
        for some in keys.chunks(deleter.pace.size().min(self.batch)) {
            let began = deleter.term.clock.tick();
            let swept = deleter.term.alive(foreign.sweep(some, &rule)).await?;
            deleter.pace.took(deleter.term.clock.tick().since(began), some.len());
            report.scanned += some.len() as u64;
            match swept {
                Ok(swept) => {
                    errors.deleting = 0;
                    report.cleaned += swept.cleaned;
                    report.bytes_freed += swept.bytes;
                    report.keep("it has an expiry", swept.expiring);
                    report.keep("used not long ago", swept.young);
                    let told = swept.cleaned + swept.expiring + swept.young;
                    report.keep("gone meanwhile", (some.len() as u64).saturating_sub(told));
                }
                Err(error) if error.kind() == ErrorKind::Fenced => return Err(Lost),
                Err(error) => {
                    errors.deleting += 1;
                    report.failed(error.to_string());
                    if errors.deleting == ERRORS || is_final(&error) {
                        return Ok(Pass::Ends);
                    }
                }
            }
            deleter.rest().await?;
        }
        Ok(Pass::GoesOn)
    }
}

/// Errors in a row.
#[derive(Default)]
struct Errors {
    looking: u32,
    deleting: u32,
}

enum Pass {
    GoesOn,
    Ends,
}

/// Whether the same would be said of every other key.
fn is_final(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Unauthorized | ErrorKind::RolledBack)
}
