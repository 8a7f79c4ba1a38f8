"""`python -m vllm_fsm`."""

import sys

from vllm_fsm.cli import main

if __name__ == "__main__":
    sys.exit(main())
