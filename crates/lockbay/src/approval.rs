//! Approvals: what one person asks for and another must allow before it is done.
//!
//! This module owns the record of each request, from when it was asked until it was done, refused,
//! or nobody answered in time. It does not know what is asked for: whoever asks keeps the request
//! here as JSON, and carries it out once it was allowed. A record is written before anything is
//! done, so that a crash in between leaves a request that was allowed and is carried out when
//! somebody allows it again.
//!
//! Records are kept for ever. They are few, and say who let money move.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::{Clock, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::json::Json;
use crate::name::check_name;
use crate::scribe::{Entry, MAX_ACTOR_BYTES, MAX_REASON_BYTES, Scribe};
use crate::store::{
    Commit, Deadline, Guard, Key, Kind, Partition, Range, Record, Reply, Revision, Store, Write,
};

/// A request and how it stands. Key: its id.
const APPROVAL: Kind = Kind::new("approval");
/// All requests, the newest first. Key: the time that is left to the end of all times, `/`, the id.
const APPROVAL_LIST: Kind = Kind::index("approval-list");
/// The longest request, in bytes of JSON.
const MAX_REQUEST_BYTES: usize = 64 * 1024;
/// The longest text that says what came of it; more is cut.
const MAX_OUTCOME_BYTES: usize = 4 * 1024;
/// How long one who allows a request has for carrying it out before another may.
const CARRIED_OUT_WITHIN: Duration = Duration::from_secs(30);
/// How often a commit whose outcome is unknown is sent again.
const MAX_REPEATS: usize = 3;

/// How a request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalStatus {
    /// Nobody has answered.
    Waiting,
    /// It was allowed, and is not known to have been carried out.
    Approved,
    /// It was carried out.
    Done,
    /// It was allowed, and could not be carried out.
    Failed,
    /// It was refused.
    Rejected,
    /// Nobody answered in time.
    Expired,
}

impl ApprovalStatus {
    /// All of them.
    pub const ALL: [ApprovalStatus; 6] = [
        ApprovalStatus::Waiting,
        ApprovalStatus::Approved,
        ApprovalStatus::Done,
        ApprovalStatus::Failed,
        ApprovalStatus::Rejected,
        ApprovalStatus::Expired,
    ];

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            ApprovalStatus::Waiting => "waiting",
            ApprovalStatus::Approved => "approved",
            ApprovalStatus::Done => "done",
            ApprovalStatus::Failed => "failed",
            ApprovalStatus::Rejected => "rejected",
            ApprovalStatus::Expired => "expired",
        }
    }

    /// The status of this name.
    ///
    /// # Errors
    /// `Invalid` if there is none.
    pub fn parse(name: &str) -> Result<Self> {
        let found = ApprovalStatus::ALL.into_iter().find(|status| status.name() == name);
        found.ok_or_else(|| {
            let known = ApprovalStatus::ALL.map(ApprovalStatus::name).join(", ");
            Error::invalid(format!("an approval is one of {known}, not {name:?}"))
        })
    }
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Wish {
    /// What shall be done, such as `deposit`.
    pub verb: String,
    /// To what, such as the id of a saga.
    pub subject: String,
    /// How much money it is about.
    pub amount: String,
    /// In which currency.
    pub currency: String,
    /// Everything that is needed to carry it out.
    pub request: Json,
    /// Who asks.
    pub asked_by: String,
    /// Why.
    pub reason: Option<String>,
    /// How long there is for an answer.
    pub ttl: Duration,
    /// The same key gives the same request again.
    pub key: Option<String>,
}

/// A request and how it stands.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[allow(missing_docs)] // the names say it; see Wish
pub struct Approval {
    pub approval_id: String,
    pub status: ApprovalStatus,
    pub verb: String,
    pub subject: String,
    pub amount: String,
    pub currency: String,
    pub request: Json,
    pub asked_by: String,
    pub reason: Option<String>,
    pub asked_at: Timestamp,
    /// Until when it can be answered.
    pub expires_at: Timestamp,
    pub decided_by: Option<String>,
    pub decided_at: Option<Timestamp>,
    pub decision_reason: Option<String>,
    /// What came of it.
    pub outcome: Option<String>,
    /// Until when the one who allowed it carries it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    carried_out_until: Option<Timestamp>,
}

/// An approval that was asked for.
#[derive(Debug, Clone)]
pub struct Asked {
    /// How it stands.
    pub approval: Approval,
    /// Whether it had been asked for before.
    pub replayed: bool,
}

