//! The text of `bundle.toml`.

use agentd_onnx::ModelSummary;
use agentd_types::{ModelName, TensorSpec, UnixTime};
use toml::Value;

use super::Vector;

/// Two years.
const LIFE_S: u64 = 2 * 365 * 86_400;

/// What the description says.
pub(super) struct Plan<'m> {
    pub(super) name: ModelName,
    pub(super) model: &'m ModelSummary,
    pub(super) outputs: Vec<TensorSpec>,
    pub(super) golden: usize,
    pub(super) mem_mib: u64,
    pub(super) created: UnixTime,
}

/// Where the golden vector `number` keeps the input at `position`. Names of tensors may hold any character, paths may
/// not.
pub(super) fn input_path(number: usize, position: usize) -> String {
    format!("golden/{number}/input-{position}.npy")
}

/// Where the golden vector `number` keeps the output at `position`.
pub(super) fn output_path(number: usize, position: usize) -> String {
    format!("golden/{number}/output-{position}.npy")
}

/// The outputs as the model gave them: a dimension is fixed where file and all answers agree, else free.
pub(super) fn outputs(claimed: &[TensorSpec], vectors: &[Vector]) -> Vec<TensorSpec> {
    let shape = |position: usize, spec: &TensorSpec| {
        let dim = |(axis, dim): (usize, &i64)| {
            let seen = |vector: &Vector| {
                vector.outputs.get(position).and_then(|output| output.shape.get(axis)).copied()
            };
            let holds =
                vectors.iter().all(|vector| seen(vector).is_some_and(|seen| i64::try_from(seen) == Ok(*dim)));
            if holds { *dim } else { -1 }
        };
        spec.shape.iter().enumerate().map(dim).collect()
    };
    claimed
        .iter()
        .enumerate()
        .map(|(at, spec)| TensorSpec { shape: shape(at, spec), ..spec.clone() })
        .collect()
}

impl Plan<'_> {
    /// The whole file, with a comment at every field.
    pub(super) fn text(&self) -> String {
        let date = |time: UnixTime| time.to_string().split(' ').next().map(quoted).unwrap_or_default();
        let mut text = format!(
            "# Describes one version of a model. `agentctl bundle pack` makes a bundle of it: the same files give the same bytes.\n\
             \n\
             # Up to four parts joined by `/`; release keys are trusted by names such as \"demo/*\".\n\
             name = {name}\n\
             # Raise it with every release; devices never go back by themselves.\n\
             version = 1\n\
             # The fleet that may run it; \"*\" for any.\n\
             fleet = \"*\"\n\
             # When this version was made, and when devices stop to accept it.\n\
             created = {created}\n\
             expires = {expires}\n\
             # What the model is for, how it was made, where it fails.\n\
             card = \"card.md\"\n\
             # More files to ship, for example labels.\n\
             files = []\n\
             \n\
             # {about}\n\
             [model]\n\
             entry = \"model.onnx\"\n\
             # -1 is a free dimension. Give it a size here to allow that size alone.\n",
            name = quoted(self.name.as_str()),
            created = date(self.created),
            expires = date(self.created.plus(LIFE_S)),
            about = self.about(),
        );
        text.push_str(&tensors("inputs", &self.model.inputs));
        text.push_str(&tensors("outputs", &self.outputs));
        text.push_str(
            "\n# Before it serves, a device must answer these inputs with these outputs, up to `tol_ppm` millionths of the\n\
             # largest output.\n",
        );
        (0..self.golden).for_each(|number| text.push_str(&self.golden(number)));
        text.push_str(&format!(
            "\n[requires]\n\
             # Memory for one copy of the model; measured here on one processor thread, and a quarter more.\n\
             mem_mib = {mem}\n\
             # Engines, one of which a device must have: \"cpu\", \"gpu\", \"ort\".\n\
             any_of = [\"cpu\"]\n\
             \n\
             [licence]\n\
             # An SPDX expression such as \"Apache-2.0\"; the file holds the text.\n\
             spdx = \"NOASSERTION\"\n\
             file = \"LICENCE.txt\"\n\
             \n\
             # Sections for programs: labels, preprocess, serve, learn, monitor. Numbers are whole numbers.\n\
             [extras]\n\
             # labels = [\"no crack\", \"crack\"]\n",
            mem = self.mem_mib,
        ));
        text
    }

    fn about(&self) -> String {
        let model = self.model;
        let producer = if model.producer.is_empty() { "an unnamed program" } else { &model.producer };
        let opset = model.opsets.get("ai.onnx").copied().unwrap_or_default();
        format!(
            "Written by {producer}: {} nodes, {} weights, operator set {opset}.",
            model.nodes, model.parameters
        )
    }

    fn golden(&self, number: usize) -> String {
        let pairs = |specs: &[TensorSpec], path: fn(usize, usize) -> String| {
            let pair = |(at, spec): (usize, &TensorSpec)| {
                format!("{} = {}", quoted(&spec.name), quoted(&path(number, at)))
            };
            specs.iter().enumerate().map(pair).collect::<Vec<_>>().join(", ")
        };
        format!(
            "[[golden]]\ninputs = {{ {} }}\noutputs = {{ {} }}\ntol_ppm = 1000\n",
            pairs(&self.model.inputs, input_path),
            pairs(&self.outputs, output_path)
        )
    }
}

