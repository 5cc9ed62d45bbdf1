//! `agentctl audit verify`: whether the journal is whole.

use agentd_types::Code;
use serde_json::Value;

use crate::{
    context::Context,
    failure::{Exit, Failure},
};

/// The `audit` commands.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Walk the whole journal and check that each entry follows from the one before.
    Verify,
}

pub(crate) fn run(command: Command, context: &Context) -> Result<Exit, Failure> {
    let Command::Verify = command;
    let daemon = context.daemon();
    let report = context.block_on(async {
        daemon.audit().await.map_err(|error| Failure::of_client("cannot verify the journal", &error))
    })?;
    let damage = report.get("damage").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if !damage.is_empty() && !context.ui().is_json() {
        let places: Vec<String> = damage.iter().map(ToString::to_string).collect();
        return Err(Failure::new("the journal is not whole")
            .cause(places.join("; "))
            .hint("what serves goes on; keep a copy of the state folder before anything else")
            .code(Code::new("journal.damaged")));
    }
    let ui = context.ui();
    ui.result(&report, || {
        let text = |name: &str| report.get(name).map(ToString::to_string).unwrap_or_default();
        ui.line(format!(
            "journal whole: {} entries, head {}",
            text("entries"),
            text("head").trim_matches('"')
        ));
    });
    Ok(if damage.is_empty() { Exit::Done } else { Exit::No })
}
