//! Entries of the audit trail, written by those who make the change that an entry tells of.
//!
//! An entry is a line appended to one log, in the commit of the change itself, so that neither is
//! there without the other. The scribe knows how an entry reads, who asks, what is masked, and how
//! long a line may be; it does not know what is sealed, verified or kept, which is the business of
//! `audit`. What an entry says of each change stands in `docs/audit-entries.md`.
//!
//! An entry never makes a commit fail: whatever is too long is cut, or replaced by its digest.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use crate::error::Result;
use crate::hex::hex;
use crate::name::check_name;
use crate::store::{Key, Kind, Partition, Revision, Write};

/// The log of all entries.
pub(crate) const AUDIT: Kind = Kind::new("audit");

/// The log of all entries of a partition.
pub(crate) fn audit_log(partition: Partition) -> Key {
    Key::new(partition, AUDIT, "all")
}

/// The longest name of an actor, reason, and id of a request, in bytes. What comes in is checked;
/// what is longer all the same is cut.
pub const MAX_ACTOR_BYTES: usize = 256;
/// See [`MAX_ACTOR_BYTES`].
pub const MAX_REASON_BYTES: usize = 1_024;
/// See [`MAX_ACTOR_BYTES`].
pub const MAX_REQUEST_ID_BYTES: usize = 128;
/// The longest name of what changes. Keys of the store are no longer.
const MAX_NAME_BYTES: usize = 1_024;
/// Between who somebody has shown to be and what they are called.
const FOR: &str = " (for ";
/// What comes of the two is a name that every operation takes for an actor.
const MAX_SHOWN_BYTES: usize = MAX_ACTOR_BYTES - 1;
/// The longest text within a detail; of a longer one the beginning is entered.
const MAX_TEXT_BYTES: usize = 1_024;
/// A detail that comes to more is replaced by its digest. With all texts above, each byte written
/// as six, a line stays below what a log takes.
const MAX_DETAIL_BYTES: usize = 16 * 1024;
const _: () = assert!(
    6 * (MAX_ACTOR_BYTES + MAX_REASON_BYTES + MAX_REQUEST_ID_BYTES + MAX_NAME_BYTES)
        + MAX_DETAIL_BYTES
        + 1_024
        <= crate::store::log::MAX_LINE_BYTES
);

tokio::task_local! {
    static CALLER: Caller;
}

/// Who asks for a change, as far as is known. What is done within [`scope`](Caller::scope) is
/// entered in this name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// A person or a service.
    pub actor: Option<String>,
    /// The request by which it was asked for.
    pub request_id: Option<String>,
    /// Who they have shown to be, such as by a token. It stands before whatever name is given.
    pub proven: Option<String>,
}

impl Caller {
    /// One of these names. Nothing proves that the actor is who it says.
    ///
    /// # Errors
    /// `Invalid` for an actor over 256 bytes, a request id over 128, and for control characters.
    pub fn new(actor: Option<String>, request_id: Option<String>) -> Result<Self> {
        if let Some(actor) = &actor {
            check_name("actor", actor, MAX_ACTOR_BYTES)?;
        }
        if let Some(id) = &request_id {
            check_name("request id", id, MAX_REQUEST_ID_BYTES)?;
        }
        Ok(Caller { actor, request_id, proven: None })
    }

