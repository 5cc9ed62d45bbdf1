//! Judges trust, catalog, membership and desired documents, and takes those that pass.

use agentd_types::{KeyId, UnixTime};
use agentd_wire::{Catalog, Kind, Target};

use super::{Accepted, FleetState, Held, MAX_CATALOG_LIFE_S, Standing};
use crate::{Cause, Envelope, Reject, documents, json::Value, signatures::Quorum};

impl FleetState {
    /// Judges a document and, when it passes, takes it.
    ///
    /// `kind`: what it must be; `None` takes what the envelope says. `now`: the wall clock's claim. Bundles and derived
    /// models are judged by [`FleetState::prove_bundle`] and [`FleetState::prove_derived`].
    ///
    /// # Errors
    /// Every code of its kind; the state is then unchanged.
    pub fn accept(&mut self, kind: Option<Kind>, envelope: &[u8], now: UnixTime) -> Result<Accepted, Reject> {
        let envelope = match kind {
            Some(kind) => Envelope::read_kind(envelope, kind)?,
            None => Envelope::read(envelope)?,
        };
        match envelope.kind() {
            Kind::Trust => self.accept_trust(&envelope, now),
            Kind::Catalog => self.accept_catalog(&envelope, now),
            Kind::Membership => self.accept_membership(&envelope, now),
            Kind::Desired => self.accept_desired(&envelope, now),
            kind @ (Kind::Bundle | Kind::Derived) => {
                let message = format!("a {kind} document is proved when it is installed, not accepted");
                Err(Reject::new(Cause::Type, message))
            }
        }
    }

    fn accept_trust(&mut self, envelope: &Envelope, now: UnixTime) -> Result<Accepted, Reject> {
        Quorum::root(self.trust()).prove(envelope)?;
        let value = Value::read_canonical(envelope.payload())?;
        let root = documents::read_trust(&value, Some(&self.identity.fleet))?;
        self.check_succession(root.document().version)?;
        self.check_created("the trust document", root.document().created, now)?;
        let signers = Quorum::root(&root).prove(envelope)?;
        let accepted = Accepted {
            cleared: root.fleet_keys() != self.trust().fleet_keys(),
            ..accepted(envelope, root.document().version, None, &signers)
        };
        if accepted.cleared {
            self.forget_fleet();
        }
        self.trust = held(root, envelope, signers);
        self.standing = Standing::Sound;
        Ok(accepted)
    }

    /// A trust document follows ours directly; after a loss of state the pinned one itself may come again.
    fn check_succession(&self, version: u64) -> Result<(), Reject> {
        let ours = self.trust_version();
        if version < ours || (version == ours && !self.is_recovering()) {
            let message = format!("it is trust {version}, and trust {ours} is in force already");
            return Err(Reject::new(Cause::Rollback, message));
        }
        if version > ours.saturating_add(1) {
            let message =
                format!("it is trust {version}, but trust {} must come first", ours.saturating_add(1));
            return Err(Reject::new(Cause::Chain, message));
        }
        Ok(())
    }

    /// Whoever stole the old fleet key may have pushed any counter to its end, so all that it signed is dropped.
    fn forget_fleet(&mut self) {
        self.catalog = None;
        self.membership = None;
        self.desired.clear();
        self.clock_mark = UnixTime(0);
    }

    fn accept_catalog(&mut self, envelope: &Envelope, now: UnixTime) -> Result<Accepted, Reject> {
        let (value, signers) = self.open_fleet(envelope, now)?;
        let catalog = documents::read_catalog(&value, &self.identity.fleet)?;
        self.check_times("the catalog", (catalog.created, catalog.expires), now)?;
        if catalog.expires.0.saturating_sub(catalog.created.0) > MAX_CATALOG_LIFE_S {
            let message = format!(
                "the catalog is valid from {} to {}, more than 14 days",
                catalog.created, catalog.expires
            );
            return Err(Reject::new(Cause::Lifetime, message));
        }
        if let Some(ours) = &self.catalog {
            check_catalog_version(&catalog, envelope, ours)?;
        }
        if catalog.trust_version > self.trust_version() {
            let message = format!(
                "the catalog was made with trust {}, and we have trust {}",
                catalog.trust_version,
                self.trust_version()
            );
            return Err(Reject::new(Cause::StaleTrust, message));
        }
        if let Some(ours) = &self.catalog {
            check_catalog_models(&catalog, &ours.document)?;
        }
        let accepted = accepted(envelope, catalog.version, None, &signers);
        self.clock_mark = self.clock_mark.max(catalog.created);
        self.catalog = Some(held(catalog, envelope, signers));
        Ok(accepted)
    }

