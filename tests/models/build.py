"""Builds the models of the set that no wheel carries, in the form that exporters write them.

    build.py FOLDER [NAME...]

The image classifiers have the published architectures and random weights from a fixed seed, scaled so that values stay in
range through the depth (variance 2 / fan-in, as after training with folded batch norm). Speed and operator patterns are as
with trained weights, answers mean nothing. `minilm_l6` has the real weights of all-MiniLM-L6-v2, read from
FOLDER/minilm_l6.safetensors. `squeezenet`, `shufflenet` and `densenet121` are the graphs that the package `onnx` tests with,
whose weights are placeholders, filled in here. Another processor may round differently in the last digit of a weight.
"""

import json
import math
import pathlib
import struct
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR = 8
IMAGE = ["N", 3, 224, 224]
LIGHT = pathlib.Path(onnx.__file__).parent / "backend/test/data/light"


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def scalar(value: float) -> np.ndarray:
    return np.float32(value)


class Graph:
    """Grows a graph node by node; every method returns the name of the value it made."""

    def __init__(self, seed: int):
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.count = 0

    def fresh(self, stem: str) -> str:
        self.count += 1
        return f"{stem}_{self.count}"

    def constant(self, array: np.ndarray) -> str:
        name = self.fresh("weight")
        self.weights.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def normal(self, *shape: int, scale: float) -> np.ndarray:
        return (self.random.standard_normal(shape) * scale).astype(np.float32)

    def node(self, operator: str, *inputs: str, **attributes) -> str:
        name = self.fresh(operator.lower())
        self.nodes.append(helper.make_node(operator, inputs, [name], name=f"/{name}", **attributes))
        return name

    def conv(self, x: str, inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1, padded: bool = True) -> str:
        pad = (size - 1) // 2 if padded else 0
        fan = inputs // groups * size * size
        weight = self.constant(self.normal(outputs, inputs // groups, size, size, scale=math.sqrt(2 / fan)))
        bias = self.constant(self.normal(outputs, scale=0.02))
        window = {"kernel_shape": [size] * 2, "strides": [stride] * 2, "pads": [pad] * 4, "dilations": [1, 1]}
        return self.node("Conv", x, weight, bias, group=groups, **window)

    def linear(self, x: str, weight: np.ndarray, bias: np.ndarray) -> str:
        """MatMul and Add, as exporters of transformers write a linear layer."""
        product = self.node("MatMul", x, self.constant(weight))
        return self.node("Add", self.constant(bias), product)

    def random_linear(self, x: str, inputs: int, outputs: int) -> str:
        return self.linear(x, self.normal(inputs, outputs, scale=math.sqrt(1 / inputs)), np.zeros(outputs, np.float32))

    def relu(self, x: str) -> str:
        return self.node("Relu", x)

    def relu6(self, x: str) -> str:
        return self.node("Clip", x, self.constant(scalar(0)), self.constant(scalar(6)))

    def hard_swish(self, x: str) -> str:
        return self.node("HardSwish", x)

    def silu(self, x: str) -> str:
        return self.node("Mul", x, self.node("Sigmoid", x))

    def gelu(self, x: str) -> str:
        """x / 2 (1 + erf(x / sqrt 2)) in its five parts."""
        erf = self.node("Erf", self.node("Div", x, self.constant(scalar(math.sqrt(2)))))
        product = self.node("Mul", x, self.node("Add", erf, self.constant(scalar(1))))
        return self.node("Mul", product, self.constant(scalar(0.5)))

    def layer_norm(self, x: str, weight: np.ndarray, bias: np.ndarray, epsilon: float) -> str:
        return self.node("LayerNormalization", x, self.constant(weight), self.constant(bias), axis=-1, epsilon=epsilon)

    def layer_norm_in_parts(self, x: str, weight: np.ndarray, bias: np.ndarray, epsilon: float) -> str:
        """As exporters to opsets below 17 write it."""
        centred = self.node("Sub", x, self.node("ReduceMean", x, axes=[-1], keepdims=1))
        squares = self.node("Pow", centred, self.constant(scalar(2)))
        variance = self.node("Add", self.node("ReduceMean", squares, axes=[-1], keepdims=1), self.constant(scalar(epsilon)))
        normal = self.node("Div", centred, self.node("Sqrt", variance))
        return self.node("Add", self.node("Mul", normal, self.constant(weight)), self.constant(bias))

    def attention(self, query: str, key: str, value: str, heads: int, width: int, mask: str | None = None) -> str:
        split = self.constant(ints(0, 0, heads, width // heads))

        def by_head(x: str, order: list[int]) -> str:
            return self.node("Transpose", self.node("Reshape", x, split), perm=order)

        q, k, v = by_head(query, [0, 2, 1, 3]), by_head(key, [0, 2, 3, 1]), by_head(value, [0, 2, 1, 3])
        scores = self.node("Div", self.node("MatMul", q, k), self.constant(scalar(math.sqrt(width // heads))))
        if mask:
            scores = self.node("Add", scores, mask)
        answer = self.node("MatMul", self.node("Softmax", scores, axis=-1), v)
        return self.node("Reshape", self.node("Transpose", answer, perm=[0, 2, 1, 3]), self.constant(ints(0, 0, width)))

    def pooled(self, x: str) -> str:
        return self.node("Flatten", self.node("GlobalAveragePool", x), axis=1)

    def classify(self, x: str, channels: int) -> str:
        weight = self.constant(self.normal(1000, channels, scale=0.02))
        return self.node("Gemm", self.pooled(x), weight, self.constant(np.zeros(1000, np.float32)), transB=1)

    def model(self, inputs: list[onnx.ValueInfoProto], output: str, shape: list) -> onnx.ModelProto:
        result = helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)
        graph = helper.make_graph(self.nodes, "graph", inputs, [result], self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="tests/models")
        model.ir_version = IR
        onnx.checker.check_model(model)
        return model

    def classifier(self, output: str) -> onnx.ModelProto:
        return self.model([helper.make_tensor_value_info("input", TensorProto.FLOAT, IMAGE)], output, ["N", 1000])


def mobilenetv2() -> onnx.ModelProto:
    g = Graph(1)
    x, channels = g.relu6(g.conv("input", 3, 32, 3, 2)), 32
    for expand, width, repeat, first_stride in [
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)
    ]:  # fmt: skip
        for index in range(repeat):
            stride, inner = first_stride if index == 0 else 1, channels * expand
            y = x if expand == 1 else g.relu6(g.conv(x, channels, inner, 1))
            y = g.conv(g.relu6(g.conv(y, inner, inner, 3, stride, groups=inner)), inner, width, 1)
            x = g.node("Add", x, y) if stride == 1 and channels == width else y
            channels = width
    return g.classifier(g.classify(g.relu6(g.conv(x, channels, 1280, 1)), 1280))


def mobilenetv3s() -> onnx.ModelProto:
    g = Graph(4)
    x, channels = g.hard_swish(g.conv("input", 3, 16, 3, 2)), 16
    relu, swish = g.relu, g.hard_swish
    for size, inner, width, squeeze, act, stride in [
        (3, 16, 16, True, relu, 2), (3, 72, 24, False, relu, 2), (3, 88, 24, False, relu, 1), (5, 96, 40, True, swish, 2),
        (5, 240, 40, True, swish, 1), (5, 240, 40, True, swish, 1), (5, 120, 48, True, swish, 1), (5, 144, 48, True, swish, 1),
        (5, 288, 96, True, swish, 2), (5, 576, 96, True, swish, 1), (5, 576, 96, True, swish, 1)
    ]:  # fmt: skip
        y = x if inner == channels else act(g.conv(x, channels, inner, 1))
        y = act(g.conv(y, inner, inner, size, stride, groups=inner))
        if squeeze:
            few = max(8, (inner // 4 + 4) // 8 * 8)
            gate = g.conv(g.relu(g.conv(g.node("GlobalAveragePool", y), inner, few, 1)), few, inner, 1)
            y = g.node("Mul", g.node("HardSigmoid", gate, alpha=1 / 6, beta=0.5), y)
        y = g.conv(y, inner, width, 1)
        x = g.node("Add", x, y) if stride == 1 and channels == width else y
        channels = width
    x = g.pooled(g.hard_swish(g.conv(x, channels, 576, 1)))
    return g.classifier(g.random_linear(g.hard_swish(g.random_linear(x, 576, 1024)), 1024, 1000))


def efficientnet_b0() -> onnx.ModelProto:
    g = Graph(3)
    x, channels = g.silu(g.conv("input", 3, 32, 3, 2)), 32
    for expand, width, repeat, first_stride, size in [
        (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3),
        (6, 112, 3, 1, 5), (6, 192, 4, 2, 5), (6, 320, 1, 1, 3)
    ]:  # fmt: skip
        for index in range(repeat):
            stride, inner, few = first_stride if index == 0 else 1, channels * expand, max(1, channels // 4)
            y = x if expand == 1 else g.silu(g.conv(x, channels, inner, 1))
            y = g.silu(g.conv(y, inner, inner, size, stride, groups=inner))
            gate = g.conv(g.silu(g.conv(g.node("GlobalAveragePool", y), inner, few, 1)), few, inner, 1)
            y = g.conv(g.node("Mul", g.node("Sigmoid", gate), y), inner, width, 1)
            x = g.node("Add", x, y) if stride == 1 and channels == width else y
            channels = width
    return g.classifier(g.classify(g.silu(g.conv(x, channels, 1280, 1)), 1280))


def resnet(blocks: list[int], bottleneck: bool) -> onnx.ModelProto:
    g = Graph(2)
    x, channels = g.relu(g.conv("input", 3, 64, 7, 2)), 64
    x = g.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for stage, repeat in enumerate(blocks):
        inner = 64 << stage
        width = inner * 4 if bottleneck else inner
        for index in range(repeat):
            stride = 2 if stage > 0 and index == 0 else 1
            if bottleneck:
                y = g.relu(g.conv(x, channels, inner, 1))
                y = g.conv(g.relu(g.conv(y, inner, inner, 3, stride)), inner, width, 1)
            else:
                y = g.conv(g.relu(g.conv(x, channels, inner, 3, stride)), inner, width, 3)
            same = channels == width and stride == 1
            x = g.relu(g.node("Add", y, x if same else g.conv(x, channels, width, 1, stride)))
            channels = width
    return g.classifier(g.classify(x, channels))


def resnet18() -> onnx.ModelProto:
    return resnet([2, 2, 2, 2], bottleneck=False)


def resnet50() -> onnx.ModelProto:
    return resnet([3, 4, 6, 3], bottleneck=True)


def vit_tiny(width: int = 192, heads: int = 3, layers: int = 12) -> onnx.ModelProto:
    g = Graph(5)
    x = g.conv("input", 3, width, 16, 16, padded=False)
    x = g.node("Transpose", g.node("Reshape", x, g.constant(ints(0, width, -1))), perm=[0, 2, 1])
    batch = g.node("Slice", g.node("Shape", "input"), g.constant(ints(0)), g.constant(ints(1)), g.constant(ints(0)))
    shape = g.node("Concat", batch, g.constant(ints(1, width)), axis=0)
    token = g.node("Expand", g.constant(g.normal(1, 1, width, scale=1)), shape)
    x = g.node("Add", g.node("Concat", token, x, axis=1), g.constant(g.normal(1, 197, width, scale=0.02)))

    def norm(x: str) -> str:
        return g.layer_norm(x, np.ones(width, np.float32), np.zeros(width, np.float32), 1e-6)

    for _ in range(layers):
        y = norm(x)
        q, k, v = (g.random_linear(y, width, width) for _ in range(3))
        x = g.node("Add", x, g.random_linear(g.attention(q, k, v, heads, width), width, width))
        y = g.gelu(g.random_linear(norm(x), width, 4 * width))
        x = g.node("Add", x, g.random_linear(y, 4 * width, width))
    x = g.node("Gather", norm(x), g.constant(np.array(0, np.int64)), axis=1)
    return g.classifier(g.random_linear(x, width, 1000))


def safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The f32 tensors of a safetensors file: length of the header, header in JSON, data."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    tensors = {}
    for name, entry in json.loads(content[8 : 8 + length]).items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            begin, end = (8 + length + offset for offset in entry["data_offsets"])
            tensors[name] = np.frombuffer(content[begin:end], "<f4").reshape(entry["shape"])
    return tensors


def minilm_l6(weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    """BERT with 6 layers as exported from transformers at opset 17, with mean pooling and a unit vector as its answer."""
    g, width, heads = Graph(6), 384, 12
    weights = {name.removeprefix("bert."): tensor for name, tensor in weights.items()}

    def norm(x: str, prefix: str) -> str:
        return g.layer_norm_in_parts(x, weights[f"{prefix}.LayerNorm.weight"], weights[f"{prefix}.LayerNorm.bias"], 1e-12)

    def linear(x: str, prefix: str) -> str:
        return g.linear(x, weights[f"{prefix}.weight"].T, weights[f"{prefix}.bias"])

    words = g.node("Gather", g.constant(weights["embeddings.word_embeddings.weight"]), "input_ids", axis=0)
    kinds = g.node("Gather", g.constant(weights["embeddings.token_type_embeddings.weight"]), "token_type_ids", axis=0)
    tokens = g.node("Slice", g.node("Shape", "input_ids"), g.constant(ints(1)), g.constant(ints(2)), g.constant(ints(0)))
    table = g.constant(weights["embeddings.position_embeddings.weight"])
    places = g.node("Slice", table, g.constant(ints(0)), tokens, g.constant(ints(0)))
    x = norm(g.node("Add", g.node("Add", words, kinds), places), "embeddings")

    present = g.node("Cast", "attention_mask", to=TensorProto.FLOAT)
    absent = g.node("Sub", g.constant(scalar(1)), g.node("Unsqueeze", present, g.constant(ints(1, 2))))
    mask = g.node("Mul", absent, g.constant(scalar(-1e9)))
    for layer in range(6):
        prefix = f"encoder.layer.{layer}"
        q, k, v = (linear(x, f"{prefix}.attention.self.{part}") for part in ("query", "key", "value"))
        y = linear(g.attention(q, k, v, heads, width, mask), f"{prefix}.attention.output.dense")
        x = norm(g.node("Add", y, x), f"{prefix}.attention.output")
        y = linear(g.gelu(linear(x, f"{prefix}.intermediate.dense")), f"{prefix}.output.dense")
        x = norm(g.node("Add", y, x), f"{prefix}.output")

    weight = g.node("Unsqueeze", present, g.constant(ints(-1)))
    total = g.node("ReduceSum", g.node("Mul", x, weight), g.constant(ints(1)), keepdims=0)
    mean = g.node("Div", total, g.node("ReduceSum", weight, g.constant(ints(1)), keepdims=0))
    unit = g.node("Div", mean, g.node("ReduceL2", mean, axes=[-1], keepdims=1))
    names = ("input_ids", "attention_mask", "token_type_ids")
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"]) for name in names]
    return g.model(inputs, unit, ["batch", width])


def light(name: str) -> onnx.ModelProto:
    """A test graph of the package `onnx`, its placeholders (ConstantOfShape) replaced by random weights."""
    model = onnx.load(LIGHT / f"light_{name}.onnx")
    graph, random = model.graph, np.random.default_rng(7)
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    shapes |= {node.output[0]: numpy_helper.to_array(node.attribute[0].t) for node in graph.node if node.op_type == "Constant"}
    user = {name: (node.op_type, place) for node in graph.node for place, name in reversed(list(enumerate(node.input)))}
    kept = []
    for node in graph.node:
        if node.op_type != "ConstantOfShape" or node.input[0] not in shapes:
            kept.append(node)
            continue
        output, shape = node.output[0], tuple(int(size) for size in shapes[node.input[0]])
        if user.get(output) in (("BatchNormalization", 1), ("BatchNormalization", 4)):  # scale and variance
            array = np.ones(shape, np.float32)
        else:
            scale = math.sqrt(2 / math.prod(shape[1:])) if len(shape) > 1 else 0.02
            array = (random.standard_normal(shape) * scale).astype(np.float32)
        graph.initializer.append(numpy_helper.from_array(array, output))
    del graph.node[:]
    graph.node.extend(kept)
    return model


def build(folder: pathlib.Path, names: list[str]) -> None:
    makers = {
        function.__name__: function for function in (mobilenetv2, mobilenetv3s, efficientnet_b0, resnet18, resnet50, vit_tiny)
    }
    makers |= {name: (lambda name=name: light(name)) for name in ("squeezenet", "shufflenet", "densenet121")}
    makers["minilm_l6"] = lambda: minilm_l6(safetensors(folder / "minilm_l6.safetensors"))
    for name in names or makers:
        onnx.save(makers[name](), folder / f"{name}.onnx")


if __name__ == "__main__":
    build(pathlib.Path(sys.argv[1]), sys.argv[2:])
