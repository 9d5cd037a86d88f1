//! Above which amounts a second person is asked, and how much money a decision about a saga is about.
//!
//! Pure functions over settings and what a saga says. What cannot be read may be any amount.

use std::time::Duration;

use lockbay::LockBay;
use lockbay::ledger::{Amount, Currency};
use lockbay::saga::{Decision, SagaInfo};
use serde::Deserialize;
use serde_json::Value;

/// What is said of an amount that cannot be read.
const UNREADABLE: &str = "unreadable";

/// Above which amounts a second person is asked.
#[derive(Debug, Clone, Default)]
pub(crate) struct FourEyes {
    of: Vec<Amount>,
    /// Of every other currency, in its units.
    others: Option<String>,
    /// How long there is for an answer.
    pub(super) ttl: Duration,
}

impl FourEyes {
    /// As `four_eyes_above` says: `USD:10000,EUR:9000`, and `*:5000` for every other currency.
    ///
    /// # Errors
    /// With the part that cannot be read.
    pub(crate) fn of(bay: &LockBay) -> lockbay::Result<Self> {
        let config = bay.config();
        let mut four_eyes = FourEyes { ttl: config.approval_ttl.0, ..FourEyes::default() };
        let Some(text) = &config.four_eyes_above else { return Ok(four_eyes) };
        for part in text.split(',') {
            let unreadable = |why: &str| {
                lockbay::Error::invalid(format!(
                    "four_eyes_above has parts such as USD:10000, and *:5000 for every other \
                     currency; this one is {part:?}: {why}"
                ))
            };
            let (code, amount) =
                part.trim().split_once(':').ok_or_else(|| unreadable("it has no colon"))?;
            if code == "*" {
                // Every currency takes an amount of whole units.
                let whole = amount.bytes().all(|byte| byte.is_ascii_digit()) && !amount.is_empty();
                if !whole || amount.len() > 12 {
                    return Err(unreadable("it is a whole number of at most 12 digits"));
                }
                four_eyes.others = Some(amount.to_owned());
                continue;
            }
            let currency = Currency::parse(code).map_err(|error| unreadable(&error.to_string()))?;
            let amount =
                Amount::parse(amount, currency).map_err(|error| unreadable(&error.to_string()))?;
            four_eyes.of.push(amount);
        }
        Ok(four_eyes)
    }

    /// Whether anything needs a second person.
    pub(super) fn is_on(&self) -> bool {
        !self.of.is_empty() || self.others.is_some()
    }

    pub(super) fn covers(&self, amount: &Amount) -> bool {
        if let Some(limit) = self.of.iter().find(|limit| limit.currency() == amount.currency()) {
            return amount.value() > limit.value();
        }
        let others = self.others.as_deref().map(|units| Amount::parse(units, amount.currency()));
        match others {
            None => false,
            Some(Ok(limit)) => amount.value() > limit.value(),
            // Zero is no amount; and what the currency cannot hold is above nothing.
            Some(Err(_)) => {
                self.others.as_deref().is_some_and(|units| units.trim_matches('0').is_empty())
            }
        }
    }
}

/// Money that something names: an amount, or one that cannot be read.
type Named = Option<Amount>;

/// The amount and currency for which a second person is needed; nothing if none is. What cannot be
/// read may be any amount.
pub(super) fn at_stake(
    four_eyes: &FourEyes,
    saga: &SagaInfo,
    decision: &Decision,
) -> Option<(String, String)> {
    let own = saga.steps.iter().map(|step| &step.parameters).chain([&saga.context]);
    let own: Vec<Named> = own.flat_map(money).collect();
    let (given, replaced) = match decision {
        Decision::Retry { step, parameters: Some(parameters) } => {
            let mut steps = saga.steps.iter();
            let before = steps.find(|one| one.name == *step).map(|step| money(&step.parameters));
            (money(parameters), before.unwrap_or_default())
        }
        Decision::ResolveDone { result, .. } => (money(result), Vec::new()),
        Decision::Retry { .. }
        | Decision::Cancel
        | Decision::Resume
        | Decision::Skip { .. }
        | Decision::ResolveUndone { .. }
        | Decision::Abandon => (Vec::new(), Vec::new()),
    };
    // Parameters that do not say how much, in the place of some that did, may mean any amount.
    let silent = given.is_empty() && !replaced.is_empty();
    let unknown = silent || own.iter().chain(&given).any(Option::is_none);
    let largest = |named: &[Named]| -> Option<Amount> {
        let above = named.iter().flatten().filter(|amount| four_eyes.covers(amount));
        above.max_by_key(|amount| amount.value()).copied()
    };
    if unknown {
        return Some((UNREADABLE.to_owned(), UNREADABLE.to_owned()));
    }
    let amount = largest(&given).or_else(|| largest(&own))?;
    Some((amount.to_string(), amount.currency().code().to_owned()))
}

/// All money that a value names, at any depth: wherever a member is called `amount` or `currency`.
fn money(json: &lockbay::Json) -> Vec<Named> {
    #[derive(Deserialize)]
    struct Order {
        amount: lockbay::Json,
        currency: String,
    }
    fn read(json: &lockbay::Json) -> Named {
        // A member that comes twice is not read either.
        let order: Order = json.to_value().ok()?;
        Amount::from_json(&order.amount, Currency::parse(&order.currency).ok()?).ok()
    }
    fn collect(value: &Value, text: Option<&lockbay::Json>, found: &mut Vec<Named>) {
        match value {
            Value::Object(members) => {
                if members.keys().any(|name| is_money(name)) {
                    found.push(match text {
                        Some(text) => read(text),
                        None => lockbay::Json::from_value(value).ok().as_ref().and_then(read),
                    });
                }
                members.values().for_each(|value| collect(value, None, found));
            }
            Value::Array(items) => items.iter().for_each(|value| collect(value, None, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let mut found = Vec::new();
    match json.to_value::<Value>() {
        Ok(value) => collect(&value, Some(json), &mut found),
        Err(_) => found.push(None),
    }
    found
}

fn is_money(name: &str) -> bool {
    name.eq_ignore_ascii_case("amount") || name.eq_ignore_ascii_case("currency")
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn four_eyes(text: &str) -> lockbay::Result<FourEyes> {
        let config = lockbay::Config {
            store: "memory:".into(),
            four_eyes_above: Some(text.into()),
            ..lockbay::Config::default()
        };
        FourEyes::of(&LockBay::open(config).await.unwrap())
    }

    fn amount(text: &str, code: &str) -> Amount {
        Amount::parse(text, Currency::parse(code).unwrap()).unwrap()
    }

    #[tokio::test]
    async fn what_is_above_the_amount_of_its_currency_is_covered_and_nothing_else() {
        let some = four_eyes("USD:10000, JPY:500").await.unwrap();
        assert!(!some.covers(&amount("10000.00", "USD")));
        assert!(some.covers(&amount("10000.01", "USD")));
        assert!(some.covers(&amount("501", "JPY")));
        assert!(!some.covers(&amount("999999", "EUR")));
        let all = four_eyes("USD:10000,*:0").await.unwrap();
        assert!(all.covers(&amount("0.01", "EUR")));
        assert!(!all.covers(&amount("9999", "USD")));
        assert!(!FourEyes::default().covers(&amount("1", "USD")));
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_refused() {
        for text in
            ["", "USD", "USD:", "USD:-1", "USD:1.001", "XXQ:1", "*:1.5", "*:", "USD:1;EUR:2"]
        {
            assert!(four_eyes(text).await.is_err(), "{text:?}");
        }
    }
}
