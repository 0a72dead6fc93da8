//! What went wrong on the link, in words that say what to do; and how long to stay away because of it.

use std::{error::Error, time::Duration};

use rustls::{AlertDescription, CertificateError};
use tonic::{Code, Status};

use super::Endpoint;

/// Metadata key by which the controller says when to try again, in milliseconds.
pub const RETRY_AFTER_MS: &str = "retry-after-ms";

/// Why there is no connection, or no answer on it.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("controller {endpoint} cannot be reached: check its address, the network, and that it runs")]
    Unreachable {
        endpoint: String,
        #[source]
        source: std::io::Error,
    },
    #[error("controller {endpoint} did not complete the connection within {} s", limit.as_secs())]
    Silent { endpoint: String, limit: Duration },
    #[error(
        "the certificate shown by {endpoint} is not signed by the pinned server root: either server_root in the config \
         belongs to another controller (install the server root of this fleet) or something between intercepts TLS"
    )]
    WrongServerRoot { endpoint: String },
    #[error(
        "the certificate of controller {endpoint} is expired or not valid yet: renew it on the controller, or set this \
         PC's clock"
    )]
    ServerCertificateTime { endpoint: String },
    #[error("the certificate of controller {endpoint} is for another name: use the name it was made for in agent_url")]
    ServerCertificateName { endpoint: String },
    #[error("this device's certificate has expired: only renewal is possible, and after 90 days a new enrolment")]
    DeviceCertificateExpired,
    #[error(
        "the controller does not accept this device's certificate: it was issued by another fleet or was revoked; \
         remove the identity file from the data folder and enrol with a new token"
    )]
    DeviceCertificateRefused,
    #[error("no usable identity for a TLS connection: remove the identity file from the data folder and enrol again")]
    Identity {
        #[source]
        source: rustls::Error,
    },
    #[error("TLS with controller {endpoint} failed")]
    Tls {
        endpoint: String,
        #[source]
        source: std::io::Error,
    },
    #[error("controller {endpoint} does not speak HTTP/2 as expected")]
    Http {
        endpoint: String,
        #[source]
        source: hyper::Error,
    },
    #[error("the controller bars this device ({reason}): an operator must approve it, or enrol it anew with a token")]
    Barred { reason: String },
    #[error("the controller is busy or going away ({reason})")]
    Busy { reason: String, retry_after: Option<Duration> },
    #[error("the controller did not answer within {} s", limit.as_secs())]
    NoAnswer { limit: Duration },
    #[error("the controller refused what was sent as invalid ({reason})")]
    Invalid { reason: String },
    #[error(
        "the controller refused the call as wrong ({reason}): agent and controller do not fit, update the older one"
    )]
    Rejected { reason: String },
    #[error("the call to the controller failed ({reason})")]
    Call { reason: String },
}

/// How the next attempt should wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Backoff as usual.
    Usual,
    /// The controller named a time.
    Told(Duration),
    /// Will not change without a person.
    Long,
}

impl LinkError {
    #[must_use]
    pub const fn patience(&self) -> Patience {
        match self {
            Self::Busy { retry_after: Some(told), .. } => Patience::Told(*told),
            Self::Barred { .. } | Self::DeviceCertificateRefused | Self::Identity { .. } => Patience::Long,
            Self::Unreachable { .. }
            | Self::Silent { .. }
            | Self::WrongServerRoot { .. }
            | Self::ServerCertificateTime { .. }
            | Self::ServerCertificateName { .. }
            | Self::DeviceCertificateExpired
            | Self::Tls { .. }
            | Self::Http { .. }
            | Self::Busy { retry_after: None, .. }
            | Self::NoAnswer { .. }
            | Self::Invalid { .. }
            | Self::Rejected { .. }
            | Self::Call { .. } => Patience::Usual,
        }
    }

    /// Whether the same call may be answered otherwise when it is sent again.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        !matches!(
            self,
            Self::Invalid { .. } | Self::Rejected { .. } | Self::Barred { .. } | Self::DeviceCertificateRefused
        )
    }
}

