//! Money: amounts, accounts, movements, totals.

use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaType, Type};
use utoipa::{PartialSchema, ToSchema};

use super::{Currency, Moment, PlainId};

/// An amount or a sum as answers have it.
pub(in crate::http) enum Amount {}

impl PartialSchema for Amount {
    fn schema() -> RefOr<Schema> {
        let words = "A sum of money as text, with all the decimals of its currency, such as \
                     `1000.00`. What was taken is below zero.";
        let text = ObjectBuilder::new().schema_type(Type::String);
        text.pattern(Some(r"^-?[0-9]+(\.[0-9]+)?$")).description(Some(words)).into()
    }
}

impl ToSchema for Amount {}

/// An amount as a request gives it.
pub(in crate::http) enum GivenAmount {}

impl PartialSchema for GivenAmount {
    fn schema() -> RefOr<Schema> {
        let words = "An amount above zero, as decimal text or as a number, which is read by its \
                     text and never as a float. It has no more decimals than its currency, and is \
                     at most 10^15, or 10^27 of the smallest unit where that is less.";
        let either = SchemaType::from_iter([Type::String, Type::Number]);
        let amount = ObjectBuilder::new().schema_type(either).exclusive_minimum(Some(0));
        let amount = amount.maximum(Some(1e15)).max_length(Some(128));
        let amount = amount.pattern(Some(r"^[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?$"));
        amount.examples(["1000.00"]).description(Some(words)).into()
    }
}

impl ToSchema for GivenAmount {}

/// What a user has.
#[derive(ToSchema)]
pub(in crate::http) struct Balance {
    /// What may be spent.
    available: Amount,
    /// What is set apart in open holds.
    held: Amount,
    currency: Currency,
}

/// All accounts of one currency added up.
#[derive(ToSchema)]
pub(in crate::http) struct CurrencyTotals {
    currency: Currency,
    /// Everything. Anything but zero is a defect or a damaged store.
    sum: Amount,
    /// What users may spend.
    available: Amount,
    /// What is in holds.
    held: Amount,
    /// What the accounts of users say is in holds. Anything but `held` is a defect too.
    held_by_users: Amount,
    /// What is in escrows.
    escrow: Amount,
    /// What went outside, less what came from there.
    external: Amount,
}

/// What a movement is for.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
enum MovementKind {
    Deposit,
    UndoDeposit,
    Lock,
    Reserve,
    Void,
    Lapse,
    Escrow,
    UndoEscrow,
    Release,
    Refund,
    UndoRelease,
    Payout,
    UndoPayout,
    ReturnPayout,
}

/// A movement that happened.
#[derive(ToSchema)]
pub(in crate::http) struct Movement {
    movement_id: String,
    kind: MovementKind,
    currency: Currency,
    /// Its sides; they come to zero.
    legs: Vec<Leg>,
    /// The step of a saga that it was.
    #[schema(required)]
    reference: Option<Reference>,
    /// When it was committed, by the store's clock.
    at: Moment,
}

/// One side of a movement.
#[derive(ToSchema)]
#[schema(as = MovementLeg)]
struct Leg {
    /// Which account: `user/…`, `hold/…`, `escrow/…` or `external/…`.
    account: String,
    /// What was added to it; below zero for what was taken.
    amount: Amount,
    /// What was in it then.
    balance: Amount,
}

/// Which saga, and which step of it, a movement belongs to.
#[derive(ToSchema)]
#[schema(as = MovementReference)]
struct Reference {
    saga_id: PlainId,
    step: String,
}
