"""The controller, with the packages that travel with it at the end of `sys.path`.

The end, so that what the image has wins; `sys.path`, since PYTHONPATH would be inherited by the engine.
"""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
BUILD = "VLLM_FSM_BUILD"

sys.path.append(os.path.join(HERE, "lib"))
with open(os.path.join(HERE, "build"), encoding="ascii") as file:
    os.environ.setdefault(BUILD, file.read().strip())

from vllm_fsm.cli import main  # noqa: E402 - only now can it be found

sys.exit(main())
