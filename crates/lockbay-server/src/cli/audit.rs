//! `lockbay audit`: who changed what and when, and whether anything of that was touched.
//!
//! Exports and proofs are checked here, without a server: they prove themselves.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Subcommand};
use lockbay::audit::{FileCheck, FileVerdict, Proof, PublicKey};
use lockbay::clock::Clock;
use serde::Deserialize;
use serde_json::Value;

use super::audit_read::{self, HistoryArgs, PageArgs};
use super::client::{Client, Failure, Page};
use super::{Ended, Shared, output};

/// How long verifying and exporting may take.
const LONG: Duration = Duration::from_secs(3_600);
/// How often `tail --follow` looks for new entries.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The longest line of an export: a line of the log, each byte written as two.
const MAX_LINE: u64 = 1_048_576;

#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// Show the last entries
    Tail(TailArgs),
    /// Show every entry of one entity, the newest first
    History(HistoryArgs),
    /// List what was sealed, the oldest first
    Checkpoints(PageArgs),
    /// Look for anything that was changed, dropped or inserted: exit code 0 if there is nothing
    ///
    /// Without FILE the server looks through its store; with it, an export or a proof is checked
    /// here, without a server.
    Verify {
        /// An export or a proof
        file: Option<PathBuf>,
        /// Trust this key, not the one that the file names
        #[arg(long, value_name = "KEY")]
        public_key: Option<String>,
        /// Compare the records that entries tell of as well
        #[arg(long)]
        records: bool,
    },
    /// Write entries and checkpoints as JSON lines that can be verified anywhere
    Export {
        /// Not before this time, such as 2026-11-24T00:00:00Z
        #[arg(long, value_name = "TIME")]
        from: Option<String>,
        /// Before this time
        #[arg(long, value_name = "TIME")]
        until: Option<String>,
        /// Into this file; else to stdout
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Write the proof that an entry was sealed
    Proof {
        /// The entry's revision
        revision: String,
        /// Which entry of that commit
        #[arg(long, default_value_t = 0)]
        index: u32,
        /// With the chain up to this checkpoint
        #[arg(long, value_name = "NUMBER")]
        to_checkpoint: Option<u64>,
    },
    /// Show the public key that verifies
    Key,
}

