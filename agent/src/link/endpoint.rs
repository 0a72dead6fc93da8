//! Where a listener of the controller is: `https://host[:port]`, nothing else.

use std::{fmt, str::FromStr};

use http::Uri;
use rustls::pki_types::ServerName;

/// One listener of the controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    host: String,
    port: u16,
    origin: Uri,
    server_name: ServerName<'static>,
}

/// Text that names no listener.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no controller address: expected https://HOST:PORT without a path")]
pub struct NotAnEndpoint(pub String);

impl Endpoint {
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn origin(&self) -> Uri {
        self.origin.clone()
    }

    pub(super) fn server_name(&self) -> ServerName<'static> {
        self.server_name.clone()
    }
}

impl FromStr for Endpoint {
    type Err = NotAnEndpoint;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || NotAnEndpoint(text.chars().take(200).collect());
        let origin: Uri = text.trim_end_matches('/').parse().map_err(|_| error())?;
        let plain =
            origin.scheme_str() == Some("https") && matches!(origin.path(), "" | "/") && origin.query().is_none();
        let authority = origin.authority().filter(|it| plain && !it.as_str().contains('@')).ok_or_else(error)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let server_name = ServerName::try_from(host.clone()).map_err(|_| error())?;
        let port = match authority.as_str().rsplit_once(':') {
            Some((_, tail)) if !tail.contains(']') => {
                authority.port_u16().filter(|_| !tail.is_empty()).ok_or_else(error)?
            }
            Some(_) | None => 443,
        };
        Ok(Self { host, port, origin, server_name })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_people() {
        for (text, shown) in [
            ("https://fleet.example:7443", "fleet.example:7443"),
            ("https://fleet.example:7443/", "fleet.example:7443"),
            ("https://fleet.example", "fleet.example:443"),
            ("https://127.0.0.1:9", "127.0.0.1:9"),
            ("https://[::1]:9", "[::1]:9"),
            ("https://[::1]", "[::1]:443"),
        ] {
            assert_eq!(text.parse::<Endpoint>().expect(text).to_string(), shown);
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "fleet.example:7443",
            "http://fleet.example",
            "https://",
            "https://a b",
            "https://x/path",
            "https://x?q=1",
            "https://me@x",
            "https://x:99999",
            "https://x:",
        ] {
            assert!(text.parse::<Endpoint>().is_err(), "{text:?} was taken");
        }
    }
}
