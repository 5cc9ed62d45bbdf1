#!/usr/bin/env python3
"""Takes thousands of hostile ONNX files through `agentctl bench` and through deployments on one running daemon.

    tests/python/hostile.py [--cases 5000] [--seed 7] [--way bench|deploy|both] [--json FILE] [SEED.onnx ...]

The files are mutations of small models (`daemon/worker/examples/mutate`), the same for the same seed. What must hold:

- bench: ends by itself within a bound, with a documented exit status, and with figures or an error that has a code
- deploy: each model, signed and ordered as any other, ends refused or failed with a code, or serves and then answers
  what ONNX Runtime answers; the daemon is the same process to the end and never restarts; a healthy model that is asked
  all the while never fails and is never wrong

A model's golden vectors are what ONNX Runtime answers, worked out in a process of its own that may die. Where it has no
answer they hold a number that no model is expected to give, so that a made-up answer does not pass as right.
"""

import argparse
import base64
import collections
import concurrent.futures
import hashlib
import http.client
import io
import json
import os
import pathlib
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np

import stage as stages
from stage import DIGITS, Stage, UnixConnection, until

CODE = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)+")
# Documented exit statuses that a measurement may end with: done, no, usage, refused, timed out.
EXITS = {0, 1, 2, 4, 5}
# Where ONNX Runtime has no answer.
NOBODY = 123.25
# Larger tensors are not made up here: such a case keeps the interface of the model that it was made from.
MAX_ELEMENTS = 1 << 12
TYPES = {
    1: ("FP32", np.float32), 2: ("UINT8", np.uint8), 3: ("INT8", np.int8), 4: ("UINT16", np.uint16),
    5: ("INT16", np.int16), 6: ("INT32", np.int32), 7: ("INT64", np.int64), 9: ("BOOL", np.bool_),
    10: ("FP16", np.float16), 11: ("FP64", np.float64), 12: ("UINT32", np.uint32), 13: ("UINT64", np.uint64),
}  # fmt: skip
KINDS = {name: kind for name, kind in TYPES.values()}


# ---- cases ----


