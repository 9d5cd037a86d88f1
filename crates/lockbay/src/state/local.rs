//! Values at hand, and whether one may be served.
//!
//! # Why a value that is served is not too old
//! An entry says at which moment the read began that verified it against the store. It is served
//! within [`TRUST`] of that moment, so whatever was acknowledged anywhere a second ago was seen by
//! that read. What this instance acknowledges it applies here first: it draws a number and writes it
//! down as the floor of the key or tag. An entry whose read began before that number was drawn is
//! void, however late it is put in, because it is judged when it is served and not when it comes.
//! So no order of reads, answers and invalidations has to be kept, and nothing is locked. Hints are
//! applied in the same way and only make entries void sooner.
//!
//! Floors are kept by a hash: two keys that share one cost each other a read, nothing else.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use moka::sync::Cache;
use parking_lot::{Mutex, RwLock};

use super::record::StateEntry;
use crate::clock::{Clock, Tick};
use crate::glob::Glob;
use crate::store::Revision;

/// How long an entry is served after the beginning of the read that verified it. Promised is one
/// second.
pub(super) const TRUST: Duration = Duration::from_millis(900);
/// The most bytes that are kept at hand.
pub(super) const MAX_BYTES: u64 = 64 * 1024 * 1024;
/// What an entry weighs besides its key, value and tags; so there are never more than 131,072.
const OVERHEAD: usize = 512;
/// How many floors there are for keys, and for tags.
const FLOORS: usize = 8_192;
/// Invalidations by pattern that are remembered one by one.
const MAX_PATTERNS: usize = 1_024;
/// Of these the most recent ones are kept as they are; of older ones how their keys begin, because a
/// compiled pattern takes much memory.
const MAX_COMPILED: usize = 32;
/// Entries that wait to be verified again; more have to be read when they are asked for.
const MAX_USED: usize = 2_048;

/// When a read began: its number among all that this instance does, and its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment {
    pub(super) number: u64,
    pub(super) tick: Tick,
}

/// A value at hand.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) state: Arc<StateEntry>,
    pub(super) revision: Revision,
    /// Of each tag, what its record said.
    pub(super) tags: Arc<[Option<Revision>]>,
    /// When the read began that verified it.
    pub(super) moment: Moment,
    /// When it lapses.
    pub(super) expires: Option<Tick>,
    /// Whether it was served since.
    used: AtomicBool,
    /// Up to which number it was held against patterns.
    held_against: AtomicU64,
}

impl Entry {
    pub(super) fn new(
        state: Arc<StateEntry>,
        revision: Revision,
        tags: Arc<[Option<Revision>]>,
        moment: Moment,
        expires: Option<Tick>,
    ) -> Self {
        let held_against = AtomicU64::new(moment.number);
        Entry { state, revision, tags, moment, expires, used: AtomicBool::new(false), held_against }
    }
}

/// Patterns that this instance invalidated, each under its number.
#[derive(Default)]
struct Patterns {
    recent: VecDeque<(u64, Pattern)>,
    /// Those up to this number are forgotten: whatever was not held against them is void.
    forgotten: u64,
}

/// A pattern as it is remembered.
enum Pattern {
    Glob(Glob),
    /// All that begins like this: whatever the pattern means, and maybe more.
    Prefix(String),
}

impl Pattern {
    fn matches(&self, key: &str) -> bool {
        match self {
            Pattern::Glob(glob) => glob.matches(key),
            Pattern::Prefix(prefix) => key.starts_with(prefix),
        }
    }

    fn widen(&mut self) {
        if let Pattern::Glob(glob) = self {
            *self = Pattern::Prefix(glob.prefix().to_owned());
        }
    }
}

/// The values at hand of one instance.
pub(super) struct Local {
    clock: Clock,
    entries: Cache<Arc<str>, Arc<Entry>>,
    number: AtomicU64,
    keys: Box<[AtomicU64]>,
    tags: Box<[AtomicU64]>,
    /// Entries from before this number are verified before they are served.
    distrusted: AtomicU64,
    /// When that was last.
    last_distrust: Mutex<Option<Tick>>,
    patterns: RwLock<Patterns>,
    last_pattern: AtomicU64,
    used: Mutex<Vec<Arc<str>>>,
}

