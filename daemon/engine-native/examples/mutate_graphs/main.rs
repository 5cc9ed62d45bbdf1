//! Mutates small models and their shapes, and shows that all ways of running one agree and that none hurts the process.
//!
//! `mutate_graphs SECONDS SEED FOLDER...`: seeds are the small ONNX files below the folders, such as those of ONNX's node tests.
//! Each case is made from SEED and its number alone: bytes, attributes, wiring, appended nodes, shapes and elements of
//! inputs change. It is imported, fused strictly and fast, run by the interpreter, lowered and run by the engine with
//! portable kernels and with those of this machine. Printed are: `PANIC`, `CRASH` (a signal, such as of memory that is not
//! there), `HANG`, and `DIFFER` where two ways give different answers; then counts of outcomes. Status 1 when there was
//! a panic, a crash or a hang.
//!
//! `mutate_graphs --case SEED NUMBER FOLDER...` shows one case. Cases run in a child process, which is told its first case.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a tool for developers"
)]

mod mutation;
mod ways;

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, ExitCode, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    time::{Duration, Instant},
};

/// Larger files are no seeds.
const MAX_SEED: u64 = 60_000;
/// A case may take this long.
const DEADLINE: Duration = Duration::from_secs(60);
/// Address space of the process that runs cases, in KiB.
const MEMORY: u64 = 6 << 20;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| arguments.get(at).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    match arguments.first().map(String::as_str) {
        Some("--case") => {
            println!("{}", ways::outcome(&seeds(&arguments[3..]), number(1), number(2), true));
            ExitCode::SUCCESS
        }
        Some("--child") => {
            // What a panic says is part of the outcome.
            let seeds = seeds(&arguments[3..]);
            for case in number(2).. {
                println!("{case} start");
                println!("{case} {}", ways::outcome(&seeds, number(1), case, false));
            }
            ExitCode::SUCCESS
        }
        Some(_) if arguments.len() > 2 => watch(Duration::from_secs(number(0)), number(1), &arguments[2..]),
        _ => {
            println!("mutate_graphs SECONDS SEED FOLDER...");
            ExitCode::FAILURE
        }
    }
}

/// Models with their names, in one order.
fn seeds(folders: &[String]) -> Vec<(String, Vec<u8>)> {
    let mut found = mutation::own_seeds();
    for folder in folders {
        collect(Path::new(folder), &mut found);
    }
    found.sort();
    found
}

fn collect(folder: &Path, found: &mut Vec<(String, Vec<u8>)>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, Ok(metadata)) = (entry.path(), entry.metadata()) else { continue };
        if metadata.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|end| end == "onnx") && metadata.len() <= MAX_SEED {
            found.push((path.display().to_string(), fs::read(&path).unwrap()));
        }
    }
}

/// Runs cases until the time is over, in a child that is started again after it died or hung.
fn watch(time: Duration, seed: u64, folders: &[String]) -> ExitCode {
    let start = Instant::now();
    let (mut next, mut counts, mut bad) = (0_u64, BTreeMap::<String, u64>::new(), 0_u64);
    while start.elapsed() < time {
        let script = format!("ulimit -v {MEMORY}; exec \"$@\"");
        let mut child = Command::new("sh")
            .args(["-c", &script, "sh"])
            .arg(std::env::current_exe().unwrap())
            .args(["--child", &seed.to_string(), &next.to_string()])
            .args(folders)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let output = child.stdout.take().unwrap();
        let (sender, receiver) = mpsc::channel();
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let ending = loop {
            if start.elapsed() >= time {
                break None;
            }
            match receiver.recv_timeout(DEADLINE) {
                Ok(line) => {
                    let (case, outcome) = line.split_once(' ').unwrap_or(("0", "?"));
                    next = case.parse::<u64>().unwrap_or(next);
                    if outcome == "start" {
                        continue;
                    }
                    next += 1;
                    let kind = outcome.split(':').next().unwrap_or("?").to_owned();
                    if kind.starts_with("PANIC") || kind.starts_with("DIFFER") {
                        bad += u64::from(kind.starts_with("PANIC"));
                        println!("case {seed} {case}: {outcome}");
                    }
                    *counts.entry(kind).or_default() += 1;
                }
                Err(RecvTimeoutError::Timeout) => break Some("HANG"),
                Err(RecvTimeoutError::Disconnected) => break Some("CRASH"),
            }
        };
        let _killed = child.kill();
        let status = child.wait().unwrap();
        drop(receiver);
        let _joined = reader.join();
        if let Some(ending) = ending {
            println!("case {seed} {next}: {ending}: {status}");
            *counts.entry(ending.to_owned()).or_default() += 1;
            bad += 1;
            next += 1;
        }
    }
    println!("{next} cases in {} s: {counts:?}", start.elapsed().as_secs());
    if bad == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
