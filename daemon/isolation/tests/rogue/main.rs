//! A worker that lies, for the tests of the daemon's end.
//!
//! In: the lie as the name of the program, and the daemon's orders. Out: that lie. Speaks the protocol by hand and by
//! what it is on the wire, so that a change there shows.
#![expect(clippy::indexing_slicing, reason = "what a JSON value lacks is null")]

use std::{
    error::Error,
    fs::File,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::FileExt as _,
    },
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendFlags, recvmsg, sendmsg,
};
use serde_json::{Value, json};

/// Offsets in shared memory.
const REQUEST: u64 = 0;
const WORKER_SLEEPS: u64 = 128;
const ANSWER: u64 = 192;
const ANSWER_LEN: u64 = 256;
const ANSWER_STATUS: u64 = 320;
const PARTS: u64 = 4096;

fn main() -> Result<(), Box<dyn Error>> {
    let program = std::env::args().next().unwrap_or_default();
    let lie = program.rsplit("rogue-").next().unwrap_or_default().to_owned();
    if lie == "leaves-at-once" {
        return Ok(());
    }
    let (hello, descriptors) = receive()?.ok_or("no greeting")?;
    let [shared, requests, answers] = <[OwnedFd; 3]>::try_from(descriptors).map_err(|_| "no descriptors")?;
    let mut rogue = Rogue { lie, shared: File::from(shared), requests, answers, layout: Value::Null };
    rogue.layout = hello["order"]["Hello"]["layout"].clone();
    let version = hello["order"]["Hello"]["version"].clone();
    match rogue.lie.as_str() {
        "greets-with-noise" => send(b"\xff\x00\xff")?,
        "greets-at-length" => send(&vec![b' '; 150 << 10])?,
        "greets-another-order" => reply(&json!(99), &json!({"Ready": {"version": version}}))?,
        "is-of-another-version" => reply(&hello["id"], &json!({"Ready": {"version": "0"}}))?,
        "greets-with-adapters" => reply(&hello["id"], &json!({"Adapters": []}))?,
        _ => reply(&hello["id"], &json!({"Ready": {"version": version}}))?,
    }
    rogue.serve()
}

struct Rogue {
    lie: String,
    shared: File,
    requests: OwnedFd,
    answers: OwnedFd,
    layout: Value,
}

impl Rogue {
    fn serve(&mut self) -> Result<(), Box<dyn Error>> {
        use rustix::event::{PollFd, PollFlags, poll};
        loop {
            self.shared.write_all_at(&1_u64.to_le_bytes(), WORKER_SLEEPS)?;
            let stdin = io::stdin();
            let mut both = [PollFd::new(&stdin, PollFlags::IN), PollFd::new(&self.requests, PollFlags::IN)];
            poll(&mut both, None)?;
            let [order, request] = both.map(|fd| !fd.revents().is_empty());
            if request {
                rustix::io::read(&self.requests, &mut [0; 8])?;
                self.request()?;
            }
            if order {
                let Some((order, descriptors)) = receive()? else { return Ok(()) };
                self.order(&order, descriptors)?;
            }
        }
    }

    fn order(&mut self, order: &Value, descriptors: Vec<OwnedFd>) -> Result<(), Box<dyn Error>> {
        let id = &order["id"];
        let kind = order["order"].as_object().and_then(|order| order.keys().next().cloned());
        match (self.lie.as_str(), kind.unwrap_or_else(|| "Adapters".into()).as_str()) {
            (_, "Region") => {
                self.shared = File::from(descriptors.into_iter().next().ok_or("no shared memory")?);
                self.layout = order["order"]["Region"]["layout"].clone();
                reply(id, &json!("Region"))?;
                if self.lie == "needs-more-again" {
                    self.answer(3, 1 << 20, &[])?;
                }
            }
            ("loads-a-region", "Load") => reply(id, &json!("Region"))?,
            ("refuses-with-escapes", "Load") => {
                let reason = "\u{1b}[2J\n".repeat(2_000);
                let error = json!({"Load": {"engine": "cpu", "reason": reason}});
                send(&serde_json::to_vec(&json!({"id": id, "outcome": {"Err": error}}))?)?;
            }
            (_, "Load") => {
                let time = json!({"secs": 0, "nanos": 1});
                let loaded = json!({
                    "load_time": time, "peak_memory": 1, "fallback_nodes": 0, "recurrent": false, "threads": 1,
                });
                reply(id, &json!({ "Loaded": loaded }))?;
            }
            ("measures-nothing", "Measure") => self.measured(id, 0, 0)?,
            ("measures-too-often", "Measure") => self.measured(id, u32::MAX, 0)?,
            ("measures-longer-than-it-took", "Measure") => self.measured(id, 1, 3_600)?,
            (_, "Measure") => self.measured(id, 1, 0)?,
            ("profiles-at-length", "Profile") => reply(id, &json!({"Profile": {"len": usize::MAX}}))?,
            ("profiles-with-noise", "Profile") => self.profiled(id, b"not json!")?,
            ("profiles-longer-than-it-took", "Profile") => {
                self.profiled(id, &serde_json::to_vec(&profile(3_600_000_000_000))?)?;
            }
            (_, "Profile") => self.profiled(id, &serde_json::to_vec(&profile(1))?)?,
            (_, _) => reply(id, &json!({"Adapters": []}))?,
        }
        Ok(())
    }

