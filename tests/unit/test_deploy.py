"""The recipes of `docs/deploy`: in step with the project, and understood by the tools that read them."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from support import unit_file
from vllm_fsm.cli.parser import parser
from vllm_fsm.config import Config, duration

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "docs" / "deploy"
VERSION = tomllib.loads((ROOT / "vllm" / "version.toml").read_text())["vllm"]["version"]
INSTRUCTIONS = {
    "ARG",
    "FROM",
    "WORKDIR",
    "COPY",
    "RUN",
    "VOLUME",
    "EXPOSE",
    "STOPSIGNAL",
    "HEALTHCHECK",
    "ENTRYPOINT",
    "CMD",
}
CONTAINERFILE = (DEPLOY / "Containerfile").read_text()


def instructions() -> list[tuple[str, str]]:
    """The steps of the Containerfile, with their lines joined."""
    lines = [line for line in CONTAINERFILE.splitlines() if line and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in joined.splitlines())]


def words(name: str) -> list[str]:
    """The last instruction of this name as a list, which it has to be: a shell would be PID 1 otherwise."""
    text = [rest for found, rest in instructions() if found == name][-1]
    listed = yaml.safe_load(text[text.index("[") :])
    assert isinstance(listed, list)
    return listed


# --- systemd ---------------------------------------------------------------------------------------------------------


def test_systemd_understands_every_line(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze here")
    # It also looks whether what is executed exists.
    text = unit_file.UNIT.read_text().replace(unit_file.command()[0], "/bin/true")
    copy = tmp_path / unit_file.UNIT.name
    copy.write_text(text)
    run = subprocess.run(
        ("systemd-analyze", "verify", "--man=no", str(copy)), capture_output=True, text=True, check=False
    )
    about_us = [line for line in run.stderr.splitlines() if copy.name in line]
    assert (run.returncode, about_us) == (0, [])


def test_systemd_waits_longer_than_we_do() -> None:
    settings = unit_file.settings()
    arguments = parser("run").parse_args(unit_file.command()[1:])
    assert float(settings["TimeoutStopSec"][0]) >= arguments.stop_timeout + 10
    assert settings["KillMode"] == ["mixed"], "the controller alone is asked, everything is killed in the end"


def test_the_unit_makes_the_directories_that_it_names() -> None:
    settings = unit_file.settings()
    arguments = parser("run").parse_args(unit_file.command()[1:])
    made = {f"/var/lib/{name}" for name in settings["StateDirectory"][0].split()}
    assert {str(arguments.data), str(arguments.public)} == made
    assert str(arguments.run_dir) == f"/run/{settings['RuntimeDirectory'][0]}"
    assert settings["Environment"] == [f"HOME=/var/cache/{settings['CacheDirectory'][0]}"]


@pytest.mark.parametrize("forbidding", ["PrivateDevices", "DevicePolicy", "MemoryDenyWriteExecute", "SystemCallFilter"])
def test_nothing_that_a_gpu_or_a_compiler_needs_is_forbidden(forbidding: str) -> None:
    assert forbidding not in unit_file.settings()


# --- containers ------------------------------------------------------------------------------------------------------


def test_the_image_is_the_pinned_one() -> None:
    (image,) = (rest for name, rest in instructions() if name == "ARG")
    assert image == f"IMAGE=vllm/vllm-openai:v{VERSION}"
    assert set(re.findall(r"vllm/vllm-openai[\w-]*:(\S+)", CONTAINERFILE)) == {f"v{VERSION}"}


def test_the_containerfile_is_made_of_known_instructions() -> None:
    steps = instructions()
    assert {name for name, _ in steps} == INSTRUCTIONS
    for name, rest in steps:
        if name == "COPY" and "--from" not in rest:
            *sources, _ = rest.split()
            assert all((ROOT / source).exists() for source in sources)


def test_a_container_runs_and_is_asked_by_commands_that_exist() -> None:
    started = parser("run").parse_args([*words("CMD")])
    assert started.engine == ("vllm",)
    assert words("ENTRYPOINT") == ["vllm-fsm"]
    asked = words("HEALTHCHECK")
    assert asked[0] == "vllm-fsm"
    assert parser("health").parse_args(asked[1:]).run_dir == str(Config().run_dir)
    (volumes,) = (yaml.safe_load(rest) for name, rest in instructions() if name == "VOLUME")
    assert volumes == [str(Config().data), str(Config().public)]


def test_compose_waits_longer_than_we_do() -> None:
    (service,) = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"].values()
    assert duration(service["stop_grace_period"]) >= Config().stop_timeout + 10
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert service["build"]["dockerfile"] == "docs/deploy/Containerfile"
    assert [volume.partition(":")[2] for volume in service["volumes"]] == ["/data", "/public"]