    /// The name under which they are entered: what they have shown to be, with what they or the
    /// operation call them behind it, if that is something else. Given what this gives, it gives it
    /// back.
    pub fn shown(&self, named: Option<&str>) -> Option<String> {
        let named = named.or(self.actor.as_deref());
        let Some(proven) = self.proven.as_deref() else { return named.map(str::to_owned) };
        let is_shown = |named: &str| {
            let rest = named.strip_prefix(proven);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(FOR) && rest.ends_with(')'))
        };
        match named {
            None => Some(proven.to_owned()),
            Some(named) if is_shown(named) => Some(named.to_owned()),
            Some(named) => {
                let room = MAX_SHOWN_BYTES.saturating_sub(proven.len() + FOR.len() + 1);
                Some(format!("{proven}{FOR}{})", clipped(named, room)))
            }
        }
    }

    /// Does this in the caller's name. Tasks that are spawned inside do not inherit it.
    pub async fn scope<F: Future>(self, work: F) -> F::Output {
        CALLER.scope(self, work).await
    }

    /// Whoever asks now, for work that goes on in a task of its own; nobody outside of a
    /// [`scope`](Caller::scope).
    pub fn current() -> Caller {
        CALLER.try_with(Clone::clone).unwrap_or_default()
    }
}

/// Writes entries in the name of one instance. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Scribe(Option<Arc<Desk>>);

#[derive(Debug)]
struct Desk {
    instance: Box<str>,
    masks: Masks,
}

type Keyed = Hmac<Sha256>;

/// Fields of details that are not shown as they are.
pub(crate) struct Masks {
    names: Vec<String>,
    /// Made when something is masked first.
    keyed: LazyLock<Keyed, Box<dyn FnOnce() -> Keyed + Send>>,
}

impl std::fmt::Debug for Masks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Masks").field("names", &self.names).finish_non_exhaustive()
    }
}

impl Masks {
    /// Fields of these names are shown by what the secret makes of them.
    pub(crate) fn new(
        names: Vec<String>,
        secret: impl FnOnce() -> String + Send + 'static,
    ) -> Self {
        let keyed = move || {
            Keyed::new_from_slice(secret().as_bytes()).expect("HMAC takes a key of any length")
        };
        Masks { names, keyed: LazyLock::new(Box::new(keyed)) }
    }

    fn covers(&self, name: &str) -> bool {
        crate::mask::covers(&self.names, name)
    }

    /// The same text gives the same mask, and nobody without the secret finds the text by trying.
    fn mask(&self, shown: &[u8]) -> String {
        let mut keyed = self.keyed.clone();
        keyed.update(shown);
        let code: [u8; 32] = keyed.finalize().into_bytes().into();
        format!("hmac-sha256:{}", hex(&code))
    }
}

/// What is to be entered.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    /// What changes: the kind of thing and its name, such as `saga` and an id.
    pub(crate) entity: (&'static str, &'a str),
    /// What happens to it, in the past tense.
    pub(crate) action: &'static str,
    /// Who did it, if that is neither the caller nor this instance.
    pub(crate) actor: Option<&'a str>,
    /// Who did it, if no caller is known: a worker by the name that it gave.
    pub(crate) worker: Option<&'a str>,
    pub(crate) reason: Option<&'a str>,
    /// The commit that left what this one changes, where that is known.
    pub(crate) previous: Option<Revision>,
    /// The value of the record that the change leaves: its SHA-256 is entered.
    pub(crate) record: Option<&'a [u8]>,
    /// What else is worth knowing, and no secret and no payload.
    pub(crate) detail: Detail<'a>,
}

impl<'a> Entry<'a> {
    pub(crate) fn new(kind: &'static str, name: &'a str, action: &'static str) -> Self {
        Entry {
            entity: (kind, name),
            action,
            actor: None,
            worker: None,
            reason: None,
            previous: None,
            record: None,
            detail: Detail::default(),
        }
    }

    /// With one more field of the detail.
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<Value<'a>>) -> Self {
        self.detail = self.detail.with(name, value);
        self
    }

    /// With one more field, if there is something to say.
    pub(crate) fn with_some(
        mut self,
        name: &'static str,
        value: Option<impl Into<Value<'a>>>,
    ) -> Self {
        if let Some(value) = value {
            self.detail = self.detail.with(name, value);
        }
        self
    }
}

/// Named fields, as they are shown.
#[derive(Debug, Default)]
pub(crate) struct Detail<'a>(Vec<(&'static str, Value<'a>)>);