impl From<Status> for LinkError {
    fn from(status: Status) -> Self {
        // SECURITY: the peer's text goes to logs; it is cut and cleaned first.
        let reason = fleetmend_proto::convert::cleaned_text(status.message(), 512);
        let retry_after = retry_after(&status);
        match status.code() {
            Code::PermissionDenied | Code::Unauthenticated => Self::Barred { reason },
            Code::ResourceExhausted | Code::Unavailable => {
                Self::Busy { reason: or_source(reason, &status), retry_after }
            }
            Code::InvalidArgument => Self::Invalid { reason },
            Code::Unimplemented
            | Code::OutOfRange
            | Code::FailedPrecondition
            | Code::NotFound
            | Code::AlreadyExists => Self::Rejected { reason },
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::Internal
            | Code::DataLoss => Self::Call { reason: or_source(reason, &status) },
        }
    }
}

fn or_source(reason: String, status: &Status) -> String {
    match status.source() {
        Some(source) => chain(source),
        None if reason.is_empty() => status.code().description().to_owned(),
        None => reason,
    }
}

fn retry_after(status: &Status) -> Option<Duration> {
    let text = status.metadata().get(RETRY_AFTER_MS)?.to_str().ok()?;
    text.parse().ok().map(Duration::from_millis)
}

/// What an alert of the controller's TLS says about this device's certificate; `None` for one about anything else.
#[allow(clippy::wildcard_enum_match_arm)] // alerts are an open list
pub(super) const fn from_alert(alert: AlertDescription) -> Option<LinkError> {
    match alert {
        AlertDescription::CertificateExpired => Some(LinkError::DeviceCertificateExpired),
        AlertDescription::UnknownCA
        | AlertDescription::BadCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateUnknown
        | AlertDescription::AccessDenied
        | AlertDescription::DecryptError => Some(LinkError::DeviceCertificateRefused),
        _ => None,
    }
}

/// The TLS error somewhere below an error, if there is one.
pub(super) fn tls_error_in<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // io::Error hides the error it wraps from source()
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if let Some(found) = inner.and_then(|inner| tls_error_in(inner)) {
            return Some(found);
        }
        next = error.source();
    }
    None
}

pub(super) fn from_handshake(endpoint: &Endpoint, source: std::io::Error) -> LinkError {
    let endpoint = endpoint.to_string();
    match tls_error_in(&source) {
        Some(rustls::Error::InvalidCertificate(why)) => from_server_certificate(endpoint, why),
        Some(rustls::Error::AlertReceived(alert)) => from_alert(*alert).unwrap_or(LinkError::Tls { endpoint, source }),
        Some(_) | None => LinkError::Tls { endpoint, source },
    }
}

fn from_server_certificate(endpoint: String, why: &CertificateError) -> LinkError {
    #[allow(clippy::wildcard_enum_match_arm)] // rustls adds variants; any other means the chain does not fit the root
    match why {
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => LinkError::ServerCertificateTime { endpoint },
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            LinkError::ServerCertificateName { endpoint }
        }
        _ => LinkError::WrongServerRoot { endpoint },
    }
}

/// An error with everything below it, for one log line.
#[must_use]
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let more = source.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        next = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_controllers_time_is_read_from_metadata() {
        let mut status = Status::unavailable("draining");
        status.metadata_mut().insert(RETRY_AFTER_MS, "1500".parse().expect("ascii"));
        assert_eq!(LinkError::from(status).patience(), Patience::Told(Duration::from_millis(1500)));
        assert_eq!(LinkError::from(Status::unavailable("draining")).patience(), Patience::Usual);
    }

    #[test]
    fn a_barred_device_waits_long_and_does_not_repeat_the_call() {
        for status in [Status::permission_denied("banned"), Status::unauthenticated("unknown device")] {
            let error = LinkError::from(status);
            assert_eq!(error.patience(), Patience::Long);
            assert!(!error.is_transient());
        }
    }

    #[test]
    fn a_tls_error_below_an_io_error_is_found() {
        let tls = rustls::Error::AlertReceived(AlertDescription::CertificateExpired);
        let io = std::io::Error::new(std::io::ErrorKind::InvalidData, tls.clone());
        assert_eq!(tls_error_in(&io), Some(&tls));
        let endpoint = "https://x".parse().expect("an address");
        assert!(matches!(from_handshake(&endpoint, io), LinkError::DeviceCertificateExpired));
    }

    #[test]
    fn text_of_the_peer_cannot_write_to_the_terminal() {
        let shown = LinkError::from(Status::permission_denied("no\u{1b}[31m\nx")).to_string();
        assert!(!shown.chars().any(char::is_control), "{shown:?}");
    }
}
