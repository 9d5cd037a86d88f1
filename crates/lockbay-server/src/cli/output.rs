//! Where words go: data to stdout, talk to stderr. The only place of the binary that writes.
//!
//! Whoever reads our stdout may stop reading; a closed pipe is then no error and no panic.

use std::io::{IsTerminal, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use comfy_table::presets::NOTHING;
use comfy_table::{ColumnConstraint, ContentArrangement, Table};
use indicatif::{ProgressBar, ProgressStyle};

/// How often a line of progress is drawn again by itself.
const REDRAWN_EVERY: Duration = Duration::from_millis(120);

/// Whether nobody reads our stdout any more.
static UNREAD: AtomicBool = AtomicBool::new(false);

/// Why data could not be written, if that was no reader who has gone.
static LOST: OnceLock<String> = OnceLock::new();

/// What a column takes at least that is no id, where a terminal is narrow.
const LEAST_WIDTH: usize = 8;
/// The blanks behind a column.
const GAP: u16 = 2;

/// Whether who read our stdout has gone. What goes on for ever ends then; what has an end goes on
/// to it, since it may be in the middle of a change.
pub(crate) fn is_unread() -> bool {
    UNREAD.load(Ordering::Relaxed)
}

/// Writes data, and the end of its line.
pub(crate) fn data(text: &str) {
    let mut out = std::io::stdout().lock();
    note(writeln!(out, "{text}").and_then(|()| out.flush()));
}

/// Why data was lost on its way to stdout, if any was: the command has failed then.
pub(crate) fn lost() -> Option<&'static str> {
    LOST.get().map(String::as_str)
}

/// A reader that has gone needs no answer. Whoever asked for a file on a full disk does.
fn note(written: std::io::Result<()>) {
    let Err(error) = written else { return };
    UNREAD.store(true, Ordering::Relaxed);
    if error.kind() != std::io::ErrorKind::BrokenPipe {
        LOST.get_or_init(|| error.to_string());
    }
}

/// Writes bytes of data as they are.
pub(crate) fn raw(bytes: &[u8]) {
    let mut out = std::io::stdout().lock();
    note(out.write_all(bytes).and_then(|()| out.flush()));
}

/// Says something to the person in front of it.
pub(crate) fn talk(text: &str) {
    let written = writeln!(std::io::stderr().lock(), "{text}");
    drop(written);
}

/// Says something that only helps a person: not where stderr goes to a file.
pub(crate) fn hint(text: &str) {
    if std::io::stderr().is_terminal() {
        talk(text);
    }
}

/// What long work says of itself: one line on stderr, only on a terminal, gone when it is dropped.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// Work whose length nobody knows: what is waited for, and for how long already.
    pub(crate) fn waiting(for_what: &str) -> Self {
        let bar = ProgressBar::new_spinner();
        bar.set_style(style("{spinner} {msg}  {elapsed}"));
        bar.set_message(for_what.to_owned());
        bar.enable_steady_tick(REDRAWN_EVERY);
        Progress(bar)
    }

    /// Work of so many bytes.
    pub(crate) fn bytes(what: &str, total: u64) -> Self {
        let bar = ProgressBar::new(total);
        bar.set_style(style("{msg}  {bar:30}  {binary_bytes} of {binary_total_bytes}  {eta} left"));
        bar.set_message(what.to_owned());
        Progress(bar)
    }

    /// Work of which only is known how many bytes it has come to.
    pub(crate) fn amount(what: &str) -> Self {
        let bar = ProgressBar::new_spinner();
        bar.set_style(style("{spinner} {msg}  {binary_bytes}"));
        bar.set_message(what.to_owned());
        Progress(bar)
    }

    /// Work of so many parts. It is drawn only when one is done, so that it disturbs nothing.
    pub(crate) fn parts(what: &str, total: u64) -> Self {
        let bar = ProgressBar::new(total);
        bar.set_style(style("{msg}  {bar:30}  {pos} of {len}"));
        bar.set_message(what.to_owned());
        Progress(bar)
    }

    /// So much is done by now.
    pub(crate) fn reach(&self, position: u64) {
        self.0.set_position(position);
    }

    /// So much more is done.
    pub(crate) fn add(&self, more: u64) {
        self.0.inc(more);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    // A template that cannot be read would leave the usual one.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Whether data may be coloured: it goes to a terminal whose owner has not refused it.
pub(crate) fn coloured() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    std::io::stdout().is_terminal() && !refused
}

