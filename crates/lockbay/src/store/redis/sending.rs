//! The numbers of sendings, and what is sent for the first time.
//!
//! The server looks for a commit among its answers only if it must (`redis_commit.lua`): if the
//! sending says that it was sent before, or if a later sending has left an answer. So of all that
//! carry a commit, only the one with the lowest number may call it new. Copies of a commit may be
//! packed at the same moment for two sendings; then whoever began second calls nothing new. Nor does
//! a process that was forked off at such a moment, which costs it a look and nothing else.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::store::Operation;

/// The bits for how many sendings are being packed. The last number stands in those above.
const PACKING: u32 = 16;

/// The sendings of a process.
pub(super) struct Sendings(AtomicU64);

impl Sendings {
    pub(super) const fn new() -> Self {
        Sendings(AtomicU64::new(0))
    }

    /// Begins one. Its commits are told apart until it is dropped.
    pub(super) fn begin(&self) -> Sending<'_> {
        let before = self.0.fetch_add((1 << PACKING) + 1, Ordering::AcqRel);
        let is_alone = before & ((1 << PACKING) - 1) == 0;
        Sending { all: self, number: (before >> PACKING) + 1, is_alone }
    }
}

/// A sending that is being packed.
pub(super) struct Sending<'a> {
    all: &'a Sendings,
    pub(super) number: u64,
    /// Whether all sendings with lower numbers were packed before this began.
    is_alone: bool,
}

impl Sending<'_> {
    /// Whether this commit must be looked for, because it may have been sent before.
    pub(super) fn again(&self, operation: &Operation) -> bool {
        operation.was_sent.swap(true, Ordering::AcqRel) || !self.is_alone
    }
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        self.all.0.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the server does with one commit: the number is that of the sending.
    #[derive(Default)]
    struct Server {
        newest: u64,
        answered: bool,
        applied: u32,
    }

    impl Server {
        fn arrives(&mut self, (number, again): (u64, bool)) {
            let looks = again || number <= self.newest;
            if !(looks && self.answered) {
                self.applied += 1;
                self.answered = true;
                self.newest = self.newest.max(number);
            }
        }
    }

    #[derive(Clone, Copy, PartialEq, Debug)]
    enum Turn {
        Begin,
        Tell,
        End,
        Over,
    }

    /// Lets sendings of the same commit take their turns in this order, and returns what they say.
    fn play(order: &[usize], sendings: usize) -> Vec<(u64, bool)> {
        let (all, operation) = (Sendings::new(), Operation::begin());
        let mut turns = vec![Turn::Begin; sendings];
        let mut open: Vec<Option<Sending<'_>>> = (0..sendings).map(|_| None).collect();
        let mut said = vec![(0, false); sendings];
        for &who in order {
            turns[who] = match turns[who] {
                Turn::Begin => {
                    open[who] = Some(all.begin());
                    Turn::Tell
                }
                Turn::Tell => {
                    let sending = open[who].as_ref().expect("it has begun");
                    said[who] = (sending.number, sending.again(&operation));
                    Turn::End
                }
                Turn::End => {
                    open[who] = None;
                    Turn::Over
                }
                Turn::Over => unreachable!("three turns each"),
            };
        }
        said
    }

    /// All orders of `left[n]` turns of each `n`.
    fn orders(left: &mut [usize], order: &mut Vec<usize>, visit: &mut impl FnMut(&[usize])) {
        if left.iter().all(|left| *left == 0) {
            return visit(order);
        }
        for who in 0..left.len() {
            if left[who] > 0 {
                left[who] -= 1;
                order.push(who);
                orders(left, order, visit);
                order.pop();
                left[who] += 1;
            }
        }
    }

    #[test]
    fn a_commit_in_three_sendings_at_once_is_applied_once_in_whatever_order_they_arrive() {
        let (mut histories, mut new) = (0, 0);
        orders(&mut [3, 3, 3], &mut Vec::new(), &mut |turns| {
            let said = play(turns, 3);
            new += said.iter().filter(|(_, again)| !again).count();
            orders(&mut [1, 1, 1], &mut Vec::new(), &mut |arrivals| {
                let mut server = Server::default();
                arrivals.iter().for_each(|who| server.arrives(said[*who]));
                assert_eq!(server.applied, 1, "{turns:?} said {said:?}, arrived {arrivals:?}");
                histories += 1;
            });
        });
        assert_eq!(histories, 1_680 * 6);
        assert!(new > 0, "some are new");
    }

    #[test]
    fn what_is_sent_for_the_first_time_by_itself_is_new() {
        let (all, operation) = (Sendings::new(), Operation::begin());
        assert!(!all.begin().again(&operation));
        assert!(all.begin().again(&operation));
        assert_eq!(all.begin().number, 3);
    }
}
