"""A fleet of one device on this machine, of real programs: mosquitto, agentctl, agentd, a server of blocks.

Everything listens on 127.0.0.1 or on sockets in a temporary folder, and ends with the stage. Programs come from the folder
in AGENTD_BIN (target/debug when unset).
"""

import contextlib
import http.client
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("AGENTD_BIN", ROOT / "target/debug"))
DIGITS = ROOT / "tests/digits"
MODELS = ROOT / "tests/.venv/models"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(what, seconds, look):
    """Waits until `look` gives something true; says what did not come."""
    end = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not come within {seconds} s")
        time.sleep(0.02)


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path, timeout=30):
        super().__init__("localhost", timeout=timeout)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Refused(Exception):
    """agentctl ended with an error; `body` is its JSON."""

    def __init__(self, exit_status, body):
        super().__init__(f"exit {exit_status}: {body}")
        self.exit_status, self.body = exit_status, body

    @property
    def code(self):
        return (self.body.get("error") or {}).get("code")


class Stage:
    def __init__(self, device="box-1", fleet="test", config="", network=True):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="agentd-stage-"))
        self.device, self.fleet, self.config = device, fleet, config
        self.broker_port, self.infer_port = free_port(), free_port()
        self.children = {}
        self.network = network
        if network:
            self.start_broker()
        for key in ("root-1", "root-2", "fleet-1", "release-1"):
            self.ctl("key", "generate", key)
        self.ctl(
            "trust", "init", "--fleet", fleet, "--root", "root-1.pub", "--root", "root-2.pub", "--root-threshold", "2",
            "--fleet-key", "fleet-1.pub", "--release", "*=release-1.pub", "--key", "root-1.pem", "--output", "trust-1.json",
        )  # fmt: skip
        self.ctl("trust", "sign", "trust-1.json", "--key", "root-2.pem")

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if error[0]:
            for log in sorted(self.folder.glob("*.log")):
                print(f"---- {log.name} ----\n{log.read_text(errors='replace')[-4000:]}")
        for name in list(self.children):
            self.end(name)
        shutil.rmtree(self.folder)

    def start(self, name, *command):
        log = open(self.folder / f"{name}.log", "ab")
        self.children[name] = subprocess.Popen(
            command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        return self.children[name]

    def end(self, name, how=signal.SIGTERM):
        child = self.children.pop(name, None)
        if child and child.poll() is None:
            child.send_signal(how)
            try:
                child.wait(15)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
                raise AssertionError(f"{name} did not end within 15 s")

    def start_broker(self):
        (self.folder / "mosquitto.conf").write_text(
            f"user root\nallow_anonymous true\npersistence false\nlistener {self.broker_port} 127.0.0.1\n"
        )
        self.start("mosquitto", shutil.which("mosquitto") or "/usr/sbin/mosquitto", "-c", "mosquitto.conf")
        until("the broker", 10, lambda: self.listens(self.broker_port))

    @staticmethod
    def listens(port):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True

    @property
    def broker(self):
        return f"127.0.0.1:{self.broker_port}"

    def ctl(self, *words, check=True):
        """Runs agentctl; gives its JSON. Raises Refused when it ends with an error and `check` is true."""
        command = [BIN / "agentctl", *map(str, words), "--json", "--socket", self.folder / "run/control.sock"]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=120)
        try:
            body = json.loads(done.stdout) if done.stdout.strip() else {}
        except json.JSONDecodeError:
            body = {"stdout": done.stdout}
        if done.returncode != 0 and check:
            raise Refused(done.returncode, body or {"stderr": done.stderr})
        return body

    def serve_blocks(self):
        (self.folder / "blocks").mkdir(exist_ok=True)
        self.start("blocks", BIN / "agentctl", "fleet", "serve", "--store", "blocks", "--broker", self.broker)

    def start_device(self):
        state, run = self.folder / "state", self.folder / "run"
        broker = f'[broker]\naddress = "{self.broker}"\nsecurity = "plain"\n' if self.network else ""
        (self.folder / "agentd.toml").write_text(
            f'[device]\nid = "{self.device}"\nfleet = "{self.fleet}"\ntrust = "{self.folder}/trust-1.json"\n'
            f'state = "{state}"\nrun = "{run}"\n{broker}'
            f'[serving]\nlisten = ["127.0.0.1:{self.infer_port}"]\n{self.config}'
        )
        began = time.monotonic()
        self.start("agentd", BIN / "agentd", "--config", "agentd.toml")
        until("the local API", 30, lambda: self.alive() and (run / "control.sock").exists() and self.answers())
        return time.monotonic() - began

    def alive(self):
        child = self.children.get("agentd")
        if child and child.poll() is not None:
            raise AssertionError(f"agentd ended by itself with {child.returncode}")
        return True

    def answers(self):
        try:
            return self.get("/v1/status")
        except OSError:
            return None

    def get(self, path):
        """Asks the local API."""
        connection = UnixConnection(self.folder / "run/control.sock")
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read()
            assert answer.status == 200, (path, answer.status, body)
            return json.loads(body)
        finally:
            connection.close()

    def events(self, after=0):
        connection = UnixConnection(self.folder / "run/control.sock")
        try:
            connection.request("GET", f"/v1/events?after={after}")
            return [json.loads(line) for line in connection.getresponse().read().splitlines()]
        finally:
            connection.close()

    def model(self, name):
        return next((m for m in self.get("/v1/status")["models"] if m["name"] == name), None)

    def release(self, folder):
        """Packs, signs and publishes a described bundle; gives the path of the archive."""
        archive = self.ctl("bundle", "pack", folder)["file"]
        self.ctl("bundle", "sign", archive, "--key", "release-1.pem", "--trust", "trust-1.json")
        self.ctl("fleet", "publish", archive, "--store", "blocks")
        return archive

    def deploy(self, *archives, **more):
        words = [word for key, value in more.items() for word in (f"--{key.replace('_', '-')}", value)]
        for archive in archives:
            self.ctl(
                "fleet", "deploy", archive, "--all", "--fleet", self.fleet, "--trust", "trust-1.json", "--key", "fleet-1.pem",
                "--broker", self.broker, *words,
            )  # fmt: skip

    def wait_serving(self, name, version, seconds=120):
        def look():
            self.alive()
            model = self.model(name)
            return model and model["serving"] and model["serving"]["version"] == version and model

        return until(f"{name} {version}", seconds, look)

    def digits(self, version, as_version=None):
        """A copy of a version of the digits model, renumbered when asked for."""
        copy = self.folder / f"digits-{as_version or version}"
        shutil.copytree(DIGITS / f"v{version}", copy)
        if as_version:
            text = (copy / "bundle.toml").read_text()
            lines = [f"version = {as_version}" if line.startswith("version") else line for line in text.splitlines()]
            (copy / "bundle.toml").write_text("\n".join(lines) + "\n")
        return copy
