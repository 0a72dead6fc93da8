use std::{fs, path::Path};

use chrono::TimeDelta;
use fleetmend_proto::{DeviceId, clock::wall_now, order::OrderVerifier};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};
use uuid::Uuid;
use x509_parser::prelude::*;

use super::*;

fn fleet() -> (tempfile::TempDir, Initialised) {
    let folder = tempfile::tempdir().expect("a folder");
    let made = init(&InitOptions::new(folder.path().join("fleet"), wall_now())).expect("a fleet");
    (folder, made)
}

fn request(key: &KeyPair) -> Vec<u8> {
    let mut params = CertificateParams::new(vec!["controller.example.com".to_owned()]).expect("params");
    params.distinguished_name.push(rcgen::DnType::CommonName, "somebody else");
    params.serialize_request(key).expect("a request").der().to_vec()
}

fn p256() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key")
}

#[test]
fn a_new_fleet_can_be_loaded_whole() {
    let (_folder, made) = fleet();
    let config = Config::load(&made.config_file).expect("the configuration loads");
    assert_eq!(format!("{config:?}"), format!("{:?}", made.config));
    TlsSettings::load(&config).expect("TLS loads");
    let issuer = Issuer::load(&config).expect("the agent CA loads");
    assert!(issuer.not_after() > wall_now() + TimeDelta::days(300));
    let verifier: OrderVerifier = made.order_verifier.parse().expect("a verifier");
    assert_eq!(order_key(&config).expect("the order key loads").verifier(), verifier);
    assert!(fs::read_to_string(&made.agent_config).expect("agent.toml").contains(&made.order_verifier));
}

#[test]
fn init_never_overwrites_a_fleet() {
    let (folder, made) = fleet();
    let before = fs::read(&made.config.files.order_key).expect("a key");
    let error = init(&InitOptions::new(folder.path().join("fleet"), wall_now())).expect_err("refused");
    assert!(matches!(error, InitError::Exists(_)), "{error}");
    assert_eq!(fs::read(&made.config.files.order_key).expect("a key"), before);
    // A configuration elsewhere does not make it right.
    let mut elsewhere = InitOptions::new(folder.path().join("fleet"), wall_now());
    elsewhere.config_file = Some(folder.path().join("other.toml"));
    assert!(matches!(init(&elsewhere), Err(InitError::Exists(_))));
}

#[cfg(unix)]
#[test]
fn keys_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = |path: &Path| fs::metadata(path).expect("exists").permissions().mode() & 0o777;
    let (_folder, made) = fleet();
    let files = &made.config.files;
    for key in [&files.order_key, &files.agent_ca_key, &files.server_key, &made.offline.join("agent_root.key")] {
        assert_eq!(mode(key), 0o400, "{}", key.display());
    }
    assert_eq!((mode(&made.config.data_dir), mode(&made.config_file)), (0o700, 0o600));

    fs::set_permissions(&files.order_key, fs::Permissions::from_mode(0o404)).expect("changed");
    assert!(matches!(order_key(&made.config), Err(PkiError::Exposed { .. })));
}

#[test]
fn a_certificate_names_the_device_and_nothing_the_request_asked_for() {
    let (_folder, made) = fleet();
    let issuer = Issuer::load(&made.config).expect("an issuer");
    let (device, now) = (DeviceId(Uuid::new_v4()), wall_now());
    let issued = issuer.issue(&request(&p256()), made.config.fleet, device, now).expect("issued");
    assert_eq!(issued.not_after, now + CERTIFICATE_LIFE);

    let read = DeviceCertificate::read(&issued.chain[0], made.config.fleet).expect("a device");
    assert_eq!((read.device, read.not_after.timestamp()), (device, issued.not_after.timestamp()));
    let (_, parsed) = parse_x509_certificate(&issued.chain[0]).expect("parses");
    assert_eq!(parsed.subject().to_string(), "CN=Fleetmend device");
    assert_eq!(parsed.validity().not_before.timestamp(), (now - TimeDelta::hours(24)).timestamp());
    let usage = parsed.extended_key_usage().expect("readable").expect("there").value;
    assert!(usage.client_auth && !usage.server_auth && !usage.any);
    assert!(!parsed.is_ca());

    let other_fleet = DeviceCertificate::read(&issued.chain[0], FleetId(Uuid::new_v4()));
    assert_eq!(other_fleet, Err(NotADevice::OtherFleet));
    assert_eq!(DeviceCertificate::read(&issued.chain[1], made.config.fleet), Err(NotADevice::Names));
    assert_eq!(DeviceCertificate::read(b"junk", made.config.fleet), Err(NotADevice::Malformed));
}

