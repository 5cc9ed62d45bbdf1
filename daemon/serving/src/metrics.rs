//! Prometheus text: Triton's names where the meaning is the same, ours elsewhere.
//!
//! Source of the form: Prometheus, "Exposition formats", text format 0.0.4.

use std::{fmt::Write, fs, sync::Arc, sync::atomic::Ordering::Relaxed};

use crate::{
    Instance,
    counters::Counters,
    served::Served,
    serving::{Role, Serving},
};

/// One family of samples: name, kind, what it means, and its value for one version.
type Family = (&'static str, &'static str, &'static str, fn(&Counters) -> u64);

const FAMILIES: [Family; 12] = [
    ("nv_inference_request_success", "counter", "Requests answered", |c| c.success.count()),
    ("nv_inference_request_failure", "counter", "Requests that got an error", |c| c.failure.count()),
    ("nv_inference_count", "counter", "Inferences answered", |c| c.success.count()),
    ("nv_inference_exec_count", "counter", "Times a worker ran the model", |c| c.compute.count()),
    ("nv_inference_request_duration_us", "counter", "Time from a request's head to its answer", |c| {
        c.success.nanos() / 1000
    }),
    ("nv_inference_queue_duration_us", "counter", "Time that requests waited for a worker", |c| {
        c.queue.nanos() / 1000
    }),
    ("nv_inference_compute_input_duration_us", "counter", "Time that requests were read", |c| {
        c.input.nanos() / 1000
    }),
    ("nv_inference_compute_infer_duration_us", "counter", "Time that workers ran the model", |c| {
        c.compute.nanos() / 1000
    }),
    ("nv_inference_compute_output_duration_us", "counter", "Time that answers were written", |c| {
        c.output.nanos() / 1000
    }),
    ("agentd_inference_refused_total", "counter", "Requests refused with 503", |c| c.refused.load(Relaxed)),
    ("agentd_worker_deaths_total", "counter", "Workers that died and were replaced", |c| {
        c.deaths.load(Relaxed)
    }),
    ("agentd_inference_in_flight", "gauge", "Requests being answered", |c| c.in_flight.load(Relaxed)),
];

/// Every metric of serving, as Prometheus reads it.
pub(crate) fn render<I: Instance>(serving: &Serving<I>) -> String {
    let versions: Vec<Labelled<I>> = serving.versions().into_iter().map(Labelled::of).collect();
    let mut page = Page(String::with_capacity(4096 * (versions.len() + 1)));
    for (name, kind, help, value) in FAMILIES {
        page.family(name, kind, help);
        for (served, labels) in versions.iter().map(Labelled::parts) {
            page.sample(name, labels, value(&served.counters));
        }
    }
    page.family("nv_inference_pending_request_count", "gauge", "Requests that wait for a worker");
    for (served, labels) in versions.iter().map(Labelled::parts) {
        page.sample("nv_inference_pending_request_count", labels, served.pool.waiting());
    }
    page.family("agentd_inference_latency_us", "summary", "Quantiles of the time to an answer, within 1.6 %");
    for (served, labels) in versions.iter().map(Labelled::parts) {
        let quantiles = served.counters.latency.quantiles_us([0.5, 0.9, 0.99]).unwrap_or_default();
        for (q, us) in ["0.5", "0.9", "0.99"].iter().zip(quantiles) {
            page.sample("agentd_inference_latency_us", &format!("{labels},quantile=\"{q}\""), us);
        }
        page.sample("agentd_inference_latency_us_sum", labels, served.counters.success.nanos() / 1000);
        page.sample("agentd_inference_latency_us_count", labels, served.counters.success.count());
    }
    page.family("agentd_model_active", "gauge", "1 for the version that answers, 0 for the one kept ready");
    for version in &versions {
        page.sample("agentd_model_active", &version.labels, u8::from(version.role == Role::Active));
    }
    workers(&mut page, &versions);
    server(&mut page, serving);
    page.0
}

fn workers<I: Instance>(page: &mut Page, versions: &[Labelled<I>]) {
    page.family("agentd_workers", "gauge", "Workers that answer, by engine");
    for (served, labels) in versions.iter().map(Labelled::parts) {
        let labels = format!("{labels},engine=\"{}\"", served.setting.engine);
        page.sample("agentd_workers", &labels, served.pool.alive());
    }
    page.family("agentd_worker_memory_bytes", "gauge", "Resident memory of a worker process");
    for (served, labels) in versions.iter().map(Labelled::parts) {
        for (index, pid) in served.pool.pids() {
            if let Some(bytes) = resident_bytes(pid) {
                page.sample("agentd_worker_memory_bytes", &format!("{labels},worker=\"{index}\""), bytes);
            }
        }
    }
}

fn server<I: Instance>(page: &mut Page, serving: &Serving<I>) {
    let traffic = &serving.traffic;
    for (name, kind, help, value) in [
        ("agentd_serving_connections", "gauge", "Open connections", traffic.open()),
        (
            "agentd_serving_connections_evicted_total",
            "counter",
            "Idle connections closed to make room",
            traffic.evicted(),
        ),
        (
            "agentd_serving_connections_timed_out_total",
            "counter",
            "Connections closed for being slow or idle",
            traffic.timed_out(),
        ),
        ("agentd_serving_bodies_bytes", "gauge", "Request bodies in memory", traffic.body_bytes()),
        (
            "agentd_serving_bodies_refused_total",
            "counter",
            "Requests refused since bodies fill their budget",
            traffic.bodies_refused(),
        ),
        ("agentd_serving_switches_total", "counter", "Changes of the routing table", serving.switches()),
        (
            "agentd_serving_events_dropped_total",
            "counter",
            "Events that the reconciler did not take",
            serving.events_dropped(),
        ),
    ] {
        page.family(name, kind, help);
        page.sample(name, "", value);
    }
}

/// A version with its labels as they stand in every sample.
struct Labelled<I> {
    served: Arc<Served<I>>,
    role: Role,
    labels: String,
}

impl<I: Instance> Labelled<I> {
    fn of((served, role): (Arc<Served<I>>, Role)) -> Self {
        // A model's name has no character that a label must escape.
        let labels = format!("model=\"{}\",version=\"{}\"", served.subject.model, served.subject.version);
        Self { served, role, labels }
    }

    fn parts(&self) -> (&Served<I>, &str) {
        (&self.served, &self.labels)
    }
}

struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        if labels.is_empty() {
            self.line(format_args!("{name} {value}"));
        } else {
            self.line(format_args!("{name}{{{labels}}} {value}"));
        }
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        let written = writeln!(self.0, "{line}");
        debug_assert!(written.is_ok(), "a string takes everything");
    }
}

/// Resident memory of a process.
///
/// Source: proc_pid_status(5), field `VmRSS`.
pub(crate) fn resident_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}
