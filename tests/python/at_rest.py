"""What the daemon costs when nothing is asked of it: time to the first answer, memory, processor.

    python tests/python/at_rest.py [ROUNDS]

Run it on a release build (AGENTD_BIN). Memory is PSS: pages that several processes share count in part, so the sum over
processes is what the machine has less. Prints one line a figure, each the median of the rounds.
"""

import http.client
import os
import pathlib
import socket
import statistics
import sys
import time

from digits import ask, connect, heldout
from stage import BIN, Stage, UnixConnection, until

TICK = os.sysconf("SC_CLK_TCK")


def pss_mib(pid):
    for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no Pss line")


def cpu_seconds(pid):
    """Time on a processor of all threads, to the nanosecond, from the scheduler's own books."""
    tasks = pathlib.Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def children(pid):
    tasks = pathlib.Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def first_answer_ms(stage):
    """From the start of the process to the first answer on the control socket."""
    path = stage.folder / "run/control.sock"
    path.unlink(missing_ok=True)
    began = time.perf_counter()
    stage.start("agentd", BIN / "agentd", "--config", "agentd.toml")
    while time.perf_counter() - began < 20:
        connection = UnixConnection(path)
        try:
            connection.request("GET", "/v1/status")
            if connection.getresponse().status == 200:
                return (time.perf_counter() - began) * 1000
        except (OSError, http.client.HTTPException, socket.timeout):
            time.sleep(0.0005)
        finally:
            connection.close()
    raise AssertionError("no answer within 20 s")


def idle(stage, seconds):
    pid = stage.children["agentd"].pid
    before = cpu_seconds(pid)
    time.sleep(seconds)
    return (cpu_seconds(pid) - before) / seconds * 100


def main(rounds):
    starts, memory, processor, whole, parts = [], [], [], [], []
    for _ in range(rounds):
        with Stage() as stage:
            stage.serve_blocks()
            stage.start_device()
            stage.end("agentd")
            starts.append(first_answer_ms(stage))
            pid = stage.children["agentd"].pid
            until("an end of the probe", 30, lambda: not children(pid))
            time.sleep(5)
            memory.append(pss_mib(pid))
            processor.append(idle(stage, 40))
            stage.deploy(stage.release(stage.digits(1)))
            stage.wait_serving("demo/digits", 1)
            connection = connect(stage)
            for image in heldout()[0][:50].astype("float32"):
                ask(connection, image)
            time.sleep(5)
            parts.append([pss_mib(each) for each in (pid, *children(pid))])
            whole.append(sum(parts[-1]))
    figure = statistics.median
    print(f"start to first answer of the local API  {figure(starts):6.1f} ms   {[round(x, 1) for x in starts]}")
    print(f"idle, nothing deployed                  {figure(memory):6.1f} MiB PSS")
    print(f"idle, nothing deployed, over 40 s       {figure(processor):6.3f} % of a core")
    print(f"one small model, all processes          {figure(whole):6.1f} MiB PSS   {[[round(x, 1) for x in p] for p in parts]}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
