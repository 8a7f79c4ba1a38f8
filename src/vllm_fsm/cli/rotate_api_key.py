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
    try:
        found = credentials.rotate(site(arguments), arguments.address)
    except Rejected as refusal:
        return refuse(refusal, as_json=arguments.json)
    key.show(found, arguments)
    return 0
