//! Tokens: how they are made, what they look like, and the only form in which they are kept. Used by `cli` and `http`.
//!
//! SECURITY: a token is 256 random bits, shown once. The database has its SHA-256 alone; with that much randomness a slow
//! hash would add nothing. The prefixes let secret scanners find a token that got into a place it should not be in.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rand::RngExt as _;
use sha2::{Digest as _, Sha256};

/// What a token is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The operators' API.
    Api,
    /// Enrolment of devices.
    Enrollment,
}

impl Kind {
    #[must_use]
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Api => "fm_",
            Self::Enrollment => "fme_",
        }
    }
}

/// A new token's text: the prefix and 43 letters, digits, `-` and `_`.
#[must_use]
pub fn new(kind: Kind) -> String {
    let bits: [u8; 32] = rand::rng().random();
    format!("{}{}", kind.prefix(), URL_SAFE_NO_PAD.encode(bits))
}

/// What the database keeps.
#[must_use]
pub fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// Whether `text` could be a token of this kind.
#[must_use]
pub fn has_form(kind: Kind, text: &str) -> bool {
    text.strip_prefix(kind.prefix()).is_some_and(|bits| {
        bits.len() == 43 && bits.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_new_each_time_and_told_by_their_form() {
        let (api, enrollment) = (new(Kind::Api), new(Kind::Enrollment));
        assert_ne!(api, new(Kind::Api));
        assert!(has_form(Kind::Api, &api) && has_form(Kind::Enrollment, &enrollment));
        assert!(!has_form(Kind::Api, &enrollment) && !has_form(Kind::Enrollment, &api));
        for text in ["", "fm_", "fm_short", &api[..45], &format!("{api}x"), &api.replace("fm_", "fm ")] {
            assert!(!has_form(Kind::Api, text), "{text}");
        }
    }

    #[test]
    fn the_kept_form_is_the_sha_256_of_the_text() {
        let hash = hash("fm_test");
        assert_eq!(hex::encode(hash).len(), 64);
        assert_ne!(hash, super::hash("fm_tesu"));
    }
}
