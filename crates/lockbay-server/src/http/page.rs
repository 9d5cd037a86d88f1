//! Pages of lists: the size asked for, and opaque tokens for where to go on.
//!
//! A token is the place in the list in hexadecimal digits, so that clients do not build their own
//! and a token survives any URL. It grants nothing: a place outside the list is refused by the list.

use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::problem::Problem;

/// The most items of a page.
pub(super) const MAX_PAGE_SIZE: usize = lockbay::store::MAX_PAGE;
/// The items of a page when nobody asks.
const DEFAULT_PAGE_SIZE: usize = 100;

/// A page of a list.
#[derive(Serialize)]
pub(super) struct Page<T> {
    items: Vec<T>,
    next_page_token: Option<String>,
}

impl<T: Serialize> Page<T> {
    /// These items, going on behind `next`.
    pub(super) fn new(items: Vec<T>, next: Option<String>) -> Self {
        Page { items, next_page_token: next.map(|place| token_of(&place)) }
    }
}

impl<T: Serialize> IntoResponse for Page<T> {
    fn into_response(self) -> Response {
        axum::Json(self).into_response()
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

/// The place that a token stands for.
pub(super) fn place(token: Option<&str>) -> Result<Option<String>, Problem> {
    let Some(token) = token else { return Ok(None) };
    let decoded = decode(token).filter(|place| !place.is_empty() && place.len() <= 1_024);
    match decoded.filter(|place| !place.chars().any(char::is_control)) {
        Some(place) => Ok(Some(place)),
        None => Err(Problem::invalid(format!(
            "a page token is the next_page_token of an earlier page, not {token:?}"
        ))),
    }
}

fn token_of(place: &str) -> String {
    place.bytes().map(|byte| format!("{byte:02x}")).collect()
}

fn decode(token: &str) -> Option<String> {
    if !token.len().is_multiple_of(2) {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = token.as_bytes().chunks(2);
    let bytes = pairs.map(|pair| Some(digit(pair[0])? * 16 + digit(pair[1])?));
    String::from_utf8(bytes.collect::<Option<Vec<u8>>>()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_leads_back_to_its_place_and_nothing_else_is_one() {
        let token = token_of("claimed/00é");
        assert_eq!(place(Some(&token)).ok().flatten().as_deref(), Some("claimed/00é"));
        for token in ["", "x", "xx", "ff", "00", "é"] {
            assert!(place(Some(token)).is_err(), "{token}");
        }
    }
}
