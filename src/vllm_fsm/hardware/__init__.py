"""What accelerators and memory this machine has, and what of it a model is served with.

`probes` is what the machine said, `machine.decide` what follows from it, `collect` asks. A question that failed is
never remembered: nothing here is cached.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from vllm_fsm.hardware.machine import Build, Machine


def detect(environment: Mapping[str, str], build: Build | None = None) -> Machine:
    """Ask this machine and decide; takes 5 s at most and a little, raises nothing.

    `environment` is what the engine gets: its variables hide devices. `build` is the build of vLLM that will serve,
    None for what the devices suggest.
    """
    from vllm_fsm.hardware.collect import collect
    from vllm_fsm.hardware.machine import decide

    return decide(collect(), environment, build)
