//! What the server and its models are, in the protocol's words and in those of Triton's extensions.

use std::sync::atomic::Ordering::Relaxed;

use agentd_types::{Datatype, EngineKind, TensorSpec};
use serde_json::{Value, json};

use crate::{Instance, counters::Timed, served::Served, serving::Deployment};

/// `GET /v2`
pub(crate) fn server() -> Value {
    json!({
        "name": "agentd",
        "version": env!("CARGO_PKG_VERSION"),
        "extensions": ["binary_tensor_data", "model_configuration", "statistics", "parameters"],
    })
}

/// `GET /v2/models/{name}`: `served` is the version asked for.
pub(crate) fn metadata<I: Instance>(deployment: &Deployment<I>, served: &Served<I>) -> Value {
    let mut versions: Vec<&str> = vec![&deployment.active.version_text];
    versions.extend(deployment.previous.iter().map(|previous| previous.version_text.as_str()));
    json!({
        "name": served.subject.model.as_str(),
        "versions": versions,
        "platform": platform(served.setting.engine),
        "inputs": tensors(&served.inputs),
        "outputs": tensors(&served.outputs),
    })
}

const fn platform(engine: EngineKind) -> &'static str {
    match engine {
        EngineKind::Cpu => "agentd_cpu_onnx",
        EngineKind::Native => "agentd_native_onnx",
        EngineKind::Gpu => "agentd_gpu_onnx",
        EngineKind::Ort => "onnxruntime_onnx",
    }
}

fn tensors(specs: &[TensorSpec]) -> Vec<Value> {
    let tensor = |spec: &TensorSpec| json!({"name": spec.name, "datatype": spec.datatype.as_str(), "shape": spec.shape});
    specs.iter().map(tensor).collect()
}

/// `GET /v2/models/{name}/config`, Triton's extension.
pub(crate) fn config<I: Instance>(served: &Served<I>) -> Value {
    let kind = match served.setting.engine {
        EngineKind::Gpu => "KIND_GPU",
        EngineKind::Cpu | EngineKind::Native | EngineKind::Ort => "KIND_CPU",
    };
    json!({
        "name": served.subject.model.as_str(),
        "platform": platform(served.setting.engine),
        "backend": "agentd",
        "version_policy": {"specific": {"versions": [served.subject.version]}},
        "max_batch_size": 0,
        "input": config_tensors(&served.inputs),
        "output": config_tensors(&served.outputs),
        "instance_group": [{"name": "workers", "kind": kind, "count": served.pool.alive()}],
        "parameters": {
            "bundle": {"string_value": served.subject.bundle.to_string()},
            "setting": {"string_value": served.setting.to_string()},
        },
    })
}

fn config_tensors(specs: &[TensorSpec]) -> Vec<Value> {
    let name = |datatype: Datatype| match datatype {
        Datatype::Bytes => "TYPE_STRING".to_owned(),
        other => format!("TYPE_{other}"),
    };
    specs
        .iter()
        .map(|spec| json!({"name": spec.name, "data_type": name(spec.datatype), "dims": spec.shape}))
        .collect()
}

/// `GET /v2/models/stats`, Triton's extension.
pub(crate) fn statistics<'a, I: Instance>(served: impl IntoIterator<Item = &'a Served<I>>) -> Value {
    let stats: Vec<Value> = served.into_iter().map(statistics_of).collect();
    json!({ "model_stats": stats })
}

fn statistics_of<I: Instance>(served: &Served<I>) -> Value {
    let counters = &served.counters;
    let timed = |timed: &Timed| json!({"count": timed.count(), "ns": timed.nanos()});
    json!({
        "name": served.subject.model.as_str(),
        "version": served.version_text,
        "inference_count": counters.success.count(),
        "execution_count": counters.compute.count(),
        "inference_stats": {
            "success": timed(&counters.success),
            "fail": timed(&counters.failure),
            "queue": timed(&counters.queue),
            "compute_input": timed(&counters.input),
            "compute_infer": timed(&counters.compute),
            "compute_output": timed(&counters.output),
            "cache_hit": {"count": 0, "ns": 0},
            "cache_miss": {"count": 0, "ns": 0},
        },
        "batch_stats": [],
        "agentd_refused": counters.refused.load(Relaxed),
    })
}

/// `POST /v2/repository/index`, Triton's extension.
pub(crate) fn index<'a, I: Instance>(served: impl IntoIterator<Item = &'a Served<I>>) -> Value {
    let entry = |served: &Served<I>| {
        let state = if served.pool.alive() > 0 { "READY" } else { "UNAVAILABLE" };
        json!({"name": served.subject.model.as_str(), "version": served.version_text, "state": state, "reason": ""})
    };
    Value::Array(served.into_iter().map(entry).collect())
}
