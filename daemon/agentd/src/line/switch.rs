//! Serve: the new version answers from one request to the next; the old one stays ready.

use std::sync::Arc;

use agentd_isolation::Worker;
use agentd_serving::Version;
use agentd_types::ModelName;
use agentd_wire::What;

use super::LineError;
use crate::house::House;

/// Journals the switch, then makes it.
pub(super) async fn switch(
    house: &Arc<House>,
    model: &ModelName,
    version: Version<Worker>,
) -> Result<(), LineError> {
    let previous = house
        .serving
        .status(model)
        .and_then(|status| (status.active.bundle != version.bundle).then_some(status.active.version));
    house
        .record(What::Serving {
            model: model.clone(),
            version: version.version,
            bundle: version.bundle,
            setting: version.setting,
            previous,
        })
        .await?;
    house.serving.activate(model, version)?;
    Ok(())
}
