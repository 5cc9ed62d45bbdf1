//! `agentctl config`: what the daemon is configured to do, and whether a file is in order.

use std::path::PathBuf;

use agentd_config::{Config, DEFAULT_FILE, Settings};
use serde_json::Value;

use crate::{
    context::Context,
    failure::{Exit, Failure},
    ui::Align,
};

/// The `config` commands.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Show every key with its value and where it came from; those of the running daemon, or of a file.
    Show {
        /// Keys that begin so.
        #[arg(value_name = "PREFIX", default_value = "")]
        prefix: String,
        /// Read this file instead of asking the daemon.
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Check a file, and everything in `conf.d` beside it.
    Check {
        /// The file.
        #[arg(value_name = "FILE", default_value = DEFAULT_FILE)]
        file: PathBuf,
    },
    /// Print an example file with every key, its default and what it means.
    Example,
}

pub(crate) fn run(command: Command, context: &Context) -> Result<Exit, Failure> {
    match command {
        Command::Show { prefix, file } => show(&prefix, file, context),
        Command::Check { file } => check(&file, context),
        Command::Example => {
            context.ui().line(example().trim_end());
            Ok(Exit::Done)
        }
    }
}

fn show(prefix: &str, file: Option<PathBuf>, context: &Context) -> Result<Exit, Failure> {
    let settings = match file {
        Some(file) => serde_json::to_value(load(&file)?),
        None => {
            let daemon = context.daemon();
            let shown = context.block_on(async {
                daemon
                    .config()
                    .await
                    .map_err(|error| Failure::of_client("cannot show the configuration", &error))
            })?;
            Ok(shown.get("settings").cloned().unwrap_or_default())
        }
    };
    let settings: serde_json::Map<String, Value> = match settings {
        Ok(Value::Object(settings)) => {
            settings.into_iter().filter(|(key, _)| key.starts_with(prefix)).collect()
        }
        _ => return Err(Failure::new("cannot show the configuration").exit_with(Exit::Defect)),
    };
    let ui = context.ui();
    ui.result(&serde_json::json!({ "settings": settings }), || {
        let rows = settings.iter().map(|(key, setting)| row(key, setting)).collect();
        ui.table(&[("KEY", Align::Left), ("VALUE", Align::Left), ("FROM", Align::Left)], rows);
    });
    Ok(Exit::Done)
}

fn row(key: &str, setting: &Value) -> Vec<String> {
    let value = setting.get("value").and_then(Value::as_str).filter(|value| !value.is_empty()).unwrap_or("-");
    let origin = setting.get("origin");
    let from = match origin.and_then(|origin| origin.get("from")).and_then(Value::as_str) {
        Some("file") => {
            let part = |name| origin.and_then(|origin| origin.get(name)).cloned().unwrap_or_default();
            format!("{}:{}", part("path").as_str().unwrap_or_default(), part("line"))
        }
        Some("command_line") => "command line".to_owned(),
        _ => "default".to_owned(),
    };
    vec![key.to_owned(), value.to_owned(), from]
}

fn load(file: &std::path::Path) -> Result<Settings, Failure> {
    let what = format!("`{}` is not in order", file.display());
    Settings::load(file, true, &[]).map_err(|error| Failure::new(what).coded(&error).exit_with(Exit::No))
}

fn check(file: &std::path::Path, context: &Context) -> Result<Exit, Failure> {
    let settings = load(file)?;
    let what = format!("`{}` is not in order", file.display());
    let config = Config::check(settings, &agentd_hardware::host_name())
        .map_err(|error| Failure::new(what).coded(&error).exit_with(Exit::No))?;
    let ui = context.ui();
    let body = serde_json::json!({ "device": config.device.id, "fleet": config.device.fleet, "ok": true });
    ui.result(&body, || {
        ui.line(format!("in order: device {} of fleet {}", config.device.id, config.device.fleet))
    });
    Ok(Exit::Done)
}

/// A file with every key commented out.
fn example() -> String {
    let mut text = String::from(
        "# agentd. Every key is here with its default; `agentctl config check` says what is wrong.\n",
    );
    let mut section = "";
    for key in agentd_config::KEYS {
        let (of, name) = key.name.split_once('.').unwrap_or(("", key.name));
        if of != section {
            text.push_str(&format!("\n[{of}]\n"));
            section = of;
        }
        let value = match key.shape {
            agentd_config::Shape::Number => key.default.to_owned(),
            agentd_config::Shape::List => "[]".to_owned(),
            _ => format!("\"{}\"", key.default),
        };
        text.push_str(&format!("# {}\n# {name} = {value}\n", key.doc));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_a_file_in_order_when_it_is_uncommented() {
        let uncommented: String = example()
            .lines()
            .map(|line| line.strip_prefix("# ").filter(|rest| rest.contains(" = ")).unwrap_or(line))
            .filter(|line| !line.contains("= \"\""))
            .map(|line| format!("{line}\n"))
            .collect();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("agentd.toml");
        std::fs::write(&file, uncommented).unwrap();
        assert_eq!(load(&file).map(|_| ()), Ok(()));
    }
}
