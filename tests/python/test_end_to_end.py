"""From a signed model to a checked prediction, over a real broker, with public clients. Run by pytest."""

import http.client
import json
import os
import pathlib
import subprocess
import sys
import threading
import time

import numpy as np
import onnxruntime
import pytest
import tritonclient.http as triton

from digits import answers_of, ask, heldout
from stage import DIGITS, MODELS, Refused, Stage, until

# Rounds that take long are few here; the figures in numbers.md were made with more.
UPGRADES = int(os.environ.get("AGENTD_UPGRADES", 12))
ROLL_BACKS = int(os.environ.get("AGENTD_ROLL_BACKS", 4))

REAL = {
    "real/ppocr-cls": ("ppocr-cls.onnx", {"x": (1, 3, 48, 192)}),
    "real/ppocr-rec": ("ppocr-rec.onnx", {"x": (1, 3, 48, 320)}),
    "real/magika": ("magika.onnx", {"bytes": (1, 2048)}),
}


@pytest.fixture
def stage():
    with Stage() as stage:
        stage.serve_blocks()
        stage.start_device()
        yield stage


def test_real_models_answer_like_onnxruntime_through_tritonclient(stage):
    rng = np.random.default_rng(7)
    for name, (file, shapes) in REAL.items():
        session = onnxruntime.InferenceSession(MODELS / file)
        inputs = {}
        for tensor, shape in zip(session.get_inputs(), shapes.values()):
            integer = "int" in tensor.type
            array = rng.integers(0, 256, shape).astype(np.int32) if integer else rng.random(shape).astype(np.float32)
            inputs[tensor.name] = array
        folder = stage.folder / name.split("/")[1]
        golden = []
        for tensor, array in inputs.items():
            path = stage.folder / f"{folder.name}-{tensor}.npy"
            np.save(path, array)
            golden += ["--golden", path]
        stage.ctl("bundle", "init", MODELS / file, "--name", name, *golden, "--out", folder)
        stage.deploy(stage.release(folder))
        stage.wait_serving(name, 1)
        want = session.run(None, inputs)
        client = triton.InferenceServerClient(f"127.0.0.1:{stage.infer_port}")
        metadata = client.get_model_metadata(name)
        for binary in (True, False):
            request = []
            for tensor in metadata["inputs"]:
                array = inputs[tensor["name"]]
                item = triton.InferInput(tensor["name"], list(array.shape), tensor["datatype"])
                item.set_data_from_numpy(array, binary_data=binary)
                request.append(item)
            outputs = [triton.InferRequestedOutput(t["name"], binary_data=binary) for t in metadata["outputs"]]
            result = client.infer(name, request, outputs=outputs)
            for tensor, expected in zip(metadata["outputs"], want):
                got = result.as_numpy(tensor["name"])
                assert got.shape == expected.shape
                off = np.max(np.abs(got - expected)) / max(np.max(np.abs(expected)), 1e-6)
                assert off < 1e-3, (name, binary, off)


def test_a_technician_sees_what_serves_and_why(stage):
    stage.deploy(stage.release(stage.digits(1)))
    stage.wait_serving("demo/digits", 1)
    images, labels = heldout()
    np.save(stage.folder / "image.npy", images[:1].astype(np.float32))
    answer = stage.ctl("model", "infer", "demo/digits", stage.folder / "image.npy")
    assert int(np.argmax(answer["outputs"][0]["data"])) == int(labels[0])
    receipt = stage.ctl("placement", "show", "demo/digits")
    assert any(c["verdict"]["verdict"] == "chosen" for c in receipt["candidates"])
    assert stage.ctl("audit", "verify")["damage"] == []
    assert all(check["state"] != "fail" for check in stage.ctl("doctor")["checks"])
    devices = until("the report", 20, lambda: stage.ctl("fleet", "devices", "--fleet", stage.fleet, "--broker", stage.broker))
    assert "box-1" in json.dumps(devices)
    with pytest.raises(Refused) as refused:
        stage.ctl("model", "rollback", "demo/digits")
    assert refused.value.code == "rollback.no_other"


