"""Choice after choice: none may be lost."""

import time

from dashboard import Dashboard

d = Dashboard(h, RpcError)
h.init()
h.action_run("set-model", d.custom("tiny --max-model-len 1000"))
h.start()
d.shows("success")
PATIENCE = 20.0
"""Seconds after which a change is lost: the watch would look by itself after 30."""
lost, took = [], []
for length in range(1001, 1001 + int(args[1])):
    h.action_run("set-model", d.custom(f"tiny --max-model-len {length}"))
    begun = time.monotonic()
    try:
        d.until(
            lambda length=length: (d.report() or {}).get("active", {}).get("arguments", [])[-1:] == [str(length)],
            PATIENCE,
        )
    except AssertionError:
        lost.append(length)
    took.append(time.monotonic() - begun)
d.tell(lost=lost, took=sorted(took), attempts=d.report()["attempt"], ready=d.shows("success"))
d.tell(restarts=d.effects("restart"))
d.end(args[0])
