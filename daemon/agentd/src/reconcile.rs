//! The one loop that moves models along: compares what is asked for with what is, and takes the next step.
//!
//! Level-triggered: start-up, a new document, a dead worker and recovery after a power cut are the same code. A model
//! has one step under way at most; a step that no longer leads where it should is dropped half way, which every step
//! allows.

mod step;
mod strikes;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use agentd_bundle::Wish;
use agentd_serving::ServingEvent;
use agentd_store::Facts;
use agentd_types::{Code, Coded, Digest, ModelName, chain};
use agentd_wire::{DesiredEntry, ServePolicy, What};
use log::{info, warn};
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use self::step::{Seen, Step};
use crate::{
    house::{House, lock},
    line::{self, LineError},
};

/// Without any news, everything is compared this often: documents run out by themselves.
const TICK: Duration = Duration::from_secs(30);

/// A step under way.
#[derive(Debug)]
struct Running {
    step: Step,
    abort: AbortHandle,
}

/// How a step ended.
#[derive(Debug)]
struct Done {
    model: ModelName,
    step: Step,
    result: Result<(), LineError>,
}

/// Moves models along until `stop`; then drops the steps under way.
///
/// `events`: what serving says of versions that misbehave.
pub(crate) async fn run(
    house: Arc<House>,
    mut events: mpsc::Receiver<ServingEvent>,
    stop: CancellationToken,
) {
    let mut steps: JoinSet<Done> = JoinSet::new();
    let mut running: BTreeMap<ModelName, Running> = BTreeMap::new();
    loop {
        dispatch(&house, &mut steps, &mut running);
        let wait = lock(&house.failures).next_end();
        let tick = Instant::now() + TICK;
        // Every arm is safe to drop half way: notifications, channels and join sets keep what was not taken.
        tokio::select! {
            () = stop.cancelled() => break,
            () = house.wake.notified() => {}
            Some(event) = events.recv() => strikes::take(&house, event).await,
            Some(done) = steps.join_next() => match done {
                Ok(done) => {
                    running.remove(&done.model);
                    finish(&house, done).await;
                }
                // Dropped, or a defect of ours: the model is looked at again.
                Err(error) => {
                    running.retain(|_, running| !running.abort.is_finished());
                    if error.is_panic() {
                        warn!(event = "reconcile.panic", error = error.to_string().as_str(); "A step panicked");
                    }
                }
            },
            () = sleep_until(wait.map_or(tick, |wait| wait.min(tick))) => {}
        }
    }
    steps.shutdown().await;
}

fn dispatch(house: &Arc<House>, steps: &mut JoinSet<Done>, running: &mut BTreeMap<ModelName, Running>) {
    let wishes = house.authority.wishes();
    let facts = house.store.facts();
    for model in models(house, &wishes, &facts) {
        let wish = wishes.get(&model);
        let seen = see(house, &model, wish, &facts);
        let next = seen.next();
        if let Some(under_way) = running.get(&model) {
            if under_way.step != next && !still_leads(under_way.step, &seen) {
                under_way.abort.abort();
            }
            continue;
        }
        if next == Step::Rest {
            house.set_progress(&model, None);
            continue;
        }
        let entry = wish.map(|wish| wish.entry.clone());
        let work = take(Arc::clone(house), model.clone(), next, entry);
        let abort = steps.spawn(work);
        running.insert(model, Running { step: next, abort });
    }
}

/// Whether a step under way still leads to what is wanted, although it would not be begun now.
fn still_leads(step: Step, seen: &Seen) -> bool {
    match step {
        Step::Fetch(bundle) => {
            seen.target() == Some(bundle) || seen.wished.is_some_and(|(_, wish)| wish == bundle)
        }
        Step::Serve(bundle) => !seen.barred.contains(&bundle) && seen.held.contains_key(&bundle),
        Step::Retire => seen.target().is_none(),
        Step::Rest => false,
    }
}

