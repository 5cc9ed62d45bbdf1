//! Makes the first trust document and edits of it.

use agentd_types::{Digest, FleetId, KeyId, ModelName, UnixTime};
use agentd_wire::{Kind, ReleaseRole, Role, Roles, SPEC, Trust};

use crate::PublicKey;

/// A role of a trust document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoleName {
    /// Signs trust documents.
    Root,
    /// Signs catalogs, memberships and desired documents.
    Fleet,
    /// Signs models; named by one of its globs.
    Release(String),
}

impl std::fmt::Display for RoleName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Root => f.write_str("root"),
            Self::Fleet => f.write_str("fleet"),
            Self::Release(glob) => write!(f, "release:{glob}"),
        }
    }
}

/// The text names no role.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a role: it is `root`, `fleet` or `release:<glob>`")]
pub struct RoleNameError(String);

impl std::str::FromStr for RoleName {
    type Err = RoleNameError;

    fn from_str(text: &str) -> Result<Self, RoleNameError> {
        match text.split_once(':') {
            None if text == "root" => Ok(Self::Root),
            None if text == "fleet" => Ok(Self::Fleet),
            Some(("release", glob)) if !glob.is_empty() => Ok(Self::Release(glob.to_owned())),
            _ => Err(RoleNameError(text.chars().take(80).collect())),
        }
    }
}

/// Keys of a new role and how many of them must sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RolePlan {
    /// The keys.
    pub keys: Vec<PublicKey>,
    /// How many must sign.
    pub threshold: u64,
}

impl RolePlan {
    fn role(&self) -> Role {
        Role { keyids: self.keys.iter().map(PublicKey::id).collect(), threshold: self.threshold }
    }
}

/// The first trust document of a fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustPlan {
    /// The fleet.
    pub fleet: FleetId,
    /// When it is made.
    pub created: UnixTime,
    /// Until when it may be used.
    pub expires: UnixTime,
    /// Who signs trust documents.
    pub root: RolePlan,
    /// Who signs catalogs, memberships and desired documents.
    pub fleet_role: RolePlan,
    /// Who signs models: globs over their names, and keys. The first with a matching glob decides.
    pub releases: Vec<(Vec<String>, RolePlan)>,
}

impl TrustPlan {
    /// The document, version 1. [`super::draft_trust`] checks it.
    pub fn document(&self) -> Trust {
        let plans =
            [&self.root, &self.fleet_role].into_iter().chain(self.releases.iter().map(|(_, plan)| plan));
        Trust {
            r#type: Kind::Trust,
            spec: SPEC,
            fleet: self.fleet.clone(),
            version: 1,
            created: self.created,
            expires: self.expires,
            keys: plans.flat_map(|plan| &plan.keys).map(|key| (key.id(), key.to_hex())).collect(),
            roles: Roles {
                root: self.root.role(),
                fleet: self.fleet_role.role(),
                releases: self
                    .releases
                    .iter()
                    .map(|(names, plan)| {
                        let Role { keyids, threshold } = plan.role();
                        ReleaseRole { names: names.clone(), keyids, threshold }
                    })
                    .collect(),
            },
            revoked_keys: Vec::new(),
            revoked_bundles: Vec::new(),
            min_versions: std::collections::BTreeMap::new(),
        }
    }
}

/// An edit of a trust document that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustEditError {
    /// No such role.
    #[error("the trust document has no role `{0}`")]
    NoRole(RoleName),
    /// The key is there already.
    #[error("key {0} stands in that role already")]
    KeyPresent(KeyId),
    /// The key is not there.
    #[error("key {0} stands in no role of the trust document")]
    KeyAbsent(KeyId),
    /// Without the key, a role could not reach its threshold.
    #[error(
        "without key {key} the role `{role}` has {left} keys and cannot reach its threshold of {threshold}"
    )]
    Unreachable {
        /// The key.
        key: KeyId,
        /// The role.
        role: RoleName,
        /// Keys that would be left.
        left: usize,
        /// How many must sign.
        threshold: u64,
    },
}

impl agentd_types::Coded for TrustEditError {
    fn code(&self) -> agentd_types::Code {
        agentd_types::Code::new(match self {
            Self::NoRole(_) => "trust.no_role",
            Self::KeyPresent(_) => "trust.key_present",
            Self::KeyAbsent(_) => "trust.key_absent",
            Self::Unreachable { .. } => "trust.unreachable",
        })
    }
}

/// The same trust document as its own next version.
pub fn successor(trust: &Trust, created: UnixTime, expires: UnixTime) -> Trust {
    Trust { version: trust.version.saturating_add(1), created, expires, ..trust.clone() }
}

