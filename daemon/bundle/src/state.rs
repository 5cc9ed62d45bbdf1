//! What a device knows of its fleet: trust, catalog, membership, desired documents and every counter that must not
//! go back.
//!
//! In: envelopes as the broker or a stick brought them, and the wall clock's claim. Out: the change that an accepted
//! document makes, or a refusal that changes nothing. Writes nothing itself: whoever holds the state makes
//! [`FleetState::to_bytes`] durable *before* it acknowledges a document or acts on it.

mod accept;
mod keep;
mod prove;

use std::collections::{BTreeMap, BTreeSet};

use agentd_types::{DeviceId, Digest, FleetId, GroupName, KeyId, ModelName, UnixTime};
use agentd_wire::{Catalog, Desired, DesiredEntry, Kind, Membership, Target};

pub use self::{keep::StateError, prove::VerifiedBundle};
use crate::{Cause, Envelope, PublicKey, Reject, TrustRoot, documents, json::Value, signatures::Quorum};

/// How far ahead of a believable wall clock a document may have been made: 600 seconds.
pub const MAX_AHEAD_S: u64 = 600;

/// Longest time that a catalog may be valid: 14 days.
pub const MAX_CATALOG_LIFE_S: u64 = 14 * 86_400;

/// Who this device is; never changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The device's id.
    pub device: DeviceId,
    /// The fleet that it belongs to.
    pub fleet: FleetId,
    /// The public half of the device's own ed25519 key.
    pub device_key: [u8; 32],
    /// When this program was built; no clock is believed before that.
    pub build: UnixTime,
}

/// An accepted document.
#[derive(Clone, Debug)]
struct Held<T> {
    document: T,
    payload: Vec<u8>,
    signers: Vec<KeyId>,
}

/// Whether the durable state is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Sound,
    /// State was lost beside installed models: nothing but a trust document is taken.
    Recovering,
}

/// What a device knows of its fleet.
#[derive(Clone, Debug)]
pub struct FleetState {
    identity: Identity,
    device_key: PublicKey,
    trust: Held<TrustRoot>,
    catalog: Option<Held<Catalog>>,
    membership: Option<Held<Membership>>,
    // Kept after they expire and after a group is left, since their sequence numbers must not be used again.
    desired: BTreeMap<Target, Held<Desired>>,
    highest: BTreeMap<ModelName, u64>,
    derived_seq: BTreeMap<ModelName, u64>,
    /// The highest `created` of an accepted catalog.
    clock_mark: UnixTime,
    standing: Standing,
}

/// A document that took effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Its kind.
    pub kind: Kind,
    /// Its version (trust, catalog) or sequence number (membership, desired).
    pub number: u64,
    /// Whom a desired document is for.
    pub target: Option<Target>,
    /// Digest of its payload.
    pub digest: Digest,
    /// The keys that signed it, among those of its role.
    pub signers: Vec<KeyId>,
    /// Whether the fleet role's keys changed, so that catalog, membership and desired documents were dropped and must
    /// be asked for again.
    pub cleared: bool,
}

/// What the effective desired state says of one model, and which document says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Version, digest and policy.
    pub entry: DesiredEntry,
    /// Whom the document is for.
    pub target: Target,
    /// The document's sequence number.
    pub seq: u64,
    /// When the document was made.
    pub created: UnixTime,
    /// Who signed it.
    pub signers: Vec<KeyId>,
}

/// A trusted key with everything that it may sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedKey {
    /// Its id.
    pub id: KeyId,
    /// 64 hexadecimal digits.
    pub public: String,
    /// `root`, `fleet`, or `release` with its globs; empty when it stands in no role.
    pub roles: Vec<String>,
    /// Whether it is revoked, so that its roles count for nothing.
    pub revoked: bool,
}

impl FleetState {
    /// The state of a new device, from the trust document that came with it.
    ///
    /// The document must be signed by its own root role; it may have expired.
    ///
    /// # Errors
    /// The codes of envelopes and trust documents.
    pub fn pinned(identity: Identity, trust_envelope: &[u8]) -> Result<Self, Reject> {
        let device_key = PublicKey::from_bytes(&identity.device_key)?;
        let envelope = Envelope::read_kind(trust_envelope, Kind::Trust)?;
        let value = Value::read_canonical(envelope.payload())?;
        let root = documents::read_trust(&value, Some(&identity.fleet))?;
        let signers = Quorum::root(&root).prove(&envelope)?;
        Ok(Self {
            identity,
            device_key,
            trust: Held { document: root, payload: envelope.payload().to_vec(), signers },
            catalog: None,
            membership: None,
            desired: BTreeMap::new(),
            highest: BTreeMap::new(),
            derived_seq: BTreeMap::new(),
            clock_mark: UnixTime(0),
            standing: Standing::Sound,
        })
    }

