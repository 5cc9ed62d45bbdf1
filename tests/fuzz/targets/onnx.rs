//! ONNX files before any engine sees them.
//!
//! The bytes are read as a model and, so that the reader is reached without a header, as a graph, a node and a tensor
//! inside one. Each is described or refused with a code; places of tensors lie in the file and apart.

#![no_main]

use agentd_onnx::{ScanLimits, build::Message, scan, tensors};
use agentd_types::Coded as _;
use libfuzzer_sys::fuzz_target;

fn read(file: &[u8]) {
    match scan(file, &ScanLimits::default()) {
        Ok(model) => {
            assert!(!model.outputs.is_empty());
            model.check_interface(&model.inputs, &model.outputs).unwrap();
            tensors(file).unwrap();
        }
        Err(error) => assert!(error.code().as_str().starts_with("onnx.")),
    }
    let places = tensors(file).unwrap_or_default();
    assert!(places.iter().all(|place| place.range.end <= file.len()));
    assert!(places.windows(2).all(|pair| pair[0].range.end <= pair[1].range.start));
}

/// A model whose graph has one field.
fn around(field: u32, bytes: &[u8]) -> Vec<u8> {
    let import = Message::new().int(2, 17);
    Message::new().int(1, 8).bytes(8, import).bytes(7, Message::new().bytes(field, bytes)).into_bytes()
}

fuzz_target!(|data: &[u8]| {
    const NODE: u32 = 1;
    const TENSOR: u32 = 5;
    read(data);
    read(&Message::new().int(1, 8).bytes(8, Message::new().int(2, 17)).bytes(7, data).into_bytes());
    read(&around(NODE, data));
    read(&around(TENSOR, data));
});
