//! The Open Inference Protocol v2: requests into tensors, tensors into answers.
//!
//! Sources: kserve/open-inference-protocol, `inference_rest.md`; Triton's extension of binary tensor data. Every
//! size is held against the model's schema before memory is asked for. Does no input or output.

mod answer;
mod data;
mod describe;
mod error;
mod json;
mod request;

pub(crate) use answer::{Answer, encode};
pub(crate) use describe::{config, index, metadata, server, statistics};
pub use error::RequestError;
pub(crate) use json::shown;
pub(crate) use request::{Parts, Request, Wanted, body_limit, read};

#[cfg(test)]
mod tests {
    use agentd_engine::Tensor;
    use agentd_types::{Datatype, TensorSpec};
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn spec(datatype: Datatype, shape: &[i64]) -> [TensorSpec; 1] {
        [TensorSpec { name: "x".into(), datatype, shape: shape.to_vec() }]
    }

    /// The answer that holds `tensor`, made into a request for it.
    fn round_trip(tensor: &Tensor, parameters: &str) -> Tensor {
        let specs = spec(tensor.datatype, &vec![-1; tensor.shape.len()]);
        let body = format!(
            r#"{{"inputs":[{{"name":"x","shape":{:?},"datatype":"{}","data":[]}}]{parameters}}}"#,
            vec![0; tensor.shape.len()],
            tensor.datatype
        );
        let empty = Parts { body: Bytes::from(body), header_length: None };
        let wanted = read(&empty, &specs, &specs).unwrap().wanted;
        let answer = encode(("m", "1"), None, &wanted, &specs, std::slice::from_ref(tensor)).unwrap();
        let header_length = answer.header_length;
        let json = header_length.unwrap_or(answer.head.len());
        let text = std::str::from_utf8(&answer.head[..json]).unwrap().replace("\"outputs\"", "\"inputs\"");
        assert_eq!(text.len() + 1, json, "`inputs` is one shorter than `outputs`");
        let rest = [&answer.head[json..], &answer.tail.concat()].concat();
        let body = Bytes::from([text.as_bytes(), &rest].concat());
        let parts = Parts { body, header_length: header_length.map(|length| length - 1) };
        read(&parts, &specs, &specs).unwrap().inputs.remove(0)
    }

    proptest! {
        #[test]
        fn what_an_answer_says_a_request_reads_back(values in prop::collection::vec(any::<f32>(), 0..200)) {
            let finite: Vec<f32> = values.into_iter().filter(|value| value.is_finite()).collect();
            let tensor = Tensor::from_f32(vec![finite.len()], &finite).unwrap();
            prop_assert_eq!(&round_trip(&tensor, ""), &tensor);
            prop_assert_eq!(&round_trip(&tensor, r#","parameters":{"binary_data_output":true}"#), &tensor);
        }

        #[test]
        fn doubles_and_integers_keep_every_bit(
            doubles in prop::collection::vec(any::<f64>(), 0..50),
            integers in prop::collection::vec(any::<i64>(), 0..50),
        ) {
            let finite: Vec<u8> =
                doubles.iter().filter(|value| value.is_finite()).flat_map(|value| value.to_le_bytes()).collect();
            let tensor = Tensor::new(Datatype::Fp64, vec![finite.len() / 8], finite).unwrap();
            prop_assert_eq!(&round_trip(&tensor, ""), &tensor);
            let bytes: Vec<u8> = integers.iter().flat_map(|value| value.to_le_bytes()).collect();
            let tensor = Tensor::new(Datatype::Int64, vec![integers.len()], bytes).unwrap();
            prop_assert_eq!(&round_trip(&tensor, ""), &tensor);
        }

        #[test]
        fn texts_of_any_characters_come_through(texts in prop::collection::vec(".{0,12}", 0..20)) {
            let bytes: Vec<u8> = texts
                .iter()
                .flat_map(|text| [&u32::try_from(text.len()).unwrap().to_le_bytes(), text.as_bytes()].concat())
                .collect();
            let tensor = Tensor::new(Datatype::Bytes, vec![texts.len()], bytes).unwrap();
            prop_assert_eq!(&round_trip(&tensor, ""), &tensor);
        }

        #[test]
        fn a_damaged_request_is_refused_or_read_but_never_more(
            at in 0_usize..200,
            with in any::<u8>(),
            cut in 0_usize..200,
            header_length in prop::option::of(0_usize..200),
        ) {
            let specs = spec(Datatype::Fp32, &[-1, 2]);
            let mut body = br#"{"id":"a","inputs":[{"name":"x","datatype":"FP32","shape":[2,2],"data":[[1,2.5],[3e1,-4]]}],"outputs":[{"name":"x"}]}"#.to_vec();
            if let Some(byte) = body.get_mut(at) {
                *byte = with;
            }
            body.truncate(200 - cut);
            let parts = Parts { body: Bytes::from(body), header_length };
            match read(&parts, &specs, &specs) {
                Ok(request) => request.inputs.iter().for_each(|input| input.view().check().unwrap()),
                Err(error) => prop_assert!(error.status().is_client_error()),
            }
        }
    }

    #[test]
    fn the_body_limit_follows_the_shape_unless_it_is_free() {
        let limit = |shape: &[i64], datatype| body_limit(&spec(datatype, shape), 1 << 30);
        assert_eq!(limit(&[10, 10], Datatype::Fp32), (64 << 10) + 100 * 40);
        assert_eq!(limit(&[-1, 10], Datatype::Fp32), 1 << 30);
        assert_eq!(limit(&[10], Datatype::Bytes), 1 << 30);
        assert_eq!(limit(&[1 << 20, 1 << 20], Datatype::Uint8), 1 << 30);
    }
}
