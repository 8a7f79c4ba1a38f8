"""`vllm-fsm` with settings that have no flag: `controller_host.py '{"settings": {…}, "pace": {…}}' run …`."""

import asyncio
import json
import sys

from vllm_fsm import app
from vllm_fsm.cli import run
from vllm_fsm.cli.parser import parser

overrides = json.loads(sys.argv[1])
arguments = parser().parse_args(sys.argv[2:])
sys.exit(run.guarded(lambda: asyncio.run(app.run(run.config(arguments), **overrides))))
