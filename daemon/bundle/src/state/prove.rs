//! Proves bundles and derived models against what the device knows.

use agentd_types::{Digest, KeyId, ModelName, UnixTime};
use agentd_wire::{DesiredEntry, Kind, Manifest};

use super::{FleetState, is_past};
use crate::{Cause, Envelope, Reject, documents, json::Value, signatures::Quorum};

/// A manifest of which it is proved that this device may install it. Only this crate makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedBundle {
    manifest: Manifest,
    digest: Digest,
    envelope: Vec<u8>,
    signers: Vec<KeyId>,
}

impl VerifiedBundle {
    /// The manifest.
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The digest of the payload: the bundle's name in catalogs, desired documents and blobs.
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// The envelope as it came: what is kept as `manifest.dsse.json`.
    pub fn envelope(&self) -> &[u8] {
        &self.envelope
    }

    /// The keys that signed, among those of its role.
    pub fn signers(&self) -> &[KeyId] {
        &self.signers
    }
}

impl FleetState {
    /// Proves a bundle: signed by the release role of the name under which the desired state asks for its digest, and
    /// allowed by catalog, minimum versions and what was installed before.
    ///
    /// `envelope`: the bundle's manifest as it came. `now`: the wall clock's claim.
    ///
    /// # Errors
    /// Every code of envelopes and bundles.
    pub fn prove_bundle(&self, envelope: &[u8], now: UnixTime) -> Result<VerifiedBundle, Reject> {
        let opened = Envelope::read_kind(envelope, Kind::Bundle)?;
        self.check_trust_in_force(self.effective_time(now))?;
        let digest = opened.digest();
        let desired = self.desired(now);
        let mut refused = None;
        // More than one name may ask for the same digest; only the manifest tells which of them is right.
        for (name, entry) in desired.iter().filter(|(_, entry)| entry.sha256 == digest) {
            match self.prove_wished(&opened, digest, (name, entry), now) {
                Ok((manifest, signers)) => {
                    return Ok(VerifiedBundle { manifest, digest, envelope: envelope.to_vec(), signers });
                }
                Err(reject) => refused = refused.or(Some(reject)),
            }
        }
        Err(refused.unwrap_or_else(|| {
            let message = format!("the desired state asks for no bundle with digest {}", digest.short());
            Reject::new(Cause::NotDesired, message)
        }))
    }

    fn prove_wished(
        &self,
        envelope: &Envelope,
        digest: Digest,
        (name, entry): (&ModelName, &DesiredEntry),
        now: UnixTime,
    ) -> Result<(Manifest, Vec<KeyId>), Reject> {
        let role = self.trust().release_role(name).ok_or_else(|| {
            Reject::new(Cause::Delegation, format!("no release role covers the name `{name}`"))
        })?;
        let signers = Quorum::release(self.trust(), role).prove(envelope)?;
        self.check_revoked(&digest, "the bundle")?;
        let value = Value::read_canonical(envelope.payload())?;
        let manifest = documents::read_manifest_of(&value, Kind::Bundle, &self.identity.fleet)?;
        if manifest.name != *name || manifest.version != entry.version {
            let message = format!(
                "the bundle is {} {}, but the desired state asks for {name} {}",
                manifest.name, manifest.version, entry.version
            );
            return Err(Reject::new(Cause::NotDesired, message));
        }
        self.check_catalog(&manifest, digest, now)?;
        self.check_times("the bundle", (manifest.created, manifest.expires), now)?;
        self.check_versions(&manifest, entry)?;
        Ok((manifest, signers))
    }

    fn check_revoked(&self, digest: &Digest, what: &str) -> Result<(), Reject> {
        if self.is_revoked(digest) {
            let message = format!("{what} {} is revoked by trust {}", digest.short(), self.trust_version());
            return Err(Reject::new(Cause::Revoked, message));
        }
        Ok(())
    }

    fn check_catalog(&self, manifest: &Manifest, digest: Digest, now: UnixTime) -> Result<(), Reject> {
        let catalog =
            self.catalog().ok_or_else(|| Reject::new(Cause::NoCatalog, "no catalog has arrived yet"))?;
        let (version, expires) = (catalog.version, catalog.expires);
        if is_past(expires, self.effective_time(now)) {
            let message = format!("catalog {version} expired at {expires}, and no newer one has arrived");
            return Err(Reject::new(Cause::Frozen, message));
        }
        let refuse = |why: String| Err(Reject::new(Cause::Catalog, format!("catalog {version} {why}")));
        let Manifest { name, version: ours, .. } = manifest;
        match catalog.models.get(name) {
            None => refuse(format!("does not list {name}")),
            Some(listed) if listed.version < *ours => {
                refuse(format!("lists {name} {}, not yet {ours}", listed.version))
            }
            Some(listed) if listed.version == *ours && listed.sha256 != digest => refuse(format!(
                "lists {name} {ours} with digest {}, the bundle has {}",
                listed.sha256.short(),
                digest.short()
            )),
            Some(_) => Ok(()),
        }
    }

    fn check_versions(&self, manifest: &Manifest, entry: &DesiredEntry) -> Result<(), Reject> {
        let Manifest { name, version, .. } = manifest;
        if let Some(least) = self.trust().document().min_versions.get(name)
            && version < least
        {
            let message = format!("{name} is version {version}, and trust allows none below {least}");
            return Err(Reject::new(Cause::MinVersion, message));
        }
        match self.highest.get(name) {
            Some(highest) if version < highest && !entry.allow_downgrade => {
                let message = format!(
                    "{name} is version {version}, older than version {highest} that was installed, \
                     and the desired state does not allow a downgrade"
                );
                Err(Reject::new(Cause::Rollback, message))
            }
            _ => Ok(()),
        }
    }

