//! What the view shows: the last looks, what happened, where the person is. It changes by what is
//! told to it, and asks nobody.

use std::collections::VecDeque;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::snapshot::{RATES, Snapshot};

/// How many events, and how many points of each rate, are kept.
const EVENTS: usize = 500;
pub(super) const POINTS: usize = 40;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tab {
    Overview,
    Sagas,
    Jobs,
    Events,
}

impl Tab {
    pub(super) const ALL: [Tab; 4] = [Tab::Overview, Tab::Sagas, Tab::Jobs, Tab::Events];

    pub(super) fn name(self) -> &'static str {
        match self {
            Tab::Overview => "overview",
            Tab::Sagas => "sagas",
            Tab::Jobs => "jobs",
            Tab::Events => "events",
        }
    }

    fn moved(self, by: usize) -> Tab {
        let at = Tab::ALL.iter().position(|tab| *tab == self).unwrap_or(0);
        Tab::ALL.get((at + by) % Tab::ALL.len()).copied().unwrap_or(Tab::Overview)
    }
}

/// What a key asks for beyond a change of the view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    Nothing,
    Look,
    End,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) url: String,
    pub(super) coloured: bool,
    pub(super) tab: Tab,
    /// How many rows of a list are scrolled away.
    pub(super) scrolled: usize,
    pub(super) paused: bool,
    pub(super) now: Option<Snapshot>,
    before: Option<Snapshot>,
    /// What is in the way of looking.
    pub(super) trouble: Option<String>,
    pub(super) events: VecDeque<String>,
    /// The last rates, each in the order of [`RATES`].
    pub(super) rates: Vec<VecDeque<Option<f64>>>,
}

impl State {
    pub(super) fn new(url: String, coloured: bool) -> Self {
        State {
            url,
            coloured,
            tab: Tab::Overview,
            scrolled: 0,
            paused: false,
            now: None,
            before: None,
            trouble: None,
            events: VecDeque::new(),
            rates: vec![VecDeque::new(); RATES.len()],
        }
    }

    pub(super) fn saw(&mut self, snapshot: Snapshot) {
        self.trouble = None;
        self.before = self.now.replace(snapshot);
        let Some((now, before)) = self.now.as_ref().zip(self.before.as_ref()) else { return };
        for ((_, path), points) in RATES.iter().zip(&mut self.rates) {
            points.push_back(now.rate(before, path));
            if points.len() > POINTS {
                points.pop_front();
            }
        }
    }

    /// A look failed: what was seen stays, with the reason.
    pub(super) fn missed(&mut self, why: String) {
        self.trouble = Some(why);
    }

    pub(super) fn before(&self) -> Option<&Snapshot> {
        self.before.as_ref()
    }

    /// Something happened; the newest stands first.
    pub(super) fn happened(&mut self, line: String) {
        if self.paused {
            return;
        }
        self.events.push_front(line);
        self.events.truncate(EVENTS);
    }

    pub(super) fn press(&mut self, key: KeyEvent) -> Wish {
        use KeyCode::{BackTab, Char, Down, Esc, Left, Right, Tab, Up};
        let interrupts = key.modifiers.contains(KeyModifiers::CONTROL) && key.code == Char('c');
        let is = |codes: &[KeyCode]| codes.contains(&key.code);
        if interrupts || is(&[Char('q'), Esc]) {
            return Wish::End;
        }
        if is(&[Char('r')]) {
            return Wish::Look;
        }
        if is(&[Char('p'), Char(' ')]) {
            self.paused = !self.paused;
        } else if is(&[Tab, Right]) {
            self.go(self.tab.moved(1));
        } else if is(&[BackTab, Left]) {
            self.go(self.tab.moved(self::Tab::ALL.len() - 1));
        } else if is(&[Down, Char('j')]) {
            self.scrolled = (self.scrolled + 1).min(self.rows().saturating_sub(1));
        } else if is(&[Up, Char('k')]) {
            self.scrolled = self.scrolled.saturating_sub(1);
        }
        Wish::Nothing
    }

    fn go(&mut self, tab: Tab) {
        (self.tab, self.scrolled) = (tab, 0);
    }

    /// How many rows the list of this tab has.
    fn rows(&self) -> usize {
        let seen = |count: fn(&Snapshot) -> usize| self.now.as_ref().map_or(0, count);
        match self.tab {
            Tab::Overview => 0,
            Tab::Sagas => seen(|now| now.parked.len() + now.running.len()),
            Tab::Jobs => seen(|now| now.jobs.len()),
            Tab::Events => self.events.len(),
        }
    }
}
