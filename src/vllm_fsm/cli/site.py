"""The service that the flags of an action describe."""

from __future__ import annotations

import argparse
import os
from dataclasses import fields

from vllm_fsm.actions.site import Site
from vllm_fsm.cli.reading import health
from vllm_fsm.config import Config
from vllm_fsm.hardware import detect
from vllm_fsm.hardware.machine import Build


def site(arguments: argparse.Namespace) -> Site:
    """Return it; what has no flag is as by default."""
    given = {field.name: getattr(arguments, field.name) for field in fields(Config) if hasattr(arguments, field.name)}
    config = Config(**given)
    build = getattr(arguments, "build", None)
    return Site(
        config,
        health=lambda: health(config.run_dir),
        detect=lambda: detect(os.environ, Build(build) if build else None),
    )
