"""What ended in circles, which counting references does not free.

There are asyncio's closed connections, cancelled tasks with their tracebacks, what belonged to an engine start. Python
looks for them when there are many new objects beside the old ones. These are modules, for the most part, so hundreds of
engine starts would wait for that.
"""

from __future__ import annotations

import gc


class Garbage:
    """Frees it whenever asked to."""

    def __init__(self) -> None:
        self._aside = False
        """What was there at the first time, and will stay, is not looked at any more."""

    def collect(self) -> None:
        """Free it now: some 20 ms the first time, then a fraction of one."""
        gc.collect()
        if not self._aside:
            gc.freeze()
            self._aside = True
