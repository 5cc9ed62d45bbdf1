"""Runs the node tests of the package `onnx` with our engines and with ONNX Runtime, and says where they part.

    node_tests.py PROGRAM [--engine native|interpreter] [--only TEXT] [--theirs FILE] [--json FILE]

Needs onnx 1.18.0, the last but few to ship its node tests, and onnxruntime. PROGRAM speaks the protocol of peer.py. A case
counts when ONNX Runtime passes it and its tensors can be handed to us. It is tried as it stands; if that fails, with all inputs
but the first as constants, as real exports have them; then with what can be a size (scalars and lists of integers), for
operators such as Range. Equal means within 1e-3 relative and 1e-5 absolute.
What ONNX Runtime does is kept in --theirs, since it does not change.
"""

import argparse
import collections
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, numpy_helper
from peer import Crashed, Peer, Refused

DATA = pathlib.Path(onnx.__file__).parent / "backend/test/data/node"
EXPRESSIBLE = {
    TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BOOL, TensorProto.INT8, TensorProto.INT16,
    TensorProto.INT32, TensorProto.INT64, TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64,
}  # fmt: skip
TRAINING = ("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss", "Adam", "Adagrad", "Momentum", "Gradient")
SECONDS = 20
FORMS = ("as it stands", "with constants", "with sizes")


class Case:
    def __init__(self, folder: pathlib.Path):
        self.name = folder.name
        self.path = folder / "model.onnx"
        self.model = onnx.load(self.path)
        graph = self.model.graph
        self.operator = self.operator_of(graph)
        data = folder / "test_data_set_0"
        given = [value for value in graph.input]
        kinds = [value.type.WhichOneof("value") for value in [*given, *graph.output]]
        self.tensors = all(kind == "tensor_type" for kind in kinds)
        self.expressible = self.tensors and all(
            value.type.tensor_type.elem_type in EXPRESSIBLE for value in [*given, *graph.output]
        )
        if not self.tensors:
            return
        self.feed = {value.name: self.read(data / f"input_{number}.pb") for number, value in enumerate(given)}
        self.answers = [self.read(data / f"output_{number}.pb") for number in range(len(graph.output))]

    @staticmethod
    def operator_of(graph: onnx.GraphProto) -> str:
        kinds = [node.op_type for node in graph.node if node.op_type not in ("Constant", "SequenceConstruct")]
        return kinds[0] if len(kinds) == 1 else "(several)"

    @staticmethod
    def read(path: pathlib.Path) -> np.ndarray:
        tensor = TensorProto()
        tensor.ParseFromString(path.read_bytes())
        return numpy_helper.to_array(tensor)

    def judge(self, found: list[np.ndarray]) -> str:
        if len(found) != len(self.answers):
            return f"wrong: {len(found)} outputs"
        for number, (ours, right) in enumerate(zip(found, self.answers, strict=True)):
            if ours.shape != right.shape:
                return f"wrong: shape of output {number} is {ours.shape}, not {right.shape}"
            if ours.dtype != right.dtype and right.dtype != object and right.dtype.kind != "U":
                return f"wrong: output {number} is {ours.dtype}, not {right.dtype}"
            if right.dtype.kind not in "biuf":
                if (ours.astype(str) != right.astype(str)).any():
                    return f"wrong: output {number}"
            elif right.dtype.kind == "f":
                if not np.allclose(ours.astype(np.float64), right.astype(np.float64), rtol=1e-3, atol=1e-5, equal_nan=True):
                    far = np.nanmax(np.abs(ours.astype(np.float64) - right.astype(np.float64)))
                    return f"wrong: output {number} is off by {far:.2g}"
            elif not np.array_equal(ours, right):
                return f"wrong: output {number}"
        return "pass"


def folders(only: str | None) -> list[pathlib.Path]:
    return sorted(folder for folder in DATA.iterdir() if (folder / "model.onnx").exists() and (not only or only in folder.name))


