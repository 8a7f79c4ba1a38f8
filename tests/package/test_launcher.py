"""The controller as it travels: on the interpreter of an image's vLLM, with what does not come along with that."""

import json
import os
import re
import shutil
import signal
import subprocess
import tomllib

import pytest

from support import hub_cache, real_vllm, rude, s9pk
from support.by_path import load
from support.wait import LIMIT, wait_for

vendor = load(s9pk.SOURCE / "vendor.py")
CONSTRAINTS = (s9pk.PROJECT / "constraints.txt").read_text()
PYPROJECT = (s9pk.PROJECT / "pyproject.toml").read_text()
NEEDED = tomllib.loads(PYPROJECT)["project"]["dependencies"]

METADATA = """
import json, sys
from importlib.metadata import distribution
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

def walk(requirement):
    requirement = Requirement(requirement)
    name = canonicalize_name(requirement.name)
    asked.setdefault(name, set()).add(str(requirement.specifier))
    if (name, *sorted(requirement.extras)) in seen:
        return
    seen.add((name, *sorted(requirement.extras)))
    try:
        found = distribution(name)
    except Exception:
        return
    versions[name] = found.version
    for one in found.requires or ():
        marker = Requirement(one).marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *requirement.extras)):
            walk(one)

asked, seen, versions = {}, set(), {}
walk(sys.argv[1])
wanted = [Requirement(one) for one in json.load(sys.stdin)]
print(json.dumps({one.name: [canonicalize_name(one.name) in asked, versions.get(canonicalize_name(one.name)),
    one.specifier.contains(versions.get(canonicalize_name(one.name), "0"))] for one in wanted}))
"""


@pytest.fixture
def image(tmp_path, assets):
    """Runs the launcher in an image whose `vllm` begins with a given line."""

    def run(first, *words, second="", path="", assets=assets, **options):
        script = tmp_path / "bin" / "vllm"
        script.parent.mkdir(exist_ok=True)
        script.write_text(f"{first}\n{second}\nraise SystemExit('this is vllm')\n")
        script.chmod(0o755)
        environment = {"PATH": f"{script.parent}:{path}/usr/bin:/bin", "HOME": "/root"}
        return subprocess.run(
            ("sh", str(assets / "vllm-fsm"), *words),
            env=environment, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60, **options,
        )  # fmt: skip

    return run


@pytest.fixture
def python():
    return real_vllm.python()[0]


