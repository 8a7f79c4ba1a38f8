"""The package builds with its own tools, and its manifest keeps StartOS's rules."""

import re
import tomllib

import pytest

from support import s9pk

VERSION = tomllib.loads((s9pk.PROJECT / "vllm" / "version.toml").read_text())["vllm"]["version"]


@pytest.fixture(scope="module")
def manifests(bundles):
    return {variant: s9pk.manifest(directory, variant) for variant, directory in bundles.items()}


def test_the_types_hold(tools):
    s9pk.make("check")


def test_the_linter_of_the_sdk_and_the_formatter_have_nothing_to_say(tools):
    s9pk.make("lint", PYTHON=str(s9pk.PROJECT / ".venv" / "bin" / "python"))


def test_the_bundle_is_the_same_for_all_variants(bundles):
    """What is installed reads no VARIANT: it is known to the packer only."""
    assert len({(directory / "javascript" / "index.js").read_bytes() for directory in bundles.values()}) == 1


def test_an_unknown_variant_is_no_variant(bundles):
    with pytest.raises(AssertionError, match="VARIANT is nvida, not one of nvidia, rocm, cpu"):
        s9pk.manifest(bundles["nvidia"], "nvida")


def test_the_version_is_the_one_that_the_project_means(manifests):
    assert {manifest["version"] for manifest in manifests.values()} == {f"{VERSION}:0"}


def test_images_are_upstreams_by_release(manifests):
    images = {variant: manifest["images"]["vllm"] for variant, manifest in manifests.items()}
    assert images["nvidia"]["source"] == {"dockerTag": f"vllm/vllm-openai:v{VERSION}"}
    assert images["rocm"]["source"] == {"dockerTag": f"vllm/vllm-openai-rocm:v{VERSION}"}
    assert "dockerBuild" in images["cpu"]["source"]
    assert {variant: image["arch"] for variant, image in images.items()} == {
        "nvidia": ["x86_64", "aarch64"],
        "rocm": ["x86_64"],
        "cpu": ["x86_64", "aarch64"],
    }
    assert {variant: image["nvidiaContainer"] for variant, image in images.items()} == {
        "nvidia": True,
        "rocm": False,
        "cpu": False,
    }


def test_variants_differ_in_what_they_need_and_in_nothing_else(manifests):
    needs = {variant: manifest["hardwareRequirements"]["device"] for variant, manifest in manifests.items()}
    assert [(device["class"], device["driver"]) for device in needs["nvidia"]] == [("display", "nvidia")]
    assert [(device["class"], device["driver"]) for device in needs["rocm"]] == [("display", "amdgpu")]
    assert needs["cpu"] == []
    same = [
        {name: value for name, value in manifest.items() if name not in ("images", "hardwareRequirements")}
        for manifest in manifests.values()
    ]
    assert same[0] == same[1] == same[2]
    assert same[0]["hardwareAcceleration"] is True
    assert same[0]["volumes"] == ["main", "public"]
    assert same[0]["dependencies"] == {}


@pytest.mark.parametrize(
    ("product", "served"),
    [
        ("Navi 31 [Radeon RX 7900 XT/7900 XTX/7900 GRE/7900M]", True),
        ("Vega 20 [Radeon VII]", True),
        ("Aqua Vanjaram [Instinct MI300X]", True),
        ("Raphael", False),
        ("Phoenix1", False),
        ("Strix Halo [Radeon Graphics / Radeon 8050S Graphics / Radeon 8060S Graphics]", False),
        ("Cezanne [Radeon Vega Series / Radeon Vega Mobile Series]", False),
    ],
)
def test_amd_parts_are_told_by_their_names(manifests, product, served):
    """By a list of what is meant: the expressions of StartOS know no look-ahead."""
    (device,) = manifests["rocm"]["hardwareRequirements"]["device"]
    assert bool(re.search(device["product"], product)) is served
    assert "(?" not in device["product"]


def test_texts_come_in_five_languages_and_fit(manifests):
    manifest = manifests["nvidia"]
    for text, limit in (
        (manifest["description"]["short"], 80),
        (manifest["description"]["long"], 500),
        (manifest["releaseNotes"], 2000),
    ):
        assert set(text) == {"en_US", "es_ES", "de_DE", "pl_PL", "fr_FR"}
        assert max(map(len, text.values())) <= limit
        assert len(set(text.values())) == 5


def test_what_is_packed_is_there():
    assert (s9pk.SOURCE / "LICENSE").read_bytes() == (s9pk.PROJECT / "LICENSE").read_bytes()
    (icon,) = s9pk.SOURCE.glob("icon.*")
    assert icon.stat().st_size <= 40 << 10
    assert "resolved" not in (s9pk.SOURCE / "package-lock.json").read_text()
