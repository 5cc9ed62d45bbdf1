//! `agentctl model`: list, ask, roll back, pin and retry the models of this device.

mod infer;
pub(super) mod table;

use agentd_types::{ModelName, human_duration};
use agentd_wire::{Action, ModelStatus, RollbackRequest};

use crate::{
    context::Context,
    failure::{Exit, Failure},
    ui::Align,
};

/// The `model` commands.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List the models of this device.
    List,
    /// Show one model and the versions that are held.
    Show {
        /// The model.
        model: ModelName,
    },
    /// Ask a model for a prediction.
    Infer(infer::Args),
    /// Take the previous version back into service, at once and without the network.
    #[command(
        after_help = "The version rolled back from is not taken again until the fleet asks for another one."
    )]
    Rollback {
        /// The model.
        model: ModelName,
        /// The version to take; the previous one when not given.
        #[arg(long, value_name = "VERSION")]
        to: Option<u64>,
        /// Say what would be done, and do nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Lift the quarantine of a model's versions and try at once what failed.
    #[command(
        after_help = "For when the cause is mended: memory, a driver, the input of an application. The version is \
        proved and measured as ever; three new strikes put it back into quarantine."
    )]
    Retry {
        /// The model.
        model: ModelName,
    },
    /// Hold a model at the version that serves, whatever the fleet asks for.
    Pin {
        /// The model.
        model: ModelName,
    },
    /// Let a model follow the fleet again.
    Unpin {
        /// The model.
        model: ModelName,
    },
}

pub(crate) fn run(command: Command, context: &Context) -> Result<Exit, Failure> {
    match command {
        Command::List => list(context),
        Command::Show { model } => show(&model, context),
        Command::Infer(args) => infer::run(args, context),
        Command::Rollback { model, to, dry_run } => roll_back(&model, to, dry_run, context),
        Command::Retry { model } => retry(&model, context),
        Command::Pin { model } => pin(&model, Action::Pin, context),
        Command::Unpin { model } => pin(&model, Action::Unpin, context),
    }
}

fn list(context: &Context) -> Result<Exit, Failure> {
    let daemon = context.daemon();
    let status = context.block_on(async {
        daemon.status().await.map_err(|error| Failure::of_client("cannot list the models", &error))
    })?;
    let ui = context.ui();
    ui.result(&serde_json::json!({ "models": status.models }), || {
        if status.models.is_empty() {
            ui.note("no model is asked for, held or served on this device");
            return;
        }
        let (headings, rows) = table::rows(&status.models);
        ui.table(headings, rows);
    });
    Ok(Exit::Done)
}

fn get(model: &ModelName, what: &str, context: &Context) -> Result<ModelStatus, Failure> {
    let daemon = context.daemon();
    context.block_on(async { daemon.model(model).await.map_err(|error| Failure::of_client(what, &error)) })
}

fn show(model: &ModelName, context: &Context) -> Result<Exit, Failure> {
    let status = get(model, &format!("cannot show `{model}`"), context)?;
    let ui = context.ui();
    ui.result(&status, || {
        let (headings, rows) = table::rows(std::slice::from_ref(&status));
        ui.table(headings, rows);
        ui.line("");
        let headings = [
            ("HELD", Align::Right),
            ("SIZE", Align::Right),
            ("BUNDLE", Align::Left),
            ("READY", Align::Left),
            ("NOTE", Align::Left),
        ];
        let row = |held: &agentd_wire::HeldVersion| {
            vec![
                held.version.to_string(),
                held.size.to_string(),
                held.bundle.short(),
                if held.ready { "loaded" } else { "on disk" }.to_owned(),
                if held.quarantined { "quarantined" } else { "-" }.to_owned(),
            ]
        };
        ui.table(&headings, status.held.iter().map(row).collect());
    });
    Ok(Exit::Done)
}

fn roll_back(model: &ModelName, to: Option<u64>, dry_run: bool, context: &Context) -> Result<Exit, Failure> {
    let what = format!("cannot roll back `{model}`");
    if dry_run {
        let status = get(model, &what, context)?;
        let held: Vec<String> = status.held.iter().map(|held| held.version.to_string()).collect();
        let serving = status.serving.as_ref().map_or_else(|| "none".to_owned(), |s| s.version.to_string());
        context.ui().line(format!("serving {serving}, held {}; nothing was changed", held.join(", ")));
        return Ok(Exit::Done);
    }
    let daemon = context.daemon();
    let done = context.block_on(async {
        let request = RollbackRequest { to };
        daemon.roll_back(model, &request).await.map_err(|error| Failure::of_client(&what, &error))
    })?;
    let ui = context.ui();
    ui.result(&done, || {
        let took = human_duration(std::time::Duration::from_micros(done.took_us));
        ui.line(format!("{model}: version {} answers in place of {}, after {took}", done.to, done.from));
    });
    Ok(Exit::Done)
}

fn retry(model: &ModelName, context: &Context) -> Result<Exit, Failure> {
    let daemon = context.daemon();
    let what = format!("cannot try `{model}` again");
    let done = context
        .block_on(async { daemon.retry(model).await.map_err(|error| Failure::of_client(&what, &error)) })?;
    let ui = context.ui();
    ui.result(&done, || {
        for version in &done.lifted {
            ui.line(format!("{model} {version} is out of quarantine"));
        }
        ui.line(format!("{model} is tried again now; follow it with: agentctl events --follow"));
    });
    Ok(Exit::Done)
}

fn pin(model: &ModelName, action: Action, context: &Context) -> Result<Exit, Failure> {
    let daemon = context.daemon();
    let what = match action {
        Action::Pin => format!("cannot pin `{model}`"),
        Action::Unpin => format!("cannot unpin `{model}`"),
    };
    let status = context.block_on(async {
        daemon.pin(model, action).await.map_err(|error| Failure::of_client(&what, &error))
    })?;
    let ui = context.ui();
    ui.result(&status, || match (action, &status.serving) {
        (Action::Pin, Some(serving)) => ui.line(format!("{model} stays at version {}", serving.version)),
        (Action::Pin, None) => ui.line(format!("{model} stays as it is")),
        (Action::Unpin, _) => ui.line(format!("{model} follows the fleet again")),
    });
    Ok(Exit::Done)
}
