"""Which vLLM is meant is said in `vllm/version.toml`; every other place names the same one."""

import re
from typing import Any

from support import s9pk, vllm_pin
from support.by_path import load
from vllm_fsm import flags

VERSION = vllm_pin.version()
venv: Any = load("vllm/cpu_venv.py")


def test_the_flags_are_those_of_this_version() -> None:
    assert flags.load(VERSION).version == VERSION
    assert flags.versions() == (VERSION,)


def test_the_build_for_tests_is_of_this_version() -> None:
    assert f"{vllm_pin.pins()['cpu']['package']}=={VERSION}" in venv.pinned(venv.CONSTRAINTS.read_text())


def test_the_source_is_of_this_version() -> None:
    pinned = vllm_pin.pins()
    assert pinned["source"]["file"] == f"vllm-{VERSION}.tar.gz"
    assert re.fullmatch(r"[0-9a-f]{64}", pinned["source"]["sha256"])
    assert re.fullmatch(r"[0-9a-f]{7,40}", pinned["vllm"]["commit"])


def test_the_package_is_of_this_version() -> None:
    (said,) = re.findall(r"version: '([^']+)'", (s9pk.SOURCE / "startos" / "versions" / "current.ts").read_text())
    assert re.fullmatch(re.escape(VERSION) + r":\d+", said)


def test_release_notes_tell_this_version() -> None:
    notes = (s9pk.SOURCE / "startos" / "versions" / "releaseNotes.ts").read_text()
    assert re.findall(r"vLLM (\d+\.\d+\.\d+)", notes) == [VERSION] * 5
