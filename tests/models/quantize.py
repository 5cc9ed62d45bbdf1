"""Makes the int8 models of the set from its f32 models, with ONNX Runtime's own quantizer.

    quantize.py FOLDER

NAME_qdq: static, signed activations and signed weights per channel, QuantizeLinear and DequantizeLinear around float
operators. NAME_qop: static, unsigned activations and signed weights per channel, integer operators (QLinearConv, ...).
NAME_dyn8: weights alone, activations quantised as they come (MatMulInteger). Calibrated on images from a fixed seed; the
ranges are measured by running the model, so another processor may round them differently.
"""

import pathlib
import sys
import tempfile

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

STATIC = ("mobilenetv2", "resnet18", "efficientnet_b0")
DYNAMIC = ("minilm_l6",)


class Images(CalibrationDataReader):
    """Three images of the size that the classifiers take."""

    def __init__(self):
        random = np.random.default_rng(9)
        self.feeds = iter([{"input": random.uniform(-2, 2, (1, 3, 224, 224)).astype(np.float32)} for _ in range(3)])

    def get_next(self):
        return next(self.feeds, None)


def quantize(folder: pathlib.Path) -> None:
    for name in STATIC:
        with tempfile.TemporaryDirectory() as scratch:
            source = pathlib.Path(scratch) / "inferred.onnx"
            quant_pre_process(folder / f"{name}.onnx", source, skip_optimization=True, skip_symbolic_shape=True)
            quantize_static(
                source, folder / f"{name}_qdq.onnx", Images(), quant_format=QuantFormat.QDQ, per_channel=True,
                activation_type=QuantType.QInt8, weight_type=QuantType.QInt8,
            )  # fmt: skip
            quantize_static(
                source, folder / f"{name}_qop.onnx", Images(), quant_format=QuantFormat.QOperator, per_channel=True,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            )  # fmt: skip
    for name in DYNAMIC:
        quantize_dynamic(folder / f"{name}.onnx", folder / f"{name}_dyn8.onnx", weight_type=QuantType.QInt8)


if __name__ == "__main__":
    quantize(pathlib.Path(sys.argv[1]))