/// A page of approvals, the newest first.
#[derive(Debug, Clone)]
pub struct ApprovalPage {
    /// Those of the status that was asked for.
    pub items: Vec<Approval>,
    /// Where to go on, if there may be more.
    pub next: Option<String>,
}

/// The right to carry out what was allowed, once.
#[derive(Debug)]
pub struct Allowed {
    /// What was allowed.
    pub approval: Approval,
    revision: Revision,
}

/// The approvals of one store. Cheap to clone.
#[derive(Clone)]
pub struct Approvals(Arc<Desk>);

struct Desk {
    store: Arc<dyn Store>,
    clock: Clock,
    scribe: Scribe,
}

impl Approvals {
    pub(crate) fn new(store: Arc<dyn Store>, clock: Clock, scribe: Scribe) -> Self {
        Approvals(Arc::new(Desk { store, clock, scribe }))
    }

    /// Asks. A key that was asked with before gives what was asked then.
    ///
    /// # Errors
    /// `Invalid` with the field that is outside the limits; `KeyReused` if the key came with another
    /// request.
    pub async fn ask(&self, wish: Wish) -> Result<Asked> {
        check(&wish)?;
        let id = match &wish.key {
            // Of one who asks: another's key is another key.
            Some(key) => {
                let named = Json::from_value(&(&wish.verb, &wish.asked_by, key))?;
                format!("apr_{}", &crate::hex::hex(&named.digest()?)[..32])
            }
            None => format!("apr_{}", self.0.clock.random_id()),
        };
        if let Some(asked) = self.asked_before(&id, &wish).await? {
            return Ok(asked);
        }
        let now = self.0.store.get(&[key(&id)]).await?.now;
        let approval = Approval {
            approval_id: id.clone(),
            status: ApprovalStatus::Waiting,
            verb: wish.verb.clone(),
            subject: wish.subject.clone(),
            amount: wish.amount.clone(),
            currency: wish.currency.clone(),
            request: wish.request.clone(),
            asked_by: wish.asked_by.clone(),
            reason: wish.reason.clone(),
            asked_at: now,
            expires_at: now + wish.ttl,
            decided_by: None,
            decided_at: None,
            decision_reason: None,
            outcome: None,
            carried_out_until: None,
        };
        let mut writes = vec![put(&approval)?];
        let place = format!("{:016x}/{id}", u64::MAX - now.as_micros());
        writes.push(Write::Mark { key: Key::new(Partition::FIRST, APPROVAL_LIST, place) });
        let entry = entry(&approval, "approval_asked", &approval.asked_by, wish.reason.as_deref());
        writes.extend(self.0.scribe.enter(&entry));
        if self.commit(Guard::Absent(key(&id)), writes).await?.is_some() {
            tracing::info!(approval = id, verb = approval.verb, "approval_asked");
            return Ok(Asked { approval, replayed: false });
        }
        let asked = self.asked_before(&id, &wish).await?;
        asked.ok_or_else(|| Error::new(ErrorKind::Busy, "the approval changes; ask again"))
    }

    async fn asked_before(&self, id: &str, wish: &Wish) -> Result<Option<Asked>> {
        let Some((approval, ..)) = self.read(id).await? else { return Ok(None) };
        if approval.request.digest()? != wish.request.digest()? || approval.subject != wish.subject
        {
            let message = format!("the idempotency key belongs to another request, approval {id}");
            return Err(Error::new(ErrorKind::KeyReused, message));
        }
        Ok(Some(Asked { approval, replayed: true }))
    }

    /// One approval.
    ///
    /// # Errors
    /// `NotFound` if there is none of this id.
    pub async fn show(&self, id: &str) -> Result<Approval> {
        let found = self.read(id).await?;
        found.map(|(approval, ..)| approval).ok_or_else(|| none(id))
    }

    /// Approvals, the newest first. A page may have fewer than its size, and still go on.
    ///
    /// # Errors
    /// As the store has them.
    pub async fn list(
        &self,
        status: Option<ApprovalStatus>,
        after: Option<String>,
        limit: usize,
    ) -> Result<ApprovalPage> {
        let range = Range::new(Partition::FIRST, APPROVAL_LIST, "").after(after);
        let page = self.0.store.scan(&range, limit).await?;
        let last = page.records.last().map(|entry| entry.key.id.to_string());
        let id = |place: &str| place.split_once('/').map_or_else(String::new, |(_, id)| id.into());
        let keys: Vec<Key> = page.records.iter().map(|entry| key(&id(&entry.key.id))).collect();
        let mut items = Vec::new();
        if !keys.is_empty() {
            let read = self.0.store.get(&keys).await?;
            for record in read.records.iter().flatten() {
                items.push(as_of(decode(record)?, read.now));
            }
        }
        items.retain(|approval| status.is_none_or(|status| approval.status == status));
        Ok(ApprovalPage { items, next: last.filter(|_| page.more) })
    }

