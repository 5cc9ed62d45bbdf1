"""The digits model: its held-out images, what ONNX Runtime answers for them, and how to ask a device."""

import http.client
import json

import numpy as np
import onnxruntime

from stage import DIGITS


def heldout():
    """Images `[n, 1, 8, 8]` and labels `[n]` that no version was trained on."""
    return np.load(DIGITS / "heldout/images.npy"), np.load(DIGITS / "heldout/labels.npy")


def answers_of(version):
    """What ONNX Runtime answers for the held-out images."""
    session = onnxruntime.InferenceSession(DIGITS / f"v{version}/model.onnx")
    return session.run(None, {"image": heldout()[0].astype(np.float32)})[0]


def connect(stage):
    """A connection that stays open between requests."""
    return http.client.HTTPConnection("127.0.0.1", stage.infer_port, timeout=30)


def ask(connection, image):
    """The ten probabilities for one image; fails on any other answer."""
    body = {"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": image.ravel().tolist()}]}
    connection.request("POST", "/v2/models/demo%2Fdigits/infer", json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    text = answer.read()
    assert answer.status == 200, (answer.status, text)
    return np.array(json.loads(text)["outputs"][0]["data"], dtype=np.float32)
