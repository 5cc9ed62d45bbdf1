//! Damaged and hostile bytes: the readers answer, in bounded time and memory, and never panic.

#![allow(unsafe_code, reason = "a counting allocator is the only way to see what is allocated")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use agentd_onnx::build::{Graph, Message, Node, conv, lstm, mlp};
use agentd_onnx::{ScanLimits, scan, tensors};
use agentd_types::{Coded as _, Datatype::Fp32};
use proptest::prelude::*;

thread_local! {
    static LIVE: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is handed on to the system's allocator unchanged; the counters allocate nothing, being constants
// of the thread without destructors.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.set(LIVE.get().saturating_add(layout.size()));
        PEAK.set(PEAK.get().max(LIVE.get()));
        // SAFETY: the caller keeps the rules of `alloc`, which are ours.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.set(LIVE.get().saturating_sub(layout.size()));
        // SAFETY: the caller keeps the rules of `dealloc`, which are ours.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Reads `file` in both ways; panics when that takes more than 32 times its memory and 64 KiB.
fn read(file: &[u8]) {
    let before = LIVE.get();
    PEAK.set(before);
    if let Err(error) = scan(file, &ScanLimits::default()) {
        assert!(error.code().as_str().starts_with("onnx."));
        assert!(error.to_string().len() < 2_000, "{error}");
    }
    if let Ok(places) = tensors(file) {
        assert!(places.iter().all(|place| place.range.end <= file.len()));
    }
    let used = PEAK.get() - before;
    assert!(used <= 32 * file.len() + (64 << 10), "{used} bytes for a file of {}", file.len());
}

fn samples() -> Vec<Vec<u8>> {
    let branch =
        Graph::new("b").node(Node::new("Relu").inputs(&["x"]).outputs(&["b"])).output("b", Fp32, &[1]);
    let nested = Graph::new("g")
        .input("x", Fp32, &[-1])
        .node(
            Node::new("If")
                .inputs(&["x"])
                .outputs(&["y"])
                .graph("then_branch", branch.clone())
                .graph("else_branch", branch),
        )
        .field(5, Message::new().int(1, 2).int(2, 6).bytes(8, "w").packed(5, &[1, -1]))
        .output("y", Fp32, &[-1])
        .model(17);
    vec![mlp(3, 4, 2, 1), conv(1, 2, 4, 1), lstm(2, 3, 3, 2), nested]
}

#[test]
fn every_flipped_bit_and_every_cut_is_survived() {
    for mut file in samples() {
        for position in 0..file.len() {
            for bit in 0..8 {
                file[position] ^= 1 << bit;
                read(&file);
                file[position] ^= 1 << bit;
            }
            read(&file[..position]);
        }
    }
}

#[test]
fn the_largest_files_that_names_and_nodes_allow_are_read_within_bounds() {
    let nodes = (0..100_000).fold(Graph::new("g").input("0", Fp32, &[1]), |graph, n| {
        graph.node(Node::new("Relu").inputs(&[&n.to_string()]).outputs(&[&(n + 1).to_string()]))
    });
    read(&nodes.output("100000", Fp32, &[1]).model(17));
    let names: Vec<String> = (0..400_000_u32).map(|n| format!("{n:x}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    read(&Graph::new("g").node(Node::new("Split").outputs(&names)).output("0", Fp32, &[1]).model(17));
    let empties = (0..100_000).fold(Message::new().bytes(1, "a"), |message, _| message.bytes(11, ""));
    read(&Graph::new("g").node(Node::new("If").field(5, empties)).model(17));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn splices_are_survived(
        which in 0..4_usize,
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..6_usize, prop::collection::vec(any::<u8>(), 0..12)), 1..4),
    ) {
        let mut file = samples().swap_remove(which);
        for (place, drop, insert) in edits {
            let start = place.index(file.len() + 1);
            let end = (start + drop).min(file.len());
            file.splice(start..end, insert);
        }
        read(&file);
    }

    #[test]
    fn noise_is_survived(noise in prop::collection::vec(any::<u8>(), 0..400)) {
        read(&noise);
        let graph = Message::new().int(1, 8).bytes(7, &noise).into_bytes();
        read(&graph);
        let node = Message::new().int(1, 8).bytes(7, Message::new().bytes(1, &noise)).into_bytes();
        read(&node);
        let tensor = Message::new().int(1, 8).bytes(7, Message::new().bytes(5, &noise)).into_bytes();
        read(&tensor);
    }
}
