//! Ed25519 keys: public keys that are safe to trust, private keys as PKCS#8 PEM.
//!
//! In: hexadecimal or PEM text and randomness from the caller. Out: keys that sign and verify. Reads no files and
//! makes no randomness of its own; refuses public keys that are not canonical points of prime order.

use std::fmt;

use agentd_types::{Digest, KeyId};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey, pkcs8::KeypairBytes};
use pkcs8::{
    DecodePrivateKey, DecodePublicKey, EncodePrivateKey, EncodePublicKey, EncryptedPrivateKeyInfoRef,
    LineEnding, PrivateKeyInfoRef,
    der::zeroize::Zeroizing,
    pkcs5::{pbes2, scrypt},
};

use crate::{Cause, Reject, reject::quoted};

/// A public key of which it is known that its point is canonical and of prime order.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// A key from its 32 bytes.
    ///
    /// # Errors
    /// `key` when the bytes are not the canonical encoding of a point of prime order.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, Reject> {
        let refuse = |why: &str| Reject::new(Cause::Key, format!("public key {}: {why}", hex(bytes)));
        let key = VerifyingKey::from_bytes(bytes).map_err(|_| refuse("not a point of the curve"))?;
        let point = key.to_edwards();
        if point.compress().as_bytes() != bytes {
            Err(refuse("not the canonical encoding of its point"))
        } else if key.is_weak() || !point.is_torsion_free() {
            Err(refuse("not a point of prime order"))
        } else {
            Ok(Self(key))
        }
    }

    /// A key from 64 lower-case hexadecimal digits.
    ///
    /// # Errors
    /// `key` when the text has another form or [`PublicKey::from_bytes`] refuses the bytes.
    pub fn from_hex(text: &str) -> Result<Self, Reject> {
        // A digest has the same text form as a key.
        let bytes = text.parse::<Digest>().map_err(|_| {
            let why = format!("public key {}: not 64 lower-case hexadecimal digits", quoted(text));
            Reject::new(Cause::Key, why)
        })?;
        Self::from_bytes(bytes.as_bytes())
    }

    /// A key from `-----BEGIN PUBLIC KEY-----`, as openssl writes it.
    ///
    /// # Errors
    /// `key` when the text has another form or [`PublicKey::from_bytes`] refuses the bytes.
    pub fn from_pem(pem: &str) -> Result<Self, Reject> {
        let key = VerifyingKey::from_public_key_pem(pem)
            .map_err(|error| Reject::new(Cause::Key, format!("not an ed25519 public key in PEM: {error}")))?;
        Self::from_bytes(key.as_bytes())
    }

    /// `-----BEGIN PUBLIC KEY-----`, which openssl reads.
    ///
    /// # Errors
    /// [`KeyFileError::Encode`].
    pub fn to_pem(&self) -> Result<String, KeyFileError> {
        self.0.to_public_key_pem(LineEnding::LF).map_err(|error| KeyFileError::Encode(error.into()))
    }

    /// The 32 bytes.
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// 64 lower-case hexadecimal digits.
    pub fn to_hex(&self) -> String {
        hex(self.0.as_bytes())
    }

    /// The key's id, equal to its id in TUF and securesystemslib.
    pub fn id(&self) -> KeyId {
        KeyId(Digest::of(
            format!(
                r#"{{"keytype":"ed25519","keyval":{{"public":"{}"}},"scheme":"ed25519"}}"#,
                self.to_hex()
            )
            .as_bytes(),
        ))
    }

    /// Whether `signature` is a valid signature of `message`, with canonical S and without small-order R.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        Signature::from_slice(signature).is_ok_and(|sig| self.0.verify_strict(message, &sig).is_ok())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.to_hex())
    }
}

/// A private key. Its bytes are wiped when it is dropped and never shown.
#[derive(Clone)]
pub struct PrivateKey(SigningKey);

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey(*** of {})", self.public().id())
    }
}

/// Randomness for one passphrase-protected key file; never use it twice.
#[derive(Clone, Copy, Debug)]
pub struct KeyFileSalt {
    /// Salt of the key derivation.
    pub salt: [u8; 16],
    /// Initial vector of the cipher.
    pub iv: [u8; 16],
}

