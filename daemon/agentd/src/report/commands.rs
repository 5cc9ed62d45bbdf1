//! Commands from the fleet: each ends in done, failed, expired or refused, and its result is durable before it is
//! acknowledged; a duplicate gets the result it got.

use std::{collections::BTreeMap, sync::Arc};

use agentd_link::{Ack, Channel, Class, Draft, LinkHandle};
use agentd_store::Loaded;
use agentd_types::{Code, Coded, ModelName, chain};
use agentd_wire::{Command, CommandOutcome, CommandResult, Payload as _};
use log::warn;
use serde_json::{Map, Value};

use crate::{house::House, operate};

/// The record that holds the results of the last commands.
const RESULTS: &str = "command-results";

/// Results that are remembered for duplicates.
const REMEMBERED: usize = 64;

pub(super) async fn take(house: &Arc<House>, link: &LinkHandle, bytes: &[u8], ack: Option<Ack>) {
    match Command::read(bytes) {
        Ok(command) => {
            let result = match remembered(house).remove(command.id.as_str()) {
                Some(result) => result,
                None => run(house, &command).await,
            };
            answer(house, link, result).await;
        }
        Err(error) => {
            warn!(event = "command.form", code = error.code().as_str(), error = chain(&error).as_str();
                "A command cannot be read");
        }
    }
    if let Some(ack) = ack {
        link.acknowledge(ack).await;
    }
}

async fn run(house: &Arc<House>, command: &Command) -> CommandResult {
    let at = house.authority.effective_time();
    let ended = |outcome, code: Option<Code>, message: String| CommandResult {
        id: command.id.clone(),
        outcome,
        at,
        code,
        message,
        output: Map::new(),
    };
    if command.deadline < at {
        let message = format!("its deadline was {}", command.deadline);
        return ended(CommandOutcome::Expired, Some(Code::new("command.expired")), message);
    }
    match command.verb.as_str() {
        "report" => {
            house.wake.notify_one();
            ended(CommandOutcome::Done, None, String::new())
        }
        // Harmless without a signature: both versions were proved, and the fleet asked for both.
        "model.rollback" => match roll_back(house, command).await {
            Ok(message) => ended(CommandOutcome::Done, None, message),
            Err((code, message)) => ended(CommandOutcome::Failed, Some(code), message),
        },
        verb => {
            let message = format!("this version knows no command `{verb}`: it knows report, model.rollback");
            ended(CommandOutcome::Refused, Some(Code::new("command.unknown")), message)
        }
    }
}

async fn roll_back(house: &Arc<House>, command: &Command) -> Result<String, (Code, String)> {
    let name = command.arguments.get("model").and_then(Value::as_str).unwrap_or_default();
    let model: ModelName =
        name.parse().map_err(|error: agentd_types::BadName| (Code::new("model.name"), error.to_string()))?;
    let to = command.arguments.get("to").and_then(Value::as_u64);
    let by: String = command.by.chars().take(128).collect();
    let by = if by.is_empty() { "fleet".to_owned() } else { format!("fleet: {by}") };
    let done =
        operate::roll_back(house, &model, to, &by).await.map_err(|error| (error.code(), chain(&error)))?;
    Ok(format!("version {} answers in place of {}", done.to, done.from))
}

fn remembered(house: &House) -> BTreeMap<String, CommandResult> {
    match house.store.load_record(RESULTS) {
        Ok(Loaded::Present(bytes)) => serde_json::from_slice(&bytes).unwrap_or_default(),
        _ => BTreeMap::new(),
    }
}

async fn answer(house: &Arc<House>, link: &LinkHandle, result: CommandResult) {
    let mut results = remembered(house);
    results.insert(result.id.as_str().to_owned(), result.clone());
    while results.len() > REMEMBERED {
        results.pop_first(); // ULIDs rise with time
    }
    let bytes = serde_json::to_vec(&results).unwrap_or_default();
    let kept = house.blocking(move |house| house.store.save_record(RESULTS, &bytes)).await;
    if !matches!(kept, Ok(Ok(()))) {
        warn!(event = "command.result"; "The result of a command is not kept: a duplicate would run again");
    }
    let Ok(payload) = result.write() else { return };
    let key = Some(format!("command {}", result.id.as_str()));
    let draft = Draft { class: Class::State, channel: Channel::Res, key, payload: payload.into() };
    if let Err(error) = link.put(draft).await {
        warn!(event = "outbox.refuses", error = chain(&error).as_str(); "The outbox refuses a result");
    }
}