def theirs_one(folder: pathlib.Path) -> str:
    case = Case(folder)
    if not case.tensors:
        return "no tensor"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(str(case.path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 (whatever it throws is a refusal)
        return f"refused: {str(error)[:100]}"
    try:
        return case.judge([np.asarray(array) for array in session.run(None, case.feed)])
    except Exception as error:  # noqa: BLE001
        return f"refused: {str(error)[:100]}"


def theirs_all(path: pathlib.Path) -> dict[str, str]:
    """Every case in a child process, since a case may take ONNX Runtime down; a crash costs that case alone."""
    if path.exists():
        return json.loads(path.read_text())
    verdicts: dict[str, str] = {}
    names = [folder.name for folder in folders(None)]
    while len(verdicts) < len(names):
        left = names[len(verdicts) :]
        child = subprocess.run([sys.executable, __file__, "-", "--theirs-from", left[0]], stdout=subprocess.PIPE, text=True)
        for line in child.stdout.splitlines():
            name, verdict = line.split("\t", 1)
            verdicts[name] = verdict
        if len(verdicts) < len(names):
            verdicts[names[len(verdicts)]] = f"crashed: {child.returncode}"
    path.write_text(json.dumps(verdicts, indent=1) + "\n")
    return verdicts


class Ours:
    """Keeps one program; starts another after a crash or a hang."""

    def __init__(self, program: pathlib.Path, engine: str):
        self.program, self.engine, self.peer = program, engine, None

    def one(self, case: Case, constants: set[str]) -> str:
        if self.peer is None:
            self.peer = Peer(self.program, limit=SECONDS)
        try:
            self.peer.load(case.path, case.feed, constants, engine=self.engine, threads=1, isa=None, strict=True)
            return case.judge(list(self.peer.outputs().values()))
        except Refused as error:
            return f"refused: {error}"
        except Crashed as error:
            self.peer.__exit__()
            self.peer = None
            return f"crashed: {error}"

    def both(self, case: Case) -> dict[str, str]:
        verdicts = {"as it stands": self.one(case, set())}
        later = set(list(case.feed)[1:])
        sizes = {name for name, array in case.feed.items() if array.ndim == 0 or array.ndim == 1 and array.dtype.kind in "iu"}
        for form, constants in (("with constants", later), ("with sizes", sizes)):
            if constants and "pass" not in verdicts.values():
                verdicts[form] = self.one(case, constants)
        return verdicts


def share(part: int, whole: int) -> str:
    return f"{part} of {whole} ({100 * part / whole if whole else 0:.1f} %)"


def report(rows: list[dict], theirs: dict[str, str]) -> None:
    kinds = collections.Counter(verdict.split(":")[0] for verdict in theirs.values())
    print(f"ONNX Runtime {onnxruntime.__version__}: " + ", ".join(f"{name} {count}" for name, count in sorted(kinds.items())))
    counted = [row for row in rows if row["theirs"] == "pass" and row["expressible"]]
    for title, chosen in (
        ("all", counted),
        ("without training", [row for row in counted if not row["training"]]),
    ):
        passed = collections.Counter(form for row in chosen for form, verdict in row["ours"].items() if verdict == "pass")
        parts, so_far = [], 0
        for form in FORMS:
            so_far += passed[form]
            parts.append(f"{form} {share(so_far, len(chosen))}")
        print(f"{title}: " + ", ".join(parts))
    failing = [row for row in counted if "pass" not in row["ours"].values()]
    print("\nnot passed, by operator:")
    by_operator = collections.defaultdict(list)
    for row in failing:
        by_operator[row["operator"] + (" (expanded)" if "_expanded" in row["name"] else "")].append(row)
    whole = collections.Counter(row["operator"] for row in counted)
    for operator, those in sorted(by_operator.items(), key=lambda entry: -len(entry[1])):
        why = list(those[0]["ours"].values())[-1]
        print(f"  {operator:32} {len(those):3} of {whole[those[0]['operator']]:3}  {those[0]['name']}: {why[:110]}")
    print("\nwrong or crashed where ONNX Runtime is right:")
    for row in counted:
        for form, verdict in row["ours"].items():
            if verdict.startswith(("wrong", "crashed")):
                print(f"  {row['name']} ({form}): {verdict}")
    extra = sum(row["theirs"] != "pass" and "pass" in row["ours"].values() for row in rows)
    print(f"\npassed by us alone: {extra}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("--engine", choices=("native", "interpreter"), default="native")
    parser.add_argument("--only", help="cases whose name contains this")
    parser.add_argument("--theirs", type=pathlib.Path, default=pathlib.Path(tempfile.gettempdir()) / "node_tests_theirs.json")
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--theirs-from", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.theirs_from:
        for folder in folders(None):
            if folder.name >= arguments.theirs_from:
                print(f"{folder.name}\t{theirs_one(folder)}".replace("\n", " "), flush=True)
        return
    theirs = theirs_all(arguments.theirs)
    ours, rows = Ours(arguments.program, arguments.engine), []
    for folder in folders(arguments.only):
        case = Case(folder)
        row = {"name": case.name, "operator": case.operator, "expressible": case.expressible, "theirs": theirs[case.name]}
        row["training"] = case.operator in TRAINING or case.name.startswith(("test_sce_", "test_nllloss_"))
        row["ours"] = ours.both(case) if case.expressible else {}
        rows.append(row)
    report(rows, theirs)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