    /// The state of a device that has models but lost what it knew: what serves may go on, but everything new is
    /// refused (`state_lost`) until a trust document that is not older than the pinned one arrives.
    ///
    /// # Errors
    /// Those of [`FleetState::pinned`].
    pub fn recovering(identity: Identity, trust_envelope: &[u8]) -> Result<Self, Reject> {
        Self::pinned(identity, trust_envelope).map(|state| Self { standing: Standing::Recovering, ..state })
    }

    /// Whether state was lost and no trust document has arrived since.
    pub fn is_recovering(&self) -> bool {
        self.standing == Standing::Recovering
    }

    /// Who this device is.
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The time that expiry is judged by: the wall clock, the newest accepted catalog or the build date, whichever is
    /// latest.
    pub fn effective_time(&self, wall: UnixTime) -> UnixTime {
        wall.max(self.clock_mark).max(self.identity.build)
    }

    /// Whether the wall clock claims a time that is known to be past, so that it is not believed.
    pub fn is_clock_behind(&self, wall: UnixTime) -> bool {
        wall < self.effective_time(wall)
    }

    /// The trust document in force.
    pub const fn trust(&self) -> &TrustRoot {
        &self.trust.document
    }

    /// The version of the trust document in force.
    pub const fn trust_version(&self) -> u64 {
        self.trust.document.document().version
    }

    /// The newest accepted catalog.
    pub fn catalog(&self) -> Option<&Catalog> {
        self.catalog.as_ref().map(|held| &held.document)
    }

    /// The version of the newest accepted catalog.
    pub fn catalog_version(&self) -> Option<u64> {
        self.catalog().map(|catalog| catalog.version)
    }

    /// The newest accepted membership, expired or not.
    pub fn membership(&self) -> Option<&Membership> {
        self.membership.as_ref().map(|held| &held.document)
    }

    /// The groups that this device is in at the wall-clock time `now`.
    pub fn groups(&self, now: UnixTime) -> BTreeSet<GroupName> {
        let time = self.effective_time(now);
        let current = self.membership().filter(|membership| !is_past(membership.expires, time));
        current.map(|membership| membership.groups.keys().cloned().collect()).unwrap_or_default()
    }

    /// Whether a bundle is revoked: it must not be installed, and what runs of it must be replaced.
    pub fn is_revoked(&self, bundle: &Digest) -> bool {
        self.revoked_bundles().contains(bundle)
    }

    /// The digests of all revoked bundles.
    pub fn revoked_bundles(&self) -> &[Digest] {
        &self.trust().document().revoked_bundles
    }

    /// The highest version of a model that was ever installed here.
    pub fn highest_version(&self, name: &ModelName) -> Option<u64> {
        self.highest.get(name).copied()
    }

    /// The sequence number that the next model made from `base` on this device shall have.
    pub fn next_derived_seq(&self, base: &ModelName) -> u64 {
        self.derived_seq.get(&base.local()).map_or(1, |last| last.saturating_add(1))
    }

    /// The sequence number of the newest desired document of each target.
    pub fn desired_seqs(&self) -> BTreeMap<Target, u64> {
        self.desired.iter().map(|(target, held)| (target.clone(), held.document.seq)).collect()
    }

    /// Whether exactly this document is held already, so that it need not be judged again: brokers repeat what is
    /// retained.
    pub fn holds(&self, envelope: &[u8]) -> bool {
        Envelope::read(envelope).is_ok_and(|envelope| {
            let payload = envelope.payload();
            match envelope.kind() {
                Kind::Trust => self.trust.payload == payload && !self.is_recovering(),
                Kind::Catalog => self.catalog.as_ref().is_some_and(|held| held.payload == payload),
                Kind::Membership => self.membership.as_ref().is_some_and(|held| held.payload == payload),
                Kind::Desired => self.desired.values().any(|held| held.payload == payload),
                Kind::Bundle | Kind::Derived => false,
            }
        })
    }

