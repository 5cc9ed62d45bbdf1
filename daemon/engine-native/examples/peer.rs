//! Runs models for `tests/python/peer.py`, which describes the protocol: one JSON object a line, asked on standard input,
//! answered on standard output.

#![allow(clippy::print_stdout, clippy::indexing_slicing, reason = "a tool for developers")]

use std::{
    error::Error,
    fs,
    io::BufRead,
    path::Path,
    sync::{Arc, Mutex},
    time::Instant,
};

use agentd_engine_native::{Isa, Model, Options, Team};
use agentd_plan::{Array, Fact, Given, Graph, Numerics, fuse_owned, import_released};
use agentd_types::Datatype;
use serde_json::{Value, json};

type Answer = Result<Value, Box<dyn Error>>;

/// What was loaded, with the inputs of every run.
enum Runner {
    Native(Box<Model>, Vec<Vec<u8>>),
    Interpreter(Arc<Graph>, Vec<Array>),
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut runner = None;
    for line in std::io::stdin().lock().lines() {
        let question: Value = serde_json::from_str(&line?)?;
        let answer = match question["do"].as_str() {
            Some("load") => {
                // The memory of the one before must not count for the next.
                drop(runner.take());
                load(&question).map(|(loaded, answer)| {
                    runner = Some(loaded);
                    answer
                })
            }
            Some(other) => match &mut runner {
                Some(runner) => act(runner, other, &question),
                None => Err("peer.nothing: no model is loaded".into()),
            },
            None => Err("peer.question: do is missing".into()),
        };
        let answer = answer.unwrap_or_else(|error| json!({ "error": shown(&*error) }));
        println!("{answer}");
    }
    Ok(())
}

/// The error and all its causes.
fn shown(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn load(question: &Value) -> Result<(Runner, Value), Box<dyn Error>> {
    let mut inputs = Vec::new();
    for tensor in question["inputs"].as_array().ok_or("peer.question: inputs")? {
        let name = tensor["name"].as_str().ok_or("peer.question: name")?;
        let datatype: Datatype = tensor["datatype"].as_str().ok_or("peer.question: datatype")?.parse()?;
        let shape: Vec<usize> = serde_json::from_value(tensor["shape"].clone())?;
        let bytes = fs::read(tensor["file"].as_str().ok_or("peer.question: file")?)?;
        inputs.push((name, Fact::new(datatype, shape), bytes, tensor["constant"] == true));
    }
    let threads = usize::try_from(question["threads"].as_u64().unwrap_or(1))?;
    let mut shapes = Vec::new();
    let mut constants = Vec::new();
    for (name, fact, bytes, constant) in &inputs {
        if *constant {
            constants.push((*name, Array::from_bytes(fact, bytes)?));
        } else {
            shapes.push((*name, fact.clone()));
        }
    }
    let strict = question["strict"] == true;
    let start = Instant::now();
    let file = Mapped::open(question["model"].as_str().ok_or("peer.question: model")?)?;
    let given_to_it = Given { shapes: &shapes, constants: &constants, ..Given::default() };
    let graph = import_released(file.bytes(), &given_to_it, &|bytes| file.release(bytes))?;
    drop(file);
    if question["engine"] == "interpreter" {
        let graph = Arc::new(graph);
        let arrays = given(&graph, &inputs)?.map(|(fact, bytes)| Array::from_bytes(fact, bytes));
        let arrays = arrays.collect::<Result<_, _>>()?;
        let answer =
            json!({ "nanoseconds": nanoseconds(start), "fallbacks": [], "nodes": graph.nodes().len() });
        return Ok((Runner::Interpreter(graph, arrays), answer));
    }
    let numerics = if strict { Numerics::Strict } else { Numerics::Fast };
    let fused = Arc::new(fuse_owned(graph, numerics)?);
    let isa = match question["isa"].as_str() {
        None => Isa::detect(),
        Some(name) => [Isa::Avx512, Isa::Avx2, Isa::Neon, Isa::Portable]
            .into_iter()
            .find(|isa| isa.as_str() == name && isa.available())
            .ok_or_else(|| format!("peer.isa: {name} is not to be had here"))?,
    };
    let model = Model::new(fused, Options { isa, numerics })?;
    let model = if threads > 1 { model.with_team(Arc::new(Mutex::new(Team::new(threads)))) } else { model };
    let answer = json!({
        "nanoseconds": nanoseconds(start),
        "fallbacks": model.fallbacks(),
        "nodes": model.graph().nodes().len(),
        "arena_bytes": model.arena_bytes(),
        "constant_bytes": model.constant_bytes(),
        "peak_bytes": model.memory().peak,
    });
    let bytes = given(model.graph(), &inputs)?.map(|(_, bytes)| bytes.clone()).collect();
    Ok((Runner::Native(Box::new(model), bytes), answer))
}

/// A model's file, mapped as workers do.
struct Mapped {
    start: *mut std::ffi::c_void,
    length: usize,
}

#[allow(unsafe_code, reason = "mapping and releasing pages")]
impl Mapped {
    fn open(path: &str) -> Result<Self, Box<dyn Error>> {
        use rustix::mm::{MapFlags, ProtFlags, mmap};
        let file = fs::File::open(path)?;
        let length = usize::try_from(file.metadata()?.len())?;
        // SAFETY: a new mapping at a place of the kernel's choice; developers do not write to models that they load.
        let start =
            unsafe { mmap(std::ptr::null_mut(), length, ProtFlags::READ, MapFlags::PRIVATE, &file, 0) }?;
        Ok(Self { start, length })
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping is as long and lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.start.cast(), self.length) }
    }

    /// Gives back the whole pages of some bytes; who reads them again gets them from the file.
    fn release(&self, bytes: &[u8]) {
        const PAGE: usize = 4096;
        let start = (bytes.as_ptr().addr() - self.start.addr()).next_multiple_of(PAGE);
        let end = (bytes.as_ptr().addr() - self.start.addr() + bytes.len()) / PAGE * PAGE;
        if start < end {
            let place = self.start.wrapping_byte_add(start);
            // SAFETY: pages of our own read-only mapping of a file, which hold the same bytes when they are read again.
            let released =
                unsafe { rustix::mm::madvise(place, end - start, rustix::mm::Advice::LinuxDontNeed) };
            released.unwrap_or_default();
        }
    }
}

