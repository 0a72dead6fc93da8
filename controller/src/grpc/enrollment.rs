//! `Enrollment`: a token and a key's request for a certificate in, a new device out.

use std::sync::Arc;

use fleetmend_proto::{
    Clock, DeviceId, FleetId,
    clock::wall_now,
    convert::{FieldError, checked_text, optional_uuid},
    v1::{self, enrollment_server::Enrollment},
};
use sha2::{Digest as _, Sha256};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{
    connection,
    status::{busy, from_store},
};
use crate::{
    listen::EnrollmentRate,
    pki::Issuer,
    store::{EnrollRefused, Enrolling, Store},
};

const MAX_TOKEN: usize = 256;
const MAX_NAME: usize = 128;

/// Everything enrolment needs; one a process.
pub struct EnrollmentApi {
    pub fleet: FleetId,
    pub store: Store,
    pub clock: Arc<dyn Clock>,
    pub issuer: Arc<Issuer>,
    pub rate: EnrollmentRate,
}

#[tonic::async_trait]
impl Enrollment for EnrollmentApi {
    async fn enroll(&self, request: Request<v1::EnrollRequest>) -> Result<Response<v1::EnrollResponse>, Status> {
        let peer = connection(&request)?.peer().ip();
        if !self.rate.admit(peer) {
            return Err(busy("too many enrolments"));
        }
        let request = request.into_inner();
        if request.token.is_empty() || request.token.len() > MAX_TOKEN {
            return Err(FieldError::new("token", "is missing or too long").into());
        }
        if !matches!(request.ek_hash.len(), 0 | 32) {
            return Err(FieldError::new("ek_hash", "must be empty or a SHA-256 of 32 bytes").into());
        }
        let device = DeviceId(Uuid::new_v4());
        let issue = |device| {
            let issued = self.issuer.issue(&request.csr_der, self.fleet, device, wall_now());
            issued.map_err(|error| Status::from(FieldError::new("csr_der", error.to_string())))
        };
        let mut issued = issue(device)?;
        let enrolling = Enrolling {
            token_hash: Sha256::digest(request.token.as_bytes()).into(),
            device,
            computer_name: checked_text("computer_name", &request.computer_name, MAX_NAME)?,
            serial: checked_text("serial", &request.serial, MAX_NAME)?,
            smbios_uuid: optional_uuid("smbios_uuid", &request.smbios_uuid)?,
            ek_hash: (!request.ek_hash.is_empty()).then(|| hex::encode(&request.ek_hash)),
            agent_version: checked_text("agent_version", &request.agent_version, MAX_NAME)?,
            key_hash: issued.key_hash,
            certificate_not_after: issued.not_after,
            now: self.clock.now(),
        };
        // The token's own life is link time: it was given to a person or an installer, not to the simulation.
        let enrolled = match self.store.device_enroll(enrolling, wall_now()).await {
            Ok(Ok(enrolled)) => enrolled,
            Ok(Err(refused)) => return Err(refusal(refused)),
            Err(error) => return Err(from_store("enrolment", &error)),
        };
        if enrolled.device != device {
            issued = issue(enrolled.device)?;
        }
        tracing::info!(device_id = %enrolled.device, quarantined = enrolled.quarantined, "device enrolled");
        Ok(Response::new(v1::EnrollResponse {
            certificate_chain: issued.chain.into_iter().map(Into::into).collect(),
            generation: enrolled.generation,
            quarantined: enrolled.quarantined,
        }))
    }
}

fn refusal(refused: EnrollRefused) -> Status {
    let why = match refused {
        EnrollRefused::Unknown => "the enrolment token is not known here: make one with `fleetmend token new`",
        EnrollRefused::Expired => "the enrolment token has expired: make one with `fleetmend token new`",
        EnrollRefused::UsedUp => "the enrolment token is used up: make one with `fleetmend token new`",
    };
    Status::permission_denied(why)
}