#[derive(Debug, Args)]
pub(super) struct TailArgs {
    /// How many, 1 to 1000
    #[arg(long, short = 'n', default_value_t = 20)]
    lines: u32,
    /// Go on with new ones as they come
    #[arg(long, short)]
    follow: bool,
    /// Only of this entity, such as saga/ID; of all that begin so with a * at the end
    #[arg(long)]
    entity: Option<String>,
    /// Only by this actor
    #[arg(long)]
    actor: Option<String>,
    /// Only of this action
    #[arg(long)]
    action: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
struct Entry {
    revision: String,
    index: u32,
    at: String,
    entity: String,
    action: String,
    actor: String,
    reason: Option<String>,
}

#[derive(Deserialize)]
struct Verdict {
    ok: bool,
    entries: u64,
    sealed: u64,
    unsealed: u64,
    checkpoints: u64,
    newest_checkpoint: u64,
    newest_hash: Option<String>,
    vouched_from: Option<u64>,
    public_key: Option<String>,
    key_outside_of_store: bool,
    problems: Vec<Problem>,
    more_problems: u64,
    took_ms: u64,
}

#[derive(Deserialize)]
struct Problem {
    revision: Option<String>,
    checkpoint: Option<u64>,
    problem: String,
}

#[derive(Deserialize)]
struct Key {
    public_key: Option<String>,
    outside_of_store: bool,
}

pub(super) async fn obey(shared: &Shared, command: AuditCommand) -> Result<Ended, Failure> {
    match command {
        AuditCommand::Tail(args) => tail(&Client::new(shared)?, &args).await,
        AuditCommand::History(args) => audit_read::history(&Client::new(shared)?, args).await,
        AuditCommand::Checkpoints(args) => {
            audit_read::checkpoints(&Client::new(shared)?, args).await
        }
        AuditCommand::Verify { file: Some(file), public_key, .. } => {
            let key = public_key.as_deref().map(PublicKey::parse).transpose();
            let key = key.map_err(|error| Failure::Usage(error.to_string()))?;
            verify_file(&file, key, shared.json)
        }
        AuditCommand::Verify { file: None, public_key, records } => {
            verify(&Client::new(shared)?, public_key, records).await
        }
        AuditCommand::Export { from, until, output } => {
            export(&Client::new(shared)?, from, until, output).await
        }
        AuditCommand::Proof { revision, index, to_checkpoint } => {
            let client = Client::new(shared)?;
            let what = format!("prove entry {revision}");
            let query = [
                ("revision", Some(revision)),
                ("index", Some(index.to_string())),
                ("to_checkpoint", to_checkpoint.map(|to| to.to_string())),
            ];
            let url = client.address(&["v1", "audit", "proof"], &query);
            client.get(&what, url).await?.show_raw();
            Ok(Ended::Done)
        }
        AuditCommand::Key => key(&Client::new(shared)?).await,
    }
}

async fn key(client: &Client) -> Result<Ended, Failure> {
    let url = client.address(&["v1", "audit", "key"], &[]);
    let answer = client.get("show the key of the audit trail", url).await?;
    if client.json {
        answer.show_raw();
        return Ok(Ended::Done);
    }
    let Key { public_key, outside_of_store } = answer.read()?;
    match public_key {
        Some(key) => output::data(&output::shown(&key)),
        None => output::talk("there is no key yet: the leader makes one with the first seal"),
    }
    if !outside_of_store {
        output::talk("the key is kept in the store; set LOCKBAY_AUDIT_KEY for one that is not");
    }
    Ok(Ended::Done)
}

async fn tail(client: &Client, args: &TailArgs) -> Result<Ended, Failure> {
    // The last one shown, and how far everything was looked at: with a filter much may lie between.
    let (mut shown, mut reached): (Option<Place>, Option<Place>) = (None, None);
    let clock = Clock::system();
    loop {
        let newest = match args.follow {
            true => newest(client).await?,
            false => None,
        };
        let (mut items, through) = page(client, args, reached).await?;
        items.sort_by_key(|(place, _)| *place);
        let last = items.last().map(|(place, _)| *place);
        if items.is_empty() && !args.follow && !client.json {
            output::talk("nothing is recorded that is asked for");
        }
        for (place, raw) in items {
            if shown.is_some_and(|shown| place <= shown) {
                continue;
            }
            shown = Some(place);
            match client.json {
                true => output::data(&raw.to_string()),
                false => show(&raw)?,
            }
        }
        if !args.follow || output::is_unread() {
            return Ok(Ended::Done);
        }
        // What the first look passed over is older than what was asked for.
        let looked_at = if through || reached.is_none() { newest } else { last };
        reached = looked_at.max(reached).or(Some((0, 0)));
        clock.sleep(LOOK_EVERY).await;
    }
}

/// An entry's commit, and where in that commit.
type Place = (u64, u32);
type Placed = (Place, Value);

fn placed(raw: Value) -> Result<Placed, Failure> {
    let entry = read(&raw)?;
    Ok(((entry.revision.parse().unwrap_or(0), entry.index), raw))
}

/// Where the newest entry of all stands.
async fn newest(client: &Client) -> Result<Option<Place>, Failure> {
    let query = [("order", Some("newest".to_owned())), ("page_size", Some("1".to_owned()))];
    let url = client.address(&["v1", "audit"], &query);
    let found: Page<Value> = client.get("show the audit trail", url).await?.read()?;
    found.items.into_iter().next().map(|raw| Ok(placed(raw)?.0)).transpose()
}

/// The newest entries, or those from where everything was looked at, and whether that is all.
async fn page(
    client: &Client,
    args: &TailArgs,
    reached: Option<Place>,
) -> Result<(Vec<Placed>, bool), Failure> {
    let (order, size) = match reached {
        Some(_) => ("oldest", 1_000),
        None => ("newest", args.lines),
    };
    let from = reached.map(|(revision, _)| lockbay::clock::Timestamp::from_micros(revision));
    let size_reached = usize::try_from(size).unwrap_or(usize::MAX);
    let (mut token, mut items) = (None, Vec::new());
    // A page that looked at its most and found little is followed by the next.
    for _ in 0..1_000 {
        let query = [
            ("order", Some(order.to_owned())),
            ("page_size", Some(size.to_string())),
            ("entity", args.entity.clone()),
            ("actor", args.actor.clone()),
            ("action", args.action.clone()),
            ("from", from.map(|from| from.to_string())),
            ("page_token", token.clone()),
        ];
        let url = client.address(&["v1", "audit"], &query);
        let found: Page<Value> = client.get("show the audit trail", url).await?.read()?;
        for raw in found.items {
            items.push(placed(raw)?);
        }
        token = found.next_page_token;
        if token.is_none() || items.len() >= size_reached {
            break;
        }
    }
    if reached.is_none() {
        items.truncate(size_reached);
    }
    Ok((items, token.is_none()))
}

fn read(raw: &Value) -> Result<Entry, Failure> {
    serde_json::from_value(raw.clone()).map_err(|error| {
        Failure::Unreachable(format!("the server's answer is not understood: {error}"))
    })
}

pub(super) fn show(raw: &Value) -> Result<(), Failure> {
    let Entry { revision, at, entity, action, actor, reason, .. } = read(raw)?;
    let reason = reason.map(|reason| format!("  ({reason})")).unwrap_or_default();
    let line = format!("{at}  {revision}  {entity}  {action}  by {actor}{reason}");
    output::data(&output::shown(&line));
    Ok(())
}

async fn verify(
    client: &Client,
    public_key: Option<String>,
    records: bool,
) -> Result<Ended, Failure> {
    let query = [("records", records.then(|| "true".to_owned()))];
    let url = client.address(&["v1", "audit", "verify"], &query);
    let progress = output::Progress::waiting("the server looks through its audit trail");
    let answer = client.get_within(LONG, "verify the audit trail", url).await?;
    drop(progress);
    let verdict: Verdict = answer.read()?;
    match client.json {
        true => answer.show_raw(),
        false => tell(&verdict),
    }
    let signs = verdict.public_key.as_deref();
    let expected = public_key.as_deref().map(str::trim);
    if expected.is_some() && expected != signs {
        let signs = output::shown(signs.unwrap_or("nobody"));
        output::talk(&format!("lockbay: the key that signs is another: {signs}"));
        return Ok(Ended::No);
    }
    Ok(if verdict.ok { Ended::Done } else { Ended::No })
}

fn number(number: Option<u64>) -> String {
    number.map_or_else(|| "-".into(), |number| number.to_string())
}

fn tell(verdict: &Verdict) {
    let Verdict { entries, sealed, unsealed, checkpoints, took_ms, .. } = verdict;
    output::facts(vec![
        ("entries", entries.to_string()),
        ("sealed", sealed.to_string()),
        ("unsealed", unsealed.to_string()),
        ("checkpoints", checkpoints.to_string()),
        ("newest checkpoint", verdict.newest_checkpoint.to_string()),
        ("its hash", verdict.newest_hash.clone().unwrap_or_else(|| "-".into())),
        ("vouched for from checkpoint", number(verdict.vouched_from)),
        ("public key", verdict.public_key.clone().unwrap_or_else(|| "-".into())),
        ("took", format!("{took_ms} ms")),
    ]);
    for Problem { revision, checkpoint, problem } in &verdict.problems {
        let at = match (checkpoint, revision) {
            (Some(checkpoint), _) => format!("checkpoint {checkpoint}: "),
            (None, Some(revision)) => format!("entry {revision}: "),
            (None, None) => String::new(),
        };
        output::data(&output::shown(&format!("WRONG {at}{problem}")));
    }
    if verdict.more_problems > 0 {
        output::data(&format!("WRONG and {} more", verdict.more_problems));
    }
    if !verdict.ok {
        output::talk("next: see the runbook audit_broken in docs/operations.md");
    } else if !verdict.key_outside_of_store {
        output::talk(
            "the key is kept in the store: who can write there and knows it can seal anew",
        );
    }
}

async fn export(
    client: &Client,
    from: Option<String>,
    until: Option<String>,
    file: Option<PathBuf>,
) -> Result<Ended, Failure> {
    let url = client.address(&["v1", "audit", "export"], &[("from", from), ("until", until)]);
    let what = "export the audit trail";
    let mut last = Vec::new();
    let mut keep = |piece: &[u8]| {
        // The beginning of the last line of the last pieces.
        last.extend_from_slice(piece);
        let end = last.len().saturating_sub(4_096);
        last.drain(..end);
    };
    match file {
        None => {
            client
                .download(LONG, what, url, &mut |piece| {
                    keep(piece);
                    output::raw(piece);
                    Ok(())
                })
                .await?
        }
        Some(path) => {
            let file =
                File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
            let mut file = BufWriter::new(file);
            let progress = output::Progress::amount("exporting the audit trail");
            client
                .download(LONG, what, url, &mut |piece| {
                    keep(piece);
                    progress.add(u64::try_from(piece.len()).unwrap_or(0));
                    file.write_all(piece)
                })
                .await?;
            file.flush().with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    let text = String::from_utf8_lossy(&last);
    let whole = text.ends_with('\n')
        && text.trim_end().lines().next_back().is_some_and(|line| line.starts_with("{\"end\":"));
    if !whole {
        output::talk("lockbay: the export was cut off; look into the log of the server");
        return Ok(Ended::No);
    }
    Ok(Ended::Done)
}

/// Checks an export or a proof; bounded memory, whatever the file is.
fn verify_file(path: &Path, key: Option<PublicKey>, json: bool) -> Result<Ended, Failure> {
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let size = file.metadata().map_or(0, |found| found.len());
    let mut file = BufReader::new(file);
    let progress = output::Progress::bytes("verifying", size);
    let mut check = FileCheck::new(key);
    let (mut line, mut lines) = (Vec::new(), 0u64);
    loop {
        line.clear();
        let mut limited = std::io::Read::take(&mut file, MAX_LINE);
        let read = limited.read_until(b'\n', &mut line);
        if read.with_context(|| format!("cannot read {}", path.display()))? == 0 {
            break;
        }
        lines += 1;
        if lines == 1 && line.starts_with(b"{\"revision\"") {
            std::io::Read::read_to_end(
                &mut std::io::Read::take(&mut file, MAX_LINE * 2),
                &mut line,
            )
            .with_context(|| format!("cannot read {}", path.display()))?;
            return verify_proof(&line, key, json);
        }
        check.line(&line);
        progress.add(u64::try_from(line.len()).unwrap_or(0));
    }
    drop(progress);
    let verdict = check.finish();
    tell_file(&verdict, json)
}

fn tell_file(checked: &FileVerdict, json: bool) -> Result<Ended, Failure> {
    let text = serde_json::to_string(checked).context("cannot write the verdict")?;
    if json {
        output::data(&text);
    } else {
        let verdict = serde_json::from_str(&text).context("cannot read the verdict")?;
        let verdict = Verdict { key_outside_of_store: true, ..verdict };
        tell(&verdict);
    }
    if checked.key_is_from_the_file {
        output::talk(
            "judged by the key that the file names, so anybody may have made it: give the key of \
             `lockbay audit key` with --public-key",
        );
    }
    Ok(if checked.verdict.ok { Ended::Done } else { Ended::No })
}

fn verify_proof(text: &[u8], key: Option<PublicKey>, json: bool) -> Result<Ended, Failure> {
    let proof = serde_json::from_slice::<Proof>(text);
    let checked = match &proof {
        Ok(proof) => proof.check(key, None).map_err(|error| error.to_string()),
        Err(error) => Err(format!("it cannot be read as a proof: {error}")),
    };
    match checked {
        Ok(proved) => {
            if json {
                let text = serde_json::to_string(&proved).context("cannot write the verdict")?;
                output::data(&text);
            } else {
                output::facts(vec![
                    ("sealed by checkpoint", proved.checkpoint.to_string()),
                    ("chain up to", proved.trusted.to_string()),
                    ("its hash", proved.trusted_hash),
                    ("signed by", proved.public_key.to_string()),
                ]);
            }
            if key.is_none() {
                output::talk("judged by the key that the proof names: give one with --public-key");
            }
            Ok(Ended::Done)
        }
        Err(why) => {
            output::talk(&format!("lockbay: {}", output::shown(&why)));
            Ok(Ended::No)
        }
    }
}
