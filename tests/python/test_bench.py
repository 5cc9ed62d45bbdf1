"""`agentctl bench --plan` on the digits model: real worker, both forms of output."""

import json
import subprocess

import stage


def bench(*arguments):
    command = [stage.BIN / "agentctl", "bench", stage.DIGITS / "v1/model.onnx", "--plan", "--time", "50ms", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_a_plan_is_one_document_with_times_that_add_up():
    done = bench("--threads", "2", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["schema"] == 1
    assert document["setting"] == {"engine": "native", "threads": 2, "batch": 1}
    profile = document["profile"]
    assert profile["threads"] == 2 and profile["runs"] > 0
    # Two threads of any processor: work that the compiler left out would seem faster.
    assert 1e9 < profile["peak_multiply_adds"] < 4e12
    assert 0 < sum(step["time_ns"] for step in profile["steps"]) <= profile["run_ns"]
    products = [step for step in profile["steps"] if step["multiply_adds"]]
    assert [step["operator"] for step in products] == ["Conv", "Conv", "MatMul", "MatMul"], products


def test_a_plan_is_a_table_for_people():
    done = bench()
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(" ") and "GFMA/S" in done.stdout and "between steps" in done.stdout, done.stdout
    assert "peak:" in done.stderr and "memory: arena" in done.stderr, done.stderr


def test_what_has_no_plan_is_told():
    refused = bench("--engine", "cpu")
    assert refused.returncode == 2, refused.stderr
    several = bench("--threads", "1,2")
    assert several.returncode == 2 and "bench.input" in several.stderr, several.stderr
