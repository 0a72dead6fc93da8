//! Keeps the device's certificate alive: a new one at half of its life, over the old one. Also for one that has run out.
//!
//! SECURITY: each certificate has a key of its own. A copy of this PC's disk has the key of one certificate only: the
//! first of the two machines that renews leaves the other with a key that the controller knows to be old.

use std::path::Path;

use fleetmend_proto::v1;

use super::{Channel, ChannelSettings, LinkError, within};
use crate::identity::{Identity, IdentityError, PendingKey};

/// Why a certificate was not renewed.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    #[error("renewal of the device certificate failed")]
    Link(#[source] LinkError),
    #[error("renewal of the device certificate gave no usable one")]
    Identity(#[source] IdentityError),
}

/// Gets a certificate for a new key and saves it before it is used. Asked again after a lost answer, it asks for the
/// same key.
///
/// # Errors
/// When the controller refuses, gives another device's certificate, or the file cannot be written.
pub async fn renew(
    channel: &Channel,
    settings: &ChannelSettings,
    identity: &Identity,
    data_dir: &Path,
) -> Result<Identity, RenewError> {
    let key = PendingKey::kept(data_dir, Some(identity)).map_err(RenewError::Identity)?;
    let csr_der = key.signing_request().map_err(RenewError::Identity)?.into();
    let request = v1::RenewRequest { csr_der, generation: identity.generation() };
    let answer =
        within(settings.call_timeout, channel, channel.agent().renew(request)).await.map_err(RenewError::Link)?;
    let chain = answer.certificate_chain.iter().map(|der| der.to_vec()).collect();
    let renewed = key.certified(chain, answer.generation).map_err(RenewError::Identity)?;
    if (renewed.fleet(), renewed.device()) != (identity.fleet(), identity.device()) {
        let why = format!("it names device {}, this is {}", renewed.device(), identity.device());
        return Err(RenewError::Identity(IdentityError::Certificate(why)));
    }
    renewed.save(data_dir).map_err(RenewError::Identity)?;
    tracing::info!(device_id = %renewed.device(), not_after = %renewed.not_after(), "device certificate renewed");
    Ok(renewed)
}
