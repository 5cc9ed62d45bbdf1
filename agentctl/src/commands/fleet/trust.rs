//! `fleet trust`: the chain of trust documents onto the broker.

use std::path::PathBuf;

use agentd_wire::{AllTopic, Topic};
use serde::Serialize;

use super::{super::trust::TrustFile, broker::FleetArgs};
use crate::{
    context::Context,
    failure::{Exit, Failure},
};

/// Options of `fleet trust`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  agentctl fleet trust trust-*.json --fleet plant-7\n\n\
    Give the whole chain: a device that was away for long goes up one version at a time.")]
pub(crate) struct Args {
    #[command(flatten)]
    fleet: FleetArgs,
    /// The trust documents, in any order.
    #[arg(value_name = "TRUST", required = true)]
    documents: Vec<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Report {
    versions: Vec<u64>,
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<Exit, Failure> {
    let mut chain = args.documents.iter().map(|path| TrustFile::read(path)).collect::<Result<Vec<_>, _>>()?;
    chain.sort_by_key(|trust| trust.root.document().version);
    for trust in &chain {
        check(trust, args)?;
    }
    for pair in chain.windows(2) {
        if let [older, newer] = pair
            && older.root.document().version + 1 != newer.root.document().version
        {
            context.ui().note(format!(
                "between version {} and {} there is a gap: devices cannot cross it unless the broker has the rest",
                older.root.document().version,
                newer.root.document().version
            ));
        }
    }
    context.block_on(async {
        let broker = args.fleet.broker.connect().await?;
        for trust in &chain {
            let topic = Topic::all(&args.fleet.fleet, AllTopic::Trust(trust.root.document().version));
            broker.keep(&topic, trust.envelope.to_bytes()).await?;
        }
        broker.close().await;
        Ok(())
    })?;
    let report = Report { versions: chain.iter().map(|trust| trust.root.document().version).collect() };
    let ui = context.ui();
    ui.result(&report, || {
        let versions: Vec<_> = report.versions.iter().map(ToString::to_string).collect();
        ui.line(format!("trust document {} for {}", versions.join(", "), args.fleet.fleet));
    });
    Ok(Exit::Done)
}

fn check(trust: &TrustFile, args: &Args) -> Result<(), Failure> {
    let document = trust.root.document();
    let what = format!("cannot publish trust document {}", document.version);
    if document.fleet != args.fleet.fleet {
        let cause = format!("it is for `{}`, not for `{}`", document.fleet, args.fleet.fleet);
        return Err(Failure::new(what).cause(cause).exit_with(Exit::Usage));
    }
    let report = trust.signatures()?;
    if !report.is_met() {
        return Err(Failure::new(what)
            .cause(format!("{} more root keys must sign it", report.wanting()))
            .hint("agentctl trust sign FILE --key ROOT.pem")
            .code(agentd_types::Code::new("verify.threshold"))
            .exit_with(Exit::Refused));
    }
    Ok(())
}
