//! What the library tells of itself, in Python's `logging`, as the logger `lockbay`.
//!
//! It tells it on the runtime's threads, which never attach to the interpreter. So lines wait here
//! until an event loop takes them, the one that was met last, and at the latest for the end of the
//! interpreter. What is too much to be kept is counted and told as missing.

use std::collections::VecDeque;
use std::fmt::{Debug, Write};

use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::mailbox::Post;

/// How many lines are kept for a loop to come.
const MAX_LINES: usize = 1_000;

static WAITING: Mutex<Waiting> =
    Mutex::new(Waiting { lines: VecDeque::new(), missed: 0, reader: None });

struct Waiting {
    lines: VecDeque<Line>,
    missed: u64,
    reader: Option<Reader>,
}

/// The loop that takes lines, and in which process it is.
struct Reader {
    pid: u32,
    post: Post,
}

struct Line {
    level: u8,
    text: String,
}

/// Has the library tell it here from now on.
pub(crate) fn install() {
    // An extension module is initialized once in a process.
    let _ = tracing::subscriber::set_global_default(Teller);
}

/// Lines go to this loop from now on.
pub(crate) fn read_on(py: Python<'_>, post: &Post) {
    let reader = Reader { pid: crate::runtime::pid(), post: post.clone() };
    let before = WAITING.lock().reader.replace(reader);
    drop(before);
    deliver(py);
}

/// Tells Python what waits.
pub(crate) fn deliver(py: Python<'_>) {
    static LOG: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let (lines, missed) = {
        let mut waiting = WAITING.lock();
        (std::mem::take(&mut waiting.lines), std::mem::take(&mut waiting.missed))
    };
    let tell = |level: u8, text: &str| -> PyResult<()> {
        LOG.import(py, "lockbay._loop", "log")?.call1((level, text)).map(drop)
    };
    let told = lines.iter().try_for_each(|line| tell(line.level, &line.text));
    let told = told.and_then(|()| match missed {
        0 => Ok(()),
        missed => tell(30, &format!("lines missing here: {missed}")),
    });
    if let Err(error) = told {
        error.write_unraisable(py, None);
    }
}

struct Teller;

impl Subscriber for Teller {
    fn enabled(&self, about: &Metadata<'_>) -> bool {
        about.is_event() && *about.level() <= Level::INFO && about.target().starts_with("lockbay")
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::INFO)
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut told = Told::default();
        event.record(&mut told);
        let text = format!("{}{}", told.message, told.fields);
        let level = match *event.metadata().level() {
            Level::ERROR => 40,
            Level::WARN => 30,
            _ => 20,
        };
        let mut waiting = WAITING.lock();
        if waiting.lines.len() >= MAX_LINES {
            waiting.missed += 1;
            return;
        }
        waiting.lines.push_back(Line { level, text });
        // The first of several wakes the loop for all of them.
        if waiting.lines.len() == 1
            && let Some(reader) = waiting.reader.as_ref()
            && reader.pid == crate::runtime::pid()
        {
            reader.post.send(deliver);
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// A message and its fields, as one line.
#[derive(Default)]
struct Told {
    message: String,
    fields: String,
}

impl Visit for Told {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let place = if field.name() == "message" { &mut self.message } else { &mut self.fields };
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => write!(place, "{value:?}"),
            name => write!(place, " {name}={value:?}"),
        };
    }
}
