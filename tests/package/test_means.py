"""What the tests of the package say where they cannot be run: a tier that skips must say why."""

import os
import stat

from support import s9pk


def test_without_node_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert s9pk.without_node() == "there is no node and no npm and no npx and no make on PATH"


def test_an_old_node_is_named(monkeypatch, tmp_path):
    for name in ("node", "npm", "npx", "make"):
        (tmp_path / name).write_text("#!/bin/sh\necho v18.20.4\n")
        (tmp_path / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert s9pk.without_node() == "Node 20 or newer is needed, and this is v18.20.4"


def test_without_root_it_says_so(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert s9pk.without_namespaces() == "root is needed, for namespaces and mounts"


def test_what_the_kernel_refuses_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert s9pk.without_namespaces() == "there is no unshare on PATH"
    (tmp_path / "unshare").write_text(
        "#!/bin/sh\necho 'unshare: unshare failed: Operation not permitted' >&2\nexit 1\n"
    )
    (tmp_path / "unshare").chmod(stat.S_IRWXU)
    told = "namespaces and overlays cannot be made (unshare: unshare failed: Operation not permitted)"
    assert s9pk.without_namespaces() == told
