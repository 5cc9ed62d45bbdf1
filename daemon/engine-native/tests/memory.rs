//! What is told of a model's memory before it is loaded, against what loading and running take.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use agentd_engine::{Engine, EngineError, LoadSpec};
use agentd_engine_native::{Draft, Native, Options};
use agentd_plan::{
    Array, Builder, Fact, Graph,
    op::{Conv, MatMul, Window},
};
use agentd_types::{ByteCount, Coded, Datatype::Fp32, EngineKind, Setting, TensorSpec};

/// The system's allocator, with a count of bytes.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[allow(unsafe_code, reason = "an allocator")]
// SAFETY: hands everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(HELD.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(HELD.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// One test at a time counts.
static TURN: Mutex<()> = Mutex::new(());

fn constant(builder: &mut Builder, shape: &[usize]) -> agentd_plan::ValueId {
    let items = vec![0.01_f32; shape.iter().product()];
    builder.constant("w", Array::new(shape.to_vec(), items).unwrap()).unwrap()
}

/// Convolutions of 3x3 over maps large enough for Winograd's method, and one of 1x1.
fn convolutions() -> Graph {
    let mut b = Builder::new();
    let mut last = b.input("x", Fact::new(Fp32, vec![1, 256, 28, 28])).unwrap();
    for taps in [3, 3, 3, 1] {
        let w = constant(&mut b, &[256, 256, taps, taps]);
        let pads = vec![taps / 2; 2];
        let window = Window { pads_begin: pads.clone(), pads_end: pads, ..Window::new([taps, taps]) };
        let conv = Conv { window, groups: 1, activation: None };
        last = *b.node(conv, &[Some(last), Some(w)], "conv").unwrap().first().unwrap();
    }
    b.output("y", last).unwrap();
    b.finish()
}

/// Two products whose weights are nearly all of the memory.
fn products() -> Graph {
    let mut b = Builder::new();
    let mut last = b.input("x", Fact::new(Fp32, vec![16, 2048])).unwrap();
    for _ in 0..2 {
        let w = constant(&mut b, &[2048, 2048]);
        last = *b.node(MatMul::default(), &[Some(last), Some(w)], "product").unwrap().first().unwrap();
    }
    b.output("y", last).unwrap();
    b.finish()
}

/// A number of `/proc/self/status`, in bytes.
fn status(key: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Loads and runs a model: what was told of bytes allocated and bytes in pages is within 15 % of what is counted.
fn check(graph: impl Fn() -> Graph) {
    let _turn = TURN.lock().unwrap();
    let (before, pages) = (HELD.load(Relaxed), status("VmRSS"));
    let graph = Arc::new(graph());
    let size = graph.inputs().iter().map(|id| graph.value(*id).fact.bytes()).sum();
    // Making the graph may have taken more than holding it.
    PEAK.store(HELD.load(Relaxed), Relaxed);
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let draft = Draft::new(graph, Options::default()).unwrap();
    let told = draft.memory();
    let mut model = draft.build().unwrap();
    model.run(&[&vec![0; size]]).unwrap();
    let allocated = u64::try_from(PEAK.load(Relaxed) - before).unwrap();
    let resident = status("VmHWM") - pages;
    let near = |told: u64, taken: u64| told * 100 <= taken * 115 && taken * 100 <= told * 115;
    assert!(near(told.peak, allocated), "told {told:?}, allocated {allocated}");
    assert!(near(told.resident, resident), "told {told:?}, in pages {resident}");
}

#[test]
fn memory_is_told_before_convolutions_are_loaded() {
    check(convolutions);
}

#[test]
fn memory_is_told_before_products_are_loaded() {
    check(products);
}

#[test]
fn a_model_that_needs_more_than_there_is_is_refused_before_it_takes_any() {
    use agentd_onnx::build;
    let _turn = TURN.lock().unwrap();
    let weights = vec![0.5_f32; 1024 * 1024];
    let graph = build::Graph::new("large")
        .f32("w", &[1024, 1024], &weights)
        .node(build::Node::new("MatMul").inputs(&["x", "w"]).outputs(&["y"]))
        .input("x", Fp32, &[1, 1024])
        .output("y", Fp32, &[1, 1024]);
    let file = graph.model(17);
    let spec = |name: &str| vec![TensorSpec { name: name.into(), datatype: Fp32, shape: vec![1, 1024] }];
    let setting = Setting { engine: EngineKind::Native, threads: 1, batch: 1 };
    let spec = LoadSpec { setting, inputs: spec("x"), outputs: spec("y") };
    let native = Native::new();
    assert!(native.clone().with_memory(ByteCount::mib(16)).load(&file, &spec).is_ok());
    PEAK.store(HELD.load(Relaxed), Relaxed);
    let before = HELD.load(Relaxed);
    let error = native.clone().with_memory(ByteCount::mib(3)).load(&file, &spec).unwrap_err();
    assert!(matches!(error, EngineError::Memory { .. }), "{error}");
    assert_eq!(error.code().as_str(), "engine.memory");
    assert!(PEAK.load(Relaxed) - before < 1 << 20);
    // Room for the weights, but not for packing them as well.
    let error = native.clone().with_memory(ByteCount::mib(6)).load(&file, &spec).unwrap_err();
    assert!(matches!(error, EngineError::Memory { needed, .. } if needed.0 > 8 << 20), "{error}");
}
