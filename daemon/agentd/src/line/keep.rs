//! Keep: what is missing of a proved bundle comes onto the disk, then the whole is installed.

use std::{collections::BTreeSet, sync::Arc};

use agentd_bundle::VerifiedBundle;
use agentd_store::{DiskError, Fit, InstalledBundle, Keep};
use agentd_types::{ByteCount, Digest, ModelName};
use agentd_wire::{Manifest, ModelState, What};
use log::info;

use super::LineError;
use crate::house::{House, lock};

/// While it lives, no clean-up takes the chunks of a bundle that is not installed yet.
#[derive(Debug)]
pub(super) struct Coming {
    house: Arc<House>,
    bundle: Digest,
}

impl Coming {
    pub(super) async fn announce(house: &Arc<House>, proved: &VerifiedBundle) -> Result<Self, LineError> {
        let (bundle, manifest) = (proved.digest(), Arc::new(proved.manifest().clone()));
        let announced = house.blocking(move |house| {
            let _alone = lock(&house.cleaning);
            lock(&house.coming).insert(bundle, manifest);
            Self { house: Arc::clone(house), bundle }
        });
        announced.await.map_err(|_| LineError::Ending)
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        lock(&self.house.coming).remove(&self.bundle);
    }
}

/// Fetches the chunks that no installed version has, after making sure that they fit.
pub(super) async fn fetch(
    house: &Arc<House>,
    model: &ModelName,
    proved: &VerifiedBundle,
) -> Result<(), LineError> {
    let manifest = proved.manifest();
    make_room(house, proved).await?;
    let missing = {
        let manifest = manifest.clone();
        house
            .blocking(move |house| house.store.missing_chunks(&manifest))
            .await
            .map_err(|_| LineError::Ending)??
    };
    if missing.is_empty() {
        return Ok(());
    }
    let total = ByteCount(manifest.total_size());
    let missing_bytes: ByteCount = missing.iter().map(|chunk| ByteCount(chunk.0)).sum();
    let (version, bundle) = (manifest.version, proved.digest());
    house
        .record(What::FetchStarted { model: model.clone(), version, bundle, missing: missing_bytes })
        .await?;
    let have = ByteCount(total.0.saturating_sub(missing_bytes.0));
    house.set_progress(model, Some(ModelState::Fetching { have, total }));
    let bytes = house.source.chunks(house, model, bundle, &missing, total).await?;
    house.blocking(|house| house.store.commit_chunks()).await.map_err(|_| LineError::Ending)??;
    house.record(What::Fetched { model: model.clone(), version, bundle, bytes }).await?;
    info!(event = "bundle.fetched", model = model.as_str(), version, bytes = bytes.0; "Bundle is on disk");
    Ok(())
}

/// Installs a bundle of which every chunk is on disk.
pub(super) async fn install(
    house: &Arc<House>,
    proved: VerifiedBundle,
) -> Result<InstalledBundle, LineError> {
    let installed = house
        .blocking(move |house| {
            let installed = house.store.install(&proved)?;
            house.authority.record_installed(&proved)?;
            Ok(installed)
        })
        .await
        .map_err(|_| LineError::Ending)?;
    house.tell_head();
    installed
}

/// Refuses a bundle that does not fit, after deleting what nobody needs.
async fn make_room(house: &Arc<House>, proved: &VerifiedBundle) -> Result<(), LineError> {
    let manifest = proved.manifest().clone();
    let fit = house
        .blocking(move |house| {
            let _alone = lock(&house.cleaning);
            let fit = house.store.fits(&manifest)?;
            if matches!(fit, Fit::Fits { .. }) {
                return Ok(fit);
            }
            clean_up(house)?;
            house.store.fits(&manifest)
        })
        .await
        .map_err(|_| LineError::Ending)??;
    match fit {
        Fit::Fits { .. } => Ok(()),
        Fit::DiskFull { missing, free, reserve } => Err(LineError::NoRoom {
            missing,
            detail: format!("{free} are free, {reserve} of them in reserve"),
        }),
        Fit::OverQuota { missing, used, quota } => {
            Err(LineError::NoRoom { missing, detail: format!("{used} of the quota of {quota} are used") })
        }
    }
}

/// Deletes what nobody needs until everything that is coming has room.
fn clean_up(house: &House) -> Result<(), DiskError> {
    let coming: Vec<Arc<Manifest>> = lock(&house.coming).values().cloned().collect();
    let mut missing = 0_u64;
    for manifest in &coming {
        let chunks = house.store.missing_chunks(manifest)?;
        missing = chunks.iter().fold(missing, |sum, chunk| sum.saturating_add(chunk.0));
    }
    let target = ByteCount(house.config.store.quota.0.saturating_sub(missing));
    let keep = Keep { bundles: in_use(house), fetching: coming.iter().map(|manifest| &**manifest).collect() };
    // What cannot be deleted shows as no room.
    if let Err(error) = house.store.collect(&keep, target) {
        log::warn!(event = "store.collect", error = agentd_types::chain(&error).as_str(); "Clean-up stopped");
    }
    Ok(())
}

/// Bundles that are asked for, answer, or are kept ready.
pub(crate) fn in_use(house: &House) -> BTreeSet<Digest> {
    let wished = house.authority.wishes().into_values().map(|wish| wish.entry.sha256);
    let served = house.serving.statuses().into_iter().flat_map(|status| {
        std::iter::once(status.active.bundle).chain(status.previous.map(|previous| previous.bundle))
    });
    wished.chain(served).collect()
}
