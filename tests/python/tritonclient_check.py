"""Talks to a running agentd with the public tritonclient, unchanged: JSON and binary, metadata, readiness, errors.

usage: test_tritonclient.py HOST:PORT MODEL [--expect FILE.npz]

The model's first version answers random inputs of the shapes that its metadata tells (a free dimension is taken as 1). The
answers in JSON and in binary must agree; with --expect, inputs are taken from FILE (arrays named like the inputs) and outputs
must equal those in it within 1e-3 of the largest value. Exits 0 when all holds; a failed check says which.
"""

import argparse
import sys

import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException, triton_to_np_dtype


def check(holds, what):
    if not holds:
        sys.exit(f"FAILED: {what}")
    print(f"ok  {what}")


def random_array(tensor, rng):
    shape = [1 if dim < 0 else dim for dim in tensor["shape"]]
    dtype = triton_to_np_dtype(tensor["datatype"])
    if tensor["datatype"] == "BYTES":
        return np.array([f"text {i}".encode() for i in range(int(np.prod(shape)))], dtype=object).reshape(shape)
    if np.issubdtype(dtype, np.floating):
        return rng.random(shape).astype(dtype)
    if dtype == bool:
        return rng.random(shape) < 0.5
    return rng.integers(0, 100, shape).astype(dtype)


def infer(client, model, arrays, metadata, binary, **more):
    inputs = []
    for tensor in metadata["inputs"]:
        array = arrays[tensor["name"]]
        item = triton.InferInput(tensor["name"], list(array.shape), tensor["datatype"])
        item.set_data_from_numpy(array, binary_data=binary)
        inputs.append(item)
    outputs = [triton.InferRequestedOutput(t["name"], binary_data=binary) for t in metadata["outputs"]]
    result = client.infer(model, inputs, outputs=outputs, request_id="seven", **more)
    check(result.get_response()["id"] == "seven", "the request's id comes back")
    return {t["name"]: result.as_numpy(t["name"]) for t in metadata["outputs"]}


def is_16_bit(tensor):
    return tensor["datatype"] in ("FP16", "BF16")


def near(want, got, tolerance):
    if want.dtype == object or not np.issubdtype(want.dtype, np.floating):
        return np.array_equal(want, got)
    scale = max(float(np.max(np.abs(want), initial=0)), 1e-6)
    return want.shape == got.shape and float(np.max(np.abs(want - got), initial=0)) <= tolerance * scale


def refused(call, what):
    try:
        call()
    except InferenceServerException as error:
        check(str(error.message()), f"{what} is refused: {error.message()[:100]}")
        return
    sys.exit(f"FAILED: {what} was not refused")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("model")
    parser.add_argument("--expect")
    args = parser.parse_args()
    client = triton.InferenceServerClient(args.address, concurrency=4)
    model = args.model

    check(client.is_server_live() and client.is_server_ready(), "the server is live and ready")
    check(client.is_model_ready(model), "the model is ready")
    check(not client.is_model_ready("not/there"), "a model that is not there is not ready")
    check("binary_tensor_data" in client.get_server_metadata()["extensions"], "the server tells its extensions")
    metadata = client.get_model_metadata(model)
    version = metadata["versions"][0]
    check(metadata["name"] == model, "the model tells its name")
    check(client.is_model_ready(model, version), "its version is ready")
    config = client.get_model_config(model, version)
    check([i["name"] for i in config["input"]] == [i["name"] for i in metadata["inputs"]], "its config names its inputs")
    index = client.get_model_repository_index()
    check(any(entry["name"] == model and entry["state"] == "READY" for entry in index), "the index lists it")

    given = dict(np.load(args.expect)) if args.expect else {}
    rng = np.random.default_rng(7)
    arrays = {t["name"]: given.get(t["name"], None) for t in metadata["inputs"]}
    arrays = {t["name"]: random_array(t, rng) if arrays[t["name"]] is None else arrays[t["name"]] for t in metadata["inputs"]}
    in_binary = infer(client, model, arrays, metadata, True)
    if not any(is_16_bit(t) for t in metadata["inputs"] + metadata["outputs"]):
        in_json = infer(client, model, arrays, metadata, False, model_version=version)
        for name, want in in_binary.items():
            check(near(want, in_json[name], 1e-6), f"output {name}: JSON and binary agree")
    for name, got in in_binary.items():
        if name in given:
            check(near(given[name], got, 1e-3), f"output {name} is as expected")

    pending = [client.async_infer(model, make_inputs(arrays, metadata)) for _ in range(16)]
    check(all(p.get_result().as_numpy(metadata["outputs"][0]["name"]) is not None for p in pending), "16 at once are answered")
    stats = client.get_inference_statistics(model)["model_stats"][0]
    check(stats["inference_stats"]["success"]["count"] >= 17, "statistics count them")

    first = metadata["inputs"][0]
    wrong = triton.InferInput(first["name"], [3, 1, 4, 1, 5, 9, 2, 6], first["datatype"])
    wrong.set_data_from_numpy(random_array({"shape": wrong.shape(), "datatype": first["datatype"]}, rng))
    refused(lambda: client.infer(model, [wrong]), "a wrong shape")
    refused(lambda: client.infer("not/there", make_inputs(arrays, metadata)), "a model that is not there")
    refused(lambda: client.load_model(model), "loading a model")
    check(client.is_server_live(), "the server still lives")
    client.close()


def make_inputs(arrays, metadata):
    inputs = []
    for tensor in metadata["inputs"]:
        array = arrays[tensor["name"]]
        item = triton.InferInput(tensor["name"], list(array.shape), tensor["datatype"])
        item.set_data_from_numpy(array)
        inputs.append(item)
    return inputs


if __name__ == "__main__":
    main()
