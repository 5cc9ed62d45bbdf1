"""The inner loops of the kernels as compiled: unrolled, and every sum in a register of its own. Run by pytest."""

import platform
import re
import subprocess

import pytest

import stage as stages

# Instruction set: the registers that hold sums, and multiply-adds in the innermost loop of its widest tiles (sums times
# products that follow each other without a branch).
WIDEST = {"avx2": ("ymm", 12 * 4), "avx512": ("zmm", 24 * 4)}


@pytest.fixture(scope="module")
def loops():
    """For each instruction set, the innermost loop with the most multiply-adds of each tile kernel in the worker."""
    if platform.machine() != "x86_64":
        pytest.fail("the loops of this architecture are not described")
    command = ["objdump", "--disassemble", "--no-show-raw-insn", str(stages.BIN / "agentd-worker")]
    found = {isa: [] for isa in WIDEST}
    lines = []
    isa = None
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if start := re.match(r"[0-9a-f]+ <(.*)>:", line):
                if isa:
                    found[isa].append(hottest(lines))
                lines, isa = [], of_tiles(start[1])
            elif isa and (instruction := re.match(r"\s*([0-9a-f]+):\s+(.*)", line)):
                lines.append((int(instruction[1], 16), instruction[2]))
    assert process.returncode == 0
    return found


def of_tiles(symbol):
    """The instruction set whose tile kernel a mangled symbol names."""
    kernel = re.search(r"agentd_engine_native6kernel3isa\d+(avx2|avx512)5tiles17h", symbol)
    return kernel and kernel[1]


def hottest(lines):
    places = {address: at for at, (address, _) in enumerate(lines)}
    loops = []
    for at, (_, text) in enumerate(lines):
        jump = re.match(r"j\w+\s+([0-9a-f]+)", text)
        first = places.get(int(jump[1], 16)) if jump else None
        if first is not None and first <= at:
            loops.append((first, at))
    inner = [loop for loop in loops if not any(other != loop and loop[0] <= other[0] and other[1] <= loop[1] for other in loops)]
    bodies = [[text for _, text in lines[first : last + 1]] for first, last in inner]
    return max(bodies, key=multiply_adds)


def multiply_adds(body):
    return sum("vfmadd" in text for text in body)


@pytest.mark.parametrize("isa", WIDEST)
def test_the_widest_tiles_are_unrolled(loops, isa):
    widest = [body for body in loops[isa] if multiply_adds(body) == WIDEST[isa][1]]
    assert len(widest) >= 2, f"{[multiply_adds(body) for body in loops[isa]]}"


@pytest.mark.parametrize("isa", WIDEST)
def test_no_sum_leaves_its_register(loops, isa):
    register = WIDEST[isa][0]
    assert loops[isa]
    for body in loops[isa]:
        spilled = [text for text in body if register in text and "(%rsp" in text]
        assert not spilled, "\n".join(body)