    /// Allows a request, which the caller then carries out. Also one that was allowed before and
    /// is not known to have been carried out.
    ///
    /// # Errors
    /// `Refused` for the one who asked, and if it can no longer be allowed; `Held` while another
    /// carries it out; `NotFound`.
    pub async fn allow(&self, id: &str, actor: &str, reason: &str) -> Result<Allowed> {
        let (mut approval, revision, now) = self.read(id).await?.ok_or_else(|| none(id))?;
        not_who_asked(&approval, actor)?;
        match approval.status {
            ApprovalStatus::Approved if is_carried_out(&approval, now) => {
                return Err(is_busy(&approval));
            }
            ApprovalStatus::Waiting | ApprovalStatus::Approved => {}
            ApprovalStatus::Done
            | ApprovalStatus::Failed
            | ApprovalStatus::Rejected
            | ApprovalStatus::Expired => return Err(over(&approval)),
        }
        approval.status = ApprovalStatus::Approved;
        approval.carried_out_until = Some(now + CARRIED_OUT_WITHIN);
        decided(&mut approval, actor, reason, now);
        let revision = self.change(&approval, revision, "approval_granted", actor, reason).await?;
        Ok(Allowed { approval, revision })
    }

    /// Refuses a request. Who asked may take it back this way, and also one that was allowed and
    /// could not be carried out is ended so.
    ///
    /// # Errors
    /// `Refused` if it is over; `Held` while somebody carries it out; `NotFound`.
    pub async fn reject(&self, id: &str, actor: &str, reason: &str) -> Result<Approval> {
        let (mut approval, revision, now) = self.read(id).await?.ok_or_else(|| none(id))?;
        match approval.status {
            ApprovalStatus::Approved if is_carried_out(&approval, now) => {
                return Err(is_busy(&approval));
            }
            ApprovalStatus::Waiting | ApprovalStatus::Approved => {}
            ApprovalStatus::Done
            | ApprovalStatus::Failed
            | ApprovalStatus::Rejected
            | ApprovalStatus::Expired => return Err(over(&approval)),
        }
        approval.carried_out_until = None;
        approval.status = ApprovalStatus::Rejected;
        decided(&mut approval, actor, reason, now);
        self.change(&approval, revision, "approval_rejected", actor, reason).await?;
        Ok(approval)
    }

    /// Enters what came of it: the words for what was done, or why it could not be.
    ///
    /// # Errors
    /// `Fenced` if another carries it out by now.
    pub async fn finish(
        &self,
        allowed: Allowed,
        outcome: std::result::Result<String, String>,
    ) -> Result<Approval> {
        let Allowed { mut approval, revision } = allowed;
        let (status, action, mut words) = match outcome {
            Ok(words) => (ApprovalStatus::Done, "approval_done", words),
            Err(words) => (ApprovalStatus::Failed, "approval_failed", words),
        };
        words.truncate(words.floor_char_boundary(MAX_OUTCOME_BYTES));
        approval.status = status;
        approval.outcome = Some(words);
        approval.carried_out_until = None;
        let actor = approval.decided_by.clone().unwrap_or_default();
        let reason = approval.decision_reason.clone().unwrap_or_default();
        self.change(&approval, revision, action, &actor, &reason).await?;
        Ok(approval)
    }

    async fn change(
        &self,
        approval: &Approval,
        revision: Revision,
        action: &'static str,
        actor: &str,
        reason: &str,
    ) -> Result<Revision> {
        let id = &approval.approval_id;
        let mut writes = vec![put(approval)?];
        let entry = entry(approval, action, actor, Some(reason).filter(|text| !text.is_empty()));
        writes.extend(self.0.scribe.enter(&entry));
        let committed = self.commit(Guard::RevisionIs(key(id), revision), writes).await?;
        let revision = committed.ok_or_else(|| {
            let message = format!("somebody else has changed approval {id}; look at it again");
            Error::new(ErrorKind::Fenced, message)
        })?;
        tracing::info!(approval = id, action, actor, "approval");
        Ok(revision)
    }

    async fn read(&self, id: &str) -> Result<Option<(Approval, Revision, Timestamp)>> {
        if check_name("approval id", id, 64).is_err() {
            return Ok(None);
        }
        let read = self.0.store.get(&[key(id)]).await?;
        let Some(record) = read.records.iter().flatten().next() else { return Ok(None) };
        Ok(Some((as_of(decode(record)?, read.now), record.revision, read.now)))
    }

