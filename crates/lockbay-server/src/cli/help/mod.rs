//! What `--help` says beyond the meaning of each argument: promises, examples, exit codes, and what
//! of the environment counts. `docs/cli.md` is made of the same.
//!
//! The words stand in one table, [`pages`]; here they are put into the commands. A command without
//! a page, a page without a command, and an example that does not parse fail a test.

mod pages;
#[cfg(all(test, feature = "top"))] // the reference is that of the whole binary
mod reference;

use clap::{Arg, Command};
use clap_complete::Shell;

use self::pages::{PAGES, Page, Reads};

/// The commands with everything that their pages say.
pub(super) fn dressed(command: Command) -> Command {
    let command = command.after_long_help(ROOT);
    dress(command, "")
}

fn dress(command: Command, path: &str) -> Command {
    let names: Vec<String> =
        command.get_subcommands().map(|inner| inner.get_name().to_owned()).collect();
    let command = command.mut_args(numbers_may_be_negative);
    let mut command = match PAGES.iter().find(|page| page.path == path) {
        Some(page) => with_page(command, page),
        None => command,
    };
    for name in names {
        let inner = if path.is_empty() { name.clone() } else { format!("{path} {name}") };
        command = command.mut_subcommand(name, |command| dress(command, &inner));
    }
    command
}

/// What a number means is checked where it is used: `-5` is no unknown option, but a bad amount.
fn numbers_may_be_negative(arg: Arg) -> Arg {
    if arg.get_action().takes_values() { arg.allow_negative_numbers(true) } else { arg }
}

fn with_page(command: Command, page: &Page) -> Command {
    let told = command.get_long_about().or(command.get_about()).map(ToString::to_string);
    let told = told.unwrap_or_default();
    let about = if page.promise.is_empty() { told } else { format!("{told}\n\n{}", page.promise) };
    command.long_about(about).after_long_help(page.text())
}

impl Page {
    /// Examples, exit codes and environment.
    fn text(&self) -> String {
        let mut text = String::from("Examples:\n");
        for (line, meaning) in self.examples {
            text.push_str(&format!("  {line}\n      {meaning}\n"));
        }
        text.push_str("\nExit codes:\n");
        for (code, meaning) in self.codes {
            text.push_str(&format!("  {code}  {meaning}\n"));
        }
        text.push_str("\nEnvironment:\n");
        let width = 24;
        for (name, meaning) in self.reads.variables() {
            text.push_str(&format!("  {name:<width$}  {meaning}\n"));
        }
        text.trim_end().to_owned()
    }
}

impl Reads {
    fn variables(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Reads::Server => &[
                ("LOCKBAY_URL", "the server, unless --url names it"),
                ("LOCKBAY_TOKEN", "the token it is shown, unless --token is given"),
                ("LOCKBAY_TOKEN_FILE", "else a file that holds the token"),
                ("LOCKBAY_ACTOR", "who asks, for the audit trail; else USER"),
                ("NO_COLOR", "no colours, if it is set to anything"),
            ],
            Reads::Settings => &[
                ("LOCKBAY_STORE", "the store, unless --store names it"),
                ("LOCKBAY_…, REDIS_…, SAGA_…", "every other setting: `lockbay config` lists them"),
                ("RUST_LOG", "how much is logged, such as info or lockbay=debug"),
                ("NO_COLOR", "no colours, if it is set to anything"),
            ],
            Reads::Little => &[("NO_COLOR", "no colours, if it is set to anything")],
        }
    }
}

/// How the completions of a shell are installed.
pub(super) fn install(shell: Shell) -> &'static str {
    match shell {
        Shell::Bash => {
            "to install: lockbay completions bash > \
             ~/.local/share/bash-completion/completions/lockbay, then open a new shell"
        }
        Shell::Zsh => {
            "to install: lockbay completions zsh > ~/.zfunc/_lockbay, with fpath+=(~/.zfunc) \
             before compinit in ~/.zshrc"
        }
        Shell::Fish => {
            "to install: lockbay completions fish > ~/.config/fish/completions/lockbay.fish"
        }
        Shell::Elvish => "to install: eval (lockbay completions elvish | slurp), in rc.elv",
        Shell::PowerShell => {
            "to install: lockbay completions powershell | Out-String | Invoke-Expression, in \
             $PROFILE"
        }
        _ => "see the documents of the shell for where completions go",
    }
}

/// The end of `lockbay --help`.
const ROOT: &str = "\
Begin here:
  lockbay demo                    see every part at work, for some seconds
  lockbay serve                   run a server on a file in this directory
  lockbay doctor                  see what could break a promise, and what to change
  lockbay top                     watch a server

Data goes to stdout and everything else to stderr. Lists are tables for people; with --json every
command writes what the server said, byte for byte. `lockbay help COMMAND` shows examples.

A change that hurts is asked about on a terminal, and --yes answers. Without a terminal nobody can
be asked, and what was typed is done; only accepting a store that has lost data then needs --yes.

Exit codes:
  0  done
  1  refused or failed
  2  no server was reached, or the command cannot be meant

Environment:
  LOCKBAY_URL     the server, http://127.0.0.1:5000 if nothing is said
  LOCKBAY_TOKEN   the token it is shown, or in LOCKBAY_TOKEN_FILE a file that holds it
  LOCKBAY_ACTOR   who asks, for the audit trail; else USER
  NO_COLOR        no colours, if it is set to anything";
