//! Trust documents: keys, roles, revocations and minimum versions.

use std::collections::{BTreeMap, BTreeSet};

use agentd_types::{Digest, FleetId, KeyId, ModelName};
use agentd_wire::{Kind, ReleaseRole, Role, Roles, Trust};

use super::{ForFleet, open, release_name};
use crate::{
    Cause, Reject,
    fields::{Fields, texts},
    json::Value,
    key::PublicKey,
    reject::quoted,
};

/// A trust document whose keys and roles keep every rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustRoot {
    document: Trust,
    keys: BTreeMap<KeyId, PublicKey>,
}

impl TrustRoot {
    /// The document itself.
    pub const fn document(&self) -> &Trust {
        &self.document
    }

    /// The key with this id, unless it is revoked.
    pub fn key(&self, id: &KeyId) -> Option<&PublicKey> {
        self.keys.get(id).filter(|_| !self.is_revoked(id))
    }

    /// Whether a key, in a role or not, is revoked.
    pub fn is_revoked(&self, id: &KeyId) -> bool {
        self.document.revoked_keys.contains(id)
    }

    /// The release role that decides about `name`: the first with a matching glob.
    pub fn release_role(&self, name: &ModelName) -> Option<&ReleaseRole> {
        let matches = |role: &&ReleaseRole| role.names.iter().any(|glob| glob_matches(glob, name.as_str()));
        self.document.roles.releases.iter().find(matches)
    }

    /// The keys of the fleet role that are not revoked.
    pub(crate) fn fleet_keys(&self) -> BTreeSet<KeyId> {
        let ids = self.document.roles.fleet.keyids.iter();
        ids.filter(|id| !self.is_revoked(id)).copied().collect()
    }
}

/// Whether `glob` covers `name`: `*` stands for any text, `?` for any one character, all else for itself.
pub fn glob_matches(glob: &str, name: &str) -> bool {
    // Greedy with one point of return: a later star makes earlier ones irrelevant, so the time is at most the
    // product of the lengths.
    let (glob, name) = (glob.as_bytes(), name.as_bytes());
    let (mut g, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        match glob.get(g) {
            Some(b'*') => {
                star = Some((g, n));
                g += 1;
            }
            Some(byte) if *byte == b'?' || name.get(n) == Some(byte) => {
                g += 1;
                n += 1;
            }
            _ => match star {
                Some((star_at, matched)) => {
                    star = Some((star_at, matched + 1));
                    g = star_at + 1;
                    n = matched + 1;
                }
                None => return false,
            },
        }
    }
    glob.get(g..).unwrap_or_default().iter().all(|byte| *byte == b'*')
}

/// Reads a trust document: `schema`, `key`, `key_id`, `role` and the general codes.
pub(crate) fn read_trust(value: &Value, fleet: Option<&FleetId>) -> Result<TrustRoot, Reject> {
    let names = [
        "type",
        "spec",
        "fleet",
        "version",
        "created",
        "expires",
        "keys",
        "roles",
        "revoked_keys",
        "revoked_bundles",
        "min_versions",
    ];
    let fleet = fleet.map_or(ForFleet::Unknown, ForFleet::Only);
    let fields = open(value, Kind::Trust, fleet, "the trust document", &names)?;
    let keys = read_keys(&fields)?;
    let document = Trust {
        r#type: Kind::Trust,
        spec: agentd_wire::SPEC,
        fleet: fields.parsed("fleet", "a fleet id")?,
        version: fields.count("version", 1)?,
        created: fields.time("created")?,
        expires: fields.time("expires")?,
        keys: keys.iter().map(|(id, key)| (*id, key.to_hex())).collect(),
        roles: read_roles(fields.get("roles")?, &keys)?,
        revoked_keys: read_digests(&fields, "revoked_keys")?.into_iter().map(KeyId).collect(),
        revoked_bundles: read_digests(&fields, "revoked_bundles")?,
        min_versions: read_min_versions(&fields)?,
    };
    Ok(TrustRoot { document, keys })
}