    fn measured(&self, id: &Value, runs: u32, seconds: u64) -> Result<(), Box<dyn Error>> {
        reply(id, &json!({"Measured": {"runs": runs, "wall": {"secs": seconds, "nanos": 1}}}))
    }

    fn profiled(&self, id: &Value, json: &[u8]) -> Result<(), Box<dyn Error>> {
        let at = PARTS + self.layout["request"].as_u64().ok_or("no layout")?;
        self.shared.write_all_at(json, at)?;
        reply(id, &json!({"Profile": {"len": json.len()}}))
    }

    fn request(&mut self) -> Result<(), Box<dyn Error>> {
        match self.lie.as_str() {
            "answers-too-long" => self.answer(1, u64::MAX, &[]),
            "answers-past-its-room" => self.answer(1, 1 << 30, &[]),
            "answers-of-no-kind" => self.answer(77, 0, &[]),
            "answers-with-noise" => self.answer(1, 64, &[0xff; 64]),
            "answers-another-shape" => self.answer(1, 76, &frame(11, 3, &[1.0; 3])),
            "answers-another-datatype" => self.answer(1, 80, &frame(7, 4, &[1.0; 4])),
            "fails-with-noise" => self.answer(2, 9, b"not json!"),
            "needs-the-moon" => self.answer(3, u64::MAX, &[]),
            "needs-more-again" => self.answer(3, 1 << 20, &[]),
            "talks-instead" => reply(&json!(1), &json!("Region")),
            "wakes-without-an-answer" => loop {
                // Until it is killed.
                rustix::io::write(&self.answers, &1_u64.to_ne_bytes()).ok();
            },
            "counts-ahead" => {
                self.shared.write_all_at(&u64::MAX.to_le_bytes(), ANSWER)?;
                rustix::io::write(&self.answers, &1_u64.to_ne_bytes())?;
                Ok(())
            }
            "cuts-the-memory" => {
                if self.shared.set_len(0).is_ok() || self.shared.set_len(1 << 40).is_ok() {
                    return Err("the shared memory could be resized".into());
                }
                self.answer(1, 80, &frame(11, 4, &[1.0; 4]))
            }
            "closes-its-socket" => Err("it gives up".into()),
            _ => self.answer(1, 80, &frame(11, 4, &[1.0, 2.0, 3.0, 4.0])),
        }
    }

    fn answer(&self, status: u64, len: u64, bytes: &[u8]) -> Result<(), Box<dyn Error>> {
        let start = PARTS + self.layout["request"].as_u64().ok_or("no layout")?;
        self.shared.write_all_at(bytes, start)?;
        self.shared.write_all_at(&status.to_le_bytes(), ANSWER_STATUS)?;
        self.shared.write_all_at(&len.to_le_bytes(), ANSWER_LEN)?;
        let mut number = [0; 8];
        self.shared.read_exact_at(&mut number, REQUEST)?;
        self.shared.write_all_at(&number, ANSWER)?;
        rustix::io::write(&self.answers, &1_u64.to_ne_bytes())?;
        Ok(())
    }
}

/// A profile of one run that took `run_ns` nanoseconds, in one step.
fn profile(run_ns: u64) -> Value {
    let step = json!({
        "step": "copy", "node": "n", "operator": "Identity", "shape": [4], "time_ns": run_ns, "multiply_adds": 0,
        "touched": 32, "interpreted": false,
    });
    json!({
        "instructions": "none", "threads": 1, "runs": 1, "run_ns": run_ns, "peak_multiply_adds": 1, "peak_read": 1,
        "arena": 32, "constants": 0, "steps": [step],
    })
}

/// One tensor of one dimension: `datatype` is its position in the list of datatypes.
fn frame(datatype: u8, dim: u64, values: &[f32]) -> Vec<u8> {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let mut frame = [1_u32.to_le_bytes(), 32_u32.to_le_bytes()].concat();
    frame.extend([datatype, 1, 0, 0, 0, 0, 0, 0]);
    frame.extend((bytes.len() as u64).to_le_bytes());
    frame.extend(dim.to_le_bytes());
    frame.resize(64, 0);
    frame.extend(bytes);
    frame
}

/// An order and the descriptors that came with it.
type Order = (Value, Vec<OwnedFd>);

fn receive() -> Result<Option<Order>, Box<dyn Error>> {
    let mut bytes = vec![0; 256 << 10];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let stdin = io::stdin();
    let got = recvmsg(stdin.as_fd(), &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::empty())?;
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            descriptors.extend(fds);
        }
    }
    if got.bytes == 0 {
        return Ok(None);
    }
    Ok(Some((serde_json::from_slice(bytes.get(..got.bytes).unwrap_or_default())?, descriptors)))
}

fn send(packet: &[u8]) -> Result<(), Box<dyn Error>> {
    let stdin = io::stdin();
    sendmsg(stdin.as_fd(), &[IoSlice::new(packet)], &mut SendAncillaryBuffer::default(), SendFlags::empty())?;
    Ok(())
}

fn reply(id: &Value, answer: &Value) -> Result<(), Box<dyn Error>> {
    send(&serde_json::to_vec(&json!({"id": id, "outcome": {"Ok": answer}}))?)
}