impl<'a> Detail<'a> {
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<Value<'a>>) -> Self {
        self.0.push((name, value.into()));
        self
    }
}

/// What a field says.
#[derive(Debug)]
pub(crate) enum Value<'a> {
    Text(Cow<'a, str>),
    Number(u64),
    Flag(bool),
    /// SHA-256 of a payload.
    Digest([u8; 32]),
    Texts(Vec<&'a str>),
    Rows(Vec<Detail<'a>>),
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Value::Text(text.into())
    }
}

impl From<String> for Value<'_> {
    fn from(text: String) -> Self {
        Value::Text(text.into())
    }
}

impl From<u64> for Value<'_> {
    fn from(number: u64) -> Self {
        Value::Number(number)
    }
}

impl From<u32> for Value<'_> {
    fn from(number: u32) -> Self {
        Value::Number(number.into())
    }
}

impl From<bool> for Value<'_> {
    fn from(flag: bool) -> Self {
        Value::Flag(flag)
    }
}

impl From<[u8; 32]> for Value<'_> {
    fn from(digest: [u8; 32]) -> Self {
        Value::Digest(digest)
    }
}

impl<'a> From<&'a [String]> for Value<'a> {
    fn from(texts: &'a [String]) -> Self {
        Value::Texts(texts.iter().map(String::as_str).collect())
    }
}

impl<'a> From<Vec<&'a str>> for Value<'a> {
    fn from(texts: Vec<&'a str>) -> Self {
        Value::Texts(texts)
    }
}

impl<'a> From<Vec<Detail<'a>>> for Value<'a> {
    fn from(rows: Vec<Detail<'a>>) -> Self {
        Value::Rows(rows)
    }
}

impl Scribe {
    /// One that writes in the name of this instance.
    pub(crate) fn new(instance: &str, masks: Masks) -> Self {
        Scribe(Some(Arc::new(Desk { instance: instance.into(), masks })))
    }

    /// One that writes nothing.
    pub(crate) fn silent() -> Self {
        Scribe(None)
    }

    /// Whether it writes: what costs something to say need not be said otherwise.
    pub(crate) fn writes(&self) -> bool {
        self.0.is_some()
    }

    /// The write that enters this, for the commit of the change; nothing if there is no audit.
    pub(crate) fn enter(&self, entry: &Entry<'_>) -> Option<Write> {
        let desk = self.0.as_deref()?;
        let line = CALLER
            .try_with(|caller| desk.line(entry, Some(caller)))
            .unwrap_or_else(|_| desk.line(entry, None));
        Some(desk.write(entry, line))
    }

    /// As [`enter`](Scribe::enter), of what this instance does by itself, whoever asks for
    /// something at this moment.
    pub(crate) fn enter_own(&self, entry: &Entry<'_>) -> Option<Write> {
        let desk = self.0.as_deref()?;
        Some(desk.write(entry, desk.line(entry, None)))
    }
}

impl Desk {
    fn write(&self, entry: &Entry<'_>, line: Vec<u8>) -> Write {
        Write::Append { key: audit_log(Partition::of(entry.entity.1)), line }
    }

