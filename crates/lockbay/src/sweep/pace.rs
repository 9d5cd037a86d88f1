//! How much is deleted at once, and how long the store is left alone between.
//!
//! A commit of the sweeper keeps the commits of others waiting while it is applied. So it is kept
//! about as short as theirs, by the time that the last ones took, and two thirds of the time go by
//! in which the sweeper asks the store for nothing.

use std::time::Duration;

/// What a commit of the sweeper takes, about, where the store is fast.
const TARGET: Duration = Duration::from_millis(2);
/// The fewest deletions of a commit.
const LEAST: usize = 8;
/// How much longer than it was busy the sweeper leaves the store alone.
const PAUSES: u32 = 2;
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
pub(super) struct Pace {
    size: usize,
    most: usize,
    quickest: Option<Duration>,
}

impl Pace {
    pub(super) fn new(most: usize) -> Self {
        Pace { size: LEAST.min(most).max(1), most: most.max(1), quickest: None }
    }

    /// How many writes the next commit has, about.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// A commit took this long, with so many writes in it.
    pub(super) fn took(&mut self, took: Duration, writes: usize) {
        let quickest = self.quickest.map_or(took, |quickest| quickest.min(took));
        self.quickest = Some(quickest);
        // A sync to a slow disk takes its time however little is written.
        let target = TARGET.max(quickest * 3 / 2);
        if took > target * 2 {
            self.size = (self.size / 2).max(LEAST.min(self.most));
        } else if took <= target && writes >= self.size {
            self.size = (self.size + self.size / 4 + 1).min(self.most);
        }
    }

    /// How long to leave the store alone after it was busy for this long.
    pub(super) fn pause(busy: Duration) -> Duration {
        (busy * PAUSES).min(LONGEST_PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_grow_where_the_store_is_fast_and_shrink_where_it_is_slow() {
        let ms = Duration::from_millis;
        let mut pace = Pace::new(500);
        for _ in 0..40 {
            let size = pace.size();
            pace.took(ms(1), size);
        }
        assert_eq!(pace.size(), 500);
        for _ in 0..10 {
            pace.took(ms(50), 500);
        }
        assert_eq!(pace.size(), LEAST);
        // Where every commit takes long, few in each would only make more of them.
        let mut slow = Pace::new(500);
        for _ in 0..40 {
            let size = slow.size();
            slow.took(ms(30), size);
        }
        assert_eq!(slow.size(), 500);
        assert_eq!(Pace::new(1).size(), 1);
        assert_eq!(Pace::pause(ms(7)), ms(14));
    }
}