/// Every model that is asked for, answers, or did.
fn models(house: &House, wishes: &BTreeMap<ModelName, Wish>, facts: &Facts) -> Vec<ModelName> {
    let served = house.serving.statuses().into_iter().map(|status| status.name);
    let mut models: Vec<ModelName> =
        wishes.keys().cloned().chain(facts.serving.keys().cloned()).chain(served).collect();
    models.sort();
    models.dedup();
    models
}

fn see(house: &House, model: &ModelName, wish: Option<&Wish>, facts: &Facts) -> Seen {
    let live = house.serving.status(model).map(|status| status.active.bundle);
    let held: BTreeMap<Digest, u64> =
        house.store.installed_of(model).iter().map(|bundle| (bundle.digest(), bundle.version())).collect();
    let candidates = held.keys().copied().chain(live).chain(wish.map(|wish| wish.entry.sha256));
    let barred = candidates
        .filter(|bundle| house.authority.is_revoked(bundle) || facts.quarantined.contains_key(bundle))
        .collect();
    let policy = wish.and_then(|wish| ServePolicy::read(&wish.entry.policy).ok());
    let stale = match (&policy, facts.receipts.get(model)) {
        (Some(policy), Some(receipt)) => Some(receipt.bundle) == live && receipt.policy != *policy,
        _ => false,
    };
    Seen {
        wished: wish.map(|wish| (wish.entry.version, wish.entry.sha256)),
        mentioned: house.authority.look(|state| state.is_mentioned(model)),
        pinned: facts.pins.get(model).copied(),
        rolled_back: facts.rolled_back.get(model).map(|fact| (fact.from, fact.to)),
        live,
        last: facts.serving.get(model).map(|fact| fact.bundle),
        held,
        barred,
        stale,
        waiting: lock(&house.failures).waiting(model).collect(),
    }
}

async fn take(house: Arc<House>, model: ModelName, step: Step, entry: Option<DesiredEntry>) -> Done {
    let result = match step {
        Step::Rest => Ok(()),
        Step::Fetch(_) => match &entry {
            Some(entry) => line::bring(&house, &model, entry).await.map(|_| ()),
            None => Ok(()),
        },
        Step::Serve(bundle) => {
            // A policy that cannot be read is as good as none; `refused` says so once, when the document comes.
            let policy = entry.map(|entry| ServePolicy::read(&entry.policy).unwrap_or_default());
            line::serve(&house, &model, bundle, policy.unwrap_or_default()).await
        }
        Step::Retire => retire(&house, &model).await,
    };
    house.set_progress(&model, None);
    Done { model, step, result }
}

async fn retire(house: &Arc<House>, model: &ModelName) -> Result<(), LineError> {
    house.record(What::Retired { model: model.clone() }).await?;
    match house.serving.retire(model).await {
        Ok(()) | Err(agentd_serving::SwitchError::Unknown(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

async fn finish(house: &Arc<House>, done: Done) {
    let Done { model, step, result } = done;
    let bundle = match step {
        Step::Fetch(bundle) | Step::Serve(bundle) => bundle,
        Step::Rest | Step::Retire => return,
    };
    match result {
        Ok(()) => lock(&house.failures).clear(&model, bundle),
        Err(LineError::Ending) => {}
        Err(error) => fail(house, &model, bundle, error.code(), chain(&error)).await,
    }
}

/// Remembers that a step failed; journals and logs it when it is another failure than the last time.
async fn fail(house: &Arc<House>, model: &ModelName, bundle: Digest, code: Code, message: String) {
    let is_new = lock(&house.failures).add(model, bundle, code.clone(), message.clone());
    if !is_new {
        return;
    }
    info!(event = "reconcile.failed", model = model.as_str(), code = code.as_str(), error = message.as_str();
        "A step failed and will be tried again");
    let subject = format!("{model} bundle {}", bundle.short());
    if let Err(error) = house.record(What::Refused { subject, code, message }).await {
        warn!(event = "journal.refuses", error = chain(&error).as_str(); "The journal refuses");
    }
}
