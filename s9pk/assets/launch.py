"""The controller, with the packages that travel with it at the end of `sys.path`.

The end, so that what the image has wins; `sys.path`, since PYTHONPATH would be inherited by the engine. What the image
has must be new enough: `needs` has a line for each of its packages that the controller uses, with the lowest version.
"""

import os
import sys
from importlib.metadata import PackageNotFoundError, version

HERE = os.path.dirname(os.path.abspath(__file__))
BUILD = "VLLM_FSM_BUILD"


def lacks():
    """What of the image will not do, in words; nothing when all is well."""
    with open(os.path.join(HERE, "needs"), encoding="ascii") as file:
        needs = [line.split() for line in file]
    for name, lowest in needs:
        try:
            found = version(name)
        except PackageNotFoundError:
            yield f"no {name}"
        else:
            if numbers(found) < numbers(lowest):
                yield f"{name} {found}, and {lowest} is the lowest version that will do"


def numbers(release):
    """The numbers of a version, up to the first part that is none, such as `post1`."""
    found = []
    for part in release.split("."):
        if not part.isdigit():
            break
        found.append(int(part))
    return found


if lacking := "; ".join(lacks()):
    print(f"vllm-fsm: the image of vLLM has {lacking}", file=sys.stderr)
    sys.exit(70)

sys.path.append(os.path.join(HERE, "lib"))
with open(os.path.join(HERE, "build"), encoding="ascii") as file:
    os.environ.setdefault(BUILD, file.read().strip())

from vllm_fsm.cli import main  # noqa: E402 - only now can it be found

sys.exit(main())
