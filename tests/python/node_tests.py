"""Runs the node tests of the package `onnx` with our engines and with ONNX Runtime, and says where they part.

    node_tests.py PROGRAM [--theirs FILE] [--json FILE] [--from NAME]

Needs onnx 1.18.0, the last but few to ship its node tests, and onnxruntime. PROGRAM is the example `node_tests` of the native
engine, which describes what it prints. A case counts when ONNX Runtime passes it. Of those, for the interpreter and for the
native engine: passed, wrong, refused by code and operator, crashed, and what plans cannot express, such as sequences given to a
model. Equal means within 1e-3 relative and 1e-5 absolute. What ONNX Runtime does is kept in --theirs, since it does not change.
"""

import argparse
import collections
import json
import pathlib
import subprocess
import sys
import tempfile
import threading

import numpy as np
import onnx
import onnxruntime
from onnx import OptionalProto, SequenceProto, TensorProto, numpy_helper

DATA = pathlib.Path(onnx.__file__).parent / "backend/test/data/node"
EXPRESSIBLE = {
    TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.BOOL, TensorProto.STRING,
    TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64,
    TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64,
}  # fmt: skip
SECONDS = 60
ENGINES = ("interpreter", "native")
Value = np.ndarray | list | None


class Case:
    def __init__(self, folder: pathlib.Path):
        self.path = folder / "model.onnx"
        graph = onnx.load(self.path).graph
        kinds = [node.op_type for node in graph.node if node.op_type not in ("Constant", "SequenceConstruct")]
        self.operator = kinds[0] if kinds else "?"
        self.inputs, self.outputs = list(graph.input), list(graph.output)
        self.data = folder / "test_data_set_0"
        self.beyond = self.beyond_plans()

    def beyond_plans(self) -> str | None:
        """What of the case's data plans cannot express."""
        for value in [*self.inputs, *self.outputs]:
            kind = value.type.WhichOneof("value")
            if kind != "tensor_type":
                return kind.removesuffix("_type") + " in or out"
            if value.type.tensor_type.elem_type not in EXPRESSIBLE:
                return "datatype " + TensorProto.DataType.Name(value.type.tensor_type.elem_type)
        return None

    def read(self, value: onnx.ValueInfoProto, file: str) -> Value:
        proto, convert = {
            "tensor_type": (TensorProto(), numpy_helper.to_array),
            "sequence_type": (SequenceProto(), numpy_helper.to_list),
            "optional_type": (OptionalProto(), numpy_helper.to_optional),
        }[value.type.WhichOneof("value")]
        proto.ParseFromString((self.data / file).read_bytes())
        return convert(proto)

    def theirs(self) -> str:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        try:
            feed = {value.name: self.read(value, f"input_{number}.pb") for number, value in enumerate(self.inputs)}
            answers = [self.read(value, f"output_{number}.pb") for number, value in enumerate(self.outputs)]
            session = onnxruntime.InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])
            return judge(session.run(None, feed), answers)
        except Exception as error:  # noqa: BLE001 (whatever it throws is a refusal)
            return f"refused: {str(error)[:100]}"


def judge(found: Value, right: Value) -> str:
    if isinstance(right, list) or right is None or found is None:
        if not isinstance(found, list) or not isinstance(right, list) or len(found) != len(right):
            return "pass" if found is None and right is None else "wrong: other items"
        verdicts = [judge(one, other) for one, other in zip(found, right, strict=True)]
        return next((verdict for verdict in verdicts if verdict != "pass"), "pass")
    ours = np.asarray(found)
    if ours.shape != right.shape:
        return f"wrong: shape {ours.shape}, not {right.shape}"
    if ours.dtype != right.dtype and right.dtype != object and right.dtype.kind != "U":
        return f"wrong: {ours.dtype}, not {right.dtype}"
    if right.dtype.kind not in "biuf":
        same = (ours.astype(str) == right.astype(str)).all()
    elif right.dtype.kind == "f":
        same = np.allclose(ours.astype(np.float64), right.astype(np.float64), rtol=1e-3, atol=1e-5, equal_nan=True)
    else:
        same = np.array_equal(ours, right)
    return "pass" if same else "wrong: other elements"


def names() -> list[str]:
    return sorted(folder.name for folder in DATA.iterdir() if (folder / "model.onnx").exists())


