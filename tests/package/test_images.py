"""The images of the three variants, as far as they can be looked at without a container engine.

The cpu image's recipe is fetched for real, which takes a package index once; then BuildKit's parser reads it.
"""

from __future__ import annotations

import glob
import re

import pytest

from support import s9pk, vllm_pin
from vllm_fsm.presets import built_in

pytest.importorskip("dockerfile", reason="BuildKit's parser is built for Linux on x86_64 only")

from support.image_recipe import Recipe, ignored

SOURCE = vllm_pin.VLLM / "source"
PLATFORMS = {"x86_64": "amd64", "aarch64": "arm64"}


@pytest.fixture(scope="module", autouse=True)
def fetched():
    """Nothing here can be looked at without vLLM's source."""
    vllm_pin.source()


@pytest.fixture(scope="session")
def build(bundles):
    """How the packer is told to build the cpu image; the manifest has nothing else."""
    image = s9pk.manifest(bundles["cpu"], "cpu")["images"]["vllm"]
    return image["source"]["dockerBuild"] | {"arch": image["arch"]}


@pytest.fixture(scope="session", params=PLATFORMS)
def recipe(request, build):
    """The recipe, as it is built for a platform with the arguments of the manifest and those of the packer."""
    assert request.param in build["arch"]
    given = {name: value for name, value in build["buildArgs"].items() if isinstance(value, str)}
    packer = {"ARCH": request.param, "TARGETARCH": PLATFORMS[request.param]}
    return Recipe(s9pk.SOURCE / build["dockerfile"], given | packer)


def test_the_packer_finds_recipe_and_context(build):
    assert (s9pk.SOURCE / build["workdir"]).resolve() == SOURCE
    assert (s9pk.SOURCE / build["dockerfile"]).resolve() == vllm_pin.VLLM / "docker" / "Dockerfile.cpu"


def test_without_a_target_the_serving_image_is_built(recipe):
    """The packer names none: the last stage is built."""
    assert recipe.target == "vllm-openai"
    assert recipe.place("examples") == {"/vllm-workspace/examples"}


def test_every_base_is_a_stage_or_an_image_with_its_tag(recipe):
    assert recipe.bases() == {"ubuntu:22.04"}


def test_everything_that_is_copied_or_mounted_is_in_the_context(recipe):
    left_out = (SOURCE / ".dockerignore").read_text()
    asked = recipe.context()
    assert {"rust", "examples", "requirements/cpu.txt", "."} <= asked
    assert [path for path in asked if not glob.glob(str(SOURCE / path))] == []
    assert [path for path in asked if ignored(path, left_out)] == []


def test_git_is_asked_for_nothing(recipe):
    """There is no history in a source distribution."""
    assert not (SOURCE / ".git").exists()
    commands = [word for stage in recipe.built() for one in stage.instructions for word in (*one.value, *one.flags)]
    assert [word for word in commands if ".git" in word.split("/") or "source=.git" in word] == []
    assert recipe.declared(recipe.stages["vllm-src"])["GIT_REPO_CHECK"] == "0"


def test_whatever_finds_the_version_out_is_told_it(recipe, build):
    """A stage whose command asks setuptools-scm declares the argument before it."""
    name = "SETUPTOOLS_SCM_PRETEND_VERSION"
    asks = 0
    for stage in recipe.built():
        told = any(name in recipe.declared(below) for below in recipe.lineage(stage)[:-1])
        for one in stage.instructions:
            told |= one.cmd == "ARG" and one.value[0].partition("=")[0] == name
            command = " ".join(one.value)
            if one.cmd == "RUN" and ("build_rust.sh" in command or "setup.py" in command):
                asks += 1
                assert told or f"{name}=" in command, (stage.name, command)
    assert asks == 3
    assert build["buildArgs"][name] == vllm_pin.version()


def test_every_argument_that_is_handed_in_is_known(recipe, build):
    known = {name for stage in recipe.built() for name in recipe.declared(stage)}
    assert set(build["buildArgs"]) <= known


