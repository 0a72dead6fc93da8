//! Who this device is: a key made here, the chain the controller signed, and what the certificate says. One file in the
//! data folder, replaced as a whole.
//!
//! The device id stands in the certificate's URI SAN and nowhere else: `fleetmend://<fleet>/device/<id>`.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chrono::{DateTime, Utc};
use fleetmend_proto::{DeviceId, FleetId};
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

const FILE: &str = "identity.json";
const PENDING: &str = "next-key.json";

/// Days after its end in which a certificate may still be renewed.
pub const RENEWABLE_DAYS: i64 = 90;

/// A device's key and certificate.
#[derive(Clone)]
pub struct Identity {
    key_der: Vec<u8>,
    chain: Vec<CertificateDer<'static>>,
    generation: i64,
    fleet: FleetId,
    device: DeviceId,
    not_before: DateTime<Utc>,
    not_after: DateTime<Utc>,
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("identity file {path} cannot be {doing}")]
    File {
        path: PathBuf,
        doing: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("identity file {path} is damaged ({why}): remove it and enrol again with a new token")]
    Damaged { path: PathBuf, why: String },
    #[error("device certificate cannot be used: {0}")]
    Certificate(String),
}

/// How the file looks.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    generation: i64,
    key_der: String,
    certificate_chain: Vec<String>,
}

impl Identity {
    /// `key_der`: PKCS#8. `chain`: DER, leaf first.
    ///
    /// # Errors
    /// When the chain is empty, is no certificate, was made for another key, or names no device.
    pub fn new(key_der: Vec<u8>, chain: Vec<Vec<u8>>, generation: i64) -> Result<Self, IdentityError> {
        let wrong = |why: &str| IdentityError::Certificate(why.to_owned());
        let leaf = chain.first().ok_or_else(|| wrong("the chain is empty"))?;
        let (_, parsed) = X509Certificate::from_der(leaf).map_err(|_| wrong("the leaf is no X.509 certificate"))?;
        let key = key_pair(&key_der)?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(wrong("it was made for another key"));
        }
        let (fleet, device) =
            names_in(&parsed).ok_or_else(|| wrong("it holds no name of the form fleetmend://FLEET/device/ID"))?;
        let time = |at: x509_parser::time::ASN1Time| DateTime::from_timestamp(at.timestamp(), 0);
        let validity = parsed.validity();
        let (not_before, not_after) =
            time(validity.not_before).zip(time(validity.not_after)).ok_or_else(|| wrong("its validity is no time"))?;
        let chain = chain.into_iter().map(CertificateDer::from).collect();
        Ok(Self { key_der, chain, generation, fleet, device, not_before, not_after })
    }

    /// `Ok(None)`: not enrolled yet.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged.
    pub fn load(data_dir: &Path) -> Result<Option<Self>, IdentityError> {
        let path = data_dir.join(FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(IdentityError::File { path, doing: "read", source }),
        };
        let damaged = |why: String| IdentityError::Damaged { path: path.clone(), why };
        let stored: Stored = serde_json::from_slice(&text).map_err(|e| damaged(e.to_string()))?;
        let decode = |text: &String| STANDARD.decode(text).map_err(|e| damaged(e.to_string()));
        let chain = stored.certificate_chain.iter().map(decode).collect::<Result<_, _>>()?;
        Self::new(decode(&stored.key_der)?, chain, stored.generation).map(Some).map_err(|e| damaged(e.to_string()))
    }

    /// Replaces the file as a whole and returns when it is on disk; then the key that waited for its certificate is
    /// forgotten. Readable by its owner only.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, data_dir: &Path) -> Result<(), IdentityError> {
        let path = data_dir.join(FILE);
        let stored = Stored {
            generation: self.generation,
            key_der: STANDARD.encode(&self.key_der),
            certificate_chain: self.chain.iter().map(|it| STANDARD.encode(it)).collect(),
        };
        let text = serde_json::to_vec_pretty(&stored).map_err(|e| IdentityError::Certificate(e.to_string()))?;
        replace_file(&path, &text).map_err(|source| IdentityError::File { path, doing: "written", source })?;
        // What stays here by accident is the key of this identity, and is not taken for another.
        if let Err(error) = fs::remove_file(data_dir.join(PENDING))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, file = PENDING, "a key that has its certificate cannot be removed");
        }
        Ok(())
    }

    #[must_use]
    pub const fn device(&self) -> DeviceId {
        self.device
    }

    #[must_use]
    pub const fn fleet(&self) -> FleetId {
        self.fleet
    }

    #[must_use]
    pub const fn generation(&self) -> i64 {
        self.generation
    }

    #[must_use]
    pub const fn not_after(&self) -> DateTime<Utc> {
        self.not_after
    }

    /// DER, leaf first.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// PKCS#8.
    #[must_use]
    pub fn key_der(&self) -> &[u8] {
        &self.key_der
    }

    /// When to renew: at half of the certificate's life, up to a tenth of that half earlier or later. `unit` is uniform
    /// in 0..1; it spreads a fleet that was enrolled together.
    #[must_use]
    pub fn renew_at(&self, unit: f64) -> DateTime<Utc> {
        let half = (self.not_after - self.not_before).to_std().unwrap_or_default() / 2;
        self.not_before + half.mul_f64(0.9 + 0.2 * unit.clamp(0.0, 1.0))
    }

    #[must_use]
    pub fn is_expired(&self, now: DateTime<Utc>) -> bool {
        now >= self.not_after
    }

    /// Whether the controller may still renew it.
    #[must_use]
    pub fn is_renewable(&self, now: DateTime<Utc>) -> bool {
        now < self.not_after + Duration::from_secs(RENEWABLE_DAYS.unsigned_abs() * 24 * 3600)
    }
}

