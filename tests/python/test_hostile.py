"""Models that attack the device or fail in any way: they cost their own requests and nothing else. Run by pytest."""

import http.client
import json
import os
import shutil

import numpy as np
import onnx
import pytest

import hostile
import stage as stages
from stage import Stage, until

# Cases that take long are few here; the figures in numbers.md were made with more.
HOSTILE = int(os.environ.get("AGENTD_HOSTILE", 150))

# A model that fails so: what its caller is told, and what the journal and the receipt say.
FAULTS = {
    "panic": ("engine.run", "it panicked"),
    "abort": ("worker.died", "it aborted"),
    "hang": ("worker.deadline", "was killed"),
    "allocate": ("worker.died", "it needed more memory than allowed"),
    "overflow": ("worker.died", "its stack overflowed"),
    "crash": ("worker.died", "it crashed on an invalid memory access"),
    "nan": ("model.not_finite", "not finite"),
}


@pytest.fixture
def faulty_programs(monkeypatch, tmp_path):
    """A folder of programs whose worker fails as a model's graph is named."""
    # The daemon looks for the worker beside itself, so it must be a file of its own there.
    try:
        (tmp_path / "agentd").hardlink_to(stages.BIN / "agentd")
    except OSError:
        shutil.copy2(stages.BIN / "agentd", tmp_path / "agentd")
    (tmp_path / "agentctl").symlink_to((stages.BIN / "agentctl").resolve())
    (tmp_path / "agentd-worker").symlink_to((stages.BIN / "agentd-faulty-worker").resolve())
    monkeypatch.setattr(stages, "BIN", tmp_path)


def doubling(stage, name, version, graph):
    """A released model that doubles four numbers; the name of its graph says how it fails."""
    make = onnx.helper
    four = lambda tensor: make.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, [4])
    nodes = [make.make_node("Add", ["x", "x"], ["y"])]
    model = make.make_model(make.make_graph(nodes, graph, [four("x")], [four("y")]), opset_imports=[make.make_opsetid("", 17)])
    model.ir_version = 8
    folder = stage.folder / f"{name.replace('/', '-')}-{version}"
    folder.mkdir()
    onnx.save(model, folder / "model.onnx")
    np.save(folder / "x.npy", np.arange(4, dtype=np.float32))
    np.save(folder / "y.npy", np.arange(0, 8, 2, dtype=np.float32))
    (folder / "card.md").write_text("# Doubles\n")
    (folder / "licence.txt").write_text("CC0-1.0\n")
    (folder / "bundle.toml").write_text(
        f'name = "{name}"\nversion = {version}\ncreated = "2026-01-01"\nexpires = "2036-01-01"\ncard = "card.md"\n'
        'licence = { spdx = "CC0-1.0", file = "licence.txt" }\nrequires = { mem_mib = 32, any_of = ["cpu"] }\n'
        '[model]\nentry = "model.onnx"\ninputs = [{ name = "x", datatype = "FP32", shape = [4] }]\n'
        'outputs = [{ name = "y", datatype = "FP32", shape = [4] }]\n'
        '[[golden]]\ninputs = { x = "x.npy" }\noutputs = { y = "y.npy" }\ntol_ppm = 100\n'
    )
    return stage.release(folder)


def ask_doubling(stage, name, first):
    """Status and body of a request whose numbers begin with `first`."""
    connection = http.client.HTTPConnection("127.0.0.1", stage.infer_port, timeout=60)
    try:
        body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [4], "data": [first, 1, 2, 3]}]}
        connection.request("POST", f"/v2/models/{name.replace('/', '%2F')}/infer", json.dumps(body))
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def check_doubles(stage, name):
    status, body = ask_doubling(stage, name, 5)
    assert (status, body["outputs"][0]["data"]) == (200, [10, 2, 4, 6]), (name, status, body)


def events_of(stage, name, kind):
    return [event for event in stage.events() if event["event"] == kind and event["model"] == name]


