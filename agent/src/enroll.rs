//! Becoming a device of a fleet: a key made here, a token, a signed certificate. Called once in a PC's life; the pins
//! (server root, fleet, order keys) came with the installation and never over the wire.

use fleetmend_proto::{FleetId, v1};

use crate::{
    identity::{Identity, IdentityError, PendingKey},
    link::{self, ChannelSettings, Endpoint, LinkError, ServerRoot},
    platform::Machine,
};

/// What enrolment needs to know.
#[derive(Clone, Copy, Debug)]
pub struct Enrollment<'a> {
    pub endpoint: &'a Endpoint,
    pub server_root: &'a ServerRoot,
    pub settings: &'a ChannelSettings,
    /// The fleet this PC was installed for.
    pub fleet: FleetId,
    pub machine: &'a Machine,
}

/// A fresh identity, not saved yet.
#[derive(Clone, Debug)]
pub struct Enrolled {
    pub identity: Identity,
    /// Until a person approves the device it gets nothing above tier 2.
    pub quarantined: bool,
}

/// Why a PC was not enrolled.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    #[error("the controller does not take the enrolment token ({reason})")]
    TokenRefused { reason: String },
    #[error("enrolment did not reach the controller")]
    Link(#[source] LinkError),
    #[error("enrolment gave no usable identity")]
    Identity(#[source] IdentityError),
    #[error(
        "the controller at {endpoint} is of fleet {theirs}, this PC was installed for fleet {ours}: check the config"
    )]
    OtherFleet { endpoint: String, theirs: FleetId, ours: FleetId },
}

impl EnrollError {
    /// Whether the same token may be taken at another time.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::Link(error) => error.is_transient(),
            Self::TokenRefused { .. } | Self::Identity(_) | Self::OtherFleet { .. } => false,
        }
    }
}

/// Enrols with `token` and a certificate for `key`. The caller saves the identity and then removes the token; when the
/// answer is lost, the same token and key get it again.
///
/// # Errors
/// An [`EnrollError`] that says what to do.
pub async fn enroll(enrollment: Enrollment<'_>, key: PendingKey, token: &str) -> Result<Enrolled, EnrollError> {
    let Enrollment { endpoint, server_root, settings, fleet, machine } = enrollment;
    let csr_der = key.signing_request().map_err(EnrollError::Identity)?;
    let tls = server_root.without_identity().map_err(|source| EnrollError::Link(LinkError::Identity { source }))?;
    let channel = link::connect(endpoint, &tls, settings).await.map_err(EnrollError::Link)?;
    let request = v1::EnrollRequest {
        token: token.trim().to_owned(),
        csr_der: csr_der.into(),
        computer_name: machine.computer_name.clone(),
        serial: machine.serial.clone(),
        smbios_uuid: fleetmend_proto::convert::uuid_to_wire(machine.smbios_uuid),
        ek_hash: machine.ek_hash.map(|hash| hash.to_vec()).unwrap_or_default().into(),
        agent_version: crate::VERSION.to_owned(),
    };
    let mut client = channel.enrollment();
    let answer = link::within(settings.call_timeout, &channel, client.enroll(request)).await.map_err(refused)?;
    let chain = answer.certificate_chain.iter().map(|der| der.to_vec()).collect();
    let identity = key.certified(chain, answer.generation).map_err(EnrollError::Identity)?;
    if identity.fleet() != fleet {
        let endpoint = endpoint.to_string();
        return Err(EnrollError::OtherFleet { endpoint, theirs: identity.fleet(), ours: fleet });
    }
    Ok(Enrolled { identity, quarantined: answer.quarantined })
}

fn refused(error: LinkError) -> EnrollError {
    if let LinkError::Barred { reason } = error {
        EnrollError::TokenRefused { reason }
    } else {
        EnrollError::Link(error)
    }
}
