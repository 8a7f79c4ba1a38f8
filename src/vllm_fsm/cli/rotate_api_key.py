"""`vllm-fsm rotate-api-key`: replace the API key."""

from __future__ import annotations

import argparse

from vllm_fsm.actions import credentials
from vllm_fsm.actions.problems import Rejected
from vllm_fsm.cli import key
from vllm_fsm.cli.refusal import refuse
from vllm_fsm.cli.site import site


def main(arguments: argparse.Namespace) -> int:
    """Store a new key and print it; return 0 when it is stored."""
    here = site(arguments)
    try:
        found = credentials.rotate(here, arguments.address)
    except Rejected as refusal:
        return refuse(refusal, as_json=arguments.json)
    follows = " The running service starts the engine anew with it." if here.running else ""
    key.show(found, arguments, f"Clients need the new key.{follows}")
    return 0
