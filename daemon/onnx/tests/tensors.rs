//! Where the weights of a model lie.

use agentd_onnx::build::{Graph, Message, Node, mlp};
use agentd_onnx::tensors;
use agentd_types::Datatype::{Fp32, Int64};

#[test]
fn ranges_hold_exactly_the_bytes_that_were_written() {
    let file = Graph::new("g")
        .f32("a", &[2], &[1.0, 2.0])
        .node(Node::new("Constant").outputs(&["c"]).tensor("value", Int64, &[1], &7_i64.to_le_bytes()))
        .i64("b", &[1], &[9])
        .f32("empty", &[0], &[])
        .output("c", Int64, &[1])
        .model(17);
    let got: Vec<_> =
        tensors(&file).unwrap().into_iter().map(|t| (t.name, t.datatype, file[t.range].to_vec())).collect();
    let floats = [1_f32.to_le_bytes(), 2_f32.to_le_bytes()].concat();
    let want = [
        ("a".to_owned(), Some(Fp32), floats),
        ("c".to_owned(), Some(Int64), 7_i64.to_le_bytes().to_vec()),
        ("b".to_owned(), Some(Int64), 9_i64.to_le_bytes().to_vec()),
    ];
    assert_eq!(got, want);
}

#[test]
fn typed_data_lies_in_its_field_or_in_the_whole_tensor() {
    let tensor = || Message::new().int(1, 2).int(2, 1).bytes(8, "w");
    let file = |tensor: Message| Graph::new("g").field(5, tensor).model(17);
    let packed = file(tensor().bytes(4, [1; 8]));
    let got = tensors(&packed).unwrap();
    assert_eq!(packed[got[0].range.clone()], [1; 8]);
    let loose = file(tensor().float(4, 1.0).float(4, 2.0));
    assert_eq!(
        tensors(&loose).unwrap()[0].range.len(),
        tensor().float(4, 1.0).float(4, 2.0).into_bytes().len()
    );
}

#[test]
fn ranges_are_sorted_and_apart() {
    let file = mlp(16, 32, 10, 3);
    let places = tensors(&file).unwrap();
    assert_eq!(places.len(), 4);
    assert!(places.windows(2).all(|pair| pair[0].range.end <= pair[1].range.start));
    assert!(places.iter().all(|place| place.range.end <= file.len()));
}
