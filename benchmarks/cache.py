"""What `vllm-fsm cache` takes for 1,000 models of 100 files each, all in the kernel's memory.

Once as huggingface_hub leaves models, and once with the lists of files that our own downloads keep beside them. Beside
it stands huggingface_hub's own `scan_cache_dir`. The files are sparse: nothing here depends on their sizes.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import figure
from figure import Bound, Figure
from rig import ROOT  # noqa: F401 - the project can be imported after it

from vllm_fsm import cache
from vllm_fsm.weights.hub_cache import Entry, Listing, RepoFolder

SIZE = 5
MODELS = 1000
FILES = 100
LIMIT = Bound("max", 2)


def measure(size: int = SIZE) -> list[Figure]:
    """List a cache `size` times in each form."""
    from huggingface_hub import scan_cache_dir

    with tempfile.TemporaryDirectory(prefix="vllm-fsm-cache-") as folder:
        models = Path(folder) / "models"
        listings = [fill(models, number) for number in range(MODELS)]
        expected = (MODELS, MODELS * FILES)
        assert counted(cache.listing(models)) == expected
        theirs = seconds(size, lambda: scan_cache_dir(models))
        without = seconds(size, lambda: cache.listing(models))
        for repo_id, listing in listings:
            RepoFolder(models, repo_id).prepare(listing)
        assert counted(cache.listing(models)) == expected
        ours = seconds(size, lambda: cache.listing(models))
    return [
        Figure("listing 1,000 models, 100,000 files", "s", without, LIMIT, digits=2),
        Figure("… downloaded by us", "s", ours, LIMIT, digits=2),
        Figure("… huggingface_hub's scan_cache_dir", "s", theirs, digits=2),
    ]


def fill(models: Path, number: int) -> tuple[str, Listing]:
    """Make one model; return its name and what it holds."""
    repo_id, commit = f"org/model-{number}", f"{number:040x}"
    folder = RepoFolder(models, repo_id)
    names = ["config.json", *(f"model-{part:05}-of-{FILES - 1:05}.safetensors" for part in range(1, FILES))]
    entries = [Entry(name, 1 << 20, f"{number * FILES + at:064x}") for at, name in enumerate(names)]
    os.makedirs(folder.blobs)
    os.makedirs(folder.snapshot(commit))
    for entry in entries:
        with open(folder.blob(entry), "wb") as file:
            file.truncate(entry.size)
        os.symlink(f"../../blobs/{entry.etag}", folder.snapshot(commit, entry.path))
    reference = Path(folder.ref("main"))
    reference.parent.mkdir()
    reference.write_text(commit)
    return repo_id, Listing.of(commit, "main", entries)


def counted(listing: cache.Listing) -> tuple[int, int]:
    """Return how many complete models and files a listing has."""
    return sum(model.complete for model in listing.models), sum(model.files for model in listing.models)


def seconds(size: int, work: Callable[[], object]) -> list[float]:
    """Return what each of `size` times took."""
    taken = []
    for _ in range(size):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return taken


if __name__ == "__main__":
    figure.main(measure, SIZE, "listings")
