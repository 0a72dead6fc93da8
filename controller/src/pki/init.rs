//! Makes a new fleet: data folder, keys, certificates, configuration. Called by `cli::init` and the simulator.
//! Writes files only; the database and the first operator token are their own steps. Never overwrites anything.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use chrono::{DateTime, TimeDelta, Utc};
use fleetmend_proto::{FleetId, order::OrderKey};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::pki_types::ServerName;
use uuid::Uuid;

use super::{
    files::{Readers, make_private_folder, write_new},
    issuer::{BACKDATED, random_serial, set_validity},
    order_key_name,
};
use crate::config::{Config, DatabaseUrl};

const ROOT_LIFE: TimeDelta = TimeDelta::days(10 * 365);
const AGENT_CA_LIFE: TimeDelta = TimeDelta::days(365);
const SERVER_LIFE: TimeDelta = TimeDelta::days(365);

/// What a person may choose for a new fleet.
#[derive(Clone, Debug)]
pub struct InitOptions {
    pub data_dir: PathBuf,
    /// `None`: `fleetmend.toml` in the data folder.
    pub config_file: Option<PathBuf>,
    /// Further names and addresses for the server certificate; the first one is what agents are told to call.
    pub names: Vec<String>,
    /// `None`: loopback, each at its own port.
    pub enrollment: Option<SocketAddr>,
    pub agents: Option<SocketAddr>,
    pub operators: Option<SocketAddr>,
    /// `None`: SQLite in the data folder.
    pub database: Option<DatabaseUrl>,
    pub now: DateTime<Utc>,
}

impl InitOptions {
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>, now: DateTime<Utc>) -> Self {
        let (data_dir, names) = (data_dir.into(), Vec::new());
        Self {
            data_dir,
            config_file: None,
            names,
            enrollment: None,
            agents: None,
            operators: None,
            database: None,
            now,
        }
    }
}

/// A fleet that was made. Everything an agent's installer needs is in `agent_config` and `server_root`.
#[derive(Clone, Debug)]
pub struct Initialised {
    pub config: Config,
    pub config_file: PathBuf,
    /// The certificate agents pin, in PEM.
    pub server_root: PathBuf,
    /// The order key's public half, as agents are given it.
    pub order_verifier: String,
    /// `agent.toml` to install with agents.
    pub agent_config: PathBuf,
    /// Holds the keys of both roots: to be moved to a place without a network.
    pub offline: PathBuf,
}

/// Why no fleet was made.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    #[error(
        "{0} exists already: this folder holds a fleet, and a second `init` would orphan its devices; choose another folder"
    )]
    Exists(PathBuf),
    #[error("cannot write {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error("database URL {0}: begin it with sqlite:// or postgres://")]
    Database(DatabaseUrl),
    #[error("{0:?} is no name or address for a server certificate")]
    Name(String),
    #[error("cannot make keys and certificates")]
    Certificate(#[source] rcgen::Error),
}

/// Makes a new fleet in `options.data_dir`.
///
/// # Errors
/// [`InitError`]; files written before the error stay, so that nothing is deleted that was not made here.
pub fn init(options: &InitOptions) -> Result<Initialised, InitError> {
    let data_dir = std::path::absolute(&options.data_dir)
        .map_err(|source| InitError::Write { path: options.data_dir.clone(), source })?;
    let config = configured(&data_dir, options);
    let config_file = options.config_file.clone().unwrap_or_else(|| data_dir.join("fleetmend.toml"));
    if !config.database.known() {
        return Err(InitError::Database(config.database));
    }
    // Before anything is written: a certificate must be possible.
    Authority::names(&config.listen.names)?;
    let offline = data_dir.join("offline");
    for made in [&config_file, &config.files.agent_ca, &offline] {
        if made.exists() {
            return Err(InitError::Exists(made.clone()));
        }
    }
    let pki = data_dir.join("pki");
    for folder in [&data_dir, &pki, &offline, &config.packages] {
        make_private_folder(folder).map_err(|source| InitError::Write { path: folder.clone(), source })?;
    }
    let write = |path: &Path, text: &str, readers| {
        write_new(path, text, readers).map_err(|source| InitError::Write { path: path.to_owned(), source })
    };

    let now = options.now;
    let agent_root = Authority::root("Fleetmend agent root", config.fleet, now)?;
    let agent_ca = agent_root.agent_ca(config.fleet, now)?;
    write(&offline.join("agent_root.key"), &agent_root.key.serialize_pem(), Readers::Owner)?;
    write(&config.files.agent_ca, &format!("{}{}", agent_ca.pem, agent_root.pem), Readers::Everybody)?;
    write(&config.files.agent_ca_key, &agent_ca.key.serialize_pem(), Readers::Owner)?;

    let server_root_file = pki.join("server_root.pem");
    let server_root = Authority::root("Fleetmend server root", config.fleet, now)?;
    let server = server_root.server(&config.listen.names, now)?;
    write(&offline.join("server_root.key"), &server_root.key.serialize_pem(), Readers::Owner)?;
    write(&server_root_file, &server_root.pem, Readers::Everybody)?;
    write(&config.files.server, &format!("{}{}", server.pem, server_root.pem), Readers::Everybody)?;
    write(&config.files.server_key, &server.key.serialize_pem(), Readers::Owner)?;

    let seed: [u8; 32] = rand::random();
    write(&config.files.order_key, &format!("{}\n", hex::encode(seed)), Readers::Owner)?;
    let order_verifier = OrderKey::from_seed(order_key_name(config.fleet), seed).verifier().to_string();

    let agent_config = data_dir.join("agent.toml");
    write(&agent_config, &agent_text(&config, options, &order_verifier), Readers::Everybody)?;
    // Last: a folder with a configuration is a whole fleet.
    write(&config_file, &config.file_text(), Readers::OwnerWrites)?;
    Ok(Initialised { config, config_file, server_root: server_root_file, order_verifier, agent_config, offline })
}

