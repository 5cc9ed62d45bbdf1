//! Loads a model and answers a line protocol on standard input, so that a script can time it beside another runtime.
//!
//! `run MODEL ISA NUMERICS INPUT..`, where each `INPUT` is `name=datatype:dims:file`, such as
//! `x=FP32:1x3x224x224:x.bin`. Then `time N` prints the nanoseconds of N runs, `write PREFIX` writes the outputs to
//! `PREFIX.0`, `PREFIX.1` and so on, `profile N` prints each step, `facts` what the plan holds.
#![allow(clippy::print_stdout, reason = "a program whose output is read by a script")]

use std::{error::Error, io::BufRead, sync::Arc, time::Instant};

use agentd_engine_native::{Isa, Model, Options};
use agentd_plan::{Fact, Given, Numerics};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, isa, numerics, inputs @ ..] = arguments.as_slice() else {
        return Err("usage: run MODEL ISA NUMERICS name=datatype:dims:file..".into());
    };
    let all = [Isa::Avx512, Isa::Avx2, Isa::Neon, Isa::Portable];
    let isa = all.into_iter().find(|known| known.as_str() == isa).unwrap_or_else(Isa::detect);
    let numerics = if numerics == "strict" { Numerics::Strict } else { Numerics::Fast };
    let mut given: Vec<(String, Fact, Vec<u8>)> = Vec::new();
    for input in inputs {
        let (name, rest) = input.split_once('=').ok_or("an input has no name")?;
        let [datatype, dims, file] = *rest.split(':').collect::<Vec<_>>() else { return Err("input".into()) };
        let shape = dims
            .split('x')
            .filter(|dim| !dim.is_empty())
            .map(str::parse)
            .collect::<Result<Vec<usize>, _>>()?;
        given.push((name.to_owned(), Fact::new(datatype.parse()?, shape), std::fs::read(file)?));
    }
    let started = Instant::now();
    let bytes = std::fs::read(path)?;
    let facts: Vec<(&str, Fact)> =
        given.iter().map(|(name, fact, _)| (name.as_str(), fact.clone())).collect();
    let graph = agentd_plan::import(&bytes, &Given { shapes: &facts, ..Given::default() })?;
    let graph = Arc::new(agentd_plan::fuse(&graph, numerics)?);
    let imported = started.elapsed();
    let mut model = Model::new(graph, Options { isa, numerics })?;
    println!("loaded {} {}", imported.as_micros(), started.elapsed().as_micros());
    let order: Vec<&[u8]> = model
        .graph()
        .inputs()
        .iter()
        .map(|id| {
            let name = &model.graph().value(*id).name;
            given.iter().find(|(given, ..)| given == name).map_or(&[][..], |(.., bytes)| bytes)
        })
        .collect();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (command, argument) = line.split_once(' ').unwrap_or((&line, ""));
        match command {
            "time" => {
                let count: u32 = argument.parse()?;
                for _ in 0..count {
                    let started = Instant::now();
                    let _outputs = std::hint::black_box(model.run(&order)?);
                    print!("{} ", started.elapsed().as_nanos());
                }
                println!();
            }
            "write" => {
                for (index, output) in model.run(&order)?.iter().enumerate() {
                    std::fs::write(format!("{argument}.{index}"), output)?;
                }
                println!("written");
            }
            "facts" => println!(
                "arena {} constants {} fallback {} {:?}",
                model.arena_bytes(),
                model.constant_bytes(),
                model.fallback_nodes(),
                model.fallbacks()
            ),
            "profile" => {
                let count: u32 = argument.parse()?;
                model.start_profile();
                for _ in 0..count {
                    let _outputs = model.run(&order)?;
                }
                for step in model.profile() {
                    println!(
                        "{} {} {} {}",
                        step.time.as_nanos() / u128::from(count),
                        step.work,
                        step.name,
                        step.origin
                    );
                }
                println!("end");
            }
            _ => return Err(format!("unknown command {command}").into()),
        }
    }
    Ok(())
}
