//! Speaking to a running controller: where it is, which token, which root, and what its answers mean for the exit code.

use std::{net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use clap::Args;
use serde::{Serialize, de::DeserializeOwned};
use ureq::{
    Agent, Body,
    http::{Method, Request, Response, StatusCode, Uri},
    tls::{Certificate, PemItem, RootCerts, TlsConfig},
};

use super::{
    exit::{Code, Failure},
    local::Local,
};
use crate::http::{problem::Problem, views::Page};

/// A whole answer, connection included.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Largest answer that is read.
const MAX_ANSWER: u64 = 64 * 1024 * 1024;

/// How to reach the controller. What is not given comes from this machine's own configuration.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Connection")]
pub struct Connection {
    /// The controller's operator API, such as `https://127.0.0.1:7443`
    #[arg(long, env = "FLEETMEND_URL", value_name = "URL")]
    url: Option<String>,
    /// File that holds an API token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// API token (prefer a file: command lines are visible to others)
    #[arg(long, env = "FLEETMEND_TOKEN", hide_env_values = true, hide = true, value_name = "TOKEN")]
    token: Option<String>,
    /// Root certificate of the controller's server certificate (PEM)
    #[arg(long, env = "FLEETMEND_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
    #[command(flatten)]
    local: Local,
}

/// An open connection to the API.
pub struct Remote {
    agent: Agent,
    base: String,
    token: String,
}

impl Connection {
    /// Finds URL, token and root, from the options or from the configuration beside a controller.
    ///
    /// # Errors
    /// 64 when one of them is missing or cannot be used.
    pub fn open(&self) -> Result<Remote, Failure> {
        let given_token = match (&self.token_file, &self.token) {
            (Some(file), _) => Some(read_token(file)?),
            (None, Some(token)) => Some(token.trim().to_owned()),
            (None, None) => None,
        };
        // The configuration is read only where it is needed: an operator's own PC has none.
        let home = if self.url.is_none() || given_token.is_none() { Some(self.local.operator_access()) } else { None };
        let (base, token, home_ca) = match (self.url.clone(), given_token, home) {
            (Some(url), Some(token), _) => (url, token, None),
            (_, _, Some(Err(failure))) => return Err(failure.hint(HOW_TO_CONNECT)),
            (url, token, Some(Ok(home))) => {
                let is_home = url.is_none();
                let token = match token {
                    Some(token) => token,
                    None => read_token(&home.token_file).map_err(|failure| failure.hint(HOW_TO_CONNECT))?,
                };
                (url.unwrap_or(home.url), token, is_home.then_some(home.ca))
            }
            (_, _, None) => return Err(Failure::new(Code::Usage, "no controller given").hint(HOW_TO_CONNECT)),
        };
        let base = base.trim_end_matches('/').to_owned();
        let loopback = check_url(&base)?;
        let mut tls =
            TlsConfig::builder().unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()));
        if let Some(file) = self.ca.clone().or(home_ca) {
            tls = tls.root_certs(read_roots(&file)?);
        }
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_global(Some(TIMEOUT))
            .user_agent(concat!("fleetmend/", env!("CARGO_PKG_VERSION")))
            .tls_config(tls.build());
        if loopback {
            config = config.proxy(None);
        }
        Ok(Remote { agent: config.build().new_agent(), base, token })
    }
}

const HOW_TO_CONNECT: &str = "give --url and --token-file (or set FLEETMEND_URL and FLEETMEND_TOKEN), or --config with \
                              the controller's configuration file";

impl Remote {
    /// # Errors
    /// By the answer's status; see [`Code`].
    pub fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, String)]) -> Result<T, Failure> {
        let mut uri = format!("{}/api/v1{path}", self.base);
        for (at, (name, value)) in query.iter().enumerate() {
            uri.push(if at == 0 { '?' } else { '&' });
            uri.push_str(name);
            uri.push('=');
            uri.push_str(&percent_encoded(value));
        }
        let request = Request::builder().method(Method::GET).uri(uri).header("authorization", self.bearer());
        self.answer(self.agent.run(request.body(()).map_err(internal)?))
    }

    /// # Errors
    /// By the answer's status; see [`Code`].
    pub fn post<B: Serialize, T: DeserializeOwned>(&self, path: &str, body: &B) -> Result<T, Failure> {
        let body = serde_json::to_string(body).map_err(internal)?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("{}/api/v1{path}", self.base))
            .header("authorization", self.bearer())
            .header("content-type", "application/json");
        self.answer(self.agent.run(request.body(body).map_err(internal)?))
    }

    /// Follows the pages of a list until `limit` rows, or all.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn list<T: DeserializeOwned>(
        &self,
        path: &str,
        filters: &[(&'static str, Option<String>)],
        limit: Option<u32>,
    ) -> Result<Vec<T>, Failure> {
        const PAGE: usize = 500;
        let mut rows = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let wanted = limit.map_or(PAGE, |limit| (limit as usize).saturating_sub(rows.len()).min(PAGE));
            if wanted == 0 {
                return Ok(rows);
            }
            let mut query = vec![("limit", wanted.to_string())];
            query.extend(filters.iter().filter_map(|(name, value)| Some((*name, value.clone()?))));
            query.extend(cursor.take().map(|cursor| ("cursor", cursor)));
            let page: Page<T> = self.get(path, &query)?;
            rows.extend(page.items);
            cursor = page.next_cursor;
            if cursor.is_none() {
                return Ok(rows);
            }
        }
    }

    fn bearer(&self) -> String {
        format!("Bearer {}", self.token)
    }

    fn answer<T: DeserializeOwned>(&self, answer: Result<Response<Body>, ureq::Error>) -> Result<T, Failure> {
        let mut response = answer.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        let text = response
            .body_mut()
            .with_config()
            .limit(MAX_ANSWER)
            .read_to_string()
            .map_err(|error| self.unreachable(&error))?;
        if !status.is_success() {
            return Err(refused(&self.base, status, &text));
        }
        serde_json::from_str(&text).map_err(|error| {
            Failure::new(Code::Internal, format_args!("the answer of {} cannot be read: {error}", self.base))
                .hint("is it a controller of Fleetmend, and of the same version as this command?")
        })
    }

    fn unreachable(&self, error: &ureq::Error) -> Failure {
        let text = error.to_string();
        let hint = if text.contains("UnknownIssuer") || text.contains("certificate") {
            "give the root of the controller's server certificate with --ca"
        } else {
            "is `fleetmend serve` running there, and is the address the one of the operators' listener?"
        };
        Failure::new(Code::Unreachable, format_args!("cannot reach the controller at {}: {text}", self.base)).hint(hint)
    }
}

