//! Signed notes after C2SP `signed-note`: UTF-8 text that ends in a newline, an empty line, then one line a signature:
//! `— name base64(key id ‖ Ed25519 signature)`.
//! <https://github.com/C2SP/C2SP/blob/main/signed-note.md>

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use sha2::{Digest as _, Sha256};

use super::{MAX_NOTE, OrderText, TextError};

const MAX_SIGNATURES: usize = 16;
const ED25519: u8 = 0x01;

/// A note whose signatures nobody checked yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedOrder(pub Vec<u8>);

/// Why a note was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    #[error("order is larger than {MAX_NOTE} bytes")]
    TooLarge,
    #[error("order envelope is malformed: {0}")]
    Malformed(&'static str),
    #[error("order has no signature by a key this device trusts")]
    Unsigned,
    #[error("signature by trusted key {0:?} does not fit the order's bytes")]
    BadSignature(String),
    #[error("order text is malformed")]
    Text(#[source] TextError),
}

/// The controller's key for orders of tiers 1 to 5. Lives in a file outside the database.
pub struct OrderKey {
    name: String,
    key: SigningKey,
}

/// The public half, as a device is given it with its installation: `name+keyid+base64`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderVerifier {
    name: String,
    key: VerifyingKey,
}

/// Text that is no verifier key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected an order key in the form name+keyid+base64, as `fleetmend init` prints it")]
pub struct NotAVerifier;

fn key_id(name: &str, key: &VerifyingKey) -> [u8; 4] {
    let digest = Sha256::new()
        .chain_update(name.as_bytes())
        .chain_update([b'\n', ED25519])
        .chain_update(key.as_bytes())
        .finalize();
    let mut id = [0; 4];
    id.copy_from_slice(&digest[..4]);
    id
}

impl OrderKey {
    /// `seed`: 32 random bytes. `name` must hold no space and no plus sign.
    #[must_use]
    pub fn from_seed(name: impl Into<String>, seed: [u8; 32]) -> Self {
        Self { name: name.into(), key: SigningKey::from_bytes(&seed) }
    }

    #[must_use]
    pub fn verifier(&self) -> OrderVerifier {
        OrderVerifier { name: self.name.clone(), key: self.key.verifying_key() }
    }

    /// Prints the order and signs exactly those bytes.
    #[must_use]
    pub fn sign(&self, order: &OrderText) -> SignedOrder {
        let text = order.to_string();
        let mut blob = key_id(&self.name, &self.key.verifying_key()).to_vec();
        blob.extend_from_slice(&self.key.sign(text.as_bytes()).to_bytes());
        SignedOrder(format!("{text}\n\u{2014} {} {}\n", self.name, STANDARD.encode(blob)).into_bytes())
    }
}

impl std::fmt::Debug for OrderKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OrderKey").field("name", &self.name).finish_non_exhaustive()
    }
}

impl SignedOrder {
    /// Verifies the bytes by one of `keys`, then parses them. Signatures by unknown keys are ignored; one by a known
    /// key that does not fit rejects the whole order.
    ///
    /// # Errors
    /// A [`NoteError`] saying which check failed; nothing of the text is returned then.
    pub fn open(&self, keys: &[OrderVerifier]) -> Result<OrderText, NoteError> {
        if self.0.len() > MAX_NOTE {
            return Err(NoteError::TooLarge);
        }
        let note = std::str::from_utf8(&self.0).map_err(|_| NoteError::Malformed("not UTF-8"))?;
        if note.chars().any(|c| c.is_control() && c != '\n') {
            return Err(NoteError::Malformed("control character"));
        }
        let split = note.rfind("\n\n").ok_or(NoteError::Malformed("no signature block"))?;
        let (text, block) = (&note[..=split], &note[split + 2..]);
        let block = block.strip_suffix('\n').ok_or(NoteError::Malformed("last line has no newline"))?;
        let mut trusted = false;
        for (count, line) in block.split('\n').enumerate() {
            if count == MAX_SIGNATURES {
                return Err(NoteError::Malformed("more than 16 signatures"));
            }
            trusted |= check_line(line, text, keys)?;
        }
        if !trusted {
            return Err(NoteError::Unsigned);
        }
        text.parse().map_err(NoteError::Text)
    }
}

/// `true` for a good signature by a known key, `false` for an unknown key.
fn check_line(line: &str, text: &str, keys: &[OrderVerifier]) -> Result<bool, NoteError> {
    let malformed = NoteError::Malformed("signature line");
    let rest = line.strip_prefix("\u{2014} ").ok_or_else(|| malformed.clone())?;
    let (name, encoded) = rest.split_once(' ').ok_or_else(|| malformed.clone())?;
    let blob = STANDARD.decode(encoded).map_err(|_| malformed.clone())?;
    let (id, signature) = blob.split_first_chunk::<4>().ok_or(malformed)?;
    let Some(known) = keys.iter().find(|key| key.name == name && &key_id(name, &key.key) == id) else {
        return Ok(false);
    };
    let bad = || NoteError::BadSignature(name.to_owned());
    let signature = Signature::from_slice(signature).map_err(|_| bad())?;
    known.key.verify_strict(text.as_bytes(), &signature).map_err(|_| bad())?;
    Ok(true)
}

impl std::fmt::Display for OrderVerifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let id = u32::from_be_bytes(key_id(&self.name, &self.key));
        let mut public = vec![ED25519];
        public.extend_from_slice(self.key.as_bytes());
        write!(f, "{}+{id:08x}+{}", self.name, STANDARD.encode(public))
    }
}

impl std::str::FromStr for OrderVerifier {
    type Err = NotAVerifier;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.trim().splitn(3, '+');
        let (Some(name), Some(id), Some(encoded)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(NotAVerifier);
        };
        let public = STANDARD.decode(encoded).map_err(|_| NotAVerifier)?;
        let Some((&ED25519, public)) = public.split_first() else {
            return Err(NotAVerifier);
        };
        let public: [u8; 32] = public.try_into().map_err(|_| NotAVerifier)?;
        let key = VerifyingKey::from_bytes(&public).map_err(|_| NotAVerifier)?;
        let verifier = Self { name: name.to_owned(), key };
        let named = u32::from_str_radix(id, 16).map_err(|_| NotAVerifier)?;
        if name.is_empty() || name.contains(' ') || u32::from_be_bytes(key_id(name, &verifier.key)) != named {
            return Err(NotAVerifier);
        }
        Ok(verifier)
    }
}

#[cfg(test)]
mod tests;
