"""What the package's texts say is what the package is."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from support import s9pk, vllm_pin
from vllm_fsm import engine_command
from vllm_fsm.core.snapshot import Secret, Target

STARTOS = s9pk.SOURCE / "startos"
README = (s9pk.SOURCE / "README.md").read_text()
INSTRUCTIONS = (s9pk.SOURCE / "instructions.md").read_text()
UPDATING = (s9pk.SOURCE / "UPDATING.md").read_text()
SECTIONS = [
    "Image and Container Runtime",
    "Volume and Data Layout",
    "File Models",
    "Dependencies",
    "Network Access and Interfaces",
    "Installation and First-Run Flow",
    "Actions",
    "Tasks",
    "Health Checks",
    "Backups and Restore",
    "Limitations and Differences",
    "Quick Reference for AI Consumers",
]
"""The packaging guide's, in its order: readers find a section by its heading."""


def sources(*places):
    """The TypeScript of these places."""
    roots = [STARTOS / place for place in places]
    files = [file for root in roots for file in (sorted(root.rglob("*.ts")) if root.is_dir() else [root])]
    return "\n".join(file.read_text() for file in files)


def sections(text):
    """The bodies of the second-level sections, by heading."""
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def table(body):
    """The cells of the rows of a section's first table."""
    rows = re.findall(r"^\|(.+)\|$", body, re.MULTILINE)
    return [[cell.strip() for cell in row.split("|")] for row in rows[2:]]