def test_every_argument_that_is_not_handed_in_has_a_value_or_may_be_empty(recipe, build):
    """What has no default is a cache in a cloud, off unless asked for, or what a label says."""
    defaults = {}
    for stage in recipe.built():
        for name, default in recipe.declared(stage).items():
            defaults[name] = defaults.get(name) or default
    empty = {name for name, default in defaults.items() if not default} - build["buildArgs"].keys()
    assert empty == {"TARGETARCH", "USE_SCCACHE", "SCCACHE_DOWNLOAD_URL", "SCCACHE_ENDPOINT"}


def test_no_variable_is_used_that_nobody_set(recipe):
    assert recipe.unknown() == set()


def test_the_interpreter_of_vllm_is_on_the_path(recipe):
    """`assets/vllm-fsm` looks for `vllm` there."""
    assert recipe.environment()["PATH"] == "$VIRTUAL_ENV/bin:$PATH"
    assert recipe.environment()["VIRTUAL_ENV"] == "/opt/venv"


def test_the_source_is_the_commit_that_is_named():
    said = (SOURCE / "vllm" / "_version.py").read_text()
    assert f"__commit_id__ = commit_id = 'g{vllm_pin.pins()['vllm']['commit']}'" in said
    assert f"\ntorch=={vllm_pin.pins()['cpu']['torch']}+cpu;" in (SOURCE / "requirements" / "cpu.txt").read_text()
    assert f"__version__ = version = '{vllm_pin.version()}'" in said


@pytest.mark.parametrize(
    ("path", "out"),
    [
        ("lib/x", True),
        ("a/lib", False),
        ("vllm/_C.so", True),
        ("vllm/a/_C.so", False),
        ("a/b/__pycache__/c", True),
        ("a/x.pyc", True),
        ("rust/target/debug", True),
        ("rust/src", False),
        ("kept/any", True),
        ("kept/lib", False),
        (".", False),
    ],
)
def test_a_context_leaves_out_what_its_patterns_say(path, out):
    patterns = "# comment\n\nlib/\nvllm/*.so\n**/__pycache__\n**/*.py[cod]\nrust/target/\nkept\n!kept/lib\n"
    assert ignored(path, patterns) is out


@pytest.mark.parametrize(
    ("product", "served"),
    [
        ("Navi 48 [Radeon RX 9070/9070 XT/9070 GRE]", True),
        ("Aldebaran/MI200 [Instinct MI250X/MI250]", True),
        ("Vega 20 [Radeon Pro VII/Radeon Instinct MI50 32GB]", True),
        ("Renoir [Radeon RX Vega 6 (Ryzen 4000/5000 Mobile Series)]", False),
        ("Polaris 22 XL [Radeon RX Vega M GL]", False),
        ("Oberon/Navi12Lite", False),
    ],
)
def test_graphics_inside_processors_get_no_image_for_amd(bundles, product, served):
    """Names of the list of PCI devices, which StartOS shows."""
    (device,) = s9pk.manifest(bundles["rocm"], "rocm")["hardwareRequirements"]["device"]
    assert bool(re.search(device["product"], product)) is served


def test_chat_templates_of_presets_are_in_the_images():
    """By the recipes of the images that are not built here, as upstream's release pipeline calls them."""
    recipes = {"nvidia": Recipe(SOURCE / "docker" / "Dockerfile", {}, "vllm-openai")}
    recipes["amd"] = Recipe(SOURCE / "docker" / "Dockerfile.rocm", {"INSTALL_LMCACHE": "true"}, "vllm-openai")
    named = {
        (tier.partition("-")[0], path)
        for preset in built_in()
        for tier, config in preset.configs.items()
        for path in config.files
    }
    assert {maker for maker, _ in named} == recipes.keys()
    for maker, path in named:
        folder, _, name = path.rpartition("/")
        assert recipes[maker].place("examples") == {folder}, (maker, path)
        assert (SOURCE / "examples" / name).is_file(), path