#[test]
fn requests_with_other_keys_or_broken_signatures_get_nothing() {
    let (_folder, made) = fleet();
    let issuer = Issuer::load(&made.config).expect("an issuer");
    let issue = |csr: &[u8]| issuer.issue(csr, made.config.fleet, DeviceId(Uuid::nil()), wall_now()).map(|_| ());

    for algorithm in [&PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
        let key = KeyPair::generate_for(algorithm).expect("a key");
        assert_eq!(issue(&request(&key)), Err(IssueError::KeyType));
    }
    let good = request(&p256());
    assert_eq!(issue(&good), Ok(()));
    let mut forged = good.clone();
    let at = forged.windows(4).position(|bytes| bytes == b"some").expect("the name");
    forged[at] = b'S';
    assert_eq!(issue(&forged), Err(IssueError::BadSignature));
    let mut longer = good.clone();
    longer.push(0);
    for malformed in [&longer[..], &good[..good.len() - 1], b"", &[0x30; 5000]] {
        assert_eq!(issue(malformed), Err(IssueError::Malformed));
    }
}

#[test]
fn a_certificate_never_outlives_the_agent_ca() {
    let folder = tempfile::tempdir().expect("a folder");
    let made = init(&InitOptions::new(folder.path(), wall_now() - TimeDelta::days(360))).expect("a fleet");
    let issuer = Issuer::load(&made.config).expect("an issuer");
    let issue = |now| issuer.issue(&request(&p256()), made.config.fleet, DeviceId(Uuid::nil()), now);
    assert_eq!(issue(wall_now()).expect("issued").not_after, issuer.not_after());
    assert_eq!(issue(wall_now() + TimeDelta::days(10)).expect_err("too late"), IssueError::CaExpired);
}

#[test]
fn a_key_that_belongs_elsewhere_is_refused_at_start() {
    let (_one, made) = fleet();
    let (_two, other) = fleet();
    let mut mixed = made.config.clone();
    mixed.files.agent_ca_key = other.config.files.agent_ca_key.clone();
    assert!(matches!(Issuer::load(&mixed), Err(PkiError::Unusable { .. })));
    mixed.files.server_key = other.config.files.server_key.clone();
    assert!(matches!(TlsSettings::load(&mixed), Err(PkiError::Unusable { .. })));
    mixed.files.server_key = "/nowhere".into();
    let error = TlsSettings::load(&mixed).expect_err("no key").to_string();
    assert!(error.contains("/nowhere") && error.contains("fleetmend init"), "{error}");
}

#[test]
fn a_name_no_certificate_can_bear_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut options = InitOptions::new(folder.path(), wall_now());
    options.names = vec!["fleet.example.com".to_owned(), "sn\u{f6}".to_owned()];
    assert!(matches!(init(&options), Err(InitError::Name(name)) if name == "sn\u{f6}"));
}

#[test]
fn agents_are_told_the_first_name_given() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut options = InitOptions::new(folder.path(), wall_now());
    options.names = vec!["fleet.example.com".to_owned()];
    let made = init(&options).expect("a fleet");
    let text = fs::read_to_string(made.agent_config).expect("agent.toml");
    assert!(text.contains("agent_url = \"https://fleet.example.com:7442\""), "{text}");
    assert!(made.config.listen.names.contains(&"localhost".to_owned()));
}
