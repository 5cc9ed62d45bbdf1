//! Checks of this device: each with a time limit, a stable code, and a command that mends what is wrong.

use std::{
    future::{Future, ready},
    sync::Arc,
    time::Duration,
};

use agentd_isolation::{Limits, Worker};
use agentd_types::{ByteCount, Code, chain, human_duration};
use agentd_wire::{CheckState, DoctorCheck, DoctorReport, ModelState};
use tokio::time::{Instant, timeout};

use crate::{house::House, source::Reach, status};

const CHECK_LIMIT: Duration = Duration::from_secs(5);

/// What a check found.
struct Finding {
    state: CheckState,
    message: String,
    why: Option<String>,
    fix: Option<String>,
}

impl Finding {
    fn ok(message: impl Into<String>) -> Self {
        Self { state: CheckState::Ok, message: message.into(), why: None, fix: None }
    }

    fn of(state: CheckState, message: impl Into<String>, why: impl Into<String>, fix: &str) -> Self {
        let fix = Some(fix.to_owned()).filter(|fix| !fix.is_empty());
        Self { state, message: message.into(), why: Some(why.into()), fix }
    }
}

/// Runs every check, one after the other; none disturbs what serves.
pub(crate) async fn check(house: &Arc<House>) -> DoctorReport {
    let checks = vec![
        limited("store.journal", journal(house)).await,
        limited("disk.space", disk(house)).await,
        limited("clock", ready(clock(house))).await,
        limited("trust", ready(trust(house))).await,
        limited("broker.reach", broker(house)).await,
        limited("sockets", ready(sockets(house))).await,
        limited("worker.start", worker(house)).await,
        limited("models", ready(models(house))).await,
    ];
    DoctorReport { checks }
}

async fn limited(code: &'static str, check: impl Future<Output = Finding>) -> DoctorCheck {
    let begun = Instant::now();
    let finding = timeout(CHECK_LIMIT, check).await.unwrap_or_else(|_| {
        let message = format!("did not end within {}", human_duration(CHECK_LIMIT));
        Finding::of(CheckState::Fail, message, "the machine or its disk is very slow", "")
    });
    DoctorCheck {
        code: Code::new(code),
        state: finding.state,
        message: finding.message,
        why: finding.why,
        fix: finding.fix,
        took_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
    }
}

async fn journal(house: &Arc<House>) -> Finding {
    match house.blocking(|house| house.store.journal().verify()).await {
        Ok(Ok(verified)) if verified.damage.is_empty() => {
            Finding::ok(format!("journal whole ({} entries)", verified.head.seq))
        }
        Ok(Ok(verified)) => Finding::of(
            CheckState::Fail,
            format!("the journal is damaged in {} places", verified.damage.len()),
            "the disk lost or changed what was written",
            "agentctl audit verify",
        ),
        Ok(Err(error)) => Finding::of(
            CheckState::Fail,
            "the journal cannot be read",
            chain(&error),
            "dmesg | grep -i error",
        ),
        Err(_) => Finding::of(CheckState::Fail, "the daemon is ending", "it was told to stop", ""),
    }
}

async fn disk(house: &Arc<House>) -> Finding {
    let reserve = house.config.store.reserve;
    match house.blocking(|house| house.store.check_disk()).await {
        Ok(Ok(state)) if state.low || state.free < reserve => Finding::of(
            CheckState::Fail,
            format!("{} free, downloads stop at {reserve}", state.free),
            format!("{} of bundles are kept, the rest is used by others", state.used),
            "agentctl config show store.quota",
        ),
        Ok(Ok(state)) => {
            Finding::ok(format!("{} free of {}, {} of bundles", state.free, state.total, state.used))
        }
        Ok(Err(error)) => Finding::of(CheckState::Fail, "the disk cannot be asked", chain(&error), ""),
        Err(_) => Finding::of(CheckState::Fail, "the daemon is ending", "it was told to stop", ""),
    }
}

