"""`vllm-fsm` with settings that have no flag: `controller_host.py '{"settings": {…}, "pace": {…}}' run …`.

`wall` names a file with the seconds, a C double, by which the wall clock of this process is wrong. It is read whenever
Python asks for the time of day; the kernel, which stamps files, and other processes go by the true clock.

`aged` lets so many names come and go first, as they do in a long life. CPython's table of interned strings is made
anew when it is full of names that have gone, of a megabyte then, and from the second time on its size stays.

`spare` is how many bytes a download leaves free on the volume.
"""

import asyncio
import datetime
import functools
import json
import os
import struct
import sys
import time

SECONDS = struct.Struct("d")

true_time = time.time


class SteppedDatetime(datetime.datetime):
    """Asks the clock below for now, as `datetime` itself asks the kernel."""

    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(time.time(), tz)


def step_by(path):
    """Let the clock follow the file at `path`."""
    # No more than this, as it is asked for each line of the log and must not be seen in what the controller holds.
    file = os.open(path, os.O_RDONLY)
    time.time = lambda: true_time() + SECONDS.unpack(os.pread(file, SECONDS.size, 0))[0]
    datetime.datetime = SteppedDatetime


overrides = json.loads(sys.argv[1])
if wall := overrides.pop("wall", None):
    step_by(wall)

# From here on everybody takes the clock that is there now.
from vllm_fsm import app  # noqa: E402
from vllm_fsm.cli import run  # noqa: E402
from vllm_fsm.cli.parser import parser  # noqa: E402

if spare := overrides.pop("spare", None):
    app.Downloader = functools.partial(app.Downloader, spare=spare)
for number in range(overrides.pop("aged", 0)):
    sys.intern(f"name {number}")
arguments = parser().parse_args(sys.argv[2:])
sys.exit(run.guarded(lambda: asyncio.run(app.run(run.config(arguments), **overrides))))
