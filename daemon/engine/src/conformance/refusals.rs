//! What an engine must refuse, and how.

use agentd_onnx::build::{Graph, Node, lstm};
use agentd_types::Datatype::{Fp32, Int32};

use super::{Case, Model, Outcome, described, double, f32s, model, run, same};
use crate::{Engine, EngineError, Tensor, TensorView};

pub(super) const CASES: &[Case] = &[
    ("an input of another shape is the input's fault", wrong_shape),
    ("an input of another datatype is the input's fault", wrong_datatype),
    ("too few and too many inputs are the input's fault", wrong_number),
    ("an unknown operator does not load", unknown_operator),
    ("bytes that are no model do not load", garbage),
    ("a model without the input or output described does not load", other_names),
    ("a model of another datatype than described does not load", other_datatype),
    ("a recurrent operator whose sizes do not agree does not load", hostile_lstm),
    ("batches of a model that takes none are not offered", batch_of_one),
];

/// The session refuses these inputs as such, and answers as before afterwards.
fn refuses(engine: &dyn Engine, inputs: &[Tensor]) -> Outcome {
    let mut session = double(engine).load(engine)?;
    let views: Vec<TensorView<'_>> = inputs.iter().map(Tensor::view).collect();
    match session.run(&views) {
        Err(EngineError::Input { .. }) => {}
        other => return Err(format!("it gave {other:?}")),
    }
    let good = f32s(&[4], &[1.0, 2.0, 3.0, 4.0])?;
    same(&run(session.as_mut(), &[&good])?, &[f32s(&[4], &[2.0, 4.0, 6.0, 8.0])?])
}

fn wrong_shape(engine: &dyn Engine) -> Outcome {
    for shape in [&[5][..], &[3], &[2, 2], &[1, 4], &[0], &[]] {
        let count = shape.iter().product();
        refuses(engine, &[f32s(shape, &vec![1.0; count])?])
            .map_err(|reason| format!("{shape:?}: {reason}"))?;
    }
    let torn = Tensor { datatype: Fp32, shape: vec![4], bytes: vec![0; 15].into() };
    refuses(engine, &[torn])
}

fn wrong_datatype(engine: &dyn Engine) -> Outcome {
    let ints = Tensor::new(Int32, vec![4], vec![0; 16]).map_err(|error| error.to_string())?;
    refuses(engine, &[ints])
}

fn wrong_number(engine: &dyn Engine) -> Outcome {
    let good = f32s(&[4], &[1.0; 4])?;
    refuses(engine, &[])?;
    refuses(engine, &[good.clone(), good])
}

fn does_not_load(engine: &dyn Engine, model: &Model) -> Outcome {
    match engine.load(&model.file, &model.spec) {
        Err(EngineError::Load { .. }) => Ok(()),
        Err(other) => Err(format!("it gave {other:?}")),
        Ok(_) => Err("it loaded".into()),
    }
}

fn unknown_operator(engine: &dyn Engine) -> Outcome {
    let graph = Graph::new("unknown").node(Node::new("Frobnicate").inputs(&["x"]).outputs(&["y"]));
    let model = model(engine, graph, &[("x", Fp32, &[4])], &[("y", Fp32, &[4])]);
    match engine.load(&model.file, &model.spec) {
        Err(EngineError::Load { reason, .. }) if reason.contains("Frobnicate") => Ok(()),
        other => Err(format!("it gave {:?}, which does not name the operator", other.err())),
    }
}

fn garbage(engine: &dyn Engine) -> Outcome {
    let Model { file, spec } = double(engine);
    let half = file.get(..file.len() / 2).unwrap_or_default().to_vec();
    for file in [Vec::new(), vec![0xff; 64], half, b"not a model at all".to_vec()] {
        does_not_load(engine, &Model { file, spec: spec.clone() })?;
    }
    Ok(())
}

fn other_names(engine: &dyn Engine) -> Outcome {
    let mut model = double(engine);
    model.spec.inputs.iter_mut().for_each(|input| input.name = "z".into());
    does_not_load(engine, &model)?;
    let mut model = double(engine);
    model.spec.outputs.iter_mut().for_each(|output| output.name = "z".into());
    does_not_load(engine, &model)?;
    let mut model = double(engine);
    model.spec.inputs.clear();
    does_not_load(engine, &model)
}

fn other_datatype(engine: &dyn Engine) -> Outcome {
    let mut model = double(engine);
    model.spec.inputs.iter_mut().for_each(|input| input.datatype = Int32);
    does_not_load(engine, &model)?;
    let mut model = double(engine);
    model.spec.outputs.iter_mut().for_each(|output| output.shape = vec![5]);
    does_not_load(engine, &model)
}

fn hostile_lstm(engine: &dyn Engine) -> Outcome {
    let inputs: &[(&str, _, &[i64])] = &[("x", Fp32, &[2, 1, 64])];
    does_not_load(engine, &described(engine, lstm(2, 64, 3, 5), inputs, &[("y", Fp32, &[2, 1, 1, 5])]))
}

fn batch_of_one(engine: &dyn Engine) -> Outcome {
    let mut model = double(engine);
    model.spec.setting.batch = 4;
    match engine.load(&model.file, &model.spec) {
        Err(EngineError::Unsupported { .. }) => Ok(()),
        other => Err(format!("it gave {:?}", other.err())),
    }
}