    /// The effective desired state at the wall-clock time `now`: `all`, then groups by rising priority (ties by name),
    /// then the device itself; expired documents have no say.
    pub fn desired(&self, now: UnixTime) -> BTreeMap<ModelName, DesiredEntry> {
        self.wishes(now).into_iter().map(|(name, wish)| (name, wish.entry)).collect()
    }

    /// [`FleetState::desired`] with the document that each entry comes from.
    pub fn wishes(&self, now: UnixTime) -> BTreeMap<ModelName, Wish> {
        let time = self.effective_time(now);
        let mut wishes = BTreeMap::new();
        for held in self.targets(time).iter().filter_map(|target| self.desired.get(target)) {
            let Desired { target, seq, created, expires, models, .. } = &held.document;
            if is_past(*expires, time) {
                continue;
            }
            for (name, entry) in models {
                let wish = Wish {
                    entry: entry.clone(),
                    target: target.clone(),
                    seq: *seq,
                    created: *created,
                    signers: held.signers.clone(),
                };
                wishes.insert(name.clone(), wish);
            }
        }
        wishes
    }

    /// Whether any held document for this device names the model, expired or not.
    ///
    /// A model that is mentioned but not desired serves on: a document that ran out, or a wrong clock, is no order to
    /// stop.
    pub fn is_mentioned(&self, name: &ModelName) -> bool {
        self.desired.values().any(|held| held.document.models.contains_key(name))
    }

    /// Every key of the trust document with its roles.
    pub fn keys(&self) -> Vec<TrustedKey> {
        let trust = self.trust();
        let roles = &trust.document().roles;
        let named = |id: &KeyId| {
            let fixed = [("root", &roles.root), ("fleet", &roles.fleet)];
            let fixed = fixed.into_iter().filter(|(_, role)| role.keyids.contains(id));
            let releases = roles.releases.iter().filter(|role| role.keyids.contains(id));
            fixed
                .map(|(name, _)| name.to_owned())
                .chain(releases.map(|role| format!("release {}", role.names.join(", "))))
                .collect()
        };
        let describe = |(id, public): (&KeyId, &String)| TrustedKey {
            id: *id,
            public: public.clone(),
            roles: named(id),
            revoked: trust.is_revoked(id),
        };
        trust.document().keys.iter().map(describe).collect()
    }

    /// The targets that concern this device, in the order in which they are merged.
    fn targets(&self, time: UnixTime) -> Vec<Target> {
        let mut groups: Vec<_> = self
            .membership()
            .filter(|membership| !is_past(membership.expires, time))
            .map(|membership| membership.groups.iter().map(|(name, priority)| (*priority, name)).collect())
            .unwrap_or_default();
        groups.sort();
        let groups = groups.into_iter().map(|(_, name)| Target::Group(name.clone()));
        std::iter::once(Target::All)
            .chain(groups)
            .chain(std::iter::once(Target::Device(self.identity.device.clone())))
            .collect()
    }

    /// What must hold before any document but trust is judged: durable state and a trust document in force.
    fn check_trust_in_force(&self, time: UnixTime) -> Result<(), Reject> {
        if self.is_recovering() {
            let message = "durable state was lost; nothing new is taken before a trust document arrives";
            return Err(Reject::new(Cause::StateLost, message));
        }
        let expires = self.trust().document().expires;
        if is_past(expires, time) {
            let message = format!("trust {} expired at {expires}", self.trust_version());
            return Err(Reject::new(Cause::TrustExpired, message));
        }
        Ok(())
    }

    /// Refuses what was made in the future, when the wall clock can be believed.
    fn check_created(&self, what: &str, created: UnixTime, wall: UnixTime) -> Result<(), Reject> {
        if self.is_clock_behind(wall) || created <= wall.plus(MAX_AHEAD_S) {
            return Ok(());
        }
        let message = format!("{what} was made at {created}, which is ahead of the clock ({wall})");
        Err(Reject::new(Cause::Future, message))
    }

    /// Refuses what was made in the future or has expired.
    fn check_times(
        &self,
        what: &str,
        (created, expires): (UnixTime, UnixTime),
        wall: UnixTime,
    ) -> Result<(), Reject> {
        self.check_created(what, created, wall)?;
        let time = self.effective_time(wall);
        if is_past(expires, time) {
            let message = format!("{what} expired at {expires}; it is {time} now");
            return Err(Reject::new(Cause::Expired, message));
        }
        Ok(())
    }
}

/// Whether a document that expires at `expires` has expired; it is still valid in that very second.
fn is_past(expires: UnixTime, time: UnixTime) -> bool {
    time > expires
}