def lines(command: list[str]):
    """The lines that a program prints; it is ended when none comes for a while."""
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    while True:
        watch = threading.Timer(SECONDS, child.kill)
        watch.start()
        line = child.stdout.readline()
        watch.cancel()
        if not line:
            child.wait()
            return
        yield line


def in_child(command: list[str], start: str, parse, crashed) -> dict:
    """Every case in a child process, since a case may take it down; a crash costs that case alone."""
    verdicts = {}
    left = [name for name in names() if name >= start]
    while len(verdicts) < len(left):
        for line in lines([*command, left[len(verdicts)]]):
            name, verdict = parse(line)
            verdicts[name] = verdict
        if len(verdicts) < len(left):
            verdicts[left[len(verdicts)]] = crashed
    return verdicts


def theirs_all(path: pathlib.Path) -> dict[str, str]:
    if path.exists():
        return json.loads(path.read_text())
    command = [sys.executable, __file__, "-", "--theirs-from"]
    verdicts = in_child(command, "", lambda line: line.rstrip("\n").split("\t", 1), "crashed")
    path.write_text(json.dumps(verdicts, indent=1) + "\n")
    return verdicts


def ours_all(program: pathlib.Path, start: str) -> dict[str, dict]:
    def parse(line: str) -> tuple[str, dict]:
        row = json.loads(line)
        return row["name"], row

    return in_child([str(program), str(DATA)], start, parse, {"interpreter": "crashed", "native": "crashed", "fallbacks": []})


def share(part: int, whole: int) -> str:
    return f"{part} of {whole} ({100 * part / whole if whole else 0:.2f} %)"


def report(rows: list[dict], engine: str) -> None:
    counted = [row for row in rows if row["theirs"] == "pass"]
    beyond = collections.Counter(row["beyond"] for row in counted if row["beyond"])
    chosen = [row for row in counted if not row["beyond"]]
    kinds = collections.Counter(row[engine].split(":")[0] for row in chosen)
    print(f"\n{engine}: of {len(counted)} cases that ONNX Runtime passes plans cannot express {sum(beyond.values())}: {dict(beyond)}")
    print(f"  of the other {len(chosen)}: passed {share(kinds.pop('pass', 0), len(chosen))}, {dict(kinds) or 'nothing else'}")
    forms = collections.Counter(row.get("form", "?") for row in chosen if row[engine] == "pass")
    print("  passed by form: " + ", ".join(f"{form} {count}" for form, count in forms.most_common()))
    refused = collections.defaultdict(list)
    for row in chosen:
        if row[engine] != "pass":
            why = ":".join(row[engine].split(":")[:2])
            refused[row["operator"], why].append(row)
    for (operator, why), those in sorted(refused.items(), key=lambda entry: -len(entry[1])):
        print(f"  {operator:28} {len(those):3} {why}; {those[0]['name']}: {those[0][engine][:160]}")
    extra = collections.Counter(row["theirs"].split(":")[0] for row in rows if row[engine] == "pass" and row["theirs"] != "pass")
    print(f"  passed where ONNX Runtime does not: {dict(extra)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("--theirs", type=pathlib.Path, default=pathlib.Path(tempfile.gettempdir()) / "node_tests_theirs.json")
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--from", dest="start", default="", help="the first case by name")
    parser.add_argument("--theirs-from", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.theirs_from:
        for name in names():
            if name >= arguments.theirs_from:
                print(f"{name}\t{Case(DATA / name).theirs()}".replace("\n", " "), flush=True)
        return
    theirs, ours, rows = theirs_all(arguments.theirs), ours_all(arguments.program, arguments.start), []
    for name, row in ours.items():
        case = Case(DATA / name)
        rows.append(row | {"name": name, "operator": case.operator, "beyond": case.beyond, "theirs": theirs[name]})
    kinds = collections.Counter(row["theirs"].split(":")[0] for row in rows)
    print(f"ONNX Runtime {onnxruntime.__version__}, {len(rows)} cases: {dict(kinds)}")
    for engine in ENGINES:
        report(rows, engine)
    fallbacks = collections.Counter(name for row in rows if row["theirs"] == "pass" for name in set(row["fallbacks"]))
    print(f"\nin the interpreter under the native engine: {dict(fallbacks.most_common())}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