fn clock(house: &Arc<House>) -> Finding {
    let (now, effective) = (house.clock.now(), house.authority.effective_time());
    if house.authority.look(|state| state.is_clock_behind(now)) {
        let message = format!("the clock says {now}, which is past: {effective} or later is certain");
        let why = "signed documents or this program are newer; what serves goes on";
        return Finding::of(CheckState::Warn, message, why, "timedatectl set-ntp true");
    }
    Finding::ok(format!("{now}, not behind what is signed"))
}

fn trust(house: &Arc<House>) -> Finding {
    let (version, expires, recovering) = house
        .authority
        .look(|state| (state.trust_version(), state.trust().document().expires, state.is_recovering()));
    let now = house.authority.effective_time();
    let fix = "agentctl trust show, then publish a newer trust document";
    if recovering {
        return Finding::of(
            CheckState::Fail,
            "trust state was lost",
            "nothing new is taken until trust arrives",
            fix,
        );
    }
    if expires < now {
        let message = format!("trust document {version} expired {expires}");
        return Finding::of(CheckState::Fail, message, "nothing new is taken; what serves goes on", fix);
    }
    let left = expires.since(now);
    if left < Duration::from_secs(30 * 86_400) {
        let message = format!("trust document {version} expires in {}", human_duration(left));
        return Finding::of(CheckState::Warn, message, "after that nothing new is taken", fix);
    }
    Finding::ok(format!("document {version}, valid for {}", human_duration(left)))
}

async fn broker(house: &Arc<House>) -> Finding {
    let Some(broker) = &house.config.broker else { return Finding::ok("no broker is configured") };
    let address = format!("{}:{}", broker.host, broker.port);
    match house.source.reach() {
        Reach::Online { since } => Finding::ok(format!("{address}, connected since {since}")),
        Reach::Offline { reason, .. } => {
            let reached = timeout(Duration::from_secs(3), tokio::net::TcpStream::connect(&address)).await;
            let why = match reached {
                Ok(Ok(_)) => format!("TCP to {address} works, MQTT does not: {reason}"),
                Ok(Err(error)) => format!("TCP to {address}: {error}"),
                Err(_) => format!("TCP to {address} times out after 3 s"),
            };
            let message = format!("offline; serving goes on, {} items wait", house.store.outbox().len());
            Finding::of(CheckState::Warn, message, why, "agentctl config show broker.address")
        }
    }
}

fn sockets(house: &Arc<House>) -> Finding {
    let who: Vec<String> =
        house.sockets.iter().map(|access| format!("{}: {}", access.socket, access.who)).collect();
    let problems: Vec<String> = house
        .sockets
        .iter()
        .filter_map(|access| Some(format!("{}: {}", access.socket, access.problem.as_ref()?)))
        .collect();
    if problems.is_empty() {
        return Finding::ok(who.join("; "));
    }
    Finding::of(
        CheckState::Warn,
        who.join("; "),
        problems.join("; "),
        "run `agentd --prepare` as root before the daemon, as the unit of the package does",
    )
}

async fn worker(house: &Arc<House>) -> Finding {
    let begun = Instant::now();
    match Worker::start(&house.program, &Limits::with_memory(ByteCount::mib(64))).await {
        Ok(worker) => {
            worker.stop().await;
            Finding::ok(format!("a worker starts in {}", human_duration(begun.elapsed())))
        }
        Err(error) => Finding::of(
            CheckState::Fail,
            "no worker can be started, so no model can be loaded",
            chain(&error),
            "agentctl config show device.worker",
        ),
    }
}

fn models(house: &Arc<House>) -> Finding {
    let models = status::device(house).models;
    let failed: Vec<String> = models
        .iter()
        .filter_map(|model| match &model.state {
            ModelState::Failed { code, message } => Some(format!("{}: {message} [{code}]", model.name)),
            _ => None,
        })
        .collect();
    let serving = models.iter().filter(|model| model.serving.is_some()).count();
    if failed.is_empty() {
        return Finding::ok(format!("{serving} of {} serve", models.len()));
    }
    let message = format!("{} of {} are not at the version asked for", failed.len(), models.len());
    Finding::of(CheckState::Fail, message, failed.join("; "), "agentctl events --follow")
}
