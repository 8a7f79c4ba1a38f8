"""Where the secrets of a running service are, and where they are not: in every process and every file of it."""

from __future__ import annotations

import os
import signal
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from support.controller import Controller
from support.wait import wait_for
from vllm_fsm.adapters import procfs

TOKEN = "hf_" + "aB3" * 11 + "x"
PASSWORD = "proxy-pass-word-1"
OWN = "of-another-service-1"
"""What vLLM is told and nobody else needs."""


@contextmanager
def silent_hub() -> Iterator[str]:
    """Accept connections and answer nothing: a download that lasts."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        kept: list[socket.socket] = []

        def accept() -> None:
            with suppress(OSError):
                while True:
                    kept.append(server.accept()[0])

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        for connection in kept:
            connection.close()


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[Controller]:
    with Controller(tmp_path) as made:
        yield made


def tree(root: int) -> dict[int, procfs.Process]:
    """All processes that descend from `root`, and it."""
    every = {process.pid: process for process in procfs.processes()}
    found = {root}
    while more := {pid for pid, process in every.items() if process.parent in found} - found:
        found |= more
    return {pid: every[pid] for pid in found if pid in every}


def text_of(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes().decode("latin-1")
    except OSError:
        return ""


def test_the_key_and_the_tokens_are_known_to_those_who_need_them(controller: Controller) -> None:
    with silent_hub() as hub:
        secrets = {"HF_TOKEN": TOKEN, "HTTPS_PROXY": f"http://me:{PASSWORD}@127.0.0.1:9", "OTHER_SECRET": OWN}
        controller.serve("tiny", **secrets).ready()
        # A second model beside it: now there is a child that downloads, too.
        controller.serve("org/absent", HF_ENDPOINT=hub, **secrets)
        controller.until("Ready", also=lambda health: health["download"] is not None)
        assert controller.process is not None
        key, engine = controller.key, controller.health()["pid"]
        root = controller.process.pid

        def roles() -> dict[int, str]:
            """Who is there; empty until all are. A child that was not executed yet looks like the controller."""
            found = {
                pid: "controller"
                if pid == root
                else "engine"
                if process.session == engine
                else next((name for name in ("fetcher.py", "guardian.py") if name in text_of(pid, "cmdline")), "")
                for pid, process in tree(root).items()
            }
            return found if set(found.values()) == {"controller", "engine", "fetcher.py", "guardian.py"} else {}

        for pid, role in wait_for(roles, what="all processes").items():
            command, environment = text_of(pid, "cmdline"), text_of(pid, "environ")
            for secret in (key, TOKEN, PASSWORD, OWN):
                assert secret not in command, role
            assert (key in environment) == (role == "engine"), role
            assert (OWN in environment) == (role == "engine"), role
            assert (TOKEN in environment) == (role in ("engine", "fetcher.py")), role
            assert (PASSWORD in environment) == (role in ("engine", "fetcher.py")), role


def test_no_process_of_ours_may_dump_its_memory(controller: Controller) -> None:
    controller.serve("tiny").ready()
    assert controller.process is not None
    for pid in tree(controller.process.pid):
        row = next(line for line in text_of(pid, "limits").splitlines() if line.startswith("Max core file size"))
        assert row.split()[4:6] in (["1", "1"], ["0", "0"]), row


def test_a_controller_that_crashes_leaves_no_dump(controller: Controller, tmp_path: Path) -> None:
    controller.serve("tiny").ready()
    controller.signal(signal.SIGABRT)
    assert controller.ends() == -signal.SIGABRT
    wait_for(lambda: not controller.left(), what="the engine ends too")
    assert [path for path in (*tmp_path.rglob("core*"), *Path.cwd().glob("core*")) if path.is_file()] == []


def test_no_secret_is_in_any_file_or_line_but_the_two(controller: Controller, tmp_path: Path) -> None:
    """An engine that prints its secrets, dies with them in its last words, and is given what is refused."""
    secrets = {"HF_TOKEN": TOKEN, "HTTPS_PROXY": f"http://me:{PASSWORD}@127.0.0.1:9", "OTHER_SECRET": OWN}
    controller.serve("tiny", RUDE_PRINT_KEY=1, **secrets).ready()
    key = controller.key
    words = f"ValueError: {key} {TOKEN} {OWN} http://me:{PASSWORD}@127.0.0.1:9/ Authorization: Bearer {key}"
    controller.serve("tiny", RUDE_EXIT_CODE=1, RUDE_LAST_LINE=words, **secrets)
    controller.says("engine-exited", status=1)
    controller.serve("tiny", "--no-such-flag", key, **secrets)
    controller.until("Failed")
    controller.store.write_text(f'{{"serveArgs": ["tiny"], {TOKEN}: {key}}}')
    controller.says("warning", id="FileNotJson")
    controller.stop()
    outputs = {"log": "".join(controller.raw)}
    kept = (controller.store, controller.credentials)
    for path in (*controller.data.rglob("*"), *controller.run_dir.rglob("*"), *controller.public.rglob("*")):
        if path.is_file() and path not in kept:
            outputs[str(path)] = path.read_text(errors="replace")
    assert any("attempts" in name for name in outputs)
    assert any("history" in name for name in outputs)
    for name, text in outputs.items():
        for secret in (key, TOKEN, PASSWORD, OWN):
            assert secret not in text, name


def test_modes_of_all_files_under_any_umask(tmp_path: Path) -> None:
    """Nothing is wider than a reader needs, whatever mask the supervisor gave us."""
    old = os.umask(0)
    try:
        with Controller(tmp_path) as controller:
            controller.serve("tiny").ready()
            modes = {
                path.relative_to(tmp_path): stat.S_IMODE(path.lstat().st_mode)
                for path in (
                    *controller.run_dir.rglob("*"),
                    *controller.public.rglob("*"),
                    *(controller.data / ".vllm-fsm").rglob("*"),
                )
                if not path.is_symlink() and not path.is_socket()
            }
            modes |= {
                path.relative_to(tmp_path): stat.S_IMODE(path.stat().st_mode)
                for path in (controller.run_dir, controller.data / ".vllm-fsm")
            }
    finally:
        os.umask(old)
    wide = {str(name): oct(mode) for name, mode in modes.items() if mode & 0o022 and "/t/" not in f"/{name}"}
    assert not wide, "nobody else may write"
    assert modes[Path("public/credentials.json")] == 0o644
    private = [name for name in modes if "attempts" in name.parts or name.name.startswith("history")]
    assert private
    assert {oct(modes[name]) for name in private} <= {"0o600", "0o700"}