def make_cases(folder, cases, seed, seeds):
    """Writes the files; gives their paths."""
    command = [stages.BIN / "examples/mutate", "--write", folder, str(cases), str(seed), *map(str, seeds)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return sorted(folder.glob("*.onnx"))


def interface(data):
    """Inputs and outputs that a file claims, as (name, datatype, shape); None when it cannot be read."""
    import onnx

    try:
        graph = onnx.load_model_from_string(data).graph
        held = {tensor.name for tensor in graph.initializer}
        sides = [[value for value in graph.input if value.name not in held], list(graph.output)]
        return [[claim(value) for value in side] for side in sides]
    except Exception:  # noqa: BLE001 - whatever is wrong with it, it has no interface that can be read
        return None


def claim(value):
    tensor = value.type.tensor_type
    shape = [dim.dim_value if dim.dim_value > 0 else -1 for dim in tensor.shape.dim]
    if len(shape) > 8 or np.prod([max(dim, 1) for dim in shape], dtype=float) > MAX_ELEMENTS or not value.name.isprintable():
        raise ValueError("not made up here")
    return value.name, TYPES[tensor.elem_type][0], shape


def seed_of(case):
    """The model that a case was made from."""
    return case.parent / "seeds" / f"{case.stem.partition('-')[2]}.onnx"


def described(case):
    """The interface for the manifest: what the file claims, else that of the model that it was made from."""
    return interface(case.read_bytes()) or interface(seed_of(case).read_bytes())


def made_up(specs, number):
    """An input for each spec; floats between 0 and 1, whole numbers 0 or 1."""
    rng = np.random.default_rng(number)
    tensors = {}
    for name, datatype, shape in specs:
        dims = [max(dim, 1) for dim in shape]
        kind = KINDS[datatype]
        tensors[name] = (rng.random(dims) if np.issubdtype(kind, np.floating) else rng.integers(0, 2, dims)).astype(kind)
    return tensors


# ---- ONNX Runtime, in a process that may die ----


def reference(folder, first):
    """Answers every case from number `first` on; says the number before each."""
    import onnxruntime

    resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
    onnxruntime.set_default_logger_severity(4)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    for number, case in enumerate(sorted(folder.glob("*.onnx"))):
        if number < first:
            continue
        print(number, flush=True)
        inputs, outputs = described(case)
        try:
            session = onnxruntime.InferenceSession(case.read_bytes(), options, providers=["CPUExecutionProvider"])
            answers = session.run([name for name, _, _ in outputs], made_up(inputs, number))
            np.savez(folder / f"{case.stem}.npz", *answers)
        except Exception:  # noqa: BLE001 - a refusal, by whatever name
            pass


def make_reference(folder, cases):
    """Lets ONNX Runtime answer what it can; a case in which its process dies or hangs has no answer."""
    first = 0
    while first < len(cases):
        child = subprocess.Popen(
            [sys.executable, __file__, "--reference", str(folder), str(first)],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        last = [first]
        # It prints words of its own as well.
        read = lambda child=child, last=last: last.extend(int(line) for line in child.stdout if line.strip().isdigit())
        reader = threading.Thread(target=read)
        reader.start()
        while reader.is_alive():
            seen = len(last)
            reader.join(20)
            if reader.is_alive() and len(last) == seen:
                child.kill()
        first = len(cases) if child.wait() == 0 else last[-1] + 1


def answers_for(case, outputs):
    """The golden outputs of a case, and whether somebody vouches for them."""
    file = case.with_suffix(".npz")
    if file.exists():
        with np.load(file) as held:
            answers = [held[key] for key in held.files]
        # Larger answers would not fit the small quota.
        if sum(answer.nbytes for answer in answers) <= 1 << 16 and all(np.isfinite(a).all() for a in answers if np.issubdtype(a.dtype, np.floating)):
            return {name: answer for (name, _, _), answer in zip(outputs, answers)}, True
    nobody = lambda datatype, shape: np.full([max(dim, 1) for dim in shape], NOBODY).astype(KINDS[datatype])
    return {name: nobody(datatype, shape) for name, datatype, shape in outputs}, False


# ---- agentctl bench ----


def bench(case):
    """How one file ends: a code or `answered`; says what is wrong as the second value."""
    inputs, _ = described(case)
    shapes = []
    for name, _, shape in inputs:
        if name and any(dim < 0 for dim in shape[1:]):
            shapes += ["--shape", f"{name}={','.join(str(max(dim, 1)) for dim in shape)}"]
    command = [
        stages.BIN / "agentctl", "bench", case, "--json", "--time", "1ms", "--load-timeout", "10s",
        "--answer-timeout", "5s", "--memory", "512MiB", *shapes,
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=120)
    except subprocess.TimeoutExpired:
        return "hangs", "did not end within 120 s"
    try:
        body = json.loads(done.stdout)
    except json.JSONDecodeError:
        return "garbled", f"exit {done.returncode}: {done.stdout[-300:]} {done.stderr[-300:]}"
    if done.returncode not in EXITS:
        return "exit", f"exit {done.returncode}: {body}"
    if "error" in body:
        code = body["error"].get("code") or ""
        return (code, None) if CODE.fullmatch(code) and done.returncode else ("uncoded", f"{done.returncode}: {body}")
    candidates = body["candidates"]
    if done.returncode == 0:
        chosen = [c["outcome"] for c in candidates if c["verdict"]["verdict"] == "chosen"]
        ok = len(chosen) == 1 and chosen[0]["result"] == "measured"
        return ("answered", None) if ok else ("unchosen", str(body))
    codes = {c["verdict"].get("code", "") for c in candidates}
    ok = codes and all(CODE.fullmatch(code) for code in codes)
    return ("+".join(sorted(codes)), None) if ok else ("uncoded", str(body))


def bench_all(cases):
    outcomes, problems = collections.Counter(), []
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        for case, (outcome, problem) in zip(cases, pool.map(bench, cases)):
            outcomes[outcome] += 1
            if problem:
                problems.append(f"{case.name}: {outcome}: {problem}")
    return outcomes, problems


# ---- deployments ----


def canonical(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


class Author:
    """Signs what agentctl would sign, and what it would refuse to."""

    def __init__(self, stage, key):
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        self.key = load_pem_private_key((stage.folder / f"{key}.pem").read_bytes(), None)
        self.keyid = stage.ctl("key", "show", f"{key}.pub")["id"]

    def sign(self, payload):
        """An envelope around a payload, and the digest of the payload."""
        body = canonical(payload)
        kind = f"application/vnd.agentd.{payload['type']}.v1+json".encode()
        pae = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(body), body)
        text = lambda data: base64.b64encode(data).decode()
        signature = {"keyid": self.keyid, "sig": text(self.key.sign(pae))}
        envelope = {"payload": text(body), "payloadType": kind.decode(), "signatures": [signature]}
        return canonical(envelope), hashlib.sha256(body).hexdigest()


def npy(array):
    out = io.BytesIO()
    np.save(out, np.ascontiguousarray(array))
    return out.getvalue()


class Hostile:
    """One case, packed."""

    def __init__(self, number, case, fleet, now):
        self.name, self.case = f"hostile/c{number}", case
        inputs, outputs = described(case)
        self.inputs = made_up(inputs, number)
        self.outputs, self.vouched = answers_for(case, outputs)
        files = {"card.md": b"# hostile\n", "licence.txt": b"CC0-1.0\n", "model.onnx": case.read_bytes()}
        golden = {"inputs": {}, "outputs": {}, "tol_ppm": 2_000}
        for side, tensors in (("inputs", self.inputs), ("outputs", self.outputs)):
            for position, (name, tensor) in enumerate(tensors.items()):
                path = f"golden/{side}-{position}.npy"
                files[path] = npy(tensor)
                golden[side][name] = path
        tensor = lambda spec: {"name": spec[0], "datatype": spec[1], "shape": spec[2]}
        self.files = files
        self.manifest = {
            "type": "bundle", "spec": 1, "fleet": fleet, "name": self.name, "version": 1, "created": now - 60,
            "expires": now + 86_400, "card": "card.md", "licence": {"spdx": "CC0-1.0", "file": "licence.txt"},
            "requires": {"mem_mib": 64, "any_of": ["cpu"]}, "lineage": None, "extras": {}, "golden": [golden],
            "model": {
                "format": "onnx", "entry": "model.onnx",
                "inputs": [tensor(spec) for spec in inputs], "outputs": [tensor(spec) for spec in outputs],
            },
            "files": [self.entry(path, files[path]) for path in sorted(files)],
        }  # fmt: skip

    @staticmethod
    def entry(path, data):
        cut = 1 << 20
        chunks = [data[at : at + cut] for at in range(0, len(data), cut)]
        listed = [[len(chunk), hashlib.sha256(chunk).hexdigest()] for chunk in chunks]
        return {"path": path, "size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "chunks": listed}

    def publish(self, blocks, author):
        """Into the block store, manifest last."""
        envelope, self.digest = author.sign(self.manifest)
        held = blocks / "blobs/sha256"
        held.mkdir(parents=True, exist_ok=True)
        (blocks / "manifests").mkdir(exist_ok=True)
        for data in self.files.values():
            for at in range(0, len(data), 1 << 20):
                chunk = data[at : at + (1 << 20)]
                (held / hashlib.sha256(chunk).hexdigest()).write_bytes(chunk)
        (blocks / "manifests" / f"{self.digest}.dsse.json").write_bytes(envelope)

    def ask(self, port):
        """The outcome of asking the model for what its golden vector says."""
        request, data = [], b""
        for name, tensor in self.inputs.items():
            raw = np.ascontiguousarray(tensor).tobytes()
            datatype = next(text for text, kind in KINDS.items() if kind == tensor.dtype.type)
            parameters = {"binary_data_size": len(raw)}
            request.append({"name": name, "shape": list(tensor.shape), "datatype": datatype, "parameters": parameters})
            data += raw
        header = json.dumps({"inputs": request, "parameters": {"binary_data_output": True}}).encode()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=90)
        try:
            path = f"/v2/models/{self.name.replace('/', '%2F')}/infer"
            connection.request("POST", path, header + data, {"Inference-Header-Content-Length": str(len(header))})
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != 200:
                code = json.loads(body).get("code") or ""
                return (f"infer {code}", None) if CODE.fullmatch(code) else ("uncoded", f"{answer.status} {body[:300]}")
            length = int(answer.headers["Inference-Header-Content-Length"])
        finally:
            connection.close()
        at, got = length, {}
        for output in json.loads(body[:length])["outputs"]:
            size = output["parameters"]["binary_data_size"]
            raw = np.frombuffer(body[at : at + size], KINDS[output["datatype"]])
            got[output["name"]] = raw.reshape(output["shape"])
            at += size
        for name, want in self.outputs.items():
            if got[name].shape != want.shape:
                return "wrong", f"{name}: {got[name].shape} for {want.shape}"
            off = np.max(np.abs(got[name].astype(float) - want.astype(float)), initial=0)
            if not off <= 2e-3 * max(np.max(np.abs(want.astype(float)), initial=0), 1e-9) + 1e-9:
                return "wrong", f"{name} is off by {off}"
        return "right answer", None


class Neighbour(threading.Thread):
    """Asks the healthy model without pause and checks every answer."""

    def __init__(self, port):
        super().__init__(daemon=True)
        import onnxruntime

        images = np.load(DIGITS / "heldout/images.npy")[:64].astype(np.float32)
        self.images = images
        self.right = onnxruntime.InferenceSession(DIGITS / "v1/model.onnx").run(None, {"image": images})[0]
        self.port, self.stop, self.answers, self.problems, self.slowest = port, threading.Event(), 0, [], 0.0

    def run(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        while not self.stop.is_set():
            at = self.answers % len(self.images)
            tensor = {"name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": self.images[at].ravel().tolist()}
            began = time.monotonic()
            try:
                connection.request("POST", "/v2/models/demo%2Fdigits/infer", json.dumps({"inputs": [tensor]}))
                answer = connection.getresponse()
                body = answer.read()
                assert answer.status == 200, (answer.status, body)
                got = np.array(json.loads(body)["outputs"][0]["data"])
                assert np.allclose(got, self.right[at], atol=1e-3), "a wrong answer"
            except Exception as error:  # noqa: BLE001 - whatever it is, it is a failed request
                self.problems.append(f"neighbour, request {self.answers}: {error!r}")
                connection.close()
            self.slowest = max(self.slowest, time.monotonic() - began)
            self.answers += 1
            self.stop.wait(0.01)

    def end(self):
        self.stop.set()
        self.join(60)


class Fleet:
    """Orders models from one device: keeps the numbers of its documents."""

    def __init__(self, stage):
        self.stage, self.seq = stage, 0
        self.orders, self.releases = Author(stage, "fleet-1"), Author(stage, "release-1")
        self.catalog = stage.get("/v1/status")["catalog_version"]
        digits = stage.model("demo/digits")["serving"]
        self.standing = {"demo/digits": {"version": digits["version"], "sha256": digits["bundle"]}}

    def order(self, models):
        """The device shall run these models, and no others besides those ordered before for all."""
        now = int(time.time())
        self.seq, self.catalog = self.seq + 1, self.catalog + 1
        listed = {model.name: {"version": 1, "sha256": model.digest} for model in models}
        common = {"spec": 1, "fleet": self.stage.fleet, "created": now}
        catalog = {
            **common, "type": "catalog", "version": self.catalog, "expires": now + 86_400, "trust_version": 1,
            "models": {**self.standing, **listed},
        }  # fmt: skip
        entry = lambda listed: {**listed, "allow_downgrade": False, "policy": {"deadline_ms": 5_000}}
        desired = {
            **common, "type": "desired", "target": f"device:{self.stage.device}", "seq": self.seq,
            "expires": now + 86_400, "models": {name: entry(value) for name, value in listed.items()},
        }  # fmt: skip
        for document in (catalog, desired):
            self.post(self.orders.sign(document)[0])

    def post(self, envelope):
        connection = UnixConnection(self.stage.folder / "run/control.sock")
        try:
            connection.request("POST", "/v1/documents", envelope)
            answer = connection.getresponse()
            body = answer.read()
            assert answer.status == 200, body
        finally:
            connection.close()


def end_of(model, events):
    """How a model ended, by the journal: `serving`, a code, or None while it moves; and what is wrong."""
    for event in events:
        if event["event"] == "serving" and event["model"] == model.name:
            return "serving", None
        if event["event"] == "refused" and event["subject"].startswith(f"{model.name} "):
            code = event.get("code") or ""
            if not CODE.fullmatch(code):
                return "uncoded", str(event)
            # A disk that is in trouble is none of the model's doing.
            return refine(code, event["message"]), str(event) if code.startswith("store.") else None
    return None, None


def refine(code, message):
    """`placement.none` alone says little: what the candidates failed with is counted."""
    if code != "placement.none":
        return code
    for words, why in (
        ("wrong numbers", "wrong numbers"), ("off by", "wrong numbers"), ("cannot be compared", "wrong numbers"),
        ("killed", "worker killed"), ("signal", "worker died"), ("panicked", "engine panicked"),
        ("memory", "memory"), ("deadline", "deadline"), ("in time", "deadline"),
    ):  # fmt: skip
        if words in message:
            return f"{code} ({why})"
    return f"{code} (engine refuses)"


def memory_mib(pid):
    """PSS of a process, in MiB."""
    text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(re.search(r"^Pss: +(\d+) kB", text, re.M)[1]) / 1024


def workers(pid):
    children = pathlib.Path(f"/proc/{pid}/task").glob("*/children")
    return sum(len(child.read_text().split()) for child in children)


def deploy_all(cases, batch, fleet_name="test"):
    """Orders all cases on one daemon, `batch` at a time; gives outcomes, problems and figures."""
    outcomes, problems, figures = collections.Counter(), [], {}
    # A small quota, so that old bundles are deleted all the while.
    config = '[measure]\ntime = "5ms"\nall = "20s"\n[store]\nquota = "512KiB"\n[log]\nlevel = "warn"\n'
    with Stage(fleet=fleet_name, config=config) as stage:
        stage.serve_blocks()
        stage.start_device()
        pid = stage.children["agentd"].pid
        stage.deploy(stage.release(stage.digits(1)))
        stage.wait_serving("demo/digits", 1)
        fleet, neighbour = Fleet(stage), Neighbour(stage.infer_port)
        neighbour.start()
        figures["daemon_mib_before"], workers_before = memory_mib(pid), workers(pid)
        for first in range(0, len(cases), batch):
            now = int(time.time())
            models = [Hostile(first + at, case, stage.fleet, now) for at, case in enumerate(cases[first : first + batch])]
            for model in models:
                model.publish(stage.folder / "blocks", fleet.releases)
            after = stage.get("/v1/status")["journal_entries"]
            fleet.order(models)
            settle(stage, models, after, outcomes, problems)
            if first // batch % 20 == 0:
                print(f"  {first + len(models)} deployed, {len(problems)} problems", file=sys.stderr, flush=True)
        fleet.order([])
        until("the end of all workers", 60, lambda: workers(pid) <= workers_before)
        neighbour.end()
        figures["daemon_mib_after"] = memory_mib(pid)
        problems += neighbour.problems
        figures |= {"neighbour_answers": neighbour.answers, "neighbour_slowest_s": round(neighbour.slowest, 2)}
        if stage.children["agentd"].poll() is not None or stage.children["agentd"].pid != pid:
            problems.append("the daemon is not the same process any more")
        events = stage.events()
        figures["events"] = dict(collections.Counter(event["event"] for event in events))
        if figures["events"].get("started") != 1:
            problems.append("the daemon started again")
        audit = stage.ctl("audit", "verify")
        if audit["damage"]:
            problems.append(f"the journal: {audit['damage']}")
        if stage.model("demo/digits")["serving"]["failures"]:
            problems.append("the healthy model has failures")
    return outcomes, problems, figures


def settle(stage, models, after, outcomes, problems, seconds=300):
    """Waits until each model of a batch ended, by the events after `after`; asks those that serve."""
    waiting, end = {model.name: model for model in models}, time.monotonic() + seconds
    while waiting:
        stage.alive()
        events = stage.events(after)
        for name, model in list(waiting.items()):
            outcome, problem = end_of(model, events)
            if outcome == "serving":
                outcome, problem = model.ask(stage.infer_port)
                if outcome == "infer model.unknown":
                    continue  # the journal says it before it is so
                if outcome == "right answer" and not model.vouched:
                    outcome, problem = "wrong", "serves what nobody vouches for"
            if outcome:
                del waiting[name]
                outcomes[outcome] += 1
            if problem:
                problems.append(f"{model.case.name}: {outcome}: {problem}")
        if time.monotonic() > end:
            for name, model in waiting.items():
                outcomes["hangs"] += 1
                problems.append(f"{model.case.name}: {(stage.model(name) or {}).get('state')} after {seconds} s")
            return
        time.sleep(0.05)


# ---- the command ----


def run(cases=5_000, seed=7, way="both", batch=16, seeds=()):
    """Makes the cases and takes them the ways asked for; gives a report."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="agentd-hostile-"))
    report = {"cases": cases, "seed": seed}
    try:
        files = make_cases(folder, cases, seed, seeds)
        assert len(files) == cases
        if way in ("bench", "both"):
            began = time.monotonic()
            outcomes, problems = bench_all(files)
            report["bench"] = {"seconds": round(time.monotonic() - began), "outcomes": outcomes, "problems": problems}
        if way in ("deploy", "both"):
            make_reference(folder, files)
            report["reference_answers"] = len(list(folder.glob("*.npz")))
            began = time.monotonic()
            outcomes, problems, figures = deploy_all(files, batch)
            report["deploy"] = {
                "seconds": round(time.monotonic() - began), "outcomes": outcomes, "problems": problems, **figures,
            }  # fmt: skip
    finally:
        if os.environ.get("AGENTD_HOSTILE_KEEP"):
            print(f"the cases stay in {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder)
    return report


def show(report):
    for way in ("bench", "deploy"):
        part = report.get(way)
        if not part:
            continue
        print(f"{way}: {report['cases']} cases, seed {report['seed']}, {part['seconds']} s, {len(part['problems'])} problems")
        for outcome, count in part["outcomes"].most_common():
            print(f"  {count:6}  {outcome}")
        for key in set(part) - {"seconds", "outcomes", "problems"}:
            print(f"  {key}: {part[key]}")
        for problem in part["problems"][:40]:
            print(f"  PROBLEM {problem[:600]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--way", choices=("bench", "deploy", "both"), default="both")
    parser.add_argument("--batch", type=int, default=16, help="models that are ordered at once")
    parser.add_argument("--json", type=pathlib.Path, help="write the whole report here")
    parser.add_argument("seeds", nargs="*", type=pathlib.Path, help="more ONNX files to mutate")
    args = parser.parse_args()
    report = run(args.cases, args.seed, args.way, args.batch, args.seeds)
    show(report)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1))
    sys.exit(any(report[way]["problems"] for way in ("bench", "deploy") if way in report))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--reference"]:
        reference(pathlib.Path(sys.argv[2]), int(sys.argv[3]))
    else:
        main()
