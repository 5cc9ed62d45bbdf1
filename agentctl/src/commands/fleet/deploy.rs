//! `fleet deploy`: signs and publishes what a device, a group or all shall run.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use agentd_bundle::{
    MAX_ENVELOPE,
    author::{draft_catalog, draft_desired, next_catalog},
};
use agentd_link::Received;
use agentd_types::{DeviceId, GroupName, ModelName, UnixTime};
use agentd_wire::{
    AllTopic, Catalog, CatalogEntry, Desired, DesiredEntry, Down, Filter, GroupTopic, Kind, SPEC,
    ServePolicy, Target, Topic,
};
use serde::Serialize;
use serde_json::{Map, Value};

use super::{
    super::{key::files::KeyNames, trust::TrustFile},
    broker::{Broker, FleetArgs},
    forecast::{self, Verdict, Wanted, forecast},
    inventory::Inventory,
    orders::{SignArgs, Signer, check_release, standing_catalog, standing_desired},
};
use crate::{
    bundle_file::{BundleFile, read_bounded, write_whole},
    context::Context,
    failure::{Exit, Failure},
};

/// A catalog lives at most so long.
const MAX_CATALOG_DAYS: u64 = 14;

/// The catalog in a folder.
const CATALOG_FILE: &str = "catalog.json";

/// Options of `fleet deploy`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    agentctl fleet deploy crack.agentb --group line-4 --trust trust-3.json --dry-run\n  \
    agentctl fleet deploy crack.agentb --group line-4 --trust trust-3.json --key fleet-1.pem\n  \
    agentctl fleet deploy --retire inspect/label --all --trust trust-3.json --key fleet-1.pem\n  \
    agentctl fleet deploy crack.agentb --device ship-2 --folder stick/documents --trust trust-3.json --key fleet-1.pem\n\n\
    The new documents continue those on the broker: what else the target runs goes on. The catalog is renewed as well.\n\
    Exit status 6 when a dry run finds devices that will refuse.")]
pub(crate) struct Args {
    #[command(flatten)]
    fleet: FleetArgs,
    /// The bundles: .agentb files or folders, signed; publish them first.
    #[arg(value_name = "BUNDLE", required_unless_present = "retire")]
    bundles: Vec<PathBuf>,
    #[command(flatten)]
    to: To,
    /// A model that the target shall run no more; once for each.
    #[arg(long, value_name = "MODEL")]
    retire: Vec<ModelName>,
    /// How to serve the bundles: a JSON file with the keys of `policy`.
    #[arg(long, value_name = "FILE.json")]
    policy: Option<PathBuf>,
    /// Let devices go back to an older version.
    #[arg(long)]
    allow_downgrade: bool,
    /// For how many days the order holds.
    #[arg(long, value_name = "DAYS", default_value_t = 365)]
    days: u64,
    /// For how many days the catalog holds; without a fresh one no device takes anything new.
    #[arg(long, value_name = "DAYS", default_value_t = MAX_CATALOG_DAYS, value_parser = clap::value_parser!(u64).range(1..=MAX_CATALOG_DAYS))]
    catalog_days: u64,
    /// Say who will take it, and sign and publish nothing.
    #[arg(long)]
    dry_run: bool,
    /// Write the documents into a folder, for `agentctl bundle import` on a machine without network, and leave the
    /// broker alone; they continue those that are there.
    #[arg(long, value_name = "FOLDER", conflicts_with = "dry_run")]
    folder: Option<PathBuf>,
    /// With --folder: the highest number of a document that the device has seen, where the folder does not know it.
    #[arg(long, value_name = "NUMBER", requires = "folder", default_value_t = 0)]
    above: u64,
    #[command(flatten)]
    sign: SignArgs,
}

/// To whom.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct To {
    /// Every device of the fleet.
    #[arg(long)]
    all: bool,
    /// The members of a group.
    #[arg(long, value_name = "GROUP")]
    group: Option<GroupName>,
    /// One device.
    #[arg(long, value_name = "DEVICE")]
    device: Option<DeviceId>,
}

impl To {
    fn target(&self) -> Target {
        match (&self.group, &self.device) {
            (Some(group), _) => Target::Group(group.clone()),
            (None, Some(device)) => Target::Device(device.clone()),
            (None, None) => Target::All,
        }
    }
}

/// A bundle that shall be run.
struct Release {
    wanted: Wanted,
    entry: CatalogEntry,
}

