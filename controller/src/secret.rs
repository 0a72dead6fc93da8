//! Secrets: how tokens are made, what they look like, and the only form in which they are kept; addresses without their
//! passwords. Used by `cli`, `http`, `config` and `store`.
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

/// A database's address without its secrets: `postgres://user:secret@host/db?password=x` is `postgres://user@host/db`. Of a
/// text that is no address and might hold one, only the beginning.
#[must_use]
pub fn shown_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        let may_hold_one = url.contains('@') || is_secret(url);
        return if may_hold_one {
            format!("{}:***", url.split(':').next().unwrap_or_default())
        } else {
            url.to_owned()
        };
    };
    // A password may hold any sign, a host none of these: what follows the last `@` before a query is the place.
    let (login, place) = rest.rsplit_once('@').map_or((None, rest), |(login, place)| (Some(login), place));
    let (place, query) = place.split_once('?').map_or((place, None), |(place, query)| (place, Some(query)));
    let address = match login {
        Some(login) => format!("{}@{place}", login.split_once(':').map_or(login, |(name, _)| name)),
        None => place.to_owned(),
    };
    let kept: Vec<_> = query.iter().flat_map(|query| query.split('&')).filter(|pair| !is_secret(pair)).collect();
    let query = if kept.is_empty() { String::new() } else { format!("?{}", kept.join("&")) };
    format!("{scheme}://{address}{query}")
}

fn is_secret(pair: &str) -> bool {
    let name = pair.split('=').next().unwrap_or_default().to_ascii_lowercase();
    name.contains("password") || name.contains("sslkey")
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

    #[test]
    fn no_password_is_shown() {
        let cases = [
            ("postgres://u:p@ss@h:5/d", "postgres://u@h:5/d"),
            ("postgres://u:p?ss@h:5/d", "postgres://u@h:5/d"),
            ("postgres://u@h/d?password=x&host=/tmp", "postgres://u@h/d?host=/tmp"),
            ("postgres:///d?user=u", "postgres:///d?user=u"),
            ("postgres:u:secret@h/d", "postgres:***"),
            ("u:secret@h", "u:***"),
            ("sqlite:///var/lib/fleetmend/controller.db", "sqlite:///var/lib/fleetmend/controller.db"),
            ("controller.db", "controller.db"),
        ];
        for (url, shown) in cases {
            assert_eq!(shown_url(url), shown);
        }
    }
}