/// Writes a file of a new fleet that only its owner may read; never over another.
///
/// # Errors
/// [`InitError::Write`].
pub fn write_secret(path: &Path, text: &str) -> Result<(), InitError> {
    write_new(path, text, Readers::OwnerWrites).map_err(|source| InitError::Write { path: path.to_owned(), source })
}

fn configured(data_dir: &Path, options: &InitOptions) -> Config {
    let mut config = Config::new(data_dir, FleetId(Uuid::new_v4()));
    for name in &options.names {
        if !config.listen.names.contains(name) {
            config.listen.names.push(name.clone());
        }
    }
    let listen = &mut config.listen;
    listen.enrollment = options.enrollment.unwrap_or(listen.enrollment);
    listen.agents = options.agents.unwrap_or(listen.agents);
    listen.operators = options.operators.unwrap_or(listen.operators);
    if let Some(database) = &options.database {
        config.database = database.clone();
    }
    config
}

/// The agent's configuration: what it cannot know by itself.
fn agent_text(config: &Config, options: &InitOptions, order_verifier: &str) -> String {
    let host = options.names.first().map_or("localhost", String::as_str);
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let (enrollment, agents) = (config.listen.enrollment.port(), config.listen.agents.port());
    format!(
        "# Install this file with the agent, and server_root.pem beside it. It holds no secret.\n\
         # An enrolment token (`fleetmend token new`) goes into a file that enrollment_token_file names.\n\
         fleet = \"{}\"\n\
         enrollment_url = \"https://{host}:{enrollment}\"\n\
         agent_url = \"https://{host}:{agents}\"\n\
         server_root = \"server_root.pem\"\n\
         order_keys = [\"{order_verifier}\"]\n\
         data_dir = 'C:\\ProgramData\\Fleetmend'\n",
        config.fleet
    )
}

/// A key with its certificate, able to sign others.
struct Authority {
    key: KeyPair,
    pem: String,
    params: CertificateParams,
}

impl Authority {
    fn root(name: &str, fleet: FleetId, now: DateTime<Utc>) -> Result<Self, InitError> {
        let mut params = params(&format!("{name} {fleet}"), now, ROOT_LIFE);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = new_key()?;
        let pem = params.self_signed(&key).map_err(InitError::Certificate)?.pem();
        Ok(Self { key, pem, params })
    }

    /// The online CA: device certificates and nothing else, neither servers nor further CAs.
    fn agent_ca(&self, fleet: FleetId, now: DateTime<Utc>) -> Result<Self, InitError> {
        let mut params = params(&format!("Fleetmend agent CA {fleet}"), now, AGENT_CA_LIFE);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.signed(params)
    }

    fn server(&self, names: &[String], now: DateTime<Utc>) -> Result<Self, InitError> {
        let mut params = params("Fleetmend controller", now, SERVER_LIFE);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.subject_alt_names = Self::names(names)?;
        self.signed(params)
    }

    fn names(names: &[String]) -> Result<Vec<SanType>, InitError> {
        let parsed = |name: &String| {
            let one = CertificateParams::new(vec![name.clone()]).map_err(|_| InitError::Name(name.clone()))?;
            // rustls, too, must be able to ask for it.
            ServerName::try_from(name.as_str()).map_err(|_| InitError::Name(name.clone()))?;
            Ok(one.subject_alt_names)
        };
        Ok(names.iter().map(parsed).collect::<Result<Vec<_>, _>>()?.concat())
    }

    fn signed(&self, mut params: CertificateParams) -> Result<Self, InitError> {
        params.use_authority_key_identifier_extension = true;
        let key = new_key()?;
        let issuer = rcgen::Issuer::from_params(&self.params, &self.key);
        let pem = params.signed_by(&key, &issuer).map_err(InitError::Certificate)?.pem();
        Ok(Self { key, pem, params })
    }
}

fn new_key() -> Result<KeyPair, InitError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(InitError::Certificate)
}

fn params(name: &str, now: DateTime<Utc>, life: TimeDelta) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(random_serial());
    set_validity(&mut params, now - BACKDATED, now + life);
    params
}
