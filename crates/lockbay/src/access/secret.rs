//! Secrets as text: how they are drawn, read and compared.
//!
//! There is exactly one way to write a token, so that two texts are never the same one.

use std::fmt;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::clock::{Clock, Timestamp};
use crate::hex::{hex, unhex};

/// How every token begins, so that scanners of sources and logs can find one.
const PREFIX: &str = "lbk_";
/// Digits of an id, and of a secret of 256 bits.
const ID_DIGITS: usize = 16;
const SECRET_DIGITS: usize = 64;

/// 256 random bits. Never shown but on purpose.
#[derive(Clone)]
pub(super) struct Secret([u8; 32]);

/// What is kept of a secret.
pub(super) type Hash = [u8; 32];

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Secret {
    /// A new one.
    pub(super) fn draw(clock: &Clock) -> Self {
        let mut bytes = [0; 32];
        for eight in bytes.chunks_exact_mut(8) {
            eight.copy_from_slice(&clock.random().to_be_bytes());
        }
        Secret(bytes)
    }

    /// The one that these digits are.
    pub(super) fn parse(digits: &str) -> Option<Self> {
        unhex(digits).map(Secret)
    }

    pub(super) fn digits(&self) -> String {
        hex(&self.0)
    }

    /// What is kept of it. A slow hash would protect nothing: nobody tries 2^256 secrets.
    pub(super) fn hash(&self) -> Hash {
        Sha256::digest(self.0).into()
    }

    /// Whether that is what was kept of it, in a time that tells nothing.
    pub(super) fn is(&self, kept: &Hash) -> bool {
        self.hash().ct_eq(kept).into()
    }

    /// Another secret, that follows from this one and does not lead back to it.
    pub(super) fn derive(&self, purpose: &str) -> String {
        let mut hash = Sha256::new();
        hash.update(purpose.as_bytes());
        hash.update([0]);
        hash.update(self.0);
        hex(&hash.finalize())
    }
}

/// A token as it travels: `lbk_ID_SECRET`.
#[derive(Debug)]
pub(super) struct Token {
    pub(super) id: String,
    pub(super) secret: Secret,
}

impl Token {
    /// A new one. Its id begins with the time, so that lists are in the order of making.
    pub(super) fn draw(clock: &Clock, now: Timestamp) -> Self {
        let seconds = (now.as_micros() / 1_000_000) & 0xffff_ffff;
        let chance = clock.random() & 0xffff_ffff;
        Token { id: format!("{seconds:08x}{chance:08x}"), secret: Secret::draw(clock) }
    }

    /// The one that is written so, if that is one at all.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
        is_id(id).then_some(())?;
        (secret.len() == SECRET_DIGITS).then_some(())?;
        Some(Token { id: id.to_owned(), secret: Secret::parse(secret)? })
    }

    pub(super) fn text(&self) -> String {
        format!("{PREFIX}{}_{}", self.id, self.secret.digits())
    }
}

/// Whether this can be the id of a token.
pub(super) fn is_id(id: &str) -> bool {
    let digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    id.len() == ID_DIGITS && id.bytes().all(digit)
}

/// Whether two texts are the same, in a time that tells only their lengths.
pub(super) fn same(one: &str, other: &str) -> bool {
    one.as_bytes().ct_eq(other.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn drawn() -> Token {
        let clock = Clock::manual(7);
        Token::draw(&clock, clock.now())
    }

    #[test]
    fn a_token_is_read_as_it_was_written_and_its_secret_is_not_shown() {
        let token = drawn();
        let text = token.text();
        let read = Token::parse(&text).unwrap();
        assert_eq!((&read.id, read.text()), (&token.id, text.clone()));
        assert!(read.secret.is(&token.secret.hash()));
        let shown = format!("{token:?}");
        assert!(!shown.contains(&token.secret.digits()[..8]), "{shown}");
    }

    #[test]
    fn two_draws_have_nothing_in_common_but_the_time() {
        let clock = Clock::manual(7);
        let (one, two) = (Token::draw(&clock, clock.now()), Token::draw(&clock, clock.now()));
        assert_ne!(one.id, two.id);
        assert_eq!(one.id[..8], two.id[..8]);
        assert!(!one.secret.is(&two.secret.hash()));
        assert_ne!(one.secret.derive("a"), one.secret.derive("b"));
    }

    #[test]
    fn whatever_is_written_otherwise_is_no_token() {
        let text = drawn().text();
        let upper = text.to_uppercase().replace("LBK", "lbk");
        let cut = &text[..text.len() - 1];
        for other in [
            "",
            "lbk_",
            "lbk__",
            &upper,
            cut,
            &format!("{text}0"),
            &format!(" {text}"),
            &format!("{text}\n"),
            &text.replace("lbk_", "lbk-"),
            &text.replacen('_', "", 1),
        ] {
            assert!(Token::parse(other).is_none(), "{other:?}");
        }
    }

    proptest! {
        #[test]
        fn a_text_with_one_character_changed_is_not_the_same_token(at in 0usize..85, with in any::<char>()) {
            let token = drawn();
            let mut letters: Vec<char> = token.text().chars().collect();
            prop_assume!(letters[at] != with);
            letters[at] = with;
            let text: String = letters.into_iter().collect();
            let same = Token::parse(&text).is_some_and(|other| {
                other.id == token.id && other.secret.is(&token.secret.hash())
            });
            prop_assert!(!same, "{text:?}");
        }

        #[test]
        fn reading_any_text_ends(text in any::<String>()) {
            let _ = Token::parse(&text);
            let _ = Token::parse(&format!("lbk_{text}"));
            let _ = Secret::parse(&text);
        }
    }
}
