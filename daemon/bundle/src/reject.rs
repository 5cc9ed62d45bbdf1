//! Why a document, chunk or file was refused: one stable name and the facts.

use std::fmt;

use agentd_types::{Code, Coded};

macro_rules! causes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Every reason for which this crate refuses something, named as in the bundle format's page.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Cause {
            $($(#[$doc])* $variant,)*
        }

        impl Cause {
            /// Every cause, in the order in which documents are checked.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The bare name, such as `rollback`.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// The public name, such as `verify.rollback`.
            pub const fn code(self) -> Code {
                match self {
                    $(Self::$variant => Code::new(concat!("verify.", $name)),)*
                }
            }
        }
    };
}

causes! {
    /// The envelope is larger than 8 MiB.
    Size = "size",
    /// Objects and lists are nested more than 16 deep.
    Depth = "depth",
    /// Not UTF-8 JSON, or a byte-order mark, a lone surrogate or bytes after the end.
    Json = "json",
    /// An object has a key twice.
    DuplicateKey = "duplicate_key",
    /// A number has a fraction, an exponent, is `-0` or lies beyond 2^53 - 1.
    Number = "number",
    /// The envelope has the wrong shape.
    Envelope = "envelope",
    /// The envelope or its payload is of another kind.
    Type = "type",
    /// Base64 in another spelling than the one that is allowed.
    Base64 = "base64",
    /// Two signatures name the same key.
    DuplicateSignature = "duplicate_signature",
    /// Too few authorised keys signed.
    Threshold = "threshold",
    /// The payload is not its own canonical form, or files are not sorted.
    Canonical = "canonical",
    /// The document speaks another version of the format.
    Spec = "spec",
    /// The document is for another fleet.
    Fleet = "fleet",
    /// A field is missing, unknown or of the wrong form.
    Schema = "schema",
    /// A public key is not a canonical point of prime order.
    Key = "key",
    /// A key stands under an id that is not its own.
    KeyId = "key_id",
    /// A role breaks the rules of roles.
    Role = "role",
    /// A version is older than one already accepted or installed.
    Rollback = "rollback",
    /// A trust document is not the direct successor of ours.
    Chain = "chain",
    /// Our trust document has expired.
    TrustExpired = "trust_expired",
    /// A document was made in the future.
    Future = "future",
    /// A document has expired.
    Expired = "expired",
    /// A catalog is valid for more than 14 days.
    Lifetime = "lifetime",
    /// The same version has two contents.
    Equivocation = "equivocation",
    /// A catalog was made with a trust document that we do not have yet.
    StaleTrust = "stale_trust",
    /// A document is for another device or group.
    Target = "target",
    /// A sequence number was seen before.
    Replay = "replay",
    /// The bundle, or the base of a derived model, is revoked.
    Revoked = "revoked",
    /// The desired state does not ask for exactly this bundle.
    NotDesired = "not_desired",
    /// No release role covers the model's name.
    Delegation = "delegation",
    /// There is no catalog to hold the bundle against.
    NoCatalog = "no_catalog",
    /// The catalog has expired.
    Frozen = "frozen",
    /// The catalog lists another version or digest.
    Catalog = "catalog",
    /// The version is below the minimum that trust allows.
    MinVersion = "min_version",
    /// A model's name is malformed.
    Name = "name",
    /// The list of files is malformed or the set of files differs.
    Files = "files",
    /// A path is not allowed.
    Path = "path",
    /// The list of chunks is malformed or does not add up.
    Chunks = "chunks",
    /// The model section is malformed.
    Model = "model",
    /// The golden vectors are malformed.
    Golden = "golden",
    /// A derived model does not follow from what is installed.
    Lineage = "lineage",
    /// A derived model claims more than its base.
    Widened = "widened",
    /// The manifest has no such chunk.
    Chunk = "chunk",
    /// A chunk has the wrong length.
    ChunkLength = "chunk_length",
    /// A chunk has the wrong digest.
    ChunkDigest = "chunk_digest",
    /// A file has the wrong digest.
    FileDigest = "file_digest",
    /// Durable state was lost: only a trust document is taken until then.
    StateLost = "state_lost",
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A refusal: a cause and a message with the facts. Nothing has changed when one is returned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Reject {
    cause: Cause,
    message: Box<str>,
}

impl Reject {
    pub(crate) fn new(cause: Cause, message: impl Into<String>) -> Self {
        Self { cause, message: message.into().into_boxed_str() }
    }

    /// Why.
    pub const fn cause(&self) -> Cause {
        self.cause
    }

    /// The bare name of the cause, such as `rollback`.
    pub const fn code_name(&self) -> &'static str {
        self.cause.as_str()
    }
}

impl Coded for Reject {
    fn code(&self) -> Code {
        self.cause.code()
    }
}

/// Shows text from outside: printable, quoted, at most 80 characters.
pub(crate) fn quoted(text: &str) -> String {
    let mut shown: String = text.chars().take(80).flat_map(char::escape_default).collect();
    if text.chars().nth(80).is_some() {
        shown.push_str("...");
    }
    format!("`{shown}`")
}
