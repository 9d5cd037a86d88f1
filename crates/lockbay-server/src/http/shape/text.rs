//! Texts and numbers with a form of their own.

use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaType, Type};
use utoipa::{PartialSchema, ToSchema};

/// Anything but control characters.
const PRINTABLE: &str = r"^[^\x00-\x1f\x7f-\x9f]+$";
/// The same, and no slash, which would end it inside the name of an account.
const NO_SLASH: &str = r"^[^\x00-\x1f\x7f-\x9f/]+$";
/// The same, and no `@`, behind which the due time stands in the keys of jobs.
const NO_AT: &str = r"^[^\x00-\x1f\x7f-\x9f@]+$";
/// Anything but control characters, and not white space alone.
const SAYS_SOMETHING: &str =
    r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$";

/// A name of up to 128 bytes.
pub(in crate::http) enum Name {}

impl PartialSchema for Name {
    fn schema() -> RefOr<Schema> {
        text(128, PRINTABLE, "A name of 1 to 128 bytes without control characters.")
    }
}

impl ToSchema for Name {}

/// The name of a rule.
pub(in crate::http) enum RuleName {}

impl PartialSchema for RuleName {
    fn schema() -> RefOr<Schema> {
        text(64, PRINTABLE, "A name of 1 to 64 bytes without control characters.")
    }
}

impl ToSchema for RuleName {}

/// The key of a value of state.
pub(in crate::http) enum StateKey {}

impl PartialSchema for StateKey {
    fn schema() -> RefOr<Schema> {
        text(512, PRINTABLE, "A key of 1 to 512 bytes without control characters.")
    }
}

impl ToSchema for StateKey {}

/// A name of up to 256 bytes.
pub(in crate::http) enum LongName {}

impl PartialSchema for LongName {
    fn schema() -> RefOr<Schema> {
        text(256, PRINTABLE, "A name of 1 to 256 bytes without control characters.")
    }
}

impl ToSchema for LongName {}

/// An id that stands in the names of accounts.
pub(in crate::http) enum PlainId {}

impl PartialSchema for PlainId {
    fn schema() -> RefOr<Schema> {
        text(128, NO_SLASH, "An id of 1 to 128 bytes without control characters and slashes.")
    }
}

impl ToSchema for PlainId {}

/// The name of a schedule.
pub(in crate::http) enum ScheduleId {}

impl PartialSchema for ScheduleId {
    fn schema() -> RefOr<Schema> {
        text(128, NO_AT, "A name of 1 to 128 bytes without control characters and `@`.")
    }
}

impl ToSchema for ScheduleId {}

/// The id of a task.
pub(in crate::http) enum TaskId {}

impl PartialSchema for TaskId {
    fn schema() -> RefOr<Schema> {
        string()
            .pattern(Some("^[0-9a-fA-F]{32}$"))
            .description(Some("32 hexadecimal digits."))
            .into()
    }
}

impl ToSchema for TaskId {}

/// Why somebody decides so.
pub(in crate::http) enum Reason {}

impl PartialSchema for Reason {
    fn schema() -> RefOr<Schema> {
        let words = "Why: 1 to 1024 bytes without control characters, not white space alone.";
        text(1_024, SAYS_SOMETHING, words)
    }
}

impl ToSchema for Reason {}

/// A number of 64 bits as text.
pub(in crate::http) enum FencingToken {}

impl PartialSchema for FencingToken {
    fn schema() -> RefOr<Schema> {
        let words = "A number that only grows, as text because it passes 2^53. Whoever is shown an \
                     older one than they know must refuse.";
        text(20, "^[0-9]{1,19}$", words)
    }
}

impl ToSchema for FencingToken {}

/// The code of a currency.
pub(in crate::http) enum Currency {}

impl PartialSchema for Currency {
    fn schema() -> RefOr<Schema> {
        let words = "An ISO 4217 code or one of the large crypto currencies, in upper case.";
        let code = string().pattern(Some("^[A-Z0-9]{2,8}$")).examples(["USD", "EUR", "BTC"]);
        code.description(Some(words)).into()
    }
}

impl ToSchema for Currency {}

/// A user as a request names them.
pub(in crate::http) enum GivenUserId {}

impl PartialSchema for GivenUserId {
    fn schema() -> RefOr<Schema> {
        let words = "A user by your own id for them: 1 to 128 bytes without control characters and \
                     slashes, or an integer. `5` and `\"5\"` are the same user.";
        let either = SchemaType::from_iter([Type::String, Type::Integer]);
        let id = ObjectBuilder::new().schema_type(either).pattern(Some(NO_SLASH));
        id.min_length(Some(1)).max_length(Some(128)).description(Some(words)).into()
    }
}

impl ToSchema for GivenUserId {}

fn text(longest: usize, pattern: &str, description: &str) -> RefOr<Schema> {
    let text = string().min_length(Some(1)).max_length(Some(longest)).pattern(Some(pattern));
    text.description(Some(description)).into()
}

fn string() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}