impl Local {
    pub(super) fn new(clock: Clock) -> Self {
        let weigh = |key: &Arc<str>, entry: &Arc<Entry>| {
            let state = &entry.state;
            let tags: usize = state.tags.iter().map(|tag| tag.len() + 40).sum();
            let own = 2 * key.len() + state.value.text().len() + tags;
            u32::try_from(own + OVERHEAD).unwrap_or(u32::MAX)
        };
        let floors = || (0..FLOORS).map(|_| AtomicU64::new(0)).collect();
        Local {
            clock,
            entries: Cache::builder().max_capacity(MAX_BYTES).weigher(weigh).build(),
            number: AtomicU64::new(0),
            keys: floors(),
            tags: floors(),
            distrusted: AtomicU64::new(0),
            last_distrust: Mutex::default(),
            patterns: RwLock::default(),
            last_pattern: AtomicU64::new(0),
            used: Mutex::default(),
        }
    }

    fn draw(&self) -> u64 {
        self.number.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// The beginning of a read.
    pub(super) fn begin(&self) -> Moment {
        let number = self.draw();
        Moment { number, tick: self.clock.tick() }
    }

    /// The value of a key, if it may be served now.
    pub(super) fn get(&self, key: &str) -> Option<Arc<Entry>> {
        let entry = self.entries.get(key)?;
        let now = self.clock.tick();
        let fresh = now.since(entry.moment.tick) < TRUST
            && entry.expires.is_none_or(|expires| now < expires)
            && entry.moment.number > self.distrusted.load(Ordering::SeqCst)
            && !self.is_void(&entry);
        if !fresh {
            return None;
        }
        if !entry.used.swap(true, Ordering::Relaxed) {
            let mut used = self.used.lock();
            if used.len() < MAX_USED {
                used.push(Arc::from(key));
            }
        }
        Some(entry)
    }

    /// The value of a key that was verified at most `age` ago and is not known to be invalidated,
    /// for when nothing better can be had.
    pub(super) fn get_stale(&self, key: &str, age: Duration) -> Option<Arc<Entry>> {
        let entry = self.entries.get(key)?;
        let old = self.clock.tick().since(entry.moment.tick);
        (old <= age && !self.is_void(&entry)).then_some(entry)
    }

    /// What was last seen of a key, however old: for what never changes of a version.
    pub(super) fn peek(&self, key: &str) -> Option<Arc<Entry>> {
        self.entries.get(key)
    }

    /// Keeps what a read saw.
    pub(super) fn put(&self, entry: Arc<Entry>) {
        let key: Arc<str> = Arc::from(entry.state.key.as_str());
        self.entries.insert(key, entry);
    }

    /// A read saw that the value is not there. One whose time to live was over went for that reason
    /// as far as anybody knows, and may still be better than nothing.
    pub(super) fn gone(&self, key: &str) {
        let now = self.clock.tick();
        let lapsed = |entry: &Arc<Entry>| entry.expires.is_some_and(|expires| expires <= now);
        if !self.entries.get(key).as_ref().is_some_and(lapsed) {
            self.entries.invalidate(key);
        }
    }

    /// A read saw that the value was invalidated.
    pub(super) fn remove(&self, key: &str) {
        self.entries.invalidate(key);
    }

    /// Whether what began at this number, about this key with these tags, is from before an
    /// invalidation that is known here.
    pub(super) fn is_void_since(&self, number: u64, key: &str, tags: &[String]) -> bool {
        let floor =
            |floors: &[AtomicU64], name: &str| floor_of(floors, name).load(Ordering::SeqCst);
        number <= floor(&self.keys, key)
            || tags.iter().any(|tag| number <= floor(&self.tags, tag))
            || self.is_void_by_pattern(number, number, key)
    }

    fn is_void(&self, entry: &Entry) -> bool {
        let number = entry.moment.number;
        let state = &entry.state;
        let floor =
            |floors: &[AtomicU64], name: &str| floor_of(floors, name).load(Ordering::SeqCst);
        if number <= floor(&self.keys, &state.key)
            || state.tags.iter().any(|tag| number <= floor(&self.tags, tag))
        {
            return true;
        }
        let held_against = entry.held_against.load(Ordering::SeqCst);
        let last = self.last_pattern.load(Ordering::SeqCst);
        if held_against >= last {
            return false;
        }
        let void = self.is_void_by_pattern(number, held_against, &state.key);
        if !void {
            entry.held_against.fetch_max(last, Ordering::SeqCst);
        }
        void
    }

    /// Holds a key against the patterns from `held_against` on.
    fn is_void_by_pattern(&self, number: u64, held_against: u64, key: &str) -> bool {
        let from = number.max(held_against);
        if self.last_pattern.load(Ordering::SeqCst) <= from {
            return false;
        }
        let patterns = self.patterns.read();
        patterns.forgotten > from
            || patterns
                .recent
                .iter()
                .rev()
                .take_while(|(at, _)| *at > from)
                .any(|(_, pattern)| pattern.matches(key))
    }

    /// Voids everything about these keys whose read began before now.
    pub(super) fn void_keys<'a>(&self, keys: impl IntoIterator<Item = &'a str>) {
        let number = self.draw();
        for key in keys {
            floor_of(&self.keys, key).fetch_max(number, Ordering::SeqCst);
            self.entries.invalidate(key);
        }
    }

