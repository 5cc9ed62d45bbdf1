"""Trains the two digit models of the demo and the tests, and writes everything that belongs to them.

In: the test part of the UCI optical digits data, as scikit-learn ships it (1,797 images of 8 x 8 pixels).
Out, beside this file: `v1/` and `v2/` (model.onnx, golden vectors, card, licence; ready to be packed together with
their bundle.toml) and `heldout/` (images and labels that neither version was trained on).

Version 1 learns all layers from 1,077 images. Version 2 keeps its convolutions and its hidden layer and retrains the
last layer alone, with 360 images more and half of the images shifted by up to a pixel. So all tensors but two are equal,
and a device that has version 1 fetches only the rest.

Run:  python3 -m venv venv && venv/bin/pip install -r requirements.txt && venv/bin/python train.py
The seed is fixed; another BLAS may round differently, which changes the last digits of the weights.
"""

import pathlib
from collections.abc import Iterator

import numpy as np
import onnx
import onnxruntime
from numpy.lib.stride_tricks import sliding_window_view
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

HERE = pathlib.Path(__file__).resolve().parent
SEED = 8
CHANNELS = (16, 32)
HIDDEN = 40
CLASSES = 10
GOLDEN = 16

Weights = dict[str, np.ndarray]


def load() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Images as float32 `[n, 1, 8, 8]` in 0..1 and labels, split into `first`, `later` and `heldout` (60, 20, 20 %)."""
    data = load_digits()
    images = (data.images / 16.0).astype(np.float32)[:, None]
    rest, heldout = train_test_split(np.arange(len(images)), test_size=0.2, stratify=data.target, random_state=SEED)
    first, later = train_test_split(rest, test_size=0.25, stratify=data.target[rest], random_state=SEED)
    parts = {"first": first, "later": later, "heldout": heldout}
    return {k: images[v] for k, v in parts.items()}, {k: data.target[v] for k, v in parts.items()}


def initial(rng: np.random.Generator) -> Weights:
    """Fresh weights. Source: He et al., "Delving Deep into Rectifiers" (2015), equation 10."""

    def he(*shape: int) -> np.ndarray:
        return rng.normal(0.0, np.sqrt(2.0 / np.prod(shape[1:])), shape)

    c1, c2 = CHANNELS
    return {
        "conv1.weight": he(c1, 1, 3, 3),
        "conv1.bias": np.zeros(c1),
        "conv2.weight": he(c2, c1, 3, 3),
        "conv2.bias": np.zeros(c2),
        "hidden.weight": he(HIDDEN, c2 * 4 * 4),
        "hidden.bias": np.zeros(HIDDEN),
        "head.weight": he(CLASSES, HIDDEN),
        "head.bias": np.zeros(CLASSES),
    }


def patches(x: np.ndarray) -> np.ndarray:
    """The 3 x 3 neighbourhoods of `x`, `[n, c, h, w]`, padded with zeros: `[n, h, w, c * 9]`."""
    n, c, h, w = x.shape
    windows = sliding_window_view(np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1))), (3, 3), axis=(2, 3))
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(n, h, w, c * 9)


def convolve(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    out = patches(x) @ weight.reshape(len(weight), -1).T + bias
    return out.transpose(0, 3, 1, 2)


def features(w: Weights, x: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """What the hidden layer says about `x`, `[n, HIDDEN]`, and what `gradients` needs to walk back."""
    a1 = np.maximum(convolve(x, w["conv1.weight"], w["conv1.bias"]), 0.0)
    a2 = np.maximum(convolve(a1, w["conv2.weight"], w["conv2.bias"]), 0.0)
    n, c, height, width = a2.shape
    tiles = a2.reshape(n, c, height // 2, 2, width // 2, 2)
    pooled = tiles.max(axis=(3, 5))
    flat = pooled.reshape(n, -1)
    hidden = np.maximum(flat @ w["hidden.weight"].T + w["hidden.bias"], 0.0)
    return hidden, (a1, a2, tiles, pooled, flat)


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def head_gradients(w: Weights, hidden: np.ndarray, y: np.ndarray) -> tuple[Weights, np.ndarray]:
    """Gradients of the mean cross entropy with respect to the head, and to its logits."""
    d = softmax(hidden @ w["head.weight"].T + w["head.bias"])
    d[np.arange(len(y)), y] -= 1.0
    d /= len(y)
    return {"head.weight": d.T @ hidden, "head.bias": d.sum(axis=0)}, d


def gradients(w: Weights, x: np.ndarray, y: np.ndarray) -> Weights:
    """Gradients of the mean cross entropy with respect to every weight, by walking back through the layers."""
    hidden, (a1, a2, tiles, pooled, flat) = features(w, x)
    g, d = head_gradients(w, hidden, y)
    d = (d @ w["head.weight"]) * (hidden > 0.0)
    g["hidden.weight"], g["hidden.bias"] = d.T @ flat, d.sum(axis=0)
    d = (d @ w["hidden.weight"]).reshape(pooled.shape)
    winners = tiles == pooled[:, :, :, None, :, None]
    d = (winners * d[:, :, :, None, :, None]).reshape(a2.shape) * (a2 > 0.0)
    g["conv2.weight"] = np.einsum("nohw,nhwk->ok", d, patches(a1)).reshape(w["conv2.weight"].shape)
    g["conv2.bias"] = d.sum(axis=(0, 2, 3))
    # The gradient of a convolution with respect to its input is the convolution with the turned-over kernel.
    turned = w["conv2.weight"][:, :, ::-1, ::-1].transpose(1, 0, 2, 3)
    d = convolve(d, turned, np.zeros(len(turned))) * (a1 > 0.0)
    g["conv1.weight"] = np.einsum("nohw,nhwk->ok", d, patches(x)).reshape(w["conv1.weight"].shape)
    g["conv1.bias"] = d.sum(axis=(0, 2, 3))
    return g


class Adam:
    """Source: Kingma and Ba, "Adam: A Method for Stochastic Optimization" (2015), algorithm 1."""

    def __init__(self, weights: Weights, names: list[str]):
        self.m = {k: np.zeros_like(weights[k]) for k in names}
        self.v = {k: np.zeros_like(weights[k]) for k in names}
        self.t = 0

    def step(self, weights: Weights, g: Weights, rate: float) -> None:
        self.t += 1
        for k in self.m:
            self.m[k] = 0.9 * self.m[k] + 0.1 * g[k]
            self.v[k] = 0.999 * self.v[k] + 0.001 * g[k] ** 2
            m, v = self.m[k] / (1 - 0.9**self.t), self.v[k] / (1 - 0.999**self.t)
            weights[k] = weights[k] - rate * m / (np.sqrt(v) + 1e-8)


def batches(rng: np.random.Generator, n: int, size: int) -> Iterator[np.ndarray]:
    order = rng.permutation(n)
    return (order[i : i + size] for i in range(0, n, size))


def shifted(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
    """Each image moved by -1, 0 or 1 pixel in both directions, zeros moving in."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    dy, dx = rng.integers(0, 3, (2, len(x)))
    rows = dy[:, None] + np.arange(x.shape[2])
    columns = dx[:, None] + np.arange(x.shape[3])
    return padded[np.arange(len(x))[:, None, None], 0, rows[:, :, None], columns[:, None, :]][:, None]