/// A private key file cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// Not PKCS#8 PEM of an ed25519 key.
    #[error("not an ed25519 private key in PKCS#8 PEM")]
    Malformed(#[source] pkcs8::Error),
    /// The file is encrypted and no passphrase was given.
    #[error("the private key is protected by a passphrase and none was given")]
    PassphraseNeeded,
    /// The passphrase does not open the file, or the file is damaged.
    #[error("the passphrase does not open the private key")]
    WrongPassphrase,
    /// The file asks for more work than any key file needs.
    #[error("the private key's passphrase parameters are out of bounds")]
    Excessive,
    /// The file could not be made.
    #[error("the private key cannot be encoded")]
    Encode(#[source] pkcs8::Error),
}

impl agentd_types::Coded for KeyFileError {
    fn code(&self) -> agentd_types::Code {
        agentd_types::Code::new(match self {
            Self::Malformed(_) => "key.malformed",
            Self::PassphraseNeeded => "key.passphrase_needed",
            Self::WrongPassphrase => "key.wrong_passphrase",
            Self::Excessive => "key.excessive",
            Self::Encode(_) => "key.encode",
        })
    }
}

/// scrypt's work factor as a power of two: 16 MiB of memory, the most that openssl accepts without options.
const SCRYPT_LOG_N: u8 = 14;
/// Most memory that opening a key file may take: 2^20 KiB.
const MAX_SCRYPT_BYTES: u64 = 1 << 30;
const MAX_PBKDF2_ROUNDS: u32 = 10_000_000;

impl PrivateKey {
    /// The key that grows from 32 secret random bytes.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        // A key grown from a clamped scalar always has prime order.
        PublicKey(self.0.verifying_key())
    }

    /// Signs `message`: 64 bytes.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }

    /// Whether a key file needs a passphrase.
    pub fn is_encrypted(pem: &str) -> bool {
        pem.contains("BEGIN ENCRYPTED PRIVATE KEY")
    }

    /// Reads PKCS#8 PEM, encrypted (PBES2) or not.
    ///
    /// # Errors
    /// [`KeyFileError`].
    pub fn from_pem(pem: &str, passphrase: Option<&str>) -> Result<Self, KeyFileError> {
        if !Self::is_encrypted(pem) {
            return SigningKey::from_pkcs8_pem(pem).map(Self).map_err(KeyFileError::Malformed);
        }
        let passphrase = passphrase.ok_or(KeyFileError::PassphraseNeeded)?;
        let malformed = |error: pkcs8::der::Error| KeyFileError::Malformed(error.into());
        let (_, document) = pkcs8::SecretDocument::from_pem(pem).map_err(malformed)?;
        let sealed =
            EncryptedPrivateKeyInfoRef::try_from(document.as_bytes()).map_err(KeyFileError::Malformed)?;
        check_work(&sealed.encryption_algorithm)?;
        let opened = sealed.decrypt(passphrase).map_err(|_| KeyFileError::WrongPassphrase)?;
        SigningKey::from_pkcs8_der(opened.as_bytes()).map(Self).map_err(|_| KeyFileError::WrongPassphrase)
    }

    /// Writes PKCS#8 PEM that openssl reads; encrypted with scrypt and AES-256-CBC when a passphrase is given.
    ///
    /// # Errors
    /// [`KeyFileError::Encode`].
    pub fn to_pem(&self, protection: Option<(&str, KeyFileSalt)>) -> Result<Zeroizing<String>, KeyFileError> {
        // Without the public half: the form that every version of openssl reads.
        let plain = KeypairBytes { secret_key: self.0.to_bytes(), public_key: None };
        let encode = KeyFileError::Encode;
        let Some((passphrase, random)) = protection else {
            return plain.to_pkcs8_pem(LineEnding::LF).map_err(encode);
        };
        let der = plain.to_pkcs8_der().map_err(encode)?;
        let work =
            scrypt::Params::new(SCRYPT_LOG_N, 8, 1).map_err(|_| encode(pkcs8::Error::ParametersMalformed))?;
        let parameters = pbes2::Parameters::generate_scrypt_aes256cbc(work, &random.salt, random.iv)
            .map_err(|error| encode(error.into()))?;
        PrivateKeyInfoRef::try_from(der.as_bytes())
            .and_then(|key| key.encrypt_with_params(parameters, passphrase))
            .and_then(|sealed| Ok(sealed.to_pem("ENCRYPTED PRIVATE KEY", LineEnding::LF)?))
            .map_err(encode)
    }
}

/// Refuses key files that would take unreasonable time or memory to open.
fn check_work(scheme: &pkcs8::pkcs5::EncryptionScheme) -> Result<(), KeyFileError> {
    let Some(parameters) = scheme.pbes2() else { return Ok(()) };
    let fits = match (parameters.kdf.scrypt(), parameters.kdf.pbkdf2()) {
        (Some(work), _) => work
            .cost_parameter
            .checked_mul(128 * u64::from(work.block_size))
            .and_then(|bytes| bytes.checked_mul(u64::from(work.parallelization)))
            .is_some_and(|bytes| bytes <= MAX_SCRYPT_BYTES),
        (None, Some(work)) => work.iteration_count <= MAX_PBKDF2_ROUNDS,
        (None, None) => true,
    };
    if fits { Ok(()) } else { Err(KeyFileError::Excessive) }
}

fn hex(bytes: &[u8; 32]) -> String {
    Digest::from_bytes(*bytes).to_string()
}
