"""`vllm/fetch`, run as it is, against package indexes of our own."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from support.by_path import ROOT, load
from support.volume import on_volume

recipe: Any = load("vllm/recipe.py")
NAME = "vllm-1.2.tar.gz"
RECIPE = "FROM base\n" + "".join(edit.before for edit in recipe.EDITS) + "\n"


def archive(*members: tuple[str, str]) -> bytes:
    """Return a source distribution with these files."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as file:
        for name, text in members:
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            file.addfile(info, io.BytesIO(text.encode()))
    return made.getvalue()


SDIST = archive(("vllm-1.2/docker/Dockerfile.cpu", RECIPE), ("vllm-1.2/setup.py", "raise SystemExit('was run')\n"))


@dataclass
class Index:
    """What an index offers, and what it was asked."""

    files: dict[str, bytes]
    json: bool = True
    password: str | None = None
    asked: list[str] = field(default_factory=list)
    address: str = ""

    def answer(self, path: str, authorization: str | None) -> tuple[int, str, bytes]:
        """Return status, kind and body."""
        self.asked.append(path)
        if self.password and authorization != "Basic " + base64.b64encode(self.password.encode()).decode():
            return 401, "text/plain", b""
        if path == "/simple/vllm/" and self.files:
            if self.json:
                page = {"files": [{"filename": name, "url": f"../../files/{name}"} for name in self.files]}
                return 200, "application/vnd.pypi.simple.v1+json", json.dumps(page).encode()
            links = "".join(f'<a href="../../files/{name}#sha256=0">{name}</a>' for name in self.files)
            return 200, "text/html", links.encode()
        if (name := path.removeprefix("/files/")) in self.files:
            return 200, "application/octet-stream", self.files[name]
        return 404, "text/plain", b""


@pytest.fixture
def index() -> Iterator[Index]:
    offered = Index({NAME: SDIST})

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, kind, body = offered.answer(self.path, self.headers["Authorization"])
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            if status == 401:
                self.send_header("WWW-Authenticate", 'Basic realm="index"')
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    offered.address = f"http://127.0.0.1:{server.server_port}/simple"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield offered
    server.shutdown()
    thread.join()
    server.server_close()


class Folder:
    """A `vllm` folder of its own, which pins another source distribution."""

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir(exist_ok=True)
        for name in ("fetch", "source.py", "registry.py", "recipe.py"):
            shutil.copy(ROOT / "vllm" / name, home)
        self.pin(SDIST)

    def pin(self, sdist: bytes) -> None:
        digest = hashlib.sha256(sdist).hexdigest()
        text = f'[vllm]\nversion = "1.2"\n[source]\nfile = "{NAME}"\nsha256 = "{digest}"\n'
        (self.home / "version.toml").write_text(text)

    def fetch(self, index: str, *others: str, **environment: str) -> subprocess.CompletedProcess[str]:
        asked = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": index, "PIP_EXTRA_INDEX_URL": " ".join(others)}
        own = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
        return subprocess.run(
            (sys.executable, str(self.home / "fetch")),
            env=own | asked | {"no_proxy": "127.0.0.1"} | environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def made(self) -> set[str]:
        return {path.name for path in self.home.iterdir()} - {
            *("fetch", "source.py", "registry.py", "recipe.py", "version.toml", "__pycache__")
        }


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "vllm")


def refused(done: subprocess.CompletedProcess[str], *sentences: str) -> None:
    """Assert that it failed with these sentences, and not with a traceback."""
    assert done.returncode == 1, done
    assert "Traceback" not in done.stderr
    for sentence in sentences:
        assert sentence in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("as_json", [True, False])
def test_the_source_and_the_recipe_are_there(folder: Folder, index: Index, as_json: bool) -> None:
    index.json = as_json
    done = folder.fetch(index.address)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{folder.home}/docker/Dockerfile.cpu\n"
    assert (folder.home / "source" / "setup.py").exists()
    assert (folder.home / "docker" / "Dockerfile.cpu").read_text() == recipe.derive(RECIPE, "1.2")
    assert folder.made() == {"source", "docker"}


