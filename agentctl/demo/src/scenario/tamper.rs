//! A release whose bytes are changed on their way: one block is not what its signed manifest says.
//!
//! In: a new release, properly signed. Out: what the device says about it, and with which code.

use std::{collections::BTreeSet, fs, path::Path};

use agentd_types::Code;
use agentd_wire::What;
use anyhow::{Context as _, Result, ensure};

use super::{Cast, Stage, digits_folder};
use crate::screen::Screen;

/// Publishes version 3, changes its new blocks at the server, asks the fleet to run it, and returns why the device
/// refuses and with which code.
pub(super) async fn offer(cast: &mut Cast, stage: &Stage, screen: &Screen) -> Result<(String, Code)> {
    let engineer = &stage.engineer;
    describe_third(&engineer.take(&digits_folder().join("v2"), "digits-3")?)?;
    let blobs = engineer.blocks().join("blobs/sha256");
    let before = names(&blobs)?;
    let third = engineer.release("digits-3").await?;
    screen.doing("changing a byte of its new block at the server");
    let after = names(&blobs)?;
    ensure!(after.len() > before.len(), "version 3 has a block of its own");
    for name in after.difference(&before) {
        change_first_byte(&blobs.join(name))?;
    }
    screen.doing("asking the fleet to run it");
    engineer.deploy(&third).await?;
    let refused = cast.device()?.until(|what| match what {
        What::Refused { code, message, .. } => Some((message.clone(), code.clone())),
        _ => None,
    });
    refused.await
}

/// Makes version 3 out of a copy of version 2: another number, and a weight of the last layer that is a bit different.
fn describe_third(folder: &Path) -> Result<()> {
    let description = folder.join("bundle.toml");
    let text = fs::read_to_string(&description)?;
    fs::write(&description, text.replace("version = 2", "version = 3"))?;

    let model = folder.join("model.onnx");
    let (first, mut third) = (fs::read(digits_folder().join("v1/model.onnx"))?, fs::read(&model)?);
    let differs = first.iter().zip(&third).position(|(first, third)| first != third);
    let weight =
        differs.and_then(|at| third.get_mut(at)).context("versions 1 and 2 differ in their last layer")?;
    *weight ^= 1;
    fs::write(model, third)?;
    Ok(())
}

fn names(folder: &Path) -> Result<BTreeSet<String>> {
    let entries = fs::read_dir(folder).with_context(|| format!("no blocks in `{}`", folder.display()))?;
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

/// Changes a byte; the file is written anew, since published blocks may be read-only.
fn change_first_byte(file: &Path) -> Result<()> {
    let mut bytes = fs::read(file)?;
    *bytes.first_mut().context("a block has bytes")? ^= 1;
    fs::remove_file(file)?;
    fs::write(file, bytes)?;
    Ok(())
}