/// Adds a key to a role; a release role that does not exist yet is made, with this key alone.
///
/// # Errors
/// [`TrustEditError::KeyPresent`].
pub fn with_key(mut trust: Trust, role: &RoleName, key: &PublicKey) -> Result<Trust, TrustEditError> {
    let id = key.id();
    if let RoleName::Release(glob) = role
        && keyids(&mut trust, role).is_none()
    {
        let names = vec![glob.clone()];
        trust.roles.releases.push(ReleaseRole { names, keyids: Vec::new(), threshold: 1 });
    }
    let (keyids, _) = keyids(&mut trust, role).ok_or_else(|| TrustEditError::NoRole(role.clone()))?;
    if keyids.contains(&id) {
        return Err(TrustEditError::KeyPresent(id));
    }
    keyids.push(id);
    trust.keys.insert(id, key.to_hex());
    Ok(trust)
}

/// Sets how many keys of a role must sign.
///
/// # Errors
/// [`TrustEditError::NoRole`].
pub fn with_threshold(mut trust: Trust, role: &RoleName, threshold: u64) -> Result<Trust, TrustEditError> {
    let (_, held) = keyids(&mut trust, role).ok_or_else(|| TrustEditError::NoRole(role.clone()))?;
    *held = threshold;
    Ok(trust)
}

/// Puts a new key in the place of an old one, in every role that has the old one.
///
/// # Errors
/// [`TrustEditError::KeyAbsent`], [`TrustEditError::KeyPresent`].
pub fn rotate_key(mut trust: Trust, old: KeyId, new: &PublicKey) -> Result<Trust, TrustEditError> {
    let id = new.id();
    let mut found = false;
    for (_, keyids, _) in all_roles(&mut trust) {
        if let Some(at) = keyids.iter().position(|held| *held == old) {
            if keyids.contains(&id) {
                return Err(TrustEditError::KeyPresent(id));
            }
            found = true;
            if let Some(held) = keyids.get_mut(at) {
                *held = id;
            }
        }
    }
    if !found {
        return Err(TrustEditError::KeyAbsent(old));
    }
    trust.keys.remove(&old);
    trust.keys.insert(id, new.to_hex());
    Ok(trust)
}

/// Revokes a key: takes it out of every role and remembers that it must never count again. It may be a device's key,
/// which stands in no role.
///
/// # Errors
/// [`TrustEditError::Unreachable`] when a role could no longer reach its threshold; add or rotate a key first.
pub fn without_key(mut trust: Trust, key: KeyId) -> Result<Trust, TrustEditError> {
    for (role, keyids, threshold) in all_roles(&mut trust) {
        if !keyids.contains(&key) {
            continue;
        }
        keyids.retain(|held| *held != key);
        if (keyids.len() as u64) < *threshold {
            return Err(TrustEditError::Unreachable { key, role, left: keyids.len(), threshold: *threshold });
        }
    }
    trust.keys.remove(&key);
    if !trust.revoked_keys.contains(&key) {
        trust.revoked_keys.push(key);
    }
    Ok(trust)
}

/// Revokes a bundle by the digest of its payload.
#[must_use]
pub fn without_bundle(mut trust: Trust, bundle: Digest) -> Trust {
    if !trust.revoked_bundles.contains(&bundle) {
        trust.revoked_bundles.push(bundle);
    }
    trust
}

/// Forbids every version of a model below `least`.
#[must_use]
pub fn with_min_version(mut trust: Trust, model: ModelName, least: u64) -> Trust {
    trust.min_versions.insert(model, least);
    trust
}

fn all_roles(trust: &mut Trust) -> impl Iterator<Item = (RoleName, &mut Vec<KeyId>, &mut u64)> {
    let Roles { root, fleet, releases } = &mut trust.roles;
    [(RoleName::Root, root), (RoleName::Fleet, fleet)]
        .into_iter()
        .map(|(name, role)| (name, &mut role.keyids, &mut role.threshold))
        .chain(releases.iter_mut().map(|role| {
            let name = RoleName::Release(role.names.first().cloned().unwrap_or_default());
            (name, &mut role.keyids, &mut role.threshold)
        }))
}

fn keyids<'a>(trust: &'a mut Trust, role: &RoleName) -> Option<(&'a mut Vec<KeyId>, &'a mut u64)> {
    match role {
        RoleName::Root => Some((&mut trust.roles.root.keyids, &mut trust.roles.root.threshold)),
        RoleName::Fleet => Some((&mut trust.roles.fleet.keyids, &mut trust.roles.fleet.threshold)),
        RoleName::Release(glob) => trust
            .roles
            .releases
            .iter_mut()
            .find(|role| role.names.contains(glob))
            .map(|role| (&mut role.keyids, &mut role.threshold)),
    }
}