def test_what_is_there_is_not_fetched_again(folder: Folder, index: Index) -> None:
    folder.fetch(index.address)
    index.asked.clear()
    made = (folder.home / "docker" / "Dockerfile.cpu").stat().st_ino
    assert folder.fetch(index.address).returncode == 0
    assert index.asked == []
    assert (folder.home / "docker" / "Dockerfile.cpu").stat().st_ino == made


def test_another_pin_brings_another_source(folder: Folder, index: Index) -> None:
    folder.fetch(index.address)
    newer = archive(("vllm-1.2/docker/Dockerfile.cpu", "# newer\n" + RECIPE), ("vllm-1.2/new", ""))
    folder.pin(newer)
    index.files[NAME] = newer
    assert folder.fetch(index.address).returncode == 0
    assert (folder.home / "source" / "new").exists()
    assert not (folder.home / "source" / "setup.py").exists()
    assert "# newer\n" in (folder.home / "docker" / "Dockerfile.cpu").read_text()


def test_a_file_that_was_not_pinned_is_refused_and_the_old_source_stays(folder: Folder, index: Index) -> None:
    folder.fetch(index.address)
    folder.pin(b"another")
    refused(folder.fetch(index.address), "is not the file that was pinned", hashlib.sha256(SDIST).hexdigest())
    assert (folder.home / "source" / "setup.py").exists()
    assert folder.made() == {"source", "docker"}


def test_a_run_that_was_cut_off_between_two_renames_loses_nothing(folder: Folder, index: Index) -> None:
    folder.fetch(index.address)
    (folder.home / "source").rename(folder.home / ".source-before")
    index.asked.clear()
    assert folder.fetch(index.address).returncode == 0
    assert index.asked == []
    assert (folder.home / "source" / "setup.py").exists()
    assert folder.made() == {"source", "docker"}


def test_what_was_replaced_when_a_run_was_cut_off_is_removed(folder: Folder, index: Index) -> None:
    folder.fetch(index.address)
    (folder.home / ".source-before").mkdir()
    assert folder.fetch(index.address).returncode == 0
    assert folder.made() == {"source", "docker"}


def test_the_old_source_is_whole_until_the_new_one_is_there(folder: Folder, index: Index) -> None:
    folder.fetch(index.address)
    newer = archive(("vllm-1.2/docker/Dockerfile.cpu", RECIPE), ("vllm-1.2/new", ""))
    folder.pin(newer)
    index.files[NAME] = newer
    # The second of the two renames fails: the process ends there.
    script = folder.home / "source.py"
    script.write_text(script.read_text().replace("top.rename(self.tree)", "os._exit(9)"))
    assert folder.fetch(index.address).returncode == 9
    shutil.copy(ROOT / "vllm" / "source.py", folder.home)
    folder.pin(SDIST)
    index.files.clear()
    assert folder.fetch(index.address).returncode == 0
    assert (folder.home / "source" / "setup.py").exists()
    assert folder.made() == {"source", "docker"}


def test_an_index_whose_certificates_cannot_be_read_is_told(folder: Folder, tmp_path: Path) -> None:
    refused(
        folder.fetch("https://127.0.0.1:1/simple", PIP_CERT=str(tmp_path / "none.pem")),
        "cannot be asked",
        "No such file",
        "Look at the network, the proxy and the certificates",
    )


def test_without_a_network_it_says_what_to_look_at(folder: Folder, unused_port: int) -> None:
    refused(
        folder.fetch(f"http://127.0.0.1:{unused_port}/simple"),
        "cannot be asked",
        "refused",
        "Look at the network, the proxy and the certificates",
    )
    assert folder.made() == set()


@pytest.fixture
def unused_port() -> int:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        return server.server_port


def test_a_connection_that_breaks_leaves_nothing(folder: Folder, index: Index) -> None:
    class Broken(bytes):
        def __len__(self) -> int:
            return 2 * super().__len__()

    index.files[NAME] = Broken(SDIST[:100])
    refused(folder.fetch(index.address), "cannot be asked", "IncompleteRead")
    assert folder.made() == set()