/// What was ordered, or would be.
#[derive(Debug, Serialize)]
struct Report {
    target: Target,
    dry_run: bool,
    catalog: u64,
    desired: u64,
    models: BTreeMap<ModelName, u64>,
    retired: Vec<ModelName>,
    devices: BTreeMap<DeviceId, Verdict>,
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<Exit, Failure> {
    let trust = args.sign.trust(&args.fleet.fleet)?;
    let names = KeyNames::beside(&args.sign.trust);
    let releases =
        args.bundles.iter().map(|path| release(path, args, &trust, &names)).collect::<Result<Vec<_>, _>>()?;
    let policy = read_policy(args.policy.as_deref())?;
    let signer = if args.dry_run { None } else { Some(args.sign.signer(&args.fleet.fleet)?) };
    let now = context.now();
    let report = match (&args.folder, &signer) {
        (Some(folder), Some(signer)) => {
            let stands = Stands::read_folder(folder, args, &trust);
            let plan = Plan::new(args, &trust, &stands, &releases, &policy, now);
            plan.write(folder, &trust, signer)?;
            plan.report(args, &stands, &releases, now)
        }
        _ => context.block_on(over_the_broker(args, &trust, signer.as_ref(), &releases, &policy, now))?,
    };
    let ui = context.ui();
    ui.result(&report, || {
        for line in report.lines() {
            ui.line(line);
        }
    });
    let refused = report.devices.values().any(|verdict| matches!(verdict, Verdict::Refuses { .. }));
    Ok(if args.dry_run && refused { Exit::Partial } else { Exit::Done })
}

async fn over_the_broker(
    args: &Args,
    trust: &TrustFile,
    signer: Option<&Signer>,
    releases: &[Release],
    policy: &Map<String, Value>,
    now: UnixTime,
) -> Result<Report, Failure> {
    let mut broker = args.fleet.broker.connect().await?;
    let stands = Stands::read(&mut broker, args, trust).await?;
    let plan = Plan::new(args, trust, &stands, releases, policy, now);
    if let Some(signer) = signer {
        plan.carry_out(&broker, args, signer).await?;
    }
    broker.close().await;
    Ok(plan.report(args, &stands, releases, now))
}

fn release(path: &Path, args: &Args, trust: &TrustFile, names: &KeyNames) -> Result<Release, Failure> {
    let bundle = BundleFile::open(path)
        .map_err(|error| Failure::new(format!("cannot deploy `{}`", path.display())).coded(&error))?;
    let document = bundle.document();
    check_release(path, document, trust, names)?;
    let entry = CatalogEntry { version: document.manifest().version, sha256: document.envelope().digest() };
    Ok(Release { wanted: Wanted::of(document.manifest(), args.allow_downgrade), entry })
}

fn read_policy(path: Option<&Path>) -> Result<Map<String, Value>, Failure> {
    let Some(path) = path else { return Ok(Map::new()) };
    let what = || format!("cannot use the policy `{}`", path.display());
    let bytes = fs::read(path).map_err(|error| Failure::new(what()).because(&error))?;
    let policy: Map<String, Value> = serde_json::from_slice(&bytes)
        .map_err(|error| Failure::new(what()).because(&error).exit_with(Exit::Usage))?;
    ServePolicy::read(&policy)
        .map_err(|error| Failure::new(what()).because(&error).exit_with(Exit::Usage))?;
    Ok(policy)
}

/// What stands on the broker.
struct Stands {
    catalog: Option<Catalog>,
    desired: Option<Desired>,
    trust_is_there: bool,
    inventory: Inventory,
}

impl Stands {
    async fn read(broker: &mut Broker, args: &Args, trust: &TrustFile) -> Result<Self, Failure> {
        let fleet = &args.fleet.fleet;
        let target = args.to.target();
        let topics = [
            Topic::all(fleet, AllTopic::Catalog),
            desired_topic(args),
            Topic::all(fleet, AllTopic::Trust(trust.root.document().version)),
        ];
        broker.subscribe(topics.iter().map(Filter::from).chain(Inventory::filters(fleet))).await?;
        let [catalog_topic, desired_topic, trust_topic] = topics.map(|topic| topic.to_string());
        let mut stands =
            Self { catalog: None, desired: None, trust_is_there: false, inventory: Inventory::default() };
        for Received { topic, payload, .. } in broker.standing(args.fleet.quiet()).await? {
            if topic == catalog_topic {
                stands.catalog = standing_catalog(&payload, trust);
            } else if topic == desired_topic {
                stands.desired = standing_desired(&payload, &target, trust);
            } else if topic == trust_topic {
                stands.trust_is_there = true;
            } else {
                stands.inventory.take(&topic, &payload);
            }
        }
        Ok(stands)
    }

