"""Speaks with a program that runs models with our engines: one JSON object a line, on its standard input and output.

asked                                                          answered (or {"error": "code: text"})
{"do": "load", "model": PATH, "inputs": [TENSOR...],           {"nanoseconds", "fallbacks": [operator...],
 "engine": "native" | "interpreter", "threads": N,              "arena_bytes", "constant_bytes"}
 "isa": null | "avx2" | ..., "strict": bool}
{"do": "run", "times": N}                                      {"nanoseconds": [of each run]}
{"do": "outputs", "folder": PATH}                              {"outputs": [TENSOR...]}, after one run
{"do": "profile", "times": N}                                  {"steps": [{"name", "kind", "nanoseconds", "operations"}...]}

TENSOR is {"name", "datatype", "shape", "file"}; a file holds the elements in little-endian, row by row. An input with
"constant" true is one that the model may count on.
"""

import contextlib
import json
import pathlib
import subprocess
import tempfile
import threading

import numpy as np

NAMES = {
    "BOOL": np.bool_, "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64, "UINT8": np.uint8,
    "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64, "FP16": np.float16, "FP32": np.float32, "FP64": np.float64,
}  # fmt: skip
KINDS = {np.dtype(kind): name for name, kind in NAMES.items()}


class Refused(Exception):
    """The program answered with an error."""


class Crashed(Exception):
    """The program ended, or was ended after its time limit."""


class Peer:
    def __init__(self, program: pathlib.Path, cores: set[int] | None = None, limit: float = 600):
        command = [str(program.resolve())]
        if cores is not None:
            command = ["taskset", "--cpu-list", ",".join(map(str, sorted(cores))), *command]
        self.limit = limit
        self.scratch = tempfile.TemporaryDirectory()
        self.folder = pathlib.Path(self.scratch.name)
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.scratch.cleanup()

    def ask(self, **question) -> dict:
        line = ""
        watch = threading.Timer(self.limit, self.process.kill)
        watch.start()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(question) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        watch.cancel()
        if not line:
            raise Crashed(f"ended with {self.process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise Refused(answer["error"])
        return answer

    def load(self, model: pathlib.Path, feed: dict[str, np.ndarray], constants: set[str] = frozenset(), **options) -> dict:
        inputs = []
        for number, (name, array) in enumerate(feed.items()):
            if array.dtype not in KINDS:
                raise Refused(f"peer.datatype: {name} is {array.dtype}")
            path = self.folder / f"in-{number}"
            np.asarray(array, order="C").tofile(path)
            tensor = {"name": name, "datatype": KINDS[array.dtype], "shape": list(array.shape), "file": str(path)}
            inputs.append(tensor | {"constant": name in constants})
        return self.ask(do="load", model=str(model), inputs=inputs, **options)

    def run(self, times: int) -> list[int]:
        return self.ask(do="run", times=times)["nanoseconds"]

    def outputs(self) -> dict[str, np.ndarray]:
        answer = self.ask(do="outputs", folder=str(self.folder))["outputs"]
        return {
            tensor["name"]: np.fromfile(tensor["file"], NAMES[tensor["datatype"]]).reshape(tensor["shape"]) for tensor in answer
        }

    def profile(self, times: int) -> list[dict]:
        return self.ask(do="profile", times=times)["steps"]

    def memory(self, key: str) -> int:
        """`VmRSS` or `VmHWM` in bytes."""
        return memory(self.process.pid, key)

    def cpu_nanoseconds(self) -> int:
        """What the program's first thread has computed; exact while it waits for a question."""
        return int(pathlib.Path(f"/proc/{self.process.pid}/schedstat").read_text().split()[0])


def memory(pid: int, key: str) -> int:
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(key)
