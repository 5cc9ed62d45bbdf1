//! The whole way of a model on one screen: receive → prove → keep → measure → place → serve.
//!
//! Each step takes the type that the step before it made, so the wrong order does not compile. Every step may be
//! repeated: what is done already is found done. The reconciler calls [`bring`] and [`serve`] and nothing else.
//!
//! ```text
//! broker ─► receive ─► prove ─► keep ─► measure ─► place ─► start ─► switch ─► application
//!            bytes  VerifiedBundle  InstalledBundle  Evidence  Placement  Version
//! ```

mod failed;
mod keep;
mod measure;
mod start;
mod switch;

use std::sync::Arc;

use agentd_bundle::VerifiedBundle;
use agentd_store::InstalledBundle;
use agentd_types::{Digest, ModelName};
use agentd_wire::{DesiredEntry, ServePolicy};

pub(crate) use failed::LineError;

use crate::house::House;

/// Brings a bundle onto the disk.
///
/// # Errors
/// When a step fails; the next call goes on where this one stopped.
pub(crate) async fn bring(
    house: &Arc<House>,
    model: &ModelName,
    entry: &DesiredEntry,
) -> Result<InstalledBundle, LineError> {
    let envelope: Vec<u8> = house.source.manifest(entry.sha256).await?;
    let proved: VerifiedBundle = house.authority.prove(&envelope)?;
    let _stays = keep::Coming::announce(house, &proved).await?;
    keep::fetch(house, model, &proved).await?;
    keep::install(house, proved).await
}

/// Lets a bundle that is on the disk answer, in the setting that is best on this machine.
///
/// # Errors
/// When no setting may serve or a step fails; what answered before goes on answering.
pub(crate) async fn serve(
    house: &Arc<House>,
    model: &ModelName,
    bundle: Digest,
    policy: ServePolicy,
) -> Result<(), LineError> {
    let kept = house.store.installed_bundle(&bundle).ok_or(LineError::NotHeld(bundle))?;
    let file = start::open_model(house, &kept).await?;
    let evidence = measure::measure(house, &kept, &file, &policy).await?;
    let placement = measure::place(house, &kept, evidence, &policy).await?;
    let version = start::start(house, &kept, &file, &placement, &policy).await?;
    switch::switch(house, model, version).await
}