    /// What stands in a folder; what cannot be read there stands for nothing, as on the broker.
    fn read_folder(folder: &Path, args: &Args, trust: &TrustFile) -> Self {
        let target = args.to.target();
        let read = |name: &str| read_bounded(&folder.join(name), MAX_ENVELOPE as u64).ok();
        Self {
            catalog: read(CATALOG_FILE).and_then(|bytes| standing_catalog(&bytes, trust)),
            desired: read(&desired_file(&target)).and_then(|bytes| standing_desired(&bytes, &target, trust)),
            trust_is_there: true,
            inventory: Inventory::default(),
        }
    }
}

/// The file of a desired document in a folder.
fn desired_file(target: &Target) -> String {
    format!("desired-{}.json", target.to_string().replace(':', "-"))
}

fn desired_topic(args: &Args) -> Topic {
    let fleet = &args.fleet.fleet;
    match args.to.target() {
        Target::All => Topic::all(fleet, AllTopic::Desired),
        Target::Group(group) => Topic::group(fleet, &group, GroupTopic::Desired),
        Target::Device(device) => Topic::down(fleet, &device, Down::Desired),
    }
}

/// The documents that follow.
struct Plan {
    catalog: Catalog,
    desired: Desired,
    trust: Option<(Topic, Vec<u8>)>,
}

impl Plan {
    fn new(
        args: &Args,
        trust: &TrustFile,
        stands: &Stands,
        releases: &[Release],
        policy: &Map<String, Value>,
        now: UnixTime,
    ) -> Self {
        let fleet = args.fleet.fleet.clone();
        let target = args.to.target();
        let trust_version = trust.root.document().version;
        let listed = releases.iter().map(|release| (release.wanted.name.clone(), release.entry));
        let life = (now, args.catalog_days * 86_400);
        let mut catalog = next_catalog(stands.catalog.as_ref(), fleet.clone(), trust_version, life, listed);
        let seen = stands.inventory.highest(|agent| agent.observed.catalog);
        catalog.version = catalog.version.max(seen.max(args.above).saturating_add(1));

        let seen = stands.inventory.highest(|agent| agent.observed.desired_for(&target));
        let standing = stands.desired.as_ref();
        let mut models = standing.map(|desired| desired.models.clone()).unwrap_or_default();
        models.retain(|name, _| !args.retire.contains(name));
        for Release { wanted, entry } in releases {
            let entry = DesiredEntry {
                version: entry.version,
                sha256: entry.sha256,
                allow_downgrade: args.allow_downgrade,
                policy: policy.clone(),
            };
            models.insert(wanted.name.clone(), entry);
        }
        let desired = Desired {
            r#type: Kind::Desired,
            spec: SPEC,
            fleet: fleet.clone(),
            target,
            seq: standing.map_or(0, |desired| desired.seq).max(seen).max(args.above).saturating_add(1),
            created: now,
            expires: now.plus(args.days.saturating_mul(86_400)),
            models,
        };
        let missing_trust = (!stands.trust_is_there)
            .then(|| (Topic::all(&fleet, AllTopic::Trust(trust_version)), trust.envelope.to_bytes()));
        Self { catalog, desired, trust: missing_trust }
    }

    /// Trust first, then the catalog, then the order: each is judged by the one before it.
    async fn carry_out(&self, broker: &Broker, args: &Args, signer: &Signer) -> Result<(), Failure> {
        let catalog = signer.sign("catalog", draft_catalog(&self.catalog))?;
        let desired = signer.sign("order", draft_desired(&self.desired))?;
        if let Some((topic, bytes)) = &self.trust {
            broker.keep(topic, bytes.clone()).await?;
        }
        broker.keep(&Topic::all(&args.fleet.fleet, AllTopic::Catalog), catalog).await?;
        broker.keep(&desired_topic(args), desired).await
    }

    /// The same documents as files.
    fn write(&self, folder: &Path, trust: &TrustFile, signer: &Signer) -> Result<(), Failure> {
        let catalog = signer.sign("catalog", draft_catalog(&self.catalog))?;
        let desired = signer.sign("order", draft_desired(&self.desired))?;
        let trust_file = format!("trust-{}.json", trust.root.document().version);
        for (name, bytes) in [
            (trust_file, trust.envelope.to_bytes()),
            (CATALOG_FILE.to_owned(), catalog),
            (desired_file(&self.desired.target), desired),
        ] {
            let file = folder.join(name);
            write_whole(&file, |out| out.write_all(&bytes)).map_err(|error| {
                Failure::new(format!("cannot write `{}`", file.display())).because(&error)
            })?;
        }
        Ok(())
    }

    fn report(self, args: &Args, stands: &Stands, releases: &[Release], now: UnixTime) -> Report {
        let wanted: Vec<_> = releases.iter().map(|release| release.wanted.clone()).collect();
        let targeted = stands.inventory.targeted(&self.desired.target);
        let devices = targeted.into_iter().map(|(id, device)| (id, forecast(&device, &wanted, now)));
        Report {
            devices: devices.collect(),
            dry_run: args.dry_run,
            catalog: self.catalog.version,
            desired: self.desired.seq,
            models: self.desired.models.iter().map(|(name, entry)| (name.clone(), entry.version)).collect(),
            retired: args.retire.clone(),
            target: self.desired.target,
        }
    }
}

impl Report {
    fn lines(&self) -> Vec<String> {
        let mut lines = forecast::lines(&self.devices);
        let models: Vec<_> = self.models.iter().map(|(name, version)| format!("{name} {version}")).collect();
        let models = if models.is_empty() { "nothing".to_owned() } else { models.join(", ") };
        lines.push(if self.dry_run {
            format!("dry run: {} would run {models}", self.target)
        } else {
            let (order, catalog) = (self.desired, self.catalog);
            format!("{} runs {models}   order {order}, catalog {catalog}", self.target)
        });
        lines
    }
}