fn refused(base: &str, status: StatusCode, body: &str) -> Failure {
    let detail = serde_json::from_str::<Problem>(body)
        .map_or_else(|_| format!("{base} answered {status}, not as a controller does"), |problem| problem.detail);
    match status {
        StatusCode::UNAUTHORIZED => Failure::new(Code::NotPermitted, detail)
            .hint("make a new token on the controller: fleetmend token new --operator --name NAME"),
        StatusCode::FORBIDDEN => Failure::new(Code::NotPermitted, detail),
        StatusCode::NOT_FOUND => Failure::new(Code::NotFound, detail),
        StatusCode::SERVICE_UNAVAILABLE => Failure::new(Code::Unreachable, detail),
        status if status.is_client_error() => Failure::new(Code::Data, detail),
        _ => Failure::new(Code::Internal, detail),
    }
}

/// Whether the host is this machine.
fn check_url(url: &str) -> Result<bool, Failure> {
    let bad = |why: &str| Failure::new(Code::Usage, format_args!("{url:?} is not a controller's URL: {why}"));
    let uri: Uri = url.parse().map_err(|_| bad("expected a form like https://127.0.0.1:7443"))?;
    let host = uri.host().ok_or_else(|| bad("it names no host"))?;
    let loopback = host == "localhost"
        || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(bad("give only scheme, host and port"));
    }
    match uri.scheme_str() {
        Some("https") => Ok(loopback),
        // SECURITY: a token never travels in clear over a network.
        Some("http") if loopback => Ok(true),
        Some("http") => Err(bad("http would send the token in clear; use https")),
        _ => Err(bad("the scheme must be https")),
    }
}

fn read_token(file: &std::path::Path) -> Result<String, Failure> {
    let cannot = |why: &dyn std::fmt::Display| {
        Failure::new(Code::Usage, format_args!("cannot take the API token from {}: {why}", file.display()))
    };
    let text = std::fs::read_to_string(file).map_err(|error| cannot(&error))?;
    let token = text.trim();
    let plain = token.starts_with("fm_") && token.bytes().all(|b| b.is_ascii_graphic());
    if plain { Ok(token.to_owned()) } else { Err(cannot(&"it must hold one token, which starts with fm_")) }
}

fn read_roots(file: &std::path::Path) -> Result<RootCerts, Failure> {
    let cannot = |why: &dyn std::fmt::Display| {
        Failure::new(Code::Usage, format_args!("cannot take the root certificate from {}: {why}", file.display()))
    };
    let pem = std::fs::read(file).map_err(|error| cannot(&error))?;
    let mut roots: Vec<Certificate<'static>> = Vec::new();
    for item in ureq::tls::parse_pem(&pem) {
        if let PemItem::Certificate(root) = item.map_err(|error| cannot(&error))? {
            roots.push(root);
        }
    }
    if roots.is_empty() { Err(cannot(&"it holds no certificate in PEM form")) } else { Ok(roots.into()) }
}

fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn internal(error: impl std::fmt::Display) -> Failure {
    Failure::new(Code::Internal, format_args!("cannot make the request: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_never_goes_over_a_network_in_clear() {
        let cases = [
            ("https://fleet.example.com:7443", Some(false)),
            ("https://127.0.0.1:7443", Some(true)),
            ("https://[::1]:7443/", Some(true)),
            ("http://localhost:7443", Some(true)),
            ("http://10.0.0.1:7443", None),
            ("http://127.0.0.1.example.com", None),
            ("ftp://localhost", None),
            ("localhost:7443", None),
            ("https://host/path", None),
            ("", None),
        ];
        for (url, expected) in cases {
            assert_eq!(check_url(url).ok(), expected, "{url}");
        }
    }

    #[test]
    fn query_values_are_encoded() {
        assert_eq!(percent_encoded("a b&c=ü"), "a%20b%26c%3D%C3%BC");
    }

    #[test]
    fn statuses_have_exit_codes() {
        let cases = [
            (400, Code::Data),
            (401, Code::NotPermitted),
            (403, Code::NotPermitted),
            (404, Code::NotFound),
            (409, Code::Data),
            (413, Code::Data),
            (500, Code::Internal),
            (503, Code::Unreachable),
        ];
        for (status, code) in cases {
            let status = StatusCode::from_u16(status).expect("a status");
            assert_eq!(refused("https://x", status, "not JSON").code(), code, "{status}");
        }
    }
}
