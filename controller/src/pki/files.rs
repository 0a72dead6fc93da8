//! Key and certificate files: written once and never over another, readable by the controller's user alone.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    path::Path,
};

use rcgen::KeyPair;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};

use super::PkiError;

/// Who may read a new file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readers {
    /// Mode 0400.
    Owner,
    /// Mode 0600: the owner may change it too.
    OwnerWrites,
    /// Mode 0644.
    Everybody,
}

/// Writes a file that must not exist.
pub(super) fn write_new(path: &Path, text: &str, readers: Readers) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(match readers {
            Readers::Owner => 0o400,
            Readers::OwnerWrites => 0o600,
            Readers::Everybody => 0o644,
        });
    }
    let mut file = options.open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Makes a folder that only its owner can enter; one that exists is closed to others.
pub(super) fn make_private_folder(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// SECURITY: a key that everybody could read is refused rather than used.
pub(super) fn read_secret(path: &Path) -> Result<String, PkiError> {
    let unreadable = |source| PkiError::Unreadable { path: path.to_owned(), source };
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        if fs::metadata(path).map_err(unreadable)?.permissions().mode() & 0o004 != 0 {
            return Err(PkiError::Exposed { path: path.to_owned() });
        }
    }
    fs::read_to_string(path).map_err(unreadable)
}

pub(super) fn read_key_pair(path: &Path) -> Result<KeyPair, PkiError> {
    let malformed = |_| PkiError::Malformed { path: path.to_owned(), expected: "a private key in PEM (PKCS #8)" };
    KeyPair::from_pem(&read_secret(path)?).map_err(malformed)
}

pub(super) fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    let pem = fs::read(path).map_err(|source| PkiError::Unreadable { path: path.to_owned(), source })?;
    let malformed = |_| PkiError::Malformed { path: path.to_owned(), expected: "certificates in PEM" };
    CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().map_err(malformed)
}
