//! Names of devices, fleets, groups, models and keys.

use std::{borrow::Borrow, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{Digest, DigestError};

/// A name that breaks the rules of its kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {kind}: {rule}")]
pub struct BadName {
    text: String,
    kind: &'static str,
    rule: &'static str,
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $kind:literal, $rule:literal, $check:path) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(String);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = BadName;

            fn from_str(text: &str) -> Result<Self, BadName> {
                if $check(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    let text = text.chars().take(80).collect();
                    Err(BadName { text, kind: $kind, rule: $rule })
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }

        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    };
}

name!(
    /// A device: `[a-z0-9][a-z0-9-]{0,63}`.
    DeviceId, "device id", "1 to 64 of a-z, 0-9 and `-`, not starting with `-`", is_token
);
name!(
    /// A fleet: `[a-z0-9][a-z0-9-]{0,63}`.
    FleetId, "fleet id", "1 to 64 of a-z, 0-9 and `-`, not starting with `-`", is_token
);
name!(
    /// A group of devices: `[a-z0-9][a-z0-9-]{0,63}`.
    GroupName, "group name", "1 to 64 of a-z, 0-9 and `-`, not starting with `-`", is_token
);
name!(
    /// A model: one to four segments `[a-z0-9][a-z0-9._-]*` joined by `/`; a model made on the device ends in
    /// `@local`. At most 128 bytes.
    ModelName, "model name", "1 to 4 segments of a-z, 0-9, `.`, `_`, `-` joined by `/`", is_model_name
);

impl ModelName {
    /// The name under which a device keeps what it learned from this model: base name + `@local`.
    pub fn local(&self) -> Self {
        Self(format!("{}@local", self.base()))
    }

    /// The name without `@local`.
    pub fn base(&self) -> &str {
        self.0.strip_suffix("@local").unwrap_or(&self.0)
    }

    /// Whether the model was made on a device.
    pub fn is_local(&self) -> bool {
        self.0.ends_with("@local")
    }
}

fn is_token(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && !text.starts_with('-')
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn is_model_name(text: &str) -> bool {
    let base = text.strip_suffix("@local").unwrap_or(text);
    text.len() <= 128 && base.split('/').count() <= 4 && base.split('/').all(is_segment)
}

fn is_segment(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
}

/// The id of a public key: SHA-256 of its canonical JSON description, as in TUF.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId(pub Digest);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for KeyId {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        text.parse().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_their_rules() {
        let long = "a".repeat(65);
        for (text, token, model) in [
            ("line-4-cam-2", true, true),
            ("-a", false, false),
            ("", false, false),
            ("A", false, false),
            ("demo/digits", false, true),
            ("demo/digits@local", false, true),
            ("a/b/c/d/e", false, false),
            ("a//b", false, false),
            (".a", false, false),
            ("a.b_c-d", false, true),
            (&*long, false, true),
        ] {
            assert_eq!(text.parse::<DeviceId>().is_ok(), token, "{text} as a device id");
            assert_eq!(text.parse::<ModelName>().is_ok(), model, "{text} as a model name");
        }
    }

    #[test]
    fn a_local_model_remembers_its_base() {
        let name: ModelName = "demo/digits".parse().unwrap();
        assert_eq!(name.local().as_str(), "demo/digits@local");
        assert_eq!(name.local().local(), name.local());
        assert_eq!(name.local().base(), "demo/digits");
    }
}