    fn line(&self, entry: &Entry<'_>, caller: Option<&Caller>) -> Vec<u8> {
        let mut line = Vec::with_capacity(384);
        let (kind, name) = entry.entity;
        line.extend_from_slice(b"{\"entity\":\"");
        line.extend_from_slice(kind.as_bytes());
        line.push(b'/');
        text(&mut line, clipped(name, MAX_NAME_BYTES));
        // One text of the two: the quotes between them go.
        let quote = b"{\"entity\":\"".len() + kind.len() + 1;
        line.remove(quote);
        field(&mut line, "action", entry.action, MAX_NAME_BYTES);
        let asked = caller.and_then(|caller| caller.actor.as_deref());
        let shown = caller.filter(|caller| caller.proven.is_some());
        let shown = shown.and_then(|caller| caller.shown(entry.actor));
        let actor = shown.as_deref().or(entry.actor).or(asked).or(entry.worker);
        field(&mut line, "actor", actor.unwrap_or(&self.instance), MAX_ACTOR_BYTES);
        if let Some(reason) = entry.reason {
            field(&mut line, "reason", reason, MAX_REASON_BYTES);
        }
        if let Some(id) = caller.and_then(|caller| caller.request_id.as_deref()) {
            field(&mut line, "request_id", id, MAX_REQUEST_ID_BYTES);
        }
        if let Some(previous) = entry.previous {
            line.extend_from_slice(b",\"previous\":\"");
            number(&mut line, previous.number());
            line.push(b'"');
        }
        if let Some(record) = entry.record {
            let digest: [u8; 32] = Sha256::digest(record).into();
            line.extend_from_slice(b",\"digest\":\"");
            digits(&mut line, &digest);
            line.push(b'"');
        }
        if !entry.detail.0.is_empty() {
            line.extend_from_slice(b",\"detail\":");
            self.detail(&mut line, &entry.detail);
        }
        line.push(b'}');
        line
    }

    /// The detail, or what is left of one that is too long.
    fn detail(&self, line: &mut Vec<u8>, detail: &Detail<'_>) {
        let begin = line.len();
        self.fields(line, detail);
        let bytes = line.len() - begin;
        if bytes > MAX_DETAIL_BYTES {
            let digest: [u8; 32] = Sha256::digest(&line[begin..]).into();
            line.truncate(begin);
            let short = format!("{{\"bytes\":{bytes},\"digest\":\"sha256:{}\"}}", hex(&digest));
            line.extend_from_slice(short.as_bytes());
        }
    }

    fn fields(&self, line: &mut Vec<u8>, Detail(fields): &Detail<'_>) {
        line.push(b'{');
        for (place, (name, value)) in fields.iter().enumerate() {
            if place > 0 {
                line.push(b',');
            }
            line.push(b'"');
            line.extend_from_slice(name.as_bytes());
            line.extend_from_slice(b"\":");
            if self.masks.covers(name) {
                let mask = match value {
                    Value::Text(shown) => self.masks.mask(shown.as_bytes()),
                    Value::Number(_)
                    | Value::Flag(_)
                    | Value::Digest(_)
                    | Value::Texts(_)
                    | Value::Rows(_) => {
                        let mut shown = Vec::new();
                        self.value(&mut shown, value);
                        self.masks.mask(&shown)
                    }
                };
                text(line, &mask);
            } else {
                self.value(line, value);
            }
        }
        line.push(b'}');
    }

    fn value(&self, line: &mut Vec<u8>, value: &Value<'_>) {
        match value {
            Value::Text(shown) => text(line, clipped(shown, MAX_TEXT_BYTES)),
            Value::Number(shown) => number(line, *shown),
            Value::Flag(true) => line.extend_from_slice(b"true"),
            Value::Flag(false) => line.extend_from_slice(b"false"),
            Value::Digest(digest) => {
                line.extend_from_slice(b"\"sha256:");
                digits(line, digest);
                line.push(b'"');
            }
            Value::Texts(texts) => list(line, texts, |line, shown| {
                text(line, clipped(shown, MAX_TEXT_BYTES));
            }),
            Value::Rows(rows) => list(line, rows, |line, row| self.fields(line, row)),
        }
    }
}

fn list<T>(line: &mut Vec<u8>, items: &[T], write: impl Fn(&mut Vec<u8>, &T)) {
    line.push(b'[');
    for (place, item) in items.iter().enumerate() {
        if place > 0 {
            line.push(b',');
        }
        write(line, item);
    }
    line.push(b']');
}

fn field(line: &mut Vec<u8>, name: &str, value: &str, most: usize) {
    line.extend_from_slice(b",\"");
    line.extend_from_slice(name.as_bytes());
    line.extend_from_slice(b"\":");
    text(line, clipped(value, most));
}