def test_what_is_needed_comes_from_vllm_or_along_with_us():
    """Whatever vLLM requires by itself is in every image, in a version that will do."""
    names = {re.split(r"[<>=!~ ]", one)[0] for one in NEEDED}
    assert set(vendor.BESIDE) - {"six"} <= names
    rest = [one for one in NEEDED if re.split(r"[<>=!~ ]", one)[0] not in vendor.BESIDE]
    requirer = tomllib.loads((s9pk.PROJECT / "vllm" / "version.toml").read_text())["cpu"]["package"]
    done = subprocess.run(
        (real_vllm.python()[0], "-c", METADATA, requirer),
        input=json.dumps(rest), capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert {name for name, (asked, _, fits) in found.items() if not asked or not fits} == set(), found
    assert found.keys() == {"h11", "huggingface-hub", "psutil", "pydantic", "watchfiles"}


def test_only_what_is_pinned_with_a_hash_is_fetched():
    lines = vendor.pins(CONSTRAINTS, vendor.BESIDE)
    assert [line.partition("==")[0] for line in lines.splitlines() if "==" in line] == list(vendor.BESIDE)
    assert lines.count("--hash=sha256:") >= len(vendor.BESIDE)
    with pytest.raises(ValueError, match="pins no left-pad with a hash"):
        vendor.pins(CONSTRAINTS, ("six", "left-pad"))


def test_what_travels_is_the_controller_and_pure_python(assets):
    library = assets / "lib"
    sources = {path.relative_to(s9pk.PROJECT / "src") for path in (s9pk.PROJECT / "src").rglob("*.py")}
    assert {path.relative_to(library) for path in (library / "vllm_fsm").rglob("*.py")} == sources
    assert list(library.rglob("*.so")) == []
    assert not (library / "example.py").exists()
    assert sum(path.stat().st_size for path in library.rglob("*") if path.is_file()) < 4 << 20


def test_what_the_image_has_to_have_is_known_to_the_launcher():
    rest = [one for one in NEEDED if re.split(r"[<>=!~ ]", one)[0] not in vendor.BESIDE]
    assert vendor.needs(PYPROJECT).splitlines() == [one.replace(">=", " ") for one in rest]
    with pytest.raises(ValueError, match="h11==1 is not just a name and a lowest version"):
        vendor.needs('project.dependencies = ["h11==1"]')


def test_an_image_with_old_packages_is_refused_by_name(assets, image, python, tmp_path):
    """The versions are those of a real environment; here more is asked of them than any will ever have."""
    asked = tmp_path / "assets"
    shutil.copytree(assets, asked)
    (asked / "needs").write_text("pydantic 999.1\nh11 0.14\nleft-pad 1\n")
    done = image(f"#!{python}", "--version", assets=asked)
    assert done.returncode == 70
    old = r"pydantic 2\.[\d.]+, and 999\.1 is the lowest version that will do"
    assert re.fullmatch(rf"vllm-fsm: the image of vLLM has {old}; no left-pad\n", done.stderr)


def test_it_runs_on_the_interpreter_of_vllm(image, python):
    done = image(f"#!{python}", "--version")
    assert (done.stdout, done.stderr, done.returncode) == ("vllm-fsm 0.1.0\n", "", 0)


@pytest.mark.parametrize(
    "first", ["#!{python} -sP", "#! {python}", "#!/usr/bin/env python", "#!/usr/bin/env -S python -I"]
)
def test_it_finds_the_interpreter_however_it_is_named(image, python, first):
    done = image(first.format(python=python), "--version", path=f"{os.path.dirname(python)}:")
    assert (done.stdout, done.stderr) == ("vllm-fsm 0.1.0\n", "")


@pytest.mark.parametrize("folder", ["a folder", "a_folder"])
def test_it_finds_an_interpreter_whose_path_no_first_line_can_hold(image, tmp_path, folder):
    python = tmp_path / folder / "python3.12"
    python.parent.mkdir()
    python.write_text('#!/bin/sh\nprintf "%s|" "$0" "$@"\n')
    python.chmod(0o755)
    quoted = f'"{python}"' if " " in folder else python
    done = image("#!/bin/sh", "--help", "a  b", second=f"'''exec' {quoted} \"$0\" \"$@\"\n' '''")
    launch = s9pk.SOURCE / "assets" / "launch.py"
    assert done.stdout == f"{python}|-P|{launch}|--help|a  b|"


def test_without_vllm_it_says_so(assets):
    done = subprocess.run(
        ("/bin/sh", str(assets / "vllm-fsm"), "--version"),
        env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (70, "vllm-fsm: there is no vllm on PATH in this image\n")


@pytest.mark.parametrize("first", ["#!/usr/bin/perl", "\x7fELF", "", "#!", "#!/bin/sh"])
def test_without_a_python_it_says_so(image, first):
    done = image(first, "--version")
    assert done.returncode == 70
    assert done.stderr.endswith("names no Python interpreter\n")


def test_blanks_and_dashes_reach_the_controller_as_they_are(image, python, tmp_path):
    words = ("action", "run", "set-model", "--data", str(tmp_path), "--run-dir", str(tmp_path), "--input", "-")
    given = json.dumps({"selection": "custom", "customArgs": "-- * $HOME 'a  b"})
    done = image(f"#!{python} -IS", *words, input=given)
    assert json.loads(done.stdout)["errors"][0]["code"] == "QuoteNotClosed"


def test_the_image_says_which_build_serves(image, python):
    assert json.loads(image(f"#!{python}", "hardware", "--json").stdout)["tier"] == "cpu"


def test_it_keeps_an_engine(assets, tmp_path):
    """A whole life, as the daemon of the package runs it, without an environment of ours."""
    script = s9pk.image(tmp_path / "image")
    data, public, port = tmp_path / "data", tmp_path / "public", str(rude.free_port())
    own = data / ".vllm-fsm"
    hub_cache.keep(data / "models", "tiny")
    public.mkdir()
    (data / "store.json").write_text(json.dumps({"serveArgs": ["tiny"]}))
    daemon = subprocess.Popen(
        s9pk.daemon(assets, data, public, port),
        env={"PATH": f"{script.parent}:/usr/bin:/bin"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        report = wait_for(lambda: s9pk.ready(own), what="ready")
        assert report["result"] == "success"
        daemon.send_signal(signal.SIGTERM)
        said, _ = daemon.communicate(timeout=LIMIT)
    finally:
        daemon.kill()
        daemon.wait()
    assert daemon.returncode == 0, said
