"""A real vLLM whose start stands still: seen, named with its phase, ended, and started once more."""

import os
import signal

from support.real_vllm import START, Service
from vllm_fsm.adapters import procfs


def test_a_stopped_start_hangs_in_its_phase_and_is_started_again():
    overrides = {"settings": {"pulse": 1.0}}
    with Service("--silence-timeout", "4s", "--log-format", "json", overrides=overrides) as service:
        service.wish(256)
        service.says("phase", START, phase="Processes")
        (session,) = service.sessions
        for process in procfs.processes():
            if process.session == session:
                os.kill(process.pid, signal.SIGSTOP)
        exited = service.says("engine-exited", START, attempt=1)
        assert (exited["status"], exited["asked"]) == (-signal.SIGKILL, True)
        service.started(2, START)
        assert not [process for process in procfs.processes() if process.session == session and not process.gone]
        assert service.health()["reason"] == "EngineHung"
        assert service.stop() == 0
