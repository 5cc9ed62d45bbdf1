//! Chunks and files.

use agentd_bundle::{Cause, check_chunk, check_file, check_file_set};
use agentd_types::Digest;

use crate::{
    Row, check,
    fleet::{cause, installed},
};

pub(crate) fn rows() -> Vec<Row> {
    let (_, bundle) = installed();
    let manifest = bundle.manifest();
    let paths = ["card.md", "golden/in.npy", "golden/out.npy", "licence.txt", "model.onnx"];
    let chunk = |path, index, bytes: &str| cause(check_chunk(manifest, path, index, bytes.as_bytes()));
    let file = |path, size, text: &str| cause(check_file(manifest, path, size, Digest::of(text.as_bytes())));
    assert_eq!(chunk("model.onnx", 0, "first half"), None);
    assert_eq!(file("card.md", 6, "a card"), None);
    assert_eq!(cause(check_file_set(manifest, paths)), None);
    vec![
        ("a chunk of no file", Cause::Chunk, chunk("other.onnx", 0, "first half")),
        ("a chunk beyond the last", Cause::Chunk, chunk("model.onnx", 2, "first half")),
        ("a short chunk", Cause::ChunkLength, chunk("model.onnx", 0, "first hal")),
        ("a long chunk", Cause::ChunkLength, chunk("model.onnx", 0, "first half.")),
        ("a corrupt chunk", Cause::ChunkDigest, chunk("model.onnx", 0, "FIRST half")),
        ("the wrong file", Cause::FileDigest, file("card.md", 6, "a bard")),
        ("the wrong size", Cause::FileDigest, file("card.md", 7, "a card")),
        ("a file that is not listed", Cause::Files, file("x", 6, "a card")),
        ("a file is missing", Cause::Files, cause(check_file_set(manifest, paths.into_iter().skip(1)))),
        ("a file too many", Cause::Files, cause(check_file_set(manifest, paths.into_iter().chain(["x"])))),
    ]
}

#[test]
fn content_that_differs_from_the_manifest_is_refused() {
    check(rows());
}
