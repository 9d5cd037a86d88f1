//! Pages of lists: the size asked for, and opaque tokens for where to go on.
//!
//! A token is the place in the list in hexadecimal digits and a checksum over it and the list it
//! belongs to, so that a token is not built by hand, not mixed up between lists, and survives any
//! URL. It is no secret and grants nothing.

use axum::response::{IntoResponse, Response};
use lockbay::clock::Timestamp;
use lockbay::store::Order;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::problem::Problem;

/// The most items of a page.
pub(super) const MAX_PAGE_SIZE: usize = lockbay::store::MAX_PAGE;
/// The items of a page when nobody asks.
pub(super) const DEFAULT_PAGE_SIZE: usize = 100;

/// A page of a list.
#[derive(Serialize, ToSchema)]
pub(super) struct Page<T> {
    /// What is on it.
    items: Vec<T>,
    /// The `page_token` of the next page, if there may be one.
    #[schema(required)]
    next_page_token: Option<String>,
    /// Of a list that was asked for words: up to when what was entered is found by them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    indexed_until: Option<Timestamp>,
    /// Of a list that was asked for words: whether a beginning of words began so many that not all
    /// of them were looked up.
    #[serde(skip_serializing_if = "Option::is_none")]
    truncated: Option<bool>,
}

impl<T: Serialize> Page<T> {
    /// These items of a list, going on behind `next`.
    pub(super) fn new(list: &str, items: Vec<T>, next: Option<String>) -> Self {
        let next_page_token = next.map(|place| token_of(list, &place));
        Page { items, next_page_token, indexed_until: None, truncated: None }
    }

    /// The same of a list that was asked for words, with what is known of what was looked at.
    pub(super) fn found(self, indexed_until: Timestamp, truncated: bool) -> Self {
        Page { indexed_until: Some(indexed_until), truncated: Some(truncated), ..self }
    }
}

impl<T: Serialize> IntoResponse for Page<T> {
    fn into_response(self) -> Response {
        axum::Json(self).into_response()
    }
}

/// From which end a list is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Sorting {
    Oldest,
    Newest,
}

/// The order that was asked for, of a list of which it is known whether it has the newest first by
/// itself.
pub(super) fn order_of(
    asked: Option<Sorting>,
    newest_first: Option<bool>,
) -> Result<Order, Problem> {
    match (asked, newest_first) {
        (None, _) => Ok(Order::Forwards),
        (Some(sorting), Some(newest)) if (sorting == Sorting::Newest) == newest => {
            Ok(Order::Forwards)
        }
        (Some(_), Some(_)) => Ok(Order::Backwards),
        (Some(_), None) => Err(Problem::invalid(
            "the query: order goes with a status, and not with a key or words: lists are in the \
             order of time within a status, and what is found by words has the newest first",
        )),
    }
}

/// The page size that was asked for.
pub(super) fn size(asked: Option<usize>) -> Result<usize, Problem> {
    let size = asked.unwrap_or(DEFAULT_PAGE_SIZE);
    if (1..=MAX_PAGE_SIZE).contains(&size) {
        return Ok(size);
    }
    Err(Problem::invalid(format!("page_size is from 1 to {MAX_PAGE_SIZE}, not {size}")))
}

/// The place in a list that a token stands for.
pub(super) fn place(list: &str, token: Option<&str>) -> Result<Option<String>, Problem> {
    let Some(token) = token else { return Ok(None) };
    let place = token.split_at_checked(CHECKSUM_DIGITS).and_then(|(_, place)| decode(place));
    match place.filter(|place| token_of(list, place) == token) {
        Some(place) => Ok(Some(place)),
        None => Err(Problem::invalid(format!(
            "a page_token is the next_page_token of an earlier page of the same list, not {token:?}"
        ))),
    }
}

/// A page of a list of which all fits into memory; it goes on behind so many. A token is no secret,
/// so that number is whatever somebody wrote.
pub(super) fn of_all<T: Serialize>(
    list: &str,
    mut items: Vec<T>,
    asked: Option<usize>,
    token: Option<&str>,
) -> Result<Page<T>, Problem> {
    let limit = size(asked)?;
    let passed = place(list, token)?.and_then(|place| place.parse().ok()).unwrap_or(0usize);
    let end = passed.saturating_add(limit);
    let next = (items.len() > end).then(|| end.to_string());
    items.truncate(end);
    items.drain(..passed.min(items.len()));
    Ok(Page::new(list, items, next))
}

/// How many digits of a token are its checksum.
const CHECKSUM_DIGITS: usize = 16;

/// The token that stands for a place in a list.
pub(super) fn token_of(list: &str, place: &str) -> String {
    let mut token = format!("{:016x}", checksum(list, place));
    token.extend(place.bytes().map(|byte| format!("{byte:02x}")));
    token
}

/// FNV-1a with 64 bits.
fn checksum(list: &str, place: &str) -> u64 {
    let bytes = list.bytes().chain([0]).chain(place.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn decode(digits: &str) -> Option<String> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = digits.as_bytes().chunks_exact(2);
    let bytes = pairs.map(|pair| Some(digit(pair[0])? * 16 + digit(pair[1])?));
    String::from_utf8(bytes.collect::<Option<Vec<u8>>>()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_leads_back_to_its_place_in_its_list_and_nothing_else_is_one() {
        let token = token_of("jobs", "claimed/00é");
        let found = place("jobs", Some(&token)).ok().flatten();
        assert_eq!(found.as_deref(), Some("claimed/00é"));
        assert!(place("leases", Some(&token)).is_err(), "a token of another list");
        let odd = format!("{token}0");
        for token in ["", "x", "61626364", "cbf29ce484222325ff", "é", &odd, &token[1..]] {
            assert!(place("jobs", Some(token)).is_err(), "{token}");
        }
    }
}