fn read_keys(fields: &Fields<'_>) -> Result<BTreeMap<KeyId, PublicKey>, Reject> {
    let mut keys = BTreeMap::new();
    for (id, key) in fields.map("keys")? {
        let Value::Text(hex) = key else {
            return Err(Reject::new(Cause::Key, format!("the key {} is not a string", quoted(id))));
        };
        let key = PublicKey::from_hex(hex)?;
        let own = key.id();
        if id.parse() != Ok(own) {
            let message = format!("the key {hex} stands under the id {}, its id is {own}", quoted(id));
            return Err(Reject::new(Cause::KeyId, message));
        }
        keys.insert(own, key);
    }
    Ok(keys)
}

fn read_digests(fields: &Fields<'_>, name: &str) -> Result<Vec<Digest>, Reject> {
    texts(fields.list(name)?)
        .and_then(|texts| texts.into_iter().map(|text| text.parse().ok()).collect())
        .ok_or_else(|| fields.wrong(name, "a list of digests"))
}

fn read_min_versions(fields: &Fields<'_>) -> Result<BTreeMap<ModelName, u64>, Reject> {
    let wrong = || fields.wrong("min_versions", "an object of model names and versions");
    let read = |(name, version): (&String, &Value)| match version {
        Value::Int(number) => {
            Ok((release_name(name).ok_or_else(wrong)?, u64::try_from(*number).map_err(|_| wrong())?))
        }
        _ => Err(wrong()),
    };
    fields.map("min_versions")?.iter().map(read).collect()
}

fn read_roles(value: &Value, keys: &BTreeMap<KeyId, PublicKey>) -> Result<Roles, Reject> {
    let fields = Fields::of(value, Cause::Schema, "the field `roles`")?;
    fields.only(&["root", "fleet", "releases"])?;
    let root = read_role(fields.get("root")?, "the root role", &[], keys)?;
    let fleet = read_role(fields.get("fleet")?, "the fleet role", &[], keys)?;
    let mut releases = Vec::new();
    for value in fields.list("releases")? {
        let role = read_role(value, "a release role", &["names"], keys)?;
        let fields = Fields::of(value, Cause::Schema, "a release role")?;
        let names = texts(fields.list("names")?).ok_or_else(|| fields.wrong("names", "a list of globs"))?;
        let names = names.into_iter().map(str::to_owned).collect();
        releases.push(ReleaseRole { names, keyids: role.keyids, threshold: role.threshold });
    }
    let others = fleet.keyids.iter().chain(releases.iter().flat_map(|role| &role.keyids));
    for id in others {
        if root.keyids.contains(id) {
            return Err(Reject::new(Cause::Role, format!("the root key {id} serves another role as well")));
        }
    }
    Ok(Roles { root, fleet, releases })
}

fn read_role(
    value: &Value,
    what: &str,
    more: &[&str],
    keys: &BTreeMap<KeyId, PublicKey>,
) -> Result<Role, Reject> {
    let fields = Fields::of(value, Cause::Schema, what)?;
    fields.only(&[&["keyids", "threshold"], more].concat())?;
    let refuse = |why: String| Reject::new(Cause::Role, format!("{what} {why}"));
    let ids = texts(fields.list("keyids")?).ok_or_else(|| fields.wrong("keyids", "a list of key ids"))?;
    let mut keyids = Vec::with_capacity(ids.len());
    for text in ids {
        let id = text.parse().ok().filter(|id| keys.contains_key(id));
        let id =
            id.ok_or_else(|| refuse(format!("names the key {}, which is not in `keys`", quoted(text))))?;
        if keyids.contains(&id) {
            return Err(refuse(format!("names the key {id} twice")));
        }
        keyids.push(id);
    }
    let threshold = match fields.get("threshold")? {
        Value::Int(number) => u64::try_from(*number).ok(),
        _ => None,
    };
    match threshold {
        Some(threshold) if threshold >= 1 && threshold <= keyids.len() as u64 => {
            Ok(Role { keyids, threshold })
        }
        _ => Err(refuse(format!("has a threshold that its {} keys cannot reach or always do", keyids.len()))),
    }
}