/// A key that has no certificate yet. INVARIANT: on disk before the controller hears of it, and until the identity with
/// its certificate is: a lost answer is asked for again with the same key, and only this machine can do that.
pub struct PendingKey {
    key_der: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredKey {
    key_der: String,
}

impl PendingKey {
    /// A new P-256 key, in memory only: for devices without a disk.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn new() -> Result<Self, IdentityError> {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
            .map_err(|e| IdentityError::Certificate(format!("no key could be made: {e}")))?;
        Ok(Self { key_der: key.serialize_der() })
    }

    /// The key that an earlier try left in `data_dir`, or a new one, which is on disk on return. Never the key of
    /// `current`: each certificate has one of its own.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn kept(data_dir: &Path, current: Option<&Identity>) -> Result<Self, IdentityError> {
        let path = data_dir.join(PENDING);
        let file = |doing| move |source| IdentityError::File { path: data_dir.join(PENDING), doing, source };
        match fs::read(&path) {
            Ok(text) => {
                let left = serde_json::from_slice::<StoredKey>(&text).ok();
                let left = left.and_then(|it| STANDARD.decode(it.key_der).ok()).filter(|it| key_pair(it).is_ok());
                if let Some(key_der) = left.filter(|left| current.is_none_or(|it| it.key_der != *left)) {
                    return Ok(Self { key_der });
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(file("read")(source)),
        }
        let key = Self::new()?;
        let stored = StoredKey { key_der: STANDARD.encode(&key.key_der) };
        let text = serde_json::to_vec_pretty(&stored).map_err(|e| IdentityError::Certificate(e.to_string()))?;
        replace_file(&path, &text).map_err(file("written"))?;
        Ok(key)
    }

    /// Its signing request. No name in it counts.
    ///
    /// # Errors
    /// When the key cannot sign.
    pub fn signing_request(&self) -> Result<Vec<u8>, IdentityError> {
        signing_request(&key_pair(&self.key_der)?)
    }

    /// The identity that the controller's answer makes of it. See [`Identity::new`].
    ///
    /// # Errors
    /// As [`Identity::new`].
    pub fn certified(self, chain: Vec<Vec<u8>>, generation: i64) -> Result<Identity, IdentityError> {
        Identity::new(self.key_der, chain, generation)
    }
}

impl std::fmt::Debug for PendingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PendingKey")
    }
}

fn key_pair(key_der: &[u8]) -> Result<rcgen::KeyPair, IdentityError> {
    rcgen::KeyPair::try_from(key_der).map_err(|_| IdentityError::Certificate("its key is no PKCS#8 key".to_owned()))
}

fn signing_request(key: &rcgen::KeyPair) -> Result<Vec<u8>, IdentityError> {
    rcgen::CertificateParams::default()
        .serialize_request(key)
        .map(|request| request.der().to_vec())
        .map_err(|e| IdentityError::Certificate(format!("no signing request could be made: {e}")))
}

fn names_in(certificate: &X509Certificate<'_>) -> Option<(FleetId, DeviceId)> {
    let names = certificate.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| {
        let GeneralName::URI(uri) = name else { return None };
        let (fleet, device) = uri.strip_prefix("fleetmend://")?.split_once("/device/")?;
        Some((fleet.parse().ok()?, device.parse().ok()?))
    })
}

/// Writes beside the file, syncs, renames, syncs the folder: after a power cut there is the old file or the new one.
fn replace_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("new");
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&fresh)?;
    file.write_all(content)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&fresh, path)?;
    #[cfg(unix)]
    if let Some(folder) = path.parent() {
        fs::File::open(folder)?.sync_all()?;
    }
    Ok(())
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("device", &self.device)
            .field("fleet", &self.fleet)
            .field("generation", &self.generation)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}