def check_refused(stage, kind, name, version, stands):
    """A version is measured and refused, its receipt says why, and the one that `stands` answers."""

    def refused():
        model = stage.model(name)
        return model["desired_version"] == version and model["state"]["step"] == "failed" and model

    model = until(f"the refusal of {name} {version}", 90, refused)
    assert model["state"]["code"] == "placement.none", model
    assert model["serving"]["version"] == stands, model
    check_doubles(stage, name)
    receipt = stage.ctl("placement", "show", name, check=False)
    verdicts = [candidate["verdict"] for candidate in receipt["candidates"]]
    assert receipt["version"] == version and all(verdict["verdict"] == "disqualified" for verdict in verdicts)
    says = "is not comparable (NaN" if kind == "nan" else FAULTS[kind][1]
    assert any(says in verdict["reason"] for verdict in verdicts), (kind, verdicts)


def test_models_that_fail_in_any_way_cost_their_own_requests_alone(faulty_programs):
    names = {kind: f"fault/{kind}" for kind in FAULTS}
    # After the first setting nothing more is measured, so that a model which hangs costs one deadline.
    with Stage(config='[measure]\ntime = "20ms"\nall = "1s"\n') as stage:
        stage.serve_blocks()
        stage.start_device()
        daemon = stage.children["agentd"].pid
        stage.deploy(stage.release(stage.digits(1)))
        stage.wait_serving("demo/digits", 1)
        neighbour = hostile.Neighbour(stage.infer_port)
        neighbour.start()
        (stage.folder / "policy.json").write_text('{"instances": 1, "deadline_ms": 5000}')

        # While they serve: version 2 is well until somebody asks it to fail.
        for version, graph in ((1, "well"), (2, "agentd-fault:{}-at-mark")):
            for kind, name in names.items():
                stage.deploy(doubling(stage, name, version, graph.format(kind)), policy="policy.json")
            for name in names.values():
                stage.wait_serving(name, version)
        for kind, name in names.items():
            code, says = FAULTS[kind]
            check_doubles(stage, name)
            for _ in range(3):
                status, body = ask_doubling(stage, name, 666)
                assert status >= 500 and body["code"] == code and says in body["error"], (kind, status, body)
            if kind == "panic":
                # A caller may have brought it about, so it costs nobody else the model.
                check_doubles(stage, name)
                assert stage.model(name)["serving"]["version"] == 2
            else:
                stage.wait_serving(name, 1)
                check_doubles(stage, name)
            told = until(f"what happened to {name}", 20, lambda name=name: events_of(stage, name, "worker_failed"))
            assert all(event["code"] == code and says in event["message"] for event in told), told
            assert len(events_of(stage, name, "quarantined")) == (kind != "panic")

        # While they are measured: what served goes on, and the receipt says why the new version does not.
        # Loading may take a minute, too long to hang here, and makes nothing that could be not finite.
        at_load = {kind: name for kind, name in names.items() if kind not in ("hang", "nan")}
        for version, graph, some in ((3, "agentd-fault:{}", names), (4, "agentd-fault:{}-at-load", at_load)):
            for kind, name in some.items():
                stage.deploy(doubling(stage, name, version, graph.format(kind)), policy="policy.json")
            for kind, name in some.items():
                check_refused(stage, kind, name, version, stands=2 if kind == "panic" else 1)

        neighbour.end()
        assert neighbour.problems == [] and neighbour.answers > 100
        assert stage.model("demo/digits")["serving"]["failures"] == 0
        assert stage.alive() and stage.children["agentd"].pid == daemon
        assert sum(event["event"] == "started" for event in stage.events()) == 1


def test_hostile_models_end_in_a_code_or_a_right_answer():
    report = hostile.run(cases=HOSTILE)
    hostile.show(report)
    for way in ("bench", "deploy"):
        assert report[way]["problems"] == []
        assert sum(report[way]["outcomes"].values()) == HOSTILE
        assert report[way]["outcomes"]["answered" if way == "bench" else "right answer"] > 0