fn tensors(key: &str, specs: &[TensorSpec]) -> String {
    let tensor = |spec: &TensorSpec| {
        let TensorSpec { name, datatype, shape } = spec;
        format!("    {{ name = {}, datatype = \"{datatype}\", shape = {shape:?} }},\n", quoted(name))
    };
    format!("{key} = [\n{}]\n", specs.iter().map(tensor).collect::<String>())
}

/// A TOML string.
fn quoted(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use agentd_bundle::Description;
    use agentd_engine::Tensor;
    use agentd_onnx::{ScanLimits, build::mlp, scan};

    use super::*;

    #[test]
    fn the_description_reads_like_this_and_can_be_read_back() {
        let model = scan(&mlp(4, 8, 3, 1), &ScanLimits::default()).unwrap();
        let plan = Plan {
            name: "demo/mlp".parse().unwrap(),
            model: &model,
            outputs: model.outputs.clone(),
            golden: 2,
            mem_mib: 48,
            created: "2026-11-25".parse().unwrap(),
        };
        let text = plan.text();
        let read: Description = toml::from_str(&text).unwrap();
        assert_eq!(read.model.inputs, model.inputs);
        assert_eq!(read.golden.len(), 2);
        insta::assert_snapshot!(text);
    }

    #[test]
    fn names_of_tensors_may_hold_anything() {
        for name in ["a \"b\"", "x\ny", "save/scale_0.tmp_1", "é", "'"] {
            let value: Value =
                toml::from_str::<toml::Table>(&format!("k = {}", quoted(name))).unwrap().remove("k").unwrap();
            assert_eq!(value.as_str(), Some(name));
        }
    }

    #[test]
    fn output_dimensions_are_fixed_where_all_answers_agree() {
        let spec = |shape: &[i64]| TensorSpec {
            name: "y".into(),
            datatype: agentd_types::Datatype::Fp32,
            shape: shape.into(),
        };
        let vector = |shape: &[usize]| {
            let count = shape.iter().product();
            Vector {
                inputs: Vec::new(),
                outputs: vec![Tensor::from_f32(shape.to_vec(), &vec![0.0; count]).unwrap()],
            }
        };
        let vectors = [vector(&[1, 10, 5]), vector(&[2, 10, 5])];
        assert_eq!(outputs(&[spec(&[1, 10, -1])], &vectors), [spec(&[-1, 10, -1])]);
    }
}
