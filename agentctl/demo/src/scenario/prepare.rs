//! Steps 1 to 4: a broker, keys and trust, a signed bundle, a device.

use std::path::{Path, PathBuf};

use agentd_types::{ByteCount, Digest, human_duration};
use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{Cast, digits_folder};
use crate::{
    broker::Broker,
    device::{Device, Setup},
    engineer::{Engineer, Packed},
    programs::Programs,
    screen::{Screen, grouped},
};

const FLEET: &str = "demo";

/// Starts the broker.
pub(super) async fn broker(cast: &mut Cast, programs: Programs, screen: &mut Screen) -> Result<Engineer> {
    screen.step("broker", "starting");
    let broker = Broker::start(0).await?;
    let address = broker.address();
    cast.broker = Some(broker);
    screen.done(format!("MQTT 5 on {address}"));
    Ok(Engineer::new(programs, cast.engineer_folder(), address))
}

/// Makes keys and says what each may sign.
pub(super) async fn trust(engineer: &Engineer, screen: &mut Screen) -> Result<PathBuf> {
    screen.step("trust", "making keys");
    engineer.make_keys().await?;
    screen.doing("signing the trust document");
    let trust = engineer.found_trust().await?;
    screen.done("2 of 3 root keys, 1 fleet key, 1 release key for \"demo/*\"");
    Ok(trust)
}

/// Packs, signs and publishes version 1.
pub(super) async fn bundle(engineer: &Engineer, screen: &mut Screen) -> Result<Packed> {
    screen.step("bundle", "packing, signing, publishing");
    engineer.take(&digits_folder().join("v1"), "digits-1")?;
    let first = engineer.release("digits-1").await?;
    let (weights, bytes) = (grouped(first.weights), ByteCount(first.bytes));
    let chunks = first.chunks;
    screen.done(format!(
        "demo/digits 1   {weights} weights   {bytes} in {chunks} chunks   signed by release-1"
    ));
    Ok(first)
}

/// Starts the daemon, and the server of blocks that it will ask.
pub(super) async fn device(
    cast: &mut Cast,
    engineer: &Engineer,
    trust: &Path,
    screen: &mut Screen,
) -> Result<()> {
    screen.step("device", "looking at this machine");
    let id = format!("demo-{}", &Digest::of(trust.as_os_str().as_encoded_bytes()).short());
    let hardware = engineer.hardware().await?;
    screen.doing("starting the daemon");
    cast.server = Some(engineer.serve(cast.log("server"))?);
    let folder = cast.device_folder();
    let log = cast.log("device");
    let setup = Setup { id: &id, fleet: FLEET, trust, broker: engineer.broker(), folder: &folder, log };
    let device = Device::start(engineer.programs(), setup).await?;
    let start_up = human_duration(device.start_up);
    cast.device = Some(device);
    screen.done(format!("{id}   {}", machine(&hardware).context("the hardware report lacks a part")?));
    screen.detail(format!(
        "the daemon answered {start_up} after its start; it runs no model itself and holds no engine"
    ));
    Ok(())
}

/// The machine in one line: processor, cores, memory, graphics.
fn machine(report: &Value) -> Option<String> {
    let machine = report.get("machine")?;
    let cpu = machine.get("cpu")?;
    let memory: ByteCount = serde_json::from_value(machine.get("memory")?.get("total")?.clone()).ok()?;
    let adapters: Vec<&str> = machine
        .get("adapters")?
        .as_array()?
        .iter()
        .filter_map(|adapter| adapter.get("name")?.as_str())
        .collect();
    let graphics = if adapters.is_empty() { "none".to_owned() } else { adapters.join(", ") };
    let (model, cores) = (cpu.get("model")?.as_str()?, cpu.get("logical_cores")?.as_u64()?);
    Some(format!("{model}, {cores} cores, {memory}   GPU: {graphics}"))
}
