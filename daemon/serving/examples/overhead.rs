//! How much serving costs above a bare hyper server: latency, throughput and server CPU for each request.
//!
//! `cargo run --release -p agentd-serving --example overhead [-- ROUNDS]` starts three servers as processes of their own, the
//! floor (bare hyper, reads the body, answers as many bytes as ours), ours with a fake instance, and ours with a real worker
//! that runs a small perceptron (16 -> 8), and asks them in turn, in interleaved rounds, over TCP and Unix sockets with
//! 1 and 8 connections. Every answer is checked. Ratios are medians over rounds of ratios within one round. Needs the
//! worker program beside it; without one that server is left out.

#![expect(clippy::print_stdout, reason = "a program for people")]
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a measurement that fails ends")]

#[path = "overhead/load.rs"]
mod load;
#[path = "overhead/servers.rs"]
mod servers;

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use load::{Figures, Target};

const KINDS: [&str; 3] = ["floor", "fake", "worker"];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("serve") => servers::run(&arguments[1], arguments[2].as_ref()),
        rounds => compare(rounds.map_or(5, |rounds| rounds.parse().unwrap())),
    }
}

/// A server process; ends when dropped.
struct Server {
    child: Child,
    tcp: String,
    unix: String,
}

impl Server {
    /// `None` when the server cannot run here.
    fn start(kind: &str, folder: &std::path::Path) -> Option<Self> {
        let unix = folder.join(kind).display().to_string();
        let program = std::env::current_exe().unwrap();
        let child =
            Command::new(program).args(["serve", kind, &unix]).stdout(Stdio::piped()).spawn().unwrap();
        let mut server = Self { child, tcp: String::new(), unix };
        let mut line = String::new();
        BufReader::new(server.child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        server.tcp = line.trim().strip_prefix("http://")?.to_owned();
        Some(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Gone already is as good.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn compare(rounds: usize) {
    let folder = tempfile::tempdir().unwrap();
    let servers: Vec<(&str, Server)> =
        KINDS.iter().filter_map(|kind| Some((*kind, Server::start(kind, folder.path())?))).collect();
    let mut all: BTreeMap<(usize, &str, &str), Vec<Figures>> = BTreeMap::new();
    for _ in 0..=rounds {
        for connections in [1, 8] {
            for transport in ["tcp", "unix"] {
                for (kind, server) in &servers {
                    let target = match transport {
                        "tcp" => Target::Tcp(server.tcp.clone()),
                        _ => Target::Unix(server.unix.clone()),
                    };
                    let figures = load::ask(&target, server.child.id(), connections);
                    all.entry((connections, transport, kind)).or_default().push(figures);
                }
            }
        }
    }
    // The first round warms up.
    all.values_mut().for_each(|figures| *figures = figures.split_off(1)); // the warm-up
    report(&all);
}

fn report(all: &BTreeMap<(usize, &str, &str), Vec<Figures>>) {
    println!("conns  transport  server   p10 us   p50 us   x floor p10   x floor p50   req/s   CPU us/req");
    for ((connections, transport, kind), figures) in all {
        let floor = &all[&(*connections, *transport, "floor")];
        let of = |get: fn(&Figures) -> f64| median(figures.iter().map(get));
        let ratio =
            |get: fn(&Figures) -> f64| median(figures.iter().zip(floor).map(|(a, b)| get(a) / get(b)));
        println!(
            "{connections:>5}  {transport:<9}  {kind:<7}  {:>6.1}   {:>6.1}   {:>11.2}   {:>11.2}   {:>5.0}   {:>10.1}",
            of(|f| f.p10_us),
            of(|f| f.p50_us),
            ratio(|f| f.p10_us),
            ratio(|f| f.p50_us),
            of(|f| f.per_second),
            of(|f| f.cpu_us),
        );
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