def train_all(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, epochs: int = 60) -> Weights:
    w = initial(rng)
    adam = Adam(w, list(w))
    for epoch in range(epochs):
        for rows in batches(rng, len(x), 32):
            adam.step(w, gradients(w, x[rows], y[rows]), 2e-3 * (1.0 - epoch / epochs))
    return w


def retrain_head(rng: np.random.Generator, w: Weights, x: np.ndarray, y: np.ndarray, epochs: int = 40) -> Weights:
    w = dict(w)
    adam = Adam(w, ["head.weight", "head.bias"])
    for epoch in range(epochs):
        moved = np.where(rng.random((len(x), 1, 1, 1)) < 0.5, x, shifted(rng, x))
        hidden, _ = features(w, moved)
        for rows in batches(rng, len(x), 32):
            g, _ = head_gradients(w, hidden[rows], y[rows])
            adam.step(w, g, 1e-3 * (1.0 - epoch / epochs))
    return w


def to_onnx(w: Weights) -> bytes:
    """The network as ONNX. Everything but the weights is the same for every version, the head comes last."""
    nodes = [
        helper.make_node("Conv", ["image", "conv1.weight", "conv1.bias"], ["c1"], pads=[1] * 4, kernel_shape=[3, 3]),
        helper.make_node("Relu", ["c1"], ["a1"]),
        helper.make_node("Conv", ["a1", "conv2.weight", "conv2.bias"], ["c2"], pads=[1] * 4, kernel_shape=[3, 3]),
        helper.make_node("Relu", ["c2"], ["a2"]),
        helper.make_node("MaxPool", ["a2"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["pooled"], ["flat"], axis=1),
        helper.make_node("Gemm", ["flat", "hidden.weight", "hidden.bias"], ["h"], transB=1),
        helper.make_node("Relu", ["h"], ["hidden"]),
        helper.make_node("Gemm", ["hidden", "head.weight", "head.bias"], ["logits"], transB=1),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in w.items()],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="agentd tests/digits"
    )
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def run(model: bytes, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(None, {"image": x})[0]


def write_version(version: int, w: Weights, learned: str, x: np.ndarray, y: np.ndarray) -> None:
    """Writes `v<version>/` and prints how often it is right on the held-out images."""
    folder = HERE / f"v{version}"
    (folder / "golden").mkdir(parents=True, exist_ok=True)
    model = to_onnx(w)
    probabilities = run(model, x)
    guesses = probabilities.argmax(axis=1)
    right = int((guesses == y).sum())
    mistakes = ", ".join(f"{t} taken for {g}" for t, g in zip(y[guesses != y], guesses[guesses != y]))
    surest_mistake = probabilities.max(axis=1)[guesses != y].max(initial=0.0)
    (folder / "model.onnx").write_bytes(model)
    np.save(folder / "golden" / "image.npy", x[:GOLDEN])
    np.save(folder / "golden" / "probabilities.npy", run(model, x[:GOLDEN]))
    card = CARD.format(
        version=version,
        learned=learned,
        weights=f"{sum(v.size for v in w.values()):,}",
        right=right,
        of=len(y),
        percent=f"{100 * right / len(y):.1f}",
        mistakes=mistakes or "none",
        surest=f"{surest_mistake:.2f}",
    )
    (folder / "card.md").write_text(card)
    (folder / "LICENCE.txt").write_text(LICENCE)
    print(f"version {version}: {right} of {len(y)} held-out images right ({right / len(y):.4f}); {mistakes}")
    assert right / len(y) >= 0.97, "a model this poor is not worth shipping"


CARD = """# Handwritten digits, version {version}

Says which digit an image of 8 x 8 pixels shows. Made for the demo and the tests of agentd, not for any other use.

| | |
|---|---|
| input | `image`, FP32 `[-1, 1, 8, 8]`: ink per pixel, 0 (none) to 1 (full) |
| output | `probabilities`, FP32 `[-1, 10]`: for the digits 0 to 9, adding up to 1 |
| network | two 3 x 3 convolutions, a 2 x 2 maximum, a hidden layer of 40, softmax; {weights} weights |
| trained on | {learned} |
| right on held-out images | {right} of {of} ({percent} %) |
| wrong there | {mistakes} |
| surest wrong answer | probability {surest} |

## Limits

- Held-out and training images come from the same 13 writers, so figures for another writer's hand will be lower.
- Version 2 was not chosen because it is better: with so few mistakes the difference between the versions is chance.
- It has no class for "not a digit" and answers with one for any image.
- Images must be made as the data's authors made them: 32 x 32 bitmaps, counted in blocks of 4 x 4, divided by 16.

## Data

"Optical Recognition of Handwritten Digits" by E. Alpaydin and C. Kaynak, UCI Machine Learning Repository (1998),
<https://doi.org/10.24432/C50P49>, CC BY 4.0; its test part, as shipped by scikit-learn. Training script:
`tests/digits/train.py` in agentd's repository.
"""

LICENCE = """This model, its golden vectors and the held-out images derive from

    "Optical Recognition of Handwritten Digits" by E. Alpaydin and C. Kaynak (1998),
    UCI Machine Learning Repository, https://doi.org/10.24432/C50P49

which is licensed under the Creative Commons Attribution 4.0 International licence (CC BY 4.0),
https://creativecommons.org/licenses/by/4.0/. Changes: pixels were divided by 16, images were selected and reordered,
and a network was trained on them. They are offered under the same licence, without warranty of any kind.
"""


def main() -> None:
    rng = np.random.default_rng(SEED)
    x, y = load()
    v1 = train_all(rng, x["first"], y["first"])
    v2 = retrain_head(rng, v1, np.concatenate([x["first"], x["later"]]), np.concatenate([y["first"], y["later"]]))
    first, later = len(y["first"]), len(y["later"])
    learned = f"{first:,} images"
    write_version(1, v1, learned, x["heldout"], y["heldout"])
    learned = f"version 1 with its last layer retrained on {first + later:,} images, half of them shifted by up to a pixel"
    write_version(2, v2, learned, x["heldout"], y["heldout"])
    (HERE / "heldout").mkdir(exist_ok=True)
    np.save(HERE / "heldout" / "images.npy", x["heldout"])
    np.save(HERE / "heldout" / "labels.npy", y["heldout"].astype(np.uint8))


if __name__ == "__main__":
    main()
