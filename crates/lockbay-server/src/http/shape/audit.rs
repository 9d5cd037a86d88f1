//! The audit trail: entries, proofs, and what a verification found.

use utoipa::ToSchema;

use super::Moment;

/// An entry of the audit trail.
#[derive(ToSchema)]
pub(in crate::http) struct AuditEntry {
    /// The commit of the change; a string because it passes 2^53.
    #[schema(pattern = "^[0-9]+$")]
    revision: String,
    /// Its place among the entries of that commit.
    index: u32,
    /// When, by the store's clock.
    at: Moment,
    /// What was changed: a kind and a name, with a slash between them.
    entity: String,
    /// What happened to it.
    action: String,
    /// Who did it.
    actor: String,
    /// Why, if that was said.
    #[schema(required)]
    reason: Option<String>,
    /// The request by which it was asked for.
    #[schema(required)]
    request_id: Option<String>,
    /// The commit of the entry before it about the same entity, where that is known.
    #[schema(required)]
    previous: Option<String>,
    /// SHA-256 of the record that the change left, where that stays as it is.
    #[schema(required)]
    digest: Option<String>,
    /// What else is known.
    #[schema(value_type = serde_json::Value)]
    detail: serde_json::Value,
    /// The checkpoint that seals it; null if none does yet.
    #[schema(required)]
    sealed_by: Option<u64>,
}

/// Proof that an entry was sealed.
#[derive(ToSchema)]
pub(in crate::http) struct AuditProof {
    /// The commit of the entry.
    #[schema(pattern = "^[0-9]+$")]
    revision: String,
    /// What the entry says, to the byte.
    entry: String,
    /// Its place among the entries of its checkpoint.
    leaf: u64,
    /// The hashes that lead from it to the root, from below.
    path: Vec<String>,
    /// The checkpoint that seals it, as it is stored.
    checkpoint: String,
    /// Those that follow it, up to the one that was asked for.
    chain: Vec<String>,
}

/// Something that is wrong with the audit trail, and where.
#[derive(ToSchema)]
pub(in crate::http) struct AuditProblem {
    /// The commit of the line that it is about, or the last one known before it.
    #[schema(required)]
    revision: Option<String>,
    /// The checkpoint that it is about.
    #[schema(required)]
    checkpoint: Option<u64>,
    /// What is wrong.
    problem: String,
}

/// What a verification found.
#[derive(ToSchema)]
pub(in crate::http) struct AuditVerdict {
    /// Whether there is no problem.
    ok: bool,
    /// How many entries there are.
    entries: u64,
    /// How many of them are sealed.
    sealed: u64,
    /// How many are not yet.
    unsealed: u64,
    /// How many checkpoints there are.
    checkpoints: u64,
    /// The number of the newest one.
    newest_checkpoint: u64,
    /// The hash of the newest one: keep it elsewhere, and nobody can set the log back unnoticed.
    #[schema(required)]
    newest_hash: Option<String>,
    /// The last checkpoint that may be gone, because it was kept long enough.
    #[schema(required)]
    trimmed: Option<u64>,
    /// When the first entry was made.
    #[schema(required)]
    first_at: Option<Moment>,
    /// When the last entry was made.
    #[schema(required)]
    last_at: Option<Moment>,
    /// The first checkpoint that is signed by a key that is trusted.
    #[schema(required)]
    vouched_from: Option<u64>,
    /// The key that signs now.
    #[schema(required)]
    public_key: Option<String>,
    /// Whether that key came from a setting, so that the store does not know it.
    key_outside_of_store: bool,
    /// How many records were compared with their entries.
    records_compared: u64,
    /// What is wrong.
    problems: Vec<AuditProblem>,
    /// How many more problems there are.
    more_problems: u64,
    /// How long it took.
    took_ms: u64,
}
