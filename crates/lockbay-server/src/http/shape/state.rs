//! Values with versions, and what follows from their changes.

use utoipa::ToSchema;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Schema, Type};

use super::Moment;

/// A value of state, and whether it may be older than promised.
#[derive(ToSchema)]
pub(in crate::http) struct StateValue {
    key: String,
    /// To the last digit as it was set.
    #[schema(value_type = serde_json::Value)]
    value: lockbay::Json,
    /// A string because it passes 2^53. Every change gives another, greater one.
    #[schema(pattern = "^[0-9]+$")]
    version: String,
    tags: Vec<String>,
    /// Where it comes from, by the word of whoever set it.
    #[schema(required)]
    source: Option<String>,
    updated_at: Moment,
    /// When it lapses, if ever.
    #[schema(required)]
    expires_at: Option<Moment>,
    /// Whether it may be older than promised, because that was asked for.
    stale: bool,
}

/// A key in a list.
#[derive(ToSchema)]
pub(in crate::http) struct ListedState {
    key: String,
    #[schema(pattern = "^[0-9]+$")]
    version: String,
    /// How large its value is, in bytes of JSON text.
    bytes: u64,
    tags: Vec<String>,
    #[schema(required)]
    source: Option<String>,
    updated_at: Moment,
    #[schema(required)]
    expires_at: Option<Moment>,
}

/// A value that was set.
#[derive(ToSchema)]
pub(in crate::http) struct WrittenState {
    key: String,
    #[schema(pattern = "^[0-9]+$")]
    version: String,
    updated_at: Moment,
    /// When it lapses, if ever.
    #[schema(required)]
    expires_at: Option<Moment>,
}

/// What was invalidated.
#[derive(ToSchema)]
pub(in crate::http) struct Invalidated {
    /// Keys that had a value and have none now, and tags.
    invalidated: u64,
    keys: u64,
    tags: u64,
    /// Patterns that were applied, those of rules included.
    patterns: u64,
}

/// What is invalidated when a key changes whose name matches.
#[derive(ToSchema)]
pub(in crate::http) struct StateRule {
    name: String,
    /// Which keys. `{id}` and the like stand for one part of the key.
    update_pattern: String,
    /// What is invalidated then; parts of the key may be put in.
    invalidate_patterns: Vec<String>,
}

/// A version as it was handed out, or zero for no value.
pub(in crate::http) fn version_wanted() -> RefOr<Schema> {
    let text = ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[0-9]+$"));
    let number = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0));
    OneOfBuilder::new().item(text).item(number).into()
}
