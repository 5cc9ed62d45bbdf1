//! DSSE envelopes: what is signed, by which keys, in one spelling only.
//!
//! In: bytes as they came. Out: an [`Envelope`] whose shape, type and base64 are sound; nothing in it is proved yet.
//! Signatures are counted against a role by [`crate::signatures`], and only then may the payload be read.

use std::collections::BTreeSet;

use agentd_types::Digest;
use agentd_wire::Kind;
use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::{Cause, Reject, fields::Fields, json::Value, key::PrivateKey, reject::quoted};

/// Largest envelope: 8 MiB.
pub const MAX_ENVELOPE: usize = 8 << 20;

/// Most signatures of an envelope.
pub const MAX_SIGNATURES: usize = 16;

/// A signature and the id of the key that is said to have made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvelopeSignature {
    /// Any text; a key id that nobody knows is worth nothing.
    pub keyid: String,
    /// Decoded from base64; of any length.
    pub sig: Vec<u8>,
}

/// A payload with its signatures. Unproved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    kind: Kind,
    payload: Vec<u8>,
    signatures: Vec<EnvelopeSignature>,
}

impl Envelope {
    /// Reads an envelope of any kind.
    ///
    /// # Errors
    /// `size`, `depth`, `json`, `duplicate_key`, `number`, `envelope`, `type`, `base64`, `duplicate_signature`.
    pub fn read(bytes: &[u8]) -> Result<Self, Reject> {
        if bytes.len() > MAX_ENVELOPE {
            let message = format!("the envelope has {} bytes, more than {MAX_ENVELOPE}", bytes.len());
            return Err(Reject::new(Cause::Size, message));
        }
        let value = Value::read(bytes)?;
        let shape = Shape::of(&value)?;
        let kind = kind_of(shape.payload_type)?;
        let payload = decode(shape.payload, "the payload")?;
        let mut signatures = Vec::with_capacity(shape.signatures.len());
        for (keyid, sig) in &shape.signatures {
            let sig = decode(sig, "a signature")?;
            signatures.push(EnvelopeSignature { keyid: (*keyid).to_owned(), sig });
        }
        let mut seen = BTreeSet::new();
        match signatures.iter().find(|signature| !seen.insert(signature.keyid.as_str())) {
            None => Ok(Self { kind, payload, signatures }),
            Some(twice) => Err(Reject::new(
                Cause::DuplicateSignature,
                format!("key {} signs the envelope twice", quoted(&twice.keyid)),
            )),
        }
    }

    /// Reads an envelope that must be of `kind`.
    ///
    /// # Errors
    /// Those of [`Envelope::read`].
    pub fn read_kind(bytes: &[u8], kind: Kind) -> Result<Self, Reject> {
        let envelope = Self::read(bytes)?;
        if envelope.kind == kind {
            Ok(envelope)
        } else {
            let message = format!("the envelope holds a {} document, not a {kind} document", envelope.kind);
            Err(Reject::new(Cause::Type, message))
        }
    }

    /// An envelope that nobody has signed yet. It cannot be read back before it has a signature.
    pub const fn unsigned(kind: Kind, payload: Vec<u8>) -> Self {
        Self { kind, payload, signatures: Vec::new() }
    }

    /// Adds a signature, or replaces the one that the same key made before.
    ///
    /// # Errors
    /// `envelope` when 16 other keys have signed already.
    pub fn sign(&mut self, key: &PrivateKey) -> Result<(), Reject> {
        let keyid = key.public().id().to_string();
        let sig = key.sign(&self.pae()).to_vec();
        self.signatures.retain(|signature| signature.keyid != keyid);
        if self.signatures.len() >= MAX_SIGNATURES {
            let message = format!("the envelope has {MAX_SIGNATURES} signatures already");
            return Err(Reject::new(Cause::Envelope, message));
        }
        self.signatures.push(EnvelopeSignature { keyid, sig });
        self.signatures.sort_by(|left, right| left.keyid.cmp(&right.keyid));
        Ok(())
    }

    /// The envelope as JSON; the same envelope always gives the same bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let text = |text: &str| Value::Text(text.to_owned());
        let map = |fields: Vec<(&str, Value)>| {
            Value::Map(fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
        };
        let signatures = self.signatures.iter().map(|signature| {
            map(vec![("keyid", text(&signature.keyid)), ("sig", text(&STANDARD.encode(&signature.sig)))])
        });
        map(vec![
            ("payload", text(&STANDARD.encode(&self.payload))),
            ("payloadType", text(&self.kind.payload_type())),
            ("signatures", Value::List(signatures.collect())),
        ])
        .canonical()
        .into_bytes()
    }

    /// The kind that the envelope claims.
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// The payload, unproved.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// The digest of the payload: the bundle's name in catalogs and desired documents.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.payload)
    }

    /// The signatures, unproved.
    pub fn signatures(&self) -> &[EnvelopeSignature] {
        &self.signatures
    }

    /// What is signed: DSSE's pre-authentication encoding.
    ///
    /// Source: secure-systems-lab/dsse, protocol.md, version 1.
    pub fn pae(&self) -> Vec<u8> {
        let kind = self.kind.payload_type();
        let mut bytes = format!("DSSEv1 {} {kind} {} ", kind.len(), self.payload.len()).into_bytes();
        bytes.extend_from_slice(&self.payload);
        bytes
    }
}

/// The texts of an envelope whose shape is right.
struct Shape<'a> {
    payload: &'a str,
    payload_type: &'a str,
    signatures: Vec<(&'a str, &'a str)>,
}

impl<'a> Shape<'a> {
    fn of(value: &'a Value) -> Result<Self, Reject> {
        let fields = Fields::of(value, Cause::Envelope, "the envelope")?;
        fields.only(&["payload", "payloadType", "signatures"])?;
        let list = fields.list("signatures")?;
        if list.is_empty() || list.len() > MAX_SIGNATURES {
            let message = format!("the envelope has {} signatures, not 1 to {MAX_SIGNATURES}", list.len());
            return Err(Reject::new(Cause::Envelope, message));
        }
        let mut signatures = Vec::with_capacity(list.len());
        for signature in list {
            let signature = Fields::of(signature, Cause::Envelope, "a signature")?;
            signature.only(&["keyid", "sig"])?;
            signatures.push((signature.text("keyid")?, signature.text("sig")?));
        }
        Ok(Self { payload: fields.text("payload")?, payload_type: fields.text("payloadType")?, signatures })
    }
}

fn kind_of(payload_type: &str) -> Result<Kind, Reject> {
    Kind::ALL.into_iter().find(|kind| kind.payload_type() == payload_type).ok_or_else(|| {
        Reject::new(Cause::Type, format!("the payload type {} is not known", quoted(payload_type)))
    })
}

/// The engine refuses blanks, missing or surplus padding and non-zero trailing bits.
fn decode(text: &str, what: &str) -> Result<Vec<u8>, Reject> {
    STANDARD
        .decode(text)
        .map_err(|error| Reject::new(Cause::Base64, format!("{what} is not strict base64: {error}")))
}