    /// The revision of what was committed, if the guard held; one whose answer was lost is sent
    /// again.
    async fn commit(&self, guard: Guard, writes: Vec<Write>) -> Result<Option<Revision>> {
        let commit = Commit::new(Partition::FIRST, vec![guard], writes, Vec::new())?;
        let mut reply = self.0.store.commit(&commit).await;
        for _ in 0..MAX_REPEATS {
            match &reply {
                Err(error) if error.kind() == ErrorKind::Unknown => {
                    reply = self.0.store.commit(&commit).await;
                }
                Ok(_) | Err(_) => break,
            }
        }
        Ok(match reply? {
            Reply::Committed { revision, .. } => Some(revision),
            Reply::Conflict { .. } => None,
        })
    }
}

fn check(wish: &Wish) -> Result<()> {
    check_name("verb", &wish.verb, 64)?;
    check_name("subject", &wish.subject, 512)?;
    check_name("actor", &wish.asked_by, MAX_ACTOR_BYTES)?;
    if let Some(reason) = &wish.reason {
        check_name("reason", reason, MAX_REASON_BYTES)?;
    }
    let length = wish.request.text().len();
    if length > MAX_REQUEST_BYTES {
        return Err(Error::invalid(format!(
            "what is to be approved has {length} bytes, and {MAX_REQUEST_BYTES} at most are kept"
        )));
    }
    Ok(())
}

/// Two people are two names.
fn not_who_asked(approval: &Approval, actor: &str) -> Result<()> {
    if approval.asked_by == actor {
        let id = &approval.approval_id;
        let message = format!("{actor} asked for approval {id}; somebody else has to approve it");
        return Err(Error::new(ErrorKind::Refused, message));
    }
    Ok(())
}

fn over(approval: &Approval) -> Error {
    let (id, status) = (&approval.approval_id, approval.status.name());
    let by = approval.decided_by.as_deref().map_or_else(String::new, |by| format!(" by {by}"));
    Error::new(ErrorKind::Refused, format!("approval {id} is {status}{by} and stays so"))
}

fn is_busy(approval: &Approval) -> Error {
    let id = &approval.approval_id;
    let message = format!("somebody carries approval {id} out just now; look again in a moment");
    Error::new(ErrorKind::Held, message)
}

fn none(id: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no approval {id:?}"))
}

fn decided(approval: &mut Approval, actor: &str, reason: &str, now: Timestamp) {
    approval.decided_by = Some(actor.to_owned());
    approval.decided_at = Some(now);
    approval.decision_reason = Some(reason.to_owned());
}

/// How it stands at this moment: one that nobody answered in time, or carried out, has expired
/// without any write.
fn as_of(mut approval: Approval, now: Timestamp) -> Approval {
    let open = match approval.status {
        ApprovalStatus::Waiting => true,
        ApprovalStatus::Approved => !is_carried_out(&approval, now),
        ApprovalStatus::Done
        | ApprovalStatus::Failed
        | ApprovalStatus::Rejected
        | ApprovalStatus::Expired => false,
    };
    if open && approval.expires_at <= now {
        approval.status = ApprovalStatus::Expired;
    }
    approval
}

/// Whether somebody carries it out just now.
fn is_carried_out(approval: &Approval, now: Timestamp) -> bool {
    approval.carried_out_until.is_some_and(|until| until > now)
}

fn entry<'a>(
    approval: &'a Approval,
    action: &'static str,
    actor: &'a str,
    reason: Option<&'a str>,
) -> Entry<'a> {
    let mut entry = Entry::new("approval", &approval.approval_id, action);
    entry.actor = Some(actor);
    entry.reason = reason;
    entry
        .with("verb", &*approval.verb)
        .with("subject", &*approval.subject)
        .with("amount", &*approval.amount)
        .with("currency", &*approval.currency)
        .with("asked_by", &*approval.asked_by)
}

fn key(id: &str) -> Key {
    Key::new(Partition::FIRST, APPROVAL, id)
}

fn put(approval: &Approval) -> Result<Write> {
    let key = key(&approval.approval_id);
    let value = serde_json::to_vec(approval).map_err(|error| {
        let message = format!("this approval has no JSON form: {key}");
        Error::new(ErrorKind::Internal, message).with_source(error)
    })?;
    Ok(Write::Put { key, value, deadline: Deadline::Never })
}

fn decode(record: &Record) -> Result<Approval> {
    serde_json::from_slice(&record.value).map_err(|error| {
        let message = format!("this approval cannot be read: {}", record.key);
        Error::new(ErrorKind::Internal, message).with_source(error)
    })
}
