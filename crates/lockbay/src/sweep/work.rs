//! Carrying out rules: for each scope of each, look, judge by the pattern, delete, and go on.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::book::Book;
use super::deletion::Deleter;
use super::foreign;
use super::pace::Pace;
use super::pattern::Pattern;
use super::report::RuleReport;
use super::rule::{MIN_SAGA_TTL, Rule, Scope};
use super::term::{Lost, Term};
use super::{Chores, Mode};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::retire::{Ask, Doomed, Errand, Look, Next, Pass, Retire};
use crate::store::Store;

/// How many records one look asks for, at most.
const LOOKED_AT: usize = 500;
/// How often a look that failed is made again before the scope is given up for this time.
const TRIES: u32 = 3;
const AGAIN_AFTER: Duration = Duration::from_millis(100);
/// After how many looks a pass remembers where it is.
const REMEMBER_EVERY: u64 = 16;

/// What is asked of the rules.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) mode: Mode,
    /// Only names that this matches, too.
    pub(super) pattern: Option<Pattern>,
    /// In place of the rules' own.
    pub(super) ttl: Option<Duration>,
    pub(super) extent: Extent,
    pub(super) part: Part,
    /// Whether somebody named the rule.
    pub(super) named: bool,
}

impl Wanted {
    /// How long keys of others must not have been used. A run of everything makes that no shorter
    /// than the rule does: keys that are in use are not ours to delete in passing.
    fn foreign_ttl(&self, rule: &Rule) -> Duration {
        match self.ttl {
            Some(ttl) if self.named => ttl,
            Some(ttl) => ttl.max(rule.ttl),
            None => rule.ttl,
        }
    }
}

/// Which scopes of the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    All,
    /// Those in which an index tells what may go.
    Indexed,
    /// The others.
    LookedThrough,
}

impl Part {
    fn has(self, scope: Scope) -> bool {
        match self {
            Part::All => true,
            Part::Indexed => scope.is_indexed(),
            Part::LookedThrough => !scope.is_indexed(),
        }
    }
}

/// Whether what an earlier pass has seen is looked at again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// Only what is new.
    New,
    /// Everything.
    All,
}

/// One who carries out rules.
pub(super) struct Work<'a> {
    pub(super) store: &'a Arc<dyn Store>,
    pub(super) book: &'a Book,
    pub(super) chores: &'a Chores,
    pub(super) foreign_keys: bool,
    pub(super) term: &'a Term,
    pub(super) wanted: Wanted,
    /// When work last came on, in ticks; for health.
    pub(super) progress: Option<&'a AtomicU64>,
}

