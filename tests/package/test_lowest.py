"""The controller on the lowest versions that it asks an image for; `make constraints` writes `lowest.txt`."""

import json
import re
import signal
import subprocess
import sys

import pytest

from support import rude, s9pk
from support.by_path import load
from support.fake_hub import FakeHub
from support.wait import wait_for

PINS = s9pk.PROJECT / "tests" / "package" / "lowest.txt"
vendor = load(s9pk.SOURCE / "vendor.py")
NEEDS = dict(line.split() for line in vendor.needs((s9pk.PROJECT / "pyproject.toml").read_text()).splitlines())


def release(version):
    """Compared without the zeros at the end."""
    return re.sub(r"(\.0)+$", "", version)


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """An interpreter with exactly those packages, as an image would have them."""
    root = tmp_path_factory.mktemp("lowest")
    subprocess.run((sys.executable, "-m", "venv", "--without-pip", str(root)), check=True)
    python = root / "bin" / "python3"
    done = subprocess.run(
        (sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--disable-pip-version-check",
         "--no-deps", "--no-compile", "--require-hashes", "--only-binary=:all:", "-r", str(PINS)),
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return python


@pytest.fixture(scope="module")
def path(python):
    """The PATH of that image."""
    script = python.parent / "vllm"
    script.write_text(f"#!{python} -IS\n" + rude.SCRIPT.read_text().partition("\n")[2])
    script.chmod(0o755)
    return f"{script.parent}:/usr/bin:/bin"


def test_these_are_the_lowest_versions(python):
    program = "import json, sys, importlib.metadata as m; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
    done = subprocess.run((str(python), "-I", "-c", program, *NEEDS), capture_output=True, text=True, check=True)
    assert {name: release(found) for name, found in json.loads(done.stdout).items()} == {
        name: release(lowest) for name, lowest in NEEDS.items()
    }


def test_actions_and_a_download_and_a_life_work_with_them(assets, path, tmp_path):
    data, public = tmp_path / "data", tmp_path / "public"
    for directory in (data, public):
        directory.mkdir()
    own = data / ".vllm-fsm"

    def ask(*words):
        directories = ("--data", str(data), "--public", str(public), "--run-dir", str(own))
        done = subprocess.run(
            ("sh", str(assets / "vllm-fsm"), *words, *directories),
            env={"PATH": path, "HOME": "/root"}, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stderr == ""
        return json.loads(done.stdout)

    with FakeHub(tmp_path / "hub") as hub:
        hub.repo("org/model", size_mb=2, shards=2)
        key = ask("action", "run", "get-api-credentials", "--input", "{}")["result"]["values"][0]["value"]
        assert ask("action", "form", "set-model")["notes"] == []  # the hardware could be read
        variables = [{"name": "HF_ENDPOINT", "value": hub.url}]
        chosen = {"selection": "custom", "customArgs": "org/model --max-model-len 4096", "customEnv": variables}
        assert ask("action", "run", "set-model", "--input", json.dumps(chosen))["ok"] is True
        daemon = subprocess.Popen(
            s9pk.daemon(assets, data, public, rude.free_port()),
            env={"PATH": path}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        try:
            wait_for(lambda: s9pk.ready(own), 60.0, "downloaded and ready")
            rotated = ask("action", "run", "rotate-api-key", "--input", "{}")["result"]["values"][0]["value"]
            assert rotated != key
            wait_for(lambda: (s9pk.ready(own) or {"attempt": 0})["attempt"] == 2, what="ready with the new key")
            (model,) = ask("action", "form", "delete-model-cache")["fields"][0]["choices"]
            daemon.send_signal(signal.SIGTERM)
            said, _ = daemon.communicate(timeout=30)
        finally:
            daemon.kill()
            daemon.wait()
    assert daemon.returncode == 0, said
    assert model["id"] == "org/model"
    assert model["state"] == "served"
    assert [line for line in said.splitlines() if '"level": "error"' in line or "Traceback" in line] == []
