"""`vllm-fsm get-api-credentials`: the API key, and the address that it is used with."""

from __future__ import annotations

import argparse

from vllm_fsm.actions import credentials
from vllm_fsm.actions.problems import Rejected
from vllm_fsm.cli import key
from vllm_fsm.cli.refusal import refuse
from vllm_fsm.cli.site import site


def main(arguments: argparse.Namespace) -> int:
    """Print them; return 0 when there is a key."""
    try:
        found = credentials.get(site(arguments), arguments.address)
    except Rejected as refusal:
        return refuse(refusal, as_json=arguments.json)
    key.show(found, arguments)
    return 0