/// Asks a person for a yes; `None` if there is no person to ask.
pub(crate) fn ask(question: &str) -> Option<bool> {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return None;
    }
    let written = write!(std::io::stderr().lock(), "{question} [y/N] ");
    drop(written);
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).ok()?;
    Some(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Writes rows in columns under their headings.
pub(crate) fn table(heading: &[&str], rows: Vec<Vec<String>>) {
    if rows.is_empty() {
        hint("there is none");
    }
    let mut table = Table::new();
    table.set_header(heading.iter().copied());
    table.add_rows(
        rows.into_iter().map(|row| row.into_iter().map(|value| shown(&value)).collect::<Vec<_>>()),
    );
    let ids: Vec<bool> = heading.iter().map(|name| is_of_ids(name)).collect();
    write_table(table, &ids);
}

/// Whether what stands below this heading is copied into other commands.
fn is_of_ids(heading: &str) -> bool {
    matches!(heading, "ID" | "KEY" | "FENCING TOKEN" | "MOVEMENT") || heading.ends_with(" ID")
}

/// Writes names and values.
pub(crate) fn facts(facts: Vec<(&str, String)>) {
    let mut table = Table::new();
    table.add_rows(facts.into_iter().map(|(name, value)| vec![name.to_owned(), shown(&value)]));
    write_table(table, &[]);
}

/// Plain columns that fit a terminal; anything else, such as grep, gets whole lines.
fn write_table(table: Table, ids: &[bool]) {
    let width = if std::io::stdout().is_terminal() { table.width() } else { None };
    data(&laid_out(table, ids, width));
}

/// Columns within this width. An id is never broken, so that it can be copied: where the others
/// would have no room beside the ids, lines are whole.
fn laid_out(mut table: Table, ids: &[bool], width: Option<u16>) -> String {
    let is_id = |at: usize| ids.get(at).copied().unwrap_or(false);
    let widths = table.column_max_content_widths();
    let needed = widths.iter().enumerate().map(|(at, width)| {
        let width = usize::from(*width);
        usize::from(GAP) + if is_id(at) { width } else { width.min(LEAST_WIDTH) }
    });
    let needed: usize = needed.sum();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    if let Some(width) = width.filter(|width| needed <= usize::from(*width)) {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    }
    for (at, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, GAP));
        if is_id(at) {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    table.trim_fmt()
}

/// A number for people: six digits that count, and all that stand before the point.
pub(crate) fn number(value: f64) -> String {
    if value.abs() >= 1e6 || value.fract() == 0.0 {
        return format!("{value:.0}");
    }
    let rounded = format!("{value:.5e}").parse().unwrap_or(value);
    f64::to_string(&rounded)
}

/// A value as one word of a shell.
pub(crate) fn shell_word(value: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+=,".contains(c);
    let value = shown(value);
    if !value.is_empty() && value.chars().all(is_plain) {
        return value;
    }
    format!("'{}'", value.replace('\'', "'\\''"))
}

/// Values come from others: what would move the cursor or split a row is shown escaped.
pub(crate) fn shown(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for c in value.chars() {
        if c.is_control() || turns(c) { text.extend(c.escape_default()) } else { text.push(c) }
    }
    text
}

/// Whether it changes in which direction, or on which line, text behind it is written.
fn turns(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_cannot_move_the_cursor_or_split_a_row() {
        assert_eq!(shown("a\u{1b}[2J\nb é"), "a\\u{1b}[2J\\nb é");
        assert_eq!(shown("a\u{202e}b\u{9b}"), "a\\u{202e}b\\u{9b}");
    }

    #[test]
    fn an_id_is_not_broken_however_narrow_a_terminal_is() {
        let id = "0123456789abcdef0123456789abcdef";
        for width in [20, 40, 50, 60, 80, 200] {
            let mut table = Table::new();
            table.set_header(["JOB ID", "STATUS", "ERROR"]);
            table.add_row([id, "failed", "the bank did not answer in time, for the third time"]);
            let text = laid_out(table, &[true, false, false], Some(width));
            assert!(text.contains(id), "{width}: {text}");
            let fits = text.lines().all(|line| line.chars().count() <= usize::from(width));
            assert_eq!(fits, width >= 60, "{width}: {text}");
        }
    }

    #[test]
    fn numbers_have_six_digits_that_count() {
        for (value, text) in [
            (0.000_018_149_999_999_999_99, "0.00001815"),
            (0.066_950_000_000_000_01, "0.06695"),
            (-12.5, "-12.5"),
            (0.0, "0"),
            (1_764_500_123_456.0, "1764500123456"),
            (1_234_567.8, "1234568"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn a_word_of_a_shell_is_quoted_where_it_must_be() {
        assert_eq!(shell_word("s1@2026-01-31T00:00:00Z"), "s1@2026-01-31T00:00:00Z");
        assert_eq!(shell_word("it's here; rm"), "'it'\\''s here; rm'");
        assert_eq!(shell_word(""), "''");
    }
}