    /// Voids everything with these tags whose read began before now.
    pub(super) fn void_tags<'a>(&self, tags: impl IntoIterator<Item = &'a str>) {
        let number = self.draw();
        for tag in tags {
            floor_of(&self.tags, tag).fetch_max(number, Ordering::SeqCst);
        }
    }

    /// Voids everything about keys of this pattern whose read began before now.
    pub(super) fn void_pattern(&self, pattern: &Glob) {
        let mut patterns = self.patterns.write();
        // Drawn under the lock, so that they stand in order.
        let number = self.draw();
        patterns.recent.push_back((number, Pattern::Glob(pattern.clone())));
        let older = patterns.recent.len().checked_sub(MAX_COMPILED + 1);
        if let Some((_, older)) = older.and_then(|older| patterns.recent.get_mut(older)) {
            older.widen();
        }
        if patterns.recent.len() > MAX_PATTERNS
            && let Some((forgotten, _)) = patterns.recent.pop_front()
        {
            patterns.forgotten = forgotten;
        }
        self.last_pattern.store(number, Ordering::SeqCst);
    }

    /// Everything at hand is verified before it is served again; once a second at most, because
    /// where hints tell no more than that somebody else has written, nothing would ever be at hand
    /// beside a busy process. The end of trust bounds the age of an entry without it.
    pub(super) fn distrust(&self) {
        let now = self.clock.tick();
        {
            let mut last = self.last_distrust.lock();
            if last.is_some_and(|last| now.since(last) < TRUST) {
                return;
            }
            *last = Some(now);
        }
        let number = self.draw();
        self.distrusted.fetch_max(number, Ordering::SeqCst);
    }

    /// The keys that were served since they were verified.
    pub(super) fn take_used(&self) -> Vec<Arc<str>> {
        std::mem::take(&mut *self.used.lock())
    }

    /// About how many entries and bytes are at hand.
    pub(super) fn size(&self) -> (u64, u64) {
        self.entries.run_pending_tasks();
        (self.entries.entry_count(), self.entries.weighted_size())
    }
}