def test_every_index_is_asked_in_turn(folder: Folder, index: Index, unused_port: int, tmp_path: Path) -> None:
    mirror = tmp_path / "mirror" / "vllm"
    mirror.mkdir(parents=True)
    (mirror / "index.html").write_text(f'<a href="{NAME}">{NAME}</a>')
    (mirror / NAME).write_bytes(SDIST)
    index.files.clear()
    others = (index.address, mirror.parent.as_uri())
    assert folder.fetch(f"http://127.0.0.1:{unused_port}/simple", *others).returncode == 0
    assert index.asked == ["/simple/vllm/"]


def test_an_index_without_the_file_is_named(folder: Folder, index: Index) -> None:
    index.files = {"vllm-1.3.tar.gz": SDIST}
    refused(folder.fetch(index.address), f"{index.address} has no {NAME}")


def test_a_page_that_is_none_is_said(folder: Folder, index: Index) -> None:
    index.answer = lambda path, _: (200, "text/json+json", b"[]")  # type: ignore[method-assign]
    refused(folder.fetch(index.address), "not a page of a package index")


def test_a_password_is_used_and_not_shown(folder: Folder, index: Index) -> None:
    index.password = "me:se@cret"
    address = index.address.replace("//", "//me:se%40cret@")
    done = folder.fetch(address)
    assert done.returncode == 0
    assert "cret" not in done.stderr
    folder.pin(b"another")
    done = folder.fetch(address)
    refused(done, "is not the file")
    assert "cret" not in done.stderr


@pytest.mark.parametrize("member", ["../evil", "/evil", "vllm-1.2/../../evil"])
def test_nothing_is_unpacked_outside_its_place(folder: Folder, index: Index, member: str) -> None:
    index.files[NAME] = archive((member, "x"))
    folder.pin(index.files[NAME])
    refused(folder.fetch(index.address), "vllm-1.2.tar.gz")
    assert folder.made() == set()
    assert not list(folder.home.parent.rglob("evil"))


@pytest.mark.parametrize("sdist", [b"no archive", SDIST[:200], archive(("a/x", ""), ("b/x", "")), archive(("a/x", ""))])
def test_what_is_no_source_distribution_is_refused(folder: Folder, index: Index, sdist: bytes) -> None:
    folder.pin(sdist)
    index.files[NAME] = sdist
    refused(folder.fetch(index.address), "vllm-1.2.tar.gz")
    assert folder.made() == set()


def test_a_recipe_that_does_not_fit_is_refused(folder: Folder, index: Index) -> None:
    index.files[NAME] = archive(("vllm-1.2/docker/Dockerfile.cpu", "FROM elsewhere\n"))
    folder.pin(index.files[NAME])
    refused(folder.fetch(index.address), "adapt vllm/recipe.py")


def test_a_full_disk_is_said(index: Index, tmp_path: Path) -> None:
    big = archive(("vllm-1.2/docker/Dockerfile.cpu", RECIPE), ("vllm-1.2/big", "x" * (3 << 20)))

    def work() -> None:
        folder = Folder(tmp_path / "small")
        folder.pin(big)
        refused(folder.fetch(mirror.parent.as_uri(), PYTHONDONTWRITEBYTECODE="1"), "The disk is full: about 250 MB")
        assert folder.made() == set()

    mirror = tmp_path / "mirror" / "vllm"
    mirror.mkdir(parents=True)
    (mirror / "index.html").write_text(f'<a href="{NAME}">{NAME}</a>')
    (mirror / NAME).write_bytes(big)
    on_volume(tmp_path / "small", 2, work)


def test_a_python_without_pip_is_told(folder: Folder, tmp_path: Path) -> None:
    subprocess.run((sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")), check=True)
    done = subprocess.run(
        (str(tmp_path / "bare" / "bin" / "python"), str(folder.home / "fetch")),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    refused(done, "has no pip", "install pip")


def test_two_at_once_wait_for_one_another(folder: Folder, index: Index) -> None:
    done: list[subprocess.CompletedProcess[str]] = []
    threads = [threading.Thread(target=lambda: done.append(folder.fetch(index.address))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.returncode for one in done] == [0, 0, 0], done
    assert index.asked.count(f"/files/{NAME}") == 1