    /// Proves a model that this device made from an installed one.
    ///
    /// `installed`: the manifest of a bundle that is installed here, by digest. `now`: the wall clock's claim.
    ///
    /// # Errors
    /// Every code of envelopes and derived models.
    pub fn prove_derived(
        &self,
        envelope: &[u8],
        now: UnixTime,
        installed: impl Fn(&Digest) -> Option<Manifest>,
    ) -> Result<VerifiedBundle, Reject> {
        let opened = Envelope::read_kind(envelope, Kind::Derived)?;
        self.check_trust_in_force(self.effective_time(now))?;
        let signers = Quorum::device(self.trust(), self.device_key).prove(&opened)?;
        let value = Value::read_canonical(opened.payload())?;
        let manifest = documents::read_manifest_of(&value, Kind::Derived, &self.identity.fleet)?;
        let digest = opened.digest();
        self.check_revoked(&digest, "the model")?;
        let base = self.check_lineage(&manifest, installed)?;
        check_not_widened(&manifest, &base)?;
        self.check_times("the model", (manifest.created, manifest.expires), now)?;
        Ok(VerifiedBundle { manifest, digest, envelope: envelope.to_vec(), signers })
    }

    /// Checks where a derived model comes from and returns its base.
    fn check_lineage(
        &self,
        manifest: &Manifest,
        installed: impl Fn(&Digest) -> Option<Manifest>,
    ) -> Result<Manifest, Reject> {
        let refuse = |why: String| Reject::new(Cause::Lineage, why);
        let lineage = manifest.lineage.as_ref().ok_or_else(|| refuse("the model has no lineage".into()))?;
        if lineage.device != self.identity.device {
            let message = format!("the model was made on device `{}`", lineage.device);
            return Err(Reject::new(Cause::Target, message));
        }
        if let Some(last) = self.derived_seq.get(&manifest.name)
            && lineage.seq <= *last
        {
            let message = format!("{} has sequence number {}, not above {last}", manifest.name, lineage.seq);
            return Err(Reject::new(Cause::Replay, message));
        }
        self.check_revoked(&lineage.base, "its base")?;
        self.check_revoked(&lineage.parent, "its parent")?;
        let base = installed(&lineage.base).filter(|base| base.r#type == Kind::Bundle).ok_or_else(|| {
            refuse(format!("its base {} is no release installed here", lineage.base.short()))
        })?;
        let parent = installed(&lineage.parent)
            .ok_or_else(|| refuse(format!("its parent {} is not installed here", lineage.parent.short())))?;
        let (root, depth) = match &parent.lineage {
            None => (lineage.parent, 0),
            Some(above) => (above.base, above.depth),
        };
        if root != lineage.base {
            return Err(refuse("its parent does not come from its base".into()));
        }
        if lineage.depth != depth.saturating_add(1) {
            return Err(refuse(format!(
                "it claims depth {}, but its parent has depth {depth}",
                lineage.depth
            )));
        }
        if manifest.name != base.name.local() || manifest.version != base.version {
            return Err(refuse(format!(
                "it is {} {}, but a model made from {} {} is {} {}",
                manifest.name,
                manifest.version,
                base.name,
                base.version,
                base.name.local(),
                base.version
            )));
        }
        Ok(base)
    }

    /// Takes note that a bundle is installed: no lower version and no older derived model is taken after it.
    pub fn record_installed(&mut self, bundle: &VerifiedBundle) {
        let Manifest { name, version, lineage, .. } = &bundle.manifest;
        match lineage {
            None => raise(&mut self.highest, name, *version),
            Some(lineage) => raise(&mut self.derived_seq, name, lineage.seq),
        }
    }
}

fn raise(marks: &mut std::collections::BTreeMap<ModelName, u64>, name: &ModelName, value: u64) {
    let mark = marks.entry(name.clone()).or_insert(value);
    *mark = value.max(*mark);
}

/// A derived model claims nothing that its base does not: same interface, needs, golden vectors and licence, down to
/// the bytes of the files, and no longer life.
fn check_not_widened(manifest: &Manifest, base: &Manifest) -> Result<(), Reject> {
    let same_file = |path: &String| {
        let digest = |manifest: &Manifest| manifest.file(path).map(|file| file.sha256);
        digest(manifest) == digest(base)
    };
    let golden =
        manifest.golden.iter().flat_map(|golden| golden.inputs.values().chain(golden.outputs.values()));
    let differs = if manifest.model.inputs != base.model.inputs {
        "its inputs"
    } else if manifest.model.outputs != base.model.outputs {
        "its outputs"
    } else if manifest.requires != base.requires {
        "its requirements"
    } else if manifest.golden != base.golden || !golden.into_iter().all(same_file) {
        "its golden vectors"
    } else if manifest.licence != base.licence || !same_file(&manifest.licence.file) {
        "its licence"
    } else if manifest.expires > base.expires {
        let message = format!("it expires at {}, after its base ({})", manifest.expires, base.expires);
        return Err(Reject::new(Cause::Widened, message));
    } else {
        return Ok(());
    };
    Err(Reject::new(Cause::Widened, format!("{differs} differ from those of its base")))
}