fn floor_of<'a>(floors: &'a [AtomicU64], name: &str) -> &'a AtomicU64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    // The remainder is below the number of floors, which is far below 2^32.
    let at = usize::try_from(hasher.finish() % FLOORS as u64).unwrap_or(0);
    &floors[at]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::json::Json;

    fn entry(local: &Local, key: &str, tags: &[&str], bytes: usize, moment: Moment) -> Arc<Entry> {
        let state = StateEntry {
            key: key.into(),
            value: Json::parse(format!("{:?}", "x".repeat(bytes))).unwrap(),
            version: "1".into(),
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            source: None,
            updated_at: Timestamp::default(),
            expires_at: None,
        };
        let tags = tags.iter().map(|_| None).collect();
        let entry = Arc::new(Entry::new(Arc::new(state), Revision::new(1), tags, moment, None));
        local.put(Arc::clone(&entry));
        entry
    }

    #[test]
    fn a_read_that_began_before_an_invalidation_is_void_however_late_it_comes() {
        let local = Local::new(Clock::manual(1));
        let early = local.begin();
        local.void_keys(["a"]);
        local.void_tags(["t"]);
        local.void_pattern(&Glob::parse("p:*").unwrap());
        for (key, tags) in [("a", &[][..]), ("b", &["t"]), ("p:1", &[])] {
            entry(&local, key, tags, 1, early);
            assert!(local.get(key).is_none() && local.get_stale(key, TRUST).is_none(), "{key}");
            entry(&local, key, tags, 1, local.begin());
            assert!(local.get(key).is_some(), "{key}");
        }
        entry(&local, "other", &["u"], 1, early);
        assert!(local.get("other").is_some());
    }

    #[test]
    fn old_patterns_take_no_compiled_memory_and_void_at_least_what_they_mean() {
        let local = Local::new(Clock::manual(1));
        for key in ["p:1x", "p:2", "q:1x"] {
            entry(&local, key, &[], 1, local.begin());
        }
        local.void_pattern(&Glob::parse("p:?x").unwrap());
        for n in 0..2 * MAX_PATTERNS / 3 {
            local.void_pattern(&Glob::parse(&format!("other{n}:?")).unwrap());
            let patterns = local.patterns.read();
            let compiled = |(_, pattern): &&(u64, Pattern)| matches!(pattern, Pattern::Glob(_));
            assert!(patterns.recent.iter().filter(compiled).count() <= MAX_COMPILED);
        }
        assert!(local.get("p:1x").is_none());
        assert!(local.get("p:2").is_none(), "it begins like that, and was not asked for since");
        assert!(local.get("q:1x").is_some());
    }

    #[test]
    fn patterns_that_are_forgotten_void_what_was_not_held_against_them() {
        let local = Local::new(Clock::manual(1));
        entry(&local, "idle", &[], 1, local.begin());
        entry(&local, "busy", &[], 1, local.begin());
        for n in 0..2 * MAX_PATTERNS {
            local.void_pattern(&Glob::parse(&format!("p{n}:*")).unwrap());
            assert!(local.get("busy").is_some(), "{n}");
        }
        assert!(local.get("idle").is_none());
    }

    #[test]
    fn an_entry_is_served_for_less_than_a_second() {
        let clock = Clock::manual(1);
        let local = Local::new(clock.clone());
        entry(&local, "a", &[], 1, local.begin());
        clock.advance(TRUST - Duration::from_millis(1));
        assert!(local.get("a").is_some());
        clock.advance(Duration::from_millis(1));
        assert!(local.get("a").is_none());
        assert!(local.get_stale("a", Duration::from_secs(1)).is_some());
        assert!(local.get_stale("a", Duration::from_millis(899)).is_none());
    }

    #[test]
    fn hints_that_tell_nothing_all_the_time_leave_something_at_hand() {
        let clock = Clock::manual(1);
        let local = Local::new(clock.clone());
        entry(&local, "a", &[], 1, local.begin());
        local.distrust();
        assert!(local.get("a").is_none());
        let mut served = 0;
        for _ in 0..300 {
            clock.advance(Duration::from_millis(10));
            local.distrust();
            match local.get("a") {
                Some(_) => served += 1,
                None => drop(entry(&local, "a", &[], 1, local.begin())),
            }
        }
        assert!(served > 280, "{served}");
    }

    #[test]
    fn the_local_cache_is_bounded_in_bytes_and_entries() {
        let local = Local::new(Clock::manual(1));
        for n in 0..200_000 {
            entry(&local, &format!("k{n}"), &[], 10, local.begin());
        }
        let (entries, bytes) = local.size();
        assert!(entries <= 131_072 && bytes <= MAX_BYTES, "{entries} {bytes}");
        for n in 0..200 {
            entry(&local, &format!("large{n}"), &["t"], 1_000_000, local.begin());
        }
        let (_, bytes) = local.size();
        assert!(bytes <= MAX_BYTES, "{bytes}");
    }
}