impl Work<'_> {
    /// Carries out one rule, as long as the right is held; what was done until then is in the
    /// report.
    pub(super) async fn rule(&self, rule: &Rule, report: &mut RuleReport) -> Result<(), Lost> {
        let pattern = match Pattern::new(&rule.pattern) {
            Ok(pattern) => pattern,
            Err(error) => {
                report.failed(error.to_string());
                return Ok(());
            }
        };
        // A read, as a ping takes the turn of a commit.
        let leads = std::slice::from_ref(&self.term.fence.key);
        let now = match self.term.alive(self.store.get(leads)).await? {
            Ok(read) => read.now,
            Err(error) => {
                report.failed(error.to_string());
                return Ok(());
            }
        };
        let batch = usize::try_from(rule.batch_size).unwrap_or(usize::MAX);
        let mut deleter = Deleter {
            store: &**self.store,
            scribe: &self.book.scribe,
            rule: &rule.name,
            term: self.term,
            mode: self.wanted.mode,
            pace: Pace::new(batch),
            rested: self.term.clock.tick(),
            progress: self.progress,
        };
        for scope in rule.scopes().into_iter().filter(|scope| self.wanted.part.has(*scope)) {
            match scope {
                Scope::ForeignKeys if self.foreign_keys => {
                    let sweep = foreign::Sweep {
                        rule,
                        ttl: self.wanted.foreign_ttl(rule),
                        also: self.wanted.pattern.as_ref(),
                        batch,
                    };
                    sweep.run(&mut deleter, report).await?;
                }
                Scope::ForeignKeys => {}
                Scope::StaleState => {
                    if let Some(errand) = &self.chores.stale_state {
                        self.errand(&**errand, batch, &mut deleter, report).await?;
                    }
                }
                Scope::ExpiredState
                | Scope::Leftovers
                | Scope::JobResults
                | Scope::Jobs
                | Scope::Sagas
                | Scope::Leases
                | Scope::History
                | Scope::Notices
                | Scope::DeadNotices
                | Scope::Tokens
                | Scope::AccessSessions
                | Scope::Audit
                | Scope::StateKeys => {
                    if let Some(chore) = self.chores.retire.get(&scope) {
                        let task = Task { rule, scope, pattern: &pattern, now };
                        self.retire(&**chore, &task, &mut deleter, report).await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// What a service lets go, look by look.
    async fn retire(
        &self,
        chore: &dyn Retire,
        task: &Task<'_>,
        deleter: &mut Deleter<'_>,
        report: &mut RuleReport,
    ) -> Result<(), Lost> {
        let resumes = self.wanted.extent == Extent::New
            && self.wanted.ttl.is_none()
            && self.wanted.pattern.is_none()
            && self.wanted.mode == Mode::Delete;
        let mut place = None;
        if resumes {
            place = self.term.alive(self.book.place(task.rule, task.scope)).await?;
        }
        let mut remembered = place.is_some();
        let errors_before = report.errors;
        let (mut looks, mut failures) = (0u64, 0);
        loop {
            let look = match self.look(chore, task, place.as_deref()).await? {
                Ok(look) => look,
                Err(error) => {
                    failures += 1;
                    if failures == TRIES {
                        report.failed(error.to_string());
                        return Ok(());
                    }
                    self.term.sleep(AGAIN_AFTER).await?;
                    continue;
                }
            };
            (failures, looks) = (0, looks + 1);
            let cleaned_before = report.cleaned;
            let next = self.settle(look, task, deleter, report).await?;
            // What failed is to be found again.
            let clean = resumes && report.errors == errors_before;
            match next {
                Next::At(next) => {
                    if clean && looks % REMEMBER_EVERY == 0 {
                        self.remember(task, Some(next.clone())).await?;
                        remembered = true;
                    }
                    place = Some(next);
                }
                // What cannot be deleted now would be found again for ever.
                Next::Again if report.cleaned > cleaned_before => place = None,
                Next::Again => return Ok(()),
                // The next pass begins where this one says, or else anew.
                Next::End(next) => {
                    if clean && (next.is_some() || remembered) {
                        self.remember(task, next).await?;
                    }
                    return Ok(());
                }
            }
        }
    }

    async fn remember(&self, task: &Task<'_>, place: Option<String>) -> Result<(), Lost> {
        let remembered = self.book.remember(task.rule, task.scope, place, self.term);
        self.term.alive(remembered).await
    }

    async fn look(
        &self,
        chore: &dyn Retire,
        task: &Task<'_>,
        place: Option<&str>,
    ) -> Result<Result<Look>, Lost> {
        let mut ttl = self.wanted.ttl.unwrap_or(task.rule.ttl);
        if task.scope == Scope::Sagas {
            ttl = ttl.max(MIN_SAGA_TTL);
        }
        // What does not match would be found first again and again.
        let narrowed = task.rule_names() && !task.pattern.is_everything();
        let full = self.wanted.mode == Mode::DryRun || self.wanted.pattern.is_some() || narrowed;
        let by_rule = if task.rule_names() { task.pattern.literal_prefix() } else { "" };
        let asked = self.wanted.pattern.as_ref().map_or("", Pattern::literal_prefix);
        // Of two beginnings that a name has, one goes on where the other ends, or there is none.
        let prefix = if asked.len() > by_rule.len() { asked } else { by_rule };
        let ask = Ask {
            place,
            ttl,
            now: task.now,
            limit: LOOKED_AT,
            pass: if full { Pass::Full } else { Pass::Due },
            prefix,
        };
        self.term.alive(chore.look(&ask)).await
    }

    /// Deletes what was found, as far as it has the right name, and says where to go on.
    async fn settle(
        &self,
        look: Look,
        task: &Task<'_>,
        deleter: &mut Deleter<'_>,
        report: &mut RuleReport,
    ) -> Result<Next, Lost> {
        let found = look.doomed.len();
        let doomed: Vec<Doomed> =
            look.doomed.into_iter().filter(|one| self.is_named(task, one)).collect();
        report.scanned += look.scanned - (found - doomed.len()) as u64;
        look.kept.iter().for_each(|why| report.keep(why, 1));
        look.broken.into_iter().for_each(|error| report.failed(error));
        match doomed.is_empty() {
            true => deleter.rest().await?,
            false => deleter.delete(doomed, report).await?,
        }
        Ok(look.next)
    }

    /// Whether the patterns ask for this. What has no name is asked for by no pattern of a run.
    fn is_named(&self, task: &Task<'_>, one: &Doomed) -> bool {
        let asked = match (&self.wanted.pattern, &one.name) {
            (None, _) => true,
            (Some(pattern), Some(name)) => pattern.matches(name),
            (Some(_), None) => false,
        };
        let ruled = match &one.name {
            Some(name) if task.rule_names() => task.pattern.matches(name),
            Some(_) => true,
            None => !task.rule_names() || task.pattern.is_everything(),
        };
        asked && ruled
    }

    /// Work that a service does itself. It has no names, and no dry run.
    async fn errand(
        &self,
        errand: &dyn Errand,
        batch: usize,
        deleter: &mut Deleter<'_>,
        report: &mut RuleReport,
    ) -> Result<(), Lost> {
        if self.wanted.mode == Mode::DryRun || self.wanted.pattern.is_some() {
            return Ok(());
        }
        loop {
            match self.term.alive(errand.work(&self.term.fence, batch)).await? {
                Ok(worked) => {
                    report.scanned += worked.scanned;
                    report.cleaned += worked.cleaned;
                    report.bytes_freed += worked.bytes;
                    deleter.rest().await?;
                    if !worked.more {
                        return Ok(());
                    }
                }
                Err(error) => {
                    report.failed(error.to_string());
                    return Ok(());
                }
            }
        }
    }
}

/// One scope of one rule.
struct Task<'a> {
    rule: &'a Rule,
    scope: Scope,
    pattern: &'a Pattern,
    now: Timestamp,
}

impl Task<'_> {
    /// Whether the rule's own pattern says which things of this scope are meant. Values that have
    /// expired, and leftovers, go whatever they are called.
    fn rule_names(&self) -> bool {
        match self.scope {
            Scope::ExpiredState | Scope::StaleState | Scope::Leftovers | Scope::Audit => false,
            Scope::JobResults
            | Scope::Jobs
            | Scope::Sagas
            | Scope::Leases
            | Scope::History
            | Scope::StateKeys
            | Scope::ForeignKeys
            | Scope::Notices
            | Scope::DeadNotices
            | Scope::Tokens
            | Scope::AccessSessions => true,
        }
    }
}