    fn accept_membership(&mut self, envelope: &Envelope, now: UnixTime) -> Result<Accepted, Reject> {
        let (value, signers) = self.open_fleet(envelope, now)?;
        let membership = documents::read_membership(&value, &self.identity.fleet)?;
        if membership.device != self.identity.device {
            let message = format!("the membership is for device `{}`", membership.device);
            return Err(Reject::new(Cause::Target, message));
        }
        self.check_times("the membership", (membership.created, membership.expires), now)?;
        check_seq("the membership", membership.seq, self.membership().map(|ours| ours.seq))?;
        let accepted = accepted(envelope, membership.seq, None, &signers);
        self.membership = Some(held(membership, envelope, signers));
        Ok(accepted)
    }

    fn accept_desired(&mut self, envelope: &Envelope, now: UnixTime) -> Result<Accepted, Reject> {
        let (value, signers) = self.open_fleet(envelope, now)?;
        let desired = documents::read_desired(&value, &self.identity.fleet)?;
        self.check_target(&desired.target, now)?;
        self.check_times("the desired document", (desired.created, desired.expires), now)?;
        let last = self.desired.get(&desired.target).map(|ours| ours.document.seq);
        check_seq(&format!("the desired document for {}", desired.target), desired.seq, last)?;
        let accepted = accepted(envelope, desired.seq, Some(desired.target.clone()), &signers);
        self.desired.insert(desired.target.clone(), held(desired, envelope, signers));
        Ok(accepted)
    }

    fn check_target(&self, target: &Target, now: UnixTime) -> Result<(), Reject> {
        let ours = match target {
            Target::All => true,
            Target::Group(group) => self.groups(now).contains(group),
            Target::Device(device) => *device == self.identity.device,
        };
        if ours {
            return Ok(());
        }
        let message =
            format!("the desired document is for {target}, and this is device `{}`", self.identity.device);
        Err(Reject::new(Cause::Target, message))
    }

    /// A payload that the fleet role signed.
    fn open_fleet(&self, envelope: &Envelope, now: UnixTime) -> Result<(Value, Vec<KeyId>), Reject> {
        self.check_trust_in_force(self.effective_time(now))?;
        let signers = Quorum::fleet(self.trust()).prove(envelope)?;
        Ok((Value::read_canonical(envelope.payload())?, signers))
    }
}

fn check_catalog_version(new: &Catalog, envelope: &Envelope, ours: &Held<Catalog>) -> Result<(), Reject> {
    let held = ours.document.version;
    if new.version < held {
        let message = format!("it is catalog {}, older than catalog {held}", new.version);
        return Err(Reject::new(Cause::Rollback, message));
    }
    if new.version == held && envelope.payload() != ours.payload {
        let message = format!("there are two different catalogs {held}");
        return Err(Reject::new(Cause::Equivocation, message));
    }
    Ok(())
}

fn check_catalog_models(new: &Catalog, ours: &Catalog) -> Result<(), Reject> {
    for (name, entry) in &new.models {
        let Some(held) = ours.models.get(name) else { continue };
        if entry.version < held.version {
            let message = format!(
                "the catalog lists {name} {}, older than {} in the last one",
                entry.version, held.version
            );
            return Err(Reject::new(Cause::Rollback, message));
        }
        if entry.version == held.version && entry.sha256 != held.sha256 {
            let message = format!(
                "the catalog lists {name} {} with digest {}, the last one with {}",
                entry.version,
                entry.sha256.short(),
                held.sha256.short()
            );
            return Err(Reject::new(Cause::Equivocation, message));
        }
    }
    Ok(())
}

fn check_seq(what: &str, seq: u64, last: Option<u64>) -> Result<(), Reject> {
    match last {
        Some(last) if seq <= last => {
            let message = format!("{what} has sequence number {seq}, not above {last}");
            Err(Reject::new(Cause::Replay, message))
        }
        _ => Ok(()),
    }
}

fn held<T>(document: T, envelope: &Envelope, signers: Vec<KeyId>) -> Held<T> {
    Held { document, payload: envelope.payload().to_vec(), signers }
}

fn accepted(envelope: &Envelope, number: u64, target: Option<Target>, signers: &[KeyId]) -> Accepted {
    Accepted {
        kind: envelope.kind(),
        number,
        target,
        digest: envelope.digest(),
        signers: signers.to_vec(),
        cleared: false,
    }
}