#[allow(unsafe_code, reason = "unmapping")]
impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: nobody can hold bytes of the mapping any more.
        unsafe { rustix::mm::munmap(self.start, self.length) }.unwrap_or_default();
    }
}

/// What was given for each input that the graph has, in the graph's order.
fn given<'a>(
    graph: &Graph,
    inputs: &'a [(&str, Fact, Vec<u8>, bool)],
) -> Result<impl Iterator<Item = (&'a Fact, &'a Vec<u8>)>, String> {
    let find = |id: &agentd_plan::ValueId| {
        let name = &graph.value(*id).name;
        let input = inputs.iter().find(|(given, ..)| given == name);
        input
            .map(|(_, fact, bytes, _)| (fact, bytes))
            .ok_or_else(|| format!("peer.input: {name} is not given"))
    };
    Ok(graph.inputs().iter().map(find).collect::<Result<Vec<_>, _>>()?.into_iter())
}

fn act(runner: &mut Runner, what: &str, question: &Value) -> Answer {
    let times = question["times"].as_u64().unwrap_or(1);
    match what {
        "run" => {
            let mut spent = Vec::new();
            for _ in 0..times {
                let start = Instant::now();
                match runner {
                    Runner::Native(model, inputs) => {
                        let views: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
                        std::hint::black_box(model.run(&views)?);
                    }
                    Runner::Interpreter(graph, inputs) => {
                        std::hint::black_box(graph.run(inputs)?);
                    }
                }
                spent.push(nanoseconds(start));
            }
            Ok(json!({ "nanoseconds": spent }))
        }
        "outputs" => {
            let folder = Path::new(question["folder"].as_str().ok_or("peer.question: folder")?);
            let arrays = outputs(runner)?;
            let mut tensors = Vec::new();
            for (number, (name, fact, bytes)) in arrays.into_iter().enumerate() {
                let file = folder.join(format!("out-{number}"));
                fs::write(&file, bytes)?;
                tensors.push(json!({
                    "name": name, "datatype": fact.datatype.as_str(), "shape": fact.shape, "file": file,
                }));
            }
            Ok(json!({ "outputs": tensors }))
        }
        "profile" => {
            let Runner::Native(model, inputs) = runner else {
                return Err("peer.question: the interpreter has no profile".into());
            };
            let views: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
            model.start_profile();
            for _ in 0..times {
                std::hint::black_box(model.run(&views)?);
            }
            let steps = model.profile().into_iter().map(|step| {
                json!({
                    "name": step.origin, "kind": step.name,
                    "nanoseconds": u64::try_from(step.time.as_nanos()).unwrap_or(u64::MAX) / times.max(1),
                    "operations": step.work,
                })
            });
            Ok(json!({ "steps": steps.collect::<Vec<_>>() }))
        }
        other => Err(format!("peer.question: {other}").into()),
    }
}

/// Name, fact and bytes.
type Output = (String, Fact, Vec<u8>);

fn outputs(runner: &mut Runner) -> Result<Vec<Output>, Box<dyn Error>> {
    match runner {
        Runner::Native(model, inputs) => {
            let views: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
            let answers = model.run(&views)?;
            let graph = model.graph();
            let facts =
                graph.outputs().iter().map(|(name, id)| (name.clone(), graph.value(*id).fact.clone()));
            Ok(facts.zip(answers).map(|((name, fact), bytes)| (name, fact, bytes)).collect())
        }
        Runner::Interpreter(graph, inputs) => {
            let names = graph.outputs().iter().map(|(name, _)| name.clone());
            let answers = names.zip(graph.run(inputs)?);
            answers
                .map(|(name, array)| {
                    let mut bytes = vec![0; array.fact().bytes()];
                    array.write_bytes(&mut bytes);
                    Ok((name, array.fact(), bytes))
                })
                .collect()
        }
    }
}

fn nanoseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}
