"""What the tests of the package share: it is built once."""

import sys

import pytest

from support import s9pk
from support.s9pk import StartOS


@pytest.fixture(scope="session")
def node():
    """Node, without which nothing of the package can be built."""
    if (why := s9pk.without_node()) is not None:
        pytest.skip(f"the package is not built here: {why}")


@pytest.fixture(scope="session")
def host():
    """What playing StartOS takes."""
    if (why := s9pk.without_namespaces()) is not None:
        pytest.skip(f"StartOS cannot be played here: {why}")


@pytest.fixture(scope="session")
def tools(node):
    """The package's own tools, installed by its lock file."""
    s9pk.make("node_modules")


@pytest.fixture(scope="session")
def assets():
    """The controller, as it travels."""
    s9pk.make("assets", VARIANT="cpu", PYTHON=sys.executable)
    return s9pk.SOURCE / "assets"


@pytest.fixture(scope="session")
def bundles(tools, tmp_path_factory):
    """The bundle of each variant."""
    directories = {variant: tmp_path_factory.mktemp(variant) for variant in s9pk.VARIANTS}
    running = {variant: s9pk.bundle(variant, directory) for variant, directory in directories.items()}
    try:
        for variant, process in running.items():
            said, _ = process.communicate(timeout=s9pk.PATIENCE)
            assert process.returncode == 0, f"{variant}: {said}"
    finally:
        for process in running.values():
            process.kill()
    return directories


@pytest.fixture(scope="session")
def package(host, bundles, assets, tmp_path_factory):
    """The package of the CPU variant, put together."""
    return s9pk.installed(tmp_path_factory.mktemp("package"), bundles["cpu"])


@pytest.fixture
def startos(package, tmp_path):
    """A fresh installation of it."""
    return StartOS(package, tmp_path)