@pytest.fixture(scope="module")
def reference():
    """The block for machines."""
    (block,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    return yaml.safe_load(block)


@pytest.fixture(scope="module")
def manifests(bundles):
    return {variant: s9pk.manifest(directory, variant) for variant, directory in bundles.items()}


@pytest.fixture(scope="module")
def actions():
    """The displayed names of the actions by id."""
    found = re.findall(
        r"sdk\.Action\.with(?:out)?Input\(\s*'([\w-]+)',\s*\{\s*name: i18n\('([^']+)'\)", sources("actions")
    )
    assert len(found) == sources("actions/index.ts").count(".addAction(")
    return dict(found)


def test_sections_are_the_guides_and_in_its_order():
    headings = list(sections(README))
    assert [heading for heading in headings if heading in SECTIONS] == SECTIONS
    listed = re.findall(r"^- \[(.+)\]\(#(.+)\)$", sections(README)["Table of Contents"], re.MULTILINE)
    assert [name for name, _ in listed] == headings[1:]
    assert all(link == re.sub(r"[^\w -]", "", name).lower().replace(" ", "-") for name, link in listed)


@pytest.mark.parametrize("heading", SECTIONS[:-1])
def test_sections_open_with_prose(heading):
    """It is taken for the section's summary."""
    assert re.match(r"\n+[A-Z][^\n|]", sections(README)[heading])


@pytest.mark.parametrize("text", [README, INSTRUCTIONS, UPDATING], ids=["README", "instructions", "UPDATING"])
def test_texts_name_no_version(text):
    """The manifest does; a second place would be forgotten. 3.11 and 20 are what tools need."""
    assert re.findall(r"\bv?\d+\.\d+\.\d+\b", text.replace("0.0.0.0", "")) == []


@pytest.mark.parametrize("name", ["README.md", "UPDATING.md"])
def test_files_that_are_named_are_there(name):
    prefixes = r"(?:s9pk|startos|assets|src|tests|docs|vllm)/"
    named = set(re.findall(rf"`({prefixes}[\w./-]*)`", (s9pk.SOURCE / name).read_text()))
    vllm_pin.source()
    images = {"vllm/vllm-openai", "vllm/vllm-openai-rocm"}
    made_for_each_variant = {"assets/lib", "assets/build", "assets/needs"}
    roots = (s9pk.PROJECT,) if name == "UPDATING.md" else (s9pk.PROJECT, s9pk.SOURCE)
    assert len(named) > 5
    for place in named - images - made_for_each_variant:
        assert any((root / place).exists() for root in roots), place


def test_the_reference_is_what_the_manifest_says(reference, manifests):
    manifest = manifests["nvidia"]
    images = {variant: one["images"]["vllm"] for variant, one in manifests.items()}
    assert reference["package_id"] == manifest["id"]
    assert reference["image"] == images["nvidia"]["source"]["dockerTag"].partition(":")[0]
    assert set(reference["architectures"]) == {arch for image in images.values() for arch in image["arch"]}
    assert set(reference["volumes"]) == set(manifest["volumes"])
    assert (reference["dependencies"], manifest["dependencies"]) == ("none", {})


def test_the_reference_is_what_the_code_says(reference, actions):
    main, code = sources("main.ts"), sources("controller.ts", "interfaces.ts")
    assert set(reference["actions"]) == set(actions)
    assert reference["health_checks"] == re.findall(r"\.add(?:Daemon|HealthCheck)\('(\w+)'", main)
    (named,) = re.findall(r"SubContainer\.of\(.*?mounts\(\),\s*'(\w+)'", main, re.DOTALL)
    assert reference["subcontainers"] == [named]
    mounts = re.findall(r"volumeId: '(\w+)',\s*subpath: null,\s*mountpoint: '([^']+)'", code)
    assert reference["volumes"] == dict(mounts)
    (port,) = re.findall(r"port = (\d+)", code)
    (interface,) = re.findall(r"apiInterface = '(\w+)'", code)
    (kind,) = re.findall(r"type: '(\w+)'", sources("interfaces.ts"))
    assert reference["interfaces"] == {interface: {"type": kind, "port": int(port)}}
    task = re.findall(r"createOwnTask\(effects, (\w+), '(\w+)'", sources("init"))
    assert task == [("setModel", "critical")]
    assert reference["tasks"] == [{"action": "set-model", "severity": "critical"}]


def test_the_variables_are_those_that_the_controller_sets(reference, tmp_path):
    target = Target(arguments=("org/name",), environment=(), key=Secret("key"), model="org/name")
    made = engine_command.environment({}, target, data=tmp_path, tmpdir="/tmp")
    assert set(reference["startos_managed_env_vars"]) == set(made)


def test_the_table_of_variants_is_what_the_manifests_say(manifests):
    rows = {row[0].strip("`"): row[1:] for row in table(sections(README)["Image and Container Runtime"])}
    assert rows.keys() == manifests.keys()
    for variant, (image, architectures, needs) in rows.items():
        described = manifests[variant]["images"]["vllm"]
        assert architectures.split(", ") == described["arch"]
        tag = described["source"].get("dockerTag")
        assert tag is None or image.startswith(f"`{tag.partition(':')[0]}`")
        for device in manifests[variant]["hardwareRequirements"]["device"]:
            assert f"`{device['driver']}`" in needs
            for product in (device["product"] or "").split("|"):
                assert product.partition(" [0-9]")[0] in needs


def test_interfaces_tasks_and_checks_are_told(reference, actions):
    body = sections(README)
    (interface,) = table(body["Network Access and Interfaces"])
    ((name, entry),) = reference["interfaces"].items()
    (host,) = re.findall(r"host = '([\w-]+)'", sources("interfaces.ts"))
    assert interface == [f"`{name}`", entry["type"], str(entry["port"]), "HTTP", f"`{host}`"]
    assert [row[:2] for row in table(body["Tasks"])] == [[actions["set-model"], "critical"]]
    shown = re.findall(r"display: i18n\('([^']+)'\)", sources("main.ts"))
    assert [row[:2] for row in table(body["Health Checks"])] == [
        [f"`{check}`", name] for check, name in zip(reference["health_checks"], shown, strict=True)
    ]
    assert re.findall(r"^### (.+)$", body["Actions"], re.MULTILINE) == [actions[one] for one in reference["actions"]]


def test_numbers_are_those_of_the_code():
    runtime = sections(README)["Image and Container Runtime"]
    (patience,) = re.findall(r"sigtermTimeout = (\d+)_000", sources("main.ts"))
    assert f"waits {patience} s" in runtime
    stale, look = (re.findall(rf"{name} = (\d+)_?000", sources("health.ts"))[0] for name in ("stale", "patience"))
    checks = sections(README)["Health Checks"]
    assert f"heartbeat of the last {stale} s" in checks
    assert re.search(rf"A look takes\s+{look} s at most", checks)


def test_what_a_backup_leaves_out_is_told():
    (left_out,) = re.findall(r"exclude: \[(.*?)\]", sources("backups.ts"))
    body = sections(README)["Backups and Restore"]
    for path in re.findall(r"'/([^']+)'", left_out):
        assert f"`{path}/`" in body


def test_the_snippet_for_other_services_has_the_right_types(tools, tmp_path):
    (snippet,) = re.findall(r"```ts\n(.*?)```", README, re.DOTALL)
    program = f"""
        import {{ T }} from '@start9labs/start-sdk'
        import {{ manifest as vllmManifest }} from '{STARTOS}/manifest'
        import {{ host, port }} from '{STARTOS}/interfaces'
        import {{ sdk }} from '{STARTOS}/sdk'
        export async function dependent(effects: T.Effects) {{
        {snippet}
        return {{ mounts, address }}
        }}
        export const same: ['api-multi', 8000] = [host, port]
    """
    modules = s9pk.SOURCE / "node_modules"
    options = {"rootDir": "/", "noEmit": True, "typeRoots": [f"{modules}/@types"], "paths": {"*": [f"{modules}/*"]}}
    (tmp_path / "dependent.ts").write_text(program)
    (tmp_path / "tsconfig.json").write_text(
        json.dumps(
            {
                "extends": f"{s9pk.SOURCE}/tsconfig.json",
                "compilerOptions": options,
                "include": [],
                "files": ["dependent.ts"],
            }
        )
    )
    s9pk.call("npx", "--no-install", "tsc", "-p", str(tmp_path))
    assert re.findall(r"hostId: '([^']+)'|internalPort: (\d+)", snippet) == [("api-multi", ""), ("", "8000")]
    volumes = re.findall(r"volumes: \[(.*?)\]", sources("manifest"))[0]
    assert re.findall(r"volumeId: '(\w+)'", snippet)[0] in volumes


def test_instructions_name_actions_and_interfaces_as_they_are_displayed(actions):
    shown = {*actions.values(), "API", "Custom arguments"}
    bold = set(re.findall(r"\*\*(.+?)\*\*", INSTRUCTIONS, re.DOTALL))
    assert {words for words in bold - shown if not words.endswith(".")} == {"When something is wrong"}
    assert set(actions.values()) <= bold
    (interface,) = re.findall(r"name: i18n\('([^']+)'\)", sources("interfaces.ts"))
    assert f"the **{interface}** interface" in " ".join(INSTRUCTIONS.split())


def test_instructions_are_for_users():
    assert next(iter(sections(INSTRUCTIONS))) == "Documentation"
    assert len(re.findall(r"^- \[.+\]\(https://", sections(INSTRUCTIONS)["Documentation"], re.MULTILINE)) >= 1
    for word in ("manifest", "subcontainer", "daemon", "container", "task", "s9pk", "squashfs", "store.json"):
        assert word not in INSTRUCTIONS.lower(), word


@pytest.mark.parametrize("text", [README, INSTRUCTIONS], ids=["README", "instructions"])
def test_what_the_key_guards_is_what_vllm_says(text):
    source = vllm_pin.source() / "vllm" / "entrypoints" / "serve" / "middleware" / "authenticate.py"
    (prefixes,) = re.findall(r"GUARDED_PREFIX = \((.*?)\)", source.read_text())
    for prefix in re.findall(r'"([^"]+)"', prefixes):
        assert f"`{prefix}`" in text