fn number(line: &mut Vec<u8>, shown: u64) {
    use std::io::Write as _;
    write!(line, "{shown}").expect("memory takes it");
}

/// A digest in hexadecimal digits, without a text of its own.
fn digits(line: &mut Vec<u8>, digest: &[u8; 32]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in digest {
        line.push(DIGITS[usize::from(byte >> 4)]);
        line.push(DIGITS[usize::from(byte & 15)]);
    }
}

/// A text as JSON: newlines are escaped, so that a line stays one.
fn text(line: &mut Vec<u8>, shown: &str) {
    serde_json::to_writer(line, shown).expect("a text has a JSON form, and memory takes it");
}

/// The beginning of a text that is too long.
fn clipped(shown: &str, most: usize) -> &str {
    &shown[..shown.floor_char_boundary(most)]
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;
    use crate::store::Commit;
    use crate::store::log::MAX_LINE_BYTES;

    fn scribe(masked: &[&str]) -> Scribe {
        let names = masked.iter().map(|name| (*name).to_owned()).collect();
        Scribe::new("web-1", Masks::new(names, || "key".into()))
    }

    fn line(scribe: &Scribe, entry: &Entry<'_>) -> (String, Json) {
        let Some(Write::Append { line, .. }) = scribe.enter(entry) else { panic!() };
        let text = String::from_utf8(line).unwrap();
        let json = serde_json::from_str(&text).unwrap();
        (text, json)
    }

    #[test]
    fn an_entry_reads_as_it_is_documented() {
        let mut entry = Entry::new("saga", "a\"b\n", "cancelled")
            .with("step", "lock\tfunds")
            .with("number", 7_u64)
            .with("will_retry", true)
            .with("legs", vec![Detail::default().with("amount", "1.00")])
            .with("tags", vec!["x", "y"])
            .with_some("error", None::<&str>);
        entry.actor = Some("ann");
        entry.reason = Some("why");
        entry.previous = Some(Revision::new(5));
        entry.record = Some(b"record");
        let (text, json) = line(&scribe(&[]), &entry);
        assert!(!text.contains('\n'), "{text}");
        let digest = hex(&Sha256::digest(b"record"));
        let expected = json!({
            "entity": "saga/a\"b\n", "action": "cancelled", "actor": "ann", "reason": "why",
            "previous": "5", "digest": digest,
            "detail": { "step": "lock\tfunds", "number": 7, "will_retry": true,
                "legs": [{ "amount": "1.00" }], "tags": ["x", "y"] },
        });
        assert_eq!(json, expected);
        assert!(Scribe::silent().enter(&entry).is_none());
    }

    #[tokio::test]
    async fn the_actor_is_named_by_the_operation_or_the_caller_or_the_worker_or_is_the_instance() {
        let scribe = scribe(&[]);
        let mut entry = Entry::new("job", "1", "claimed");
        assert_eq!(line(&scribe, &entry).1["actor"], "web-1");
        entry.worker = Some("worker");
        assert_eq!(line(&scribe, &entry).1["actor"], "worker");
        let caller = Caller::new(Some("ann".into()), Some("r".into())).unwrap();
        let work = async {
            let json = line(&scribe, &entry).1;
            assert_eq!((&json["actor"], &json["request_id"]), (&json!("ann"), &json!("r")));
            entry.actor = Some("bob");
            assert_eq!(line(&scribe, &entry).1["actor"], "bob");
            entry.actor = None;
            entry.worker = None;
            let Some(Write::Append { line, .. }) = scribe.enter_own(&entry) else { panic!() };
            let json: Json = serde_json::from_slice(&line).unwrap();
            assert_eq!((&json["actor"], json.get("request_id")), (&json!("web-1"), None));
        };
        caller.scope(work).await;
        for wrong in ["", "a\nb", &"x".repeat(257)] {
            Caller::new(Some(wrong.into()), None).unwrap_err();
        }
    }

    #[tokio::test]
    async fn who_somebody_has_shown_to_be_stands_before_what_they_are_called() {
        let scribe = scribe(&[]);
        let mut entry = Entry::new("job", "1", "claimed");
        entry.worker = Some("worker");
        let proven = Caller { proven: Some("ops".into()), ..Caller::default() };
        let called = Caller { actor: Some("ann".into()), ..proven.clone() };
        let long = Caller { actor: Some("é".repeat(128)), ..proven.clone() };
        let work = async { line(&scribe, &entry).1["actor"].clone() };
        assert_eq!(proven.clone().scope(work).await, "ops");
        entry.actor = Some("bob");
        let work = async { line(&scribe, &entry).1["actor"].clone() };
        assert_eq!(called.clone().scope(work).await, "ops (for bob)");
        for caller in [&proven, &called, &long] {
            let shown = caller.shown(None).unwrap();
            assert!(shown.len() < MAX_ACTOR_BYTES && shown.starts_with("ops"), "{shown}");
            assert_eq!(caller.shown(Some(&shown)).as_deref(), Some(&*shown), "said twice");
        }
        assert_eq!(proven.shown(Some("ops2 (for a)")).unwrap(), "ops (for ops2 (for a))");
        assert_eq!(Caller::default().shown(Some("bob")).as_deref(), Some("bob"));
    }

    #[test]
    fn a_masked_field_is_compared_and_not_read_at_any_depth() {
        let entry = |to: &str| {
            let legs = vec![Detail::default().with("Destination", to.to_owned())];
            Entry::new("payout", "1", "simulated")
                .with("destination", to.to_owned())
                .with("count", 5_u64)
                .with("legs", legs)
        };
        let masked = scribe(&["destination", "count"]);
        let (text, json) = line(&masked, &entry("DE-1"));
        assert!(!text.contains("DE-1") && !text.contains(":5"), "{text}");
        let mask = &json["detail"]["destination"];
        assert_eq!(*mask, json["detail"]["legs"][0]["Destination"]);
        assert_eq!(*mask, line(&masked, &entry("DE-1")).1["detail"]["destination"]);
        assert_ne!(*mask, line(&masked, &entry("DE-2")).1["detail"]["destination"]);
        // HMAC-SHA256 with the key "key" of "DE-1".
        let plain = format!("sha256:{}", hex(&Sha256::digest(b"DE-1")));
        assert!(!mask.as_str().unwrap().ends_with(&plain[7..]));
        assert!(!format!("{masked:?}").contains("key\""));
    }

    #[test]
    fn an_entry_never_makes_a_commit_fail_however_long_what_it_tells_is() {
        // Each byte of it is written as six.
        let long = "\u{1}".repeat(100_000);
        let mut entry = Entry::new("job", &long, "claimed");
        entry.actor = Some(&long);
        entry.reason = Some(&long);
        for fields in [1, 2, 3, 10, 1_000] {
            entry.detail = Detail::default();
            for _ in 0..fields {
                entry.detail = std::mem::take(&mut entry.detail).with("error", &*long);
            }
            let write = scribe(&[]).enter(&entry).unwrap();
            let Write::Append { line, .. } = &write else { panic!() };
            assert!(line.len() <= MAX_LINE_BYTES, "{}", line.len());
            serde_json::from_slice::<Json>(line).unwrap();
            Commit::new(Partition::FIRST, Vec::new(), vec![write], Vec::new()).unwrap();
        }
        let mut entry = Entry::new("job", "1", "claimed");
        for _ in 0..20 {
            entry = entry.with("error", &*long);
        }
        let detail = &line(&scribe(&[]), &entry).1["detail"];
        assert!(detail["digest"].as_str().unwrap().starts_with("sha256:"), "{detail}");
    }
}