def test_no_request_fails_and_none_is_wrong_over_upgrades_and_roll_backs(stage):
    archives = [stage.release(stage.digits(1)), stage.release(stage.digits(2))]
    stage.deploy(archives[0])
    stage.wait_serving("demo/digits", 1)
    images = heldout()[0].astype(np.float32)
    right = [answers_of(1), answers_of(2)]
    stop, problems, counts = threading.Event(), [], [0] * 8

    def load(which):
        connection = http.client.HTTPConnection("127.0.0.1", stage.infer_port, timeout=30)
        position = which
        while not stop.is_set():
            position = (position + 1) % len(images)
            try:
                got = ask(connection, images[position])
            except Exception as error:  # noqa: BLE001 - whatever it is, it is a failed request
                problems.append(repr(error))
                return
            if not any(np.allclose(got, answers[position], atol=1e-3) for answers in right):
                problems.append(f"image {position}: {got}")
                return
            counts[which] += 1

    workers = [threading.Thread(target=load, args=(which,)) for which in range(8)]
    for worker in workers:
        worker.start()
    try:
        for round_ in range(UPGRADES):
            version = round_ + 3
            # Every version is another bundle; its weights are those of 1 or 2 in turn.
            stage.deploy(stage.release(stage.digits(1 + round_ % 2, as_version=version)))
            stage.wait_serving("demo/digits", version)
            if round_ % max(UPGRADES // ROLL_BACKS, 1) == 0:
                stage.ctl("model", "rollback", "demo/digits")
                stage.wait_serving("demo/digits", version - 1 if round_ else 1, 20)
    finally:
        stop.set()
        for worker in workers:
            worker.join()
    print(f"{UPGRADES} upgrades, {sum(counts)} answers, {len(problems)} failed or wrong")
    assert problems == []
    assert min(counts) > 0


def test_tampered_bundles_are_refused_and_what_serves_goes_on(stage):
    stage.deploy(stage.release(stage.digits(1)))
    stage.wait_serving("demo/digits", 1)
    archive = stage.release(stage.digits(2))
    # The server of blocks gives out chunks whose content is changed.
    for chunk in (stage.folder / "blocks").rglob("*"):
        if chunk.is_file() and len(chunk.name) == 64 and chunk.stat().st_size > 512:
            data = bytearray(chunk.read_bytes())
            data[100] ^= 1
            chunk.write_bytes(bytes(data))
    stage.deploy(archive)

    def failed():
        model = stage.model("demo/digits")
        return model["state"] if model["state"]["step"] == "failed" else None

    state = until("the refusal", 60, failed)
    assert "corrupt" in state["code"] or "digest" in state["code"], state
    assert stage.model("demo/digits")["serving"]["version"] == 1


def test_a_model_that_lies_never_serves_and_its_neighbour_does_not_notice(stage):
    stage.deploy(stage.release(stage.digits(1)))
    stage.wait_serving("demo/digits", 1)
    liar = stage.digits(2, as_version=2)
    golden = np.load(liar / "golden/probabilities.npy")
    np.save(liar / "golden/probabilities.npy", golden[:, ::-1].copy())
    stage.deploy(stage.release(liar))
    state = until(
        "the disqualification", 60,
        lambda: (lambda model: model["state"] if model["state"]["step"] == "failed" else None)(stage.model("demo/digits")),
    )  # fmt: skip
    assert state["code"] == "placement.none", state
    receipt = stage.ctl("placement", "show", "demo/digits", check=False)
    assert all(c["verdict"]["verdict"] == "disqualified" for c in receipt["candidates"])
    assert stage.model("demo/digits")["serving"]["version"] == 1


def test_a_technician_who_mended_the_cause_tries_again_at_once(stage):
    with pytest.raises(Refused) as refused:
        stage.ctl("model", "retry", "demo/digits")
    assert refused.value.code == "retry.nothing"
    # Nobody serves blocks, as when a cable is out.
    archive = stage.release(stage.digits(1))
    stage.end("blocks")
    stage.deploy(archive)
    until("the failure", 120, lambda: (stage.model("demo/digits") or {"state": {}})["state"].get("step") == "failed")
    stage.serve_blocks()
    assert stage.ctl("model", "retry", "demo/digits") == {"schema": 1, "lifted": [], "waited": True}
    stage.wait_serving("demo/digits", 1, 30)


def test_a_server_of_blocks_ends_in_order_on_both_signals():
    import signal

    with Stage() as stage:
        for how in (signal.SIGTERM, signal.SIGINT):
            stage.serve_blocks()
            server, log = stage.children["blocks"], stage.folder / "blocks.log"
            until("the connection", 20, lambda: "connected" in log.read_text())
            stage.end("blocks", how)
            assert server.returncode == 0 and "requests" in log.read_text(), how
            log.unlink()


def test_a_machine_without_network_is_served_from_a_stick_with_the_same_proofs():
    with Stage(network=False) as stage:
        stage.start_device()
        stick = stage.folder / "stick"

        def load(version):
            archive = stage.ctl("bundle", "pack", stage.digits(version))["file"]
            stage.ctl("bundle", "sign", archive, "--key", "release-1.pem", "--trust", "trust-1.json")
            stage.ctl("bundle", "export", archive, stick / f"digits-{version}")
            return archive, stick / f"digits-{version}"

        def order(archive):
            stage.ctl(
                "fleet", "deploy", archive, "--device", stage.device, "--folder", stick / "documents",
                "--fleet", stage.fleet, "--trust", "trust-1.json", "--key", "fleet-1.pem",
            )  # fmt: skip

        archive, first = load(1)
        with pytest.raises(Refused) as refused:
            stage.ctl("bundle", "import", first)
        assert refused.value.code == "verify.not_desired"
        order(archive)
        done = stage.ctl("bundle", "import", first)
        assert done["serving"] and done["chunks"] > 0 and len(done["documents"]) == 3, done
        assert stage.model("demo/digits")["serving"]["version"] == 1
        # The next version: only what changed is handed in.
        whole = done["bytes"]
        archive, second = load(2)
        order(archive)
        done = stage.ctl("bundle", "import", second)
        assert done["serving"] and done["bytes"] < whole, done
        # A new order whose signature does not hold is refused, and what serves goes on.
        order(archive)
        document = json.loads((stick / "documents/desired-device-box-1.json").read_text())
        document["signatures"][0]["sig"] = "A" * 86 + "=="
        (stick / "documents/desired-device-box-1.json").write_text(json.dumps(document))
        with pytest.raises(Refused) as refused:
            stage.ctl("bundle", "import", second)
        assert refused.value.code == "verify.threshold"
        assert stage.model("demo/digits")["serving"]["version"] == 2


def test_a_demo_that_is_interrupted_leaves_quietly():
    import signal

    from stage import BIN, ROOT

    demo = subprocess.Popen(
        [BIN / "agentd-demo", "--built"], cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    for line in demo.stdout:
        if "fetch" in line:  # a broker, a server of blocks and a daemon run
            break
    os.killpg(demo.pid, signal.SIGINT)
    rest = demo.stdout.read()
    assert demo.wait(30) == 130 and rest.splitlines()[-1].startswith("Interrupted; nothing is left"), rest
    assert "event=" not in rest, "no logs"


def test_a_second_daemon_on_one_state_folder_says_so_and_ends(stage):
    from stage import BIN

    second = subprocess.run(
        [BIN / "agentd", "--config", "agentd.toml", "--set", f"device.run={stage.folder}/run2"],
        cwd=stage.folder, capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert second.returncode == 1 and "store.locked" in second.stderr, second.stderr
    assert stage.answers()


def test_tritonclient_runs_unchanged(stage):
    stage.deploy(stage.release(stage.digits(1)))
    stage.wait_serving("demo/digits", 1)
    script = pathlib.Path(__file__).with_name("tritonclient_check.py")
    done = subprocess.run([sys.executable, script, f"127.0.0.1:{stage.infer_port}", "demo/digits"], timeout=120)
    assert done.returncode == 0


def test_signatures_verify_with_securesystemslib_and_openssl():
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import SSlibKey

    with Stage() as stage:
        archive = pathlib.Path(stage.folder / stage.ctl("bundle", "pack", stage.digits(1))["file"])
        stage.ctl("bundle", "sign", archive, "--key", "release-1.pem", "--trust", "trust-1.json")
        stage.ctl("bundle", "export", archive, stage.folder / "stick")
        document = json.loads((stage.folder / "stick/manifest.dsse.json").read_text())
        key = stage.ctl("key", "show", "release-1.pub")
        public = SSlibKey(key["id"], "ed25519", "ed25519", {"public": key["public"]})
        envelope = Envelope.from_dict(json.loads(json.dumps(document)))
        assert envelope.verify([public], 1)
        (stage.folder / "pae").write_bytes(envelope.pae())
        signature = next(s for s in envelope.signatures.values())
        (stage.folder / "signature").write_bytes(bytes.fromhex(signature.signature))
        done = subprocess.run(
            ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", "release-1.pub", "-rawin", "-in", "pae",
             "-sigfile", "signature"],
            cwd=stage.folder, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        changed = (stage.folder / "pae").read_bytes().replace(b"demo/digits", b"demo/digitz")
        (stage.folder / "pae").write_bytes(changed)
        done = subprocess.run(
            ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", "release-1.pub", "-rawin", "-in", "pae",
             "-sigfile", "signature"],
            cwd=stage.folder, capture_output=True,
        )  # fmt: skip
        assert done.returncode != 0
