//! Where words go: data to stdout, talk to stderr. The only place of the binary that writes.
//!
//! Whoever reads our stdout may stop reading; a closed pipe is then no error and no panic.

use std::io::{IsTerminal, Write};

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};

/// Writes data, and the end of its line.
pub(crate) fn data(text: &str) {
    let mut out = std::io::stdout().lock();
    let written = writeln!(out, "{text}").and_then(|()| out.flush());
    drop(written); // a reader that has gone needs no answer
}

/// Writes bytes of data as they are.
pub(crate) fn raw(bytes: &[u8]) {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(bytes).and_then(|()| out.flush());
    drop(written);
}

/// Says something to the person in front of it.
pub(crate) fn talk(text: &str) {
    let written = writeln!(std::io::stderr().lock(), "{text}");
    drop(written);
}

/// How wide the line of [`progress`] is.
const PROGRESS_WIDTH: usize = 78;

/// Shows on a terminal what is waited for, on one line that the next writing takes back.
pub(crate) fn progress(waited_for: Option<&str>) {
    let mut err = std::io::stderr().lock();
    if !err.is_terminal() {
        return;
    }
    let text: String = waited_for.unwrap_or_default().chars().take(PROGRESS_WIDTH).collect();
    let back = if waited_for.is_some() { "" } else { "\r" };
    let written = write!(err, "\r{text:<PROGRESS_WIDTH$}{back}").and_then(|()| err.flush());
    drop(written);
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
    let mut table = Table::new();
    table.set_header(heading.iter().copied());
    table.add_rows(
        rows.into_iter().map(|row| row.into_iter().map(|value| shown(&value)).collect::<Vec<_>>()),
    );
    write_table(table);
}

/// Writes names and values.
pub(crate) fn facts(facts: Vec<(&str, String)>) {
    let mut table = Table::new();
    table.add_rows(facts.into_iter().map(|(name, value)| vec![name.to_owned(), shown(&value)]));
    write_table(table);
}

/// Plain columns that fit a terminal; anything else, such as grep, gets whole lines.
fn write_table(mut table: Table) {
    let arrangement = if std::io::stdout().is_terminal() {
        ContentArrangement::Dynamic
    } else {
        ContentArrangement::Disabled
    };
    table.load_style(NOTHING).set_content_arrangement(arrangement);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    data(&table.trim_fmt());
}

/// Values come from others: what would move the cursor or split a row is shown escaped.
pub(crate) fn shown(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for c in value.chars() {
        if c.is_control() { text.extend(c.escape_default()) } else { text.push(c) }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn a_value_cannot_move_the_cursor_or_split_a_row() {
        assert_eq!(shown("a\u{1b}[2J\nb é"), "a\\u{1b}[2J\\nb é");
    }
}
