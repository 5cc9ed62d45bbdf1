"""kill -9 of the daemon at random moments: nothing acknowledged is lost, nothing on disk is fetched again. Run by pytest."""

import collections
import json
import os
import random
import shutil
import signal
import time

import numpy as np

from digits import answers_of, ask, connect, heldout
from stage import Stage, until

# The figure in numbers.md was made with 200.
KILLS = int(os.environ.get("AGENTD_KILLS", 16))

# Random bytes beside the model, so that there are chunks to fetch when the daemon is killed.
BALLAST = 6 << 20


class Watch:
    """What the device says to the broker, from the first message on."""

    def __init__(self, stage):
        self.log = stage.folder / "broker.log"
        topics = ("agentd/1/+/d/+/up/blk", "agentd/1/+/d/+/up/event", "agentd/1/+/d/+/up/audit")
        words = [word for topic in topics for word in ("-t", topic)]
        stage.start("broker", shutil.which("mosquitto_sub"), "-p", str(stage.broker_port), "-q", "1", "-F", "%t %x", *words)

    def messages(self, last, since=0):
        """Messages on topics that end in `last`, after the first `since` bytes of the log."""
        for line in self.log.read_text()[since:].splitlines():
            topic, _, payload = line.partition(" ")
            if topic.endswith(last):
                yield bytes.fromhex(payload)

    def asked_chunks(self, since):
        """Hex digests of the chunks asked for; the form of a request is that of daemon/wire/src/blocks.rs."""
        for message in self.messages("/up/blk", since):
            for at in range(48, len(message), 41):
                if message[at] == 1:
                    yield message[at + 1 : at + 33].hex()

    def told(self):
        """Places in the journal of the entries that arrived."""
        return {json.loads(message)["entry"]["seq"] for last in ("/up/event", "/up/audit") for message in self.messages(last)}


def on_disk(stage):
    return {path.name.removeprefix("sha256:") for path in (stage.folder / "state/blobs/sha256").rglob("*") if path.is_file()}


def release(stage, rng, weights, version):
    folder = stage.digits(weights, as_version=version)
    text = (folder / "card.md").read_text()
    (folder / "card.md").write_text(text + "\n" + rng.randbytes(BALLAST // 2).hex() + "\n")
    return stage.release(folder)


def test_kill_9_at_any_moment_loses_nothing_and_fetches_nothing_twice():
    rng, images = random.Random(11), heldout()[0].astype(np.float32)
    right = [answers_of(1)[0], answers_of(2)[0]]
    counts, killed_while = collections.Counter(), collections.Counter()
    with Stage() as stage:
        watch = Watch(stage)
        stage.serve_blocks()
        stage.start_device()
        version, last_seq = 100, 0
        stage.deploy(release(stage, rng, 1, version))
        stage.wait_serving("demo/digits", version)
        for kill in range(KILLS):
            stage_of_work = kill % 3
            if stage_of_work == 0 or not stage.model("demo/digits")["serving"]:
                version += 1
                stage.deploy(release(stage, rng, 1 + version % 2, version))
                counts["deliveries"] += 1
            elif stage_of_work == 2 and stage.ctl("model", "rollback", "demo/digits", check=False):
                counts["roll-backs"] += 1
            time.sleep(rng.random() * rng.choice([0.2, 0.6, 1.5]))

            before = stage.answers()
            held, asked_until = on_disk(stage), watch.log.stat().st_size
            stage.end("agentd", signal.SIGKILL)
            held |= on_disk(stage)
            killed_while.update(model["state"]["step"] for model in (before or {"models": []})["models"])
            counts["chunks on disk"] += len(held)

            stage.start_device()
            assert before is None or stage.get("/v1/status")["journal_entries"] >= before["journal_entries"]
            events = stage.events()
            assert [event["seq"] for event in events] == list(range(events[0]["seq"], events[-1]["seq"] + 1))
            assert events[-1]["seq"] >= last_seq
            last_seq = events[-1]["seq"]
            until("any version", 60, lambda: stage.model("demo/digits")["serving"])
            got = ask(connect(stage), images[0])
            assert any(np.allclose(got, answer, atol=1e-3) for answer in right)
            again = set(watch.asked_chunks(asked_until)) & held & on_disk(stage)
            assert not again, f"kill {kill}: {len(again)} of {len(held)} chunks on disk were asked for again"

        if stage.model("demo/digits")["desired_version"] != version:
            raise AssertionError("the last desired document that was acknowledged is gone")
        assert stage.ctl("audit", "verify")["damage"] == []
        last = stage.events()[-1]["seq"]
        until("every entry of the journal at the broker", 60, lambda: watch.told() >= set(range(1, last + 1)))
        print(f"{KILLS} kills while {dict(killed_while)}, {dict(counts)}, {last} entries all told, versions up to {version}")
