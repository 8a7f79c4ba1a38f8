"""Files that are broken before the start, a controller that is killed, one that hangs, an engine that ends."""

import os
import signal
import time

from dashboard import Dashboard

d = Dashboard(h, RpcError)
h.write("main/store.json", "{ nonsense")
h.write("public/credentials.json", "neither")
h.init()
d.tell(tasks=dict(h.tasks), started=h.start(), broken=d.shows("failure", "store.json"))
d.tell(repaired=h.action_run("set-model", d.custom("tiny --max-model-len 4096")))
d.tell(ready=d.shows("success", "credentials.json"))

# Killed: no moment later than the next look may call it ready, until another one says so.
mark = h.mark()
killed = time.time()
d.kill()
d.shows("failure")
d.tell(noticed=time.time() - killed)
d.until(lambda: d.report() and d.report()["state"] == "Ready")
d.tell(back=d.shows("success"))
looks = [e["params"] for e in h.events[mark:] if e["type"] == "effect" and e["method"] == "set-health"]
d.tell(afterKill=[look["result"] for look in looks if look["id"] == "primary"])

# Quiet for longer than a heartbeat: stuck.
d.kill(signal.SIGSTOP)
d.tell(stuck=d.shows("failure", " s. ", timeout=60.0))
# As it would look if the clock had been set back meanwhile.
later = time.time() + 3600.0
os.utime(h.vol("main/.vllm-fsm/health.json"), (later, later))
d.tell(setBack=d.shows("failure", "clock"))
d.kill(signal.SIGCONT)
d.tell(awake=d.shows("success"))

# The engine ends by itself.
h.action_run("set-model", d.custom("tiny", [("RUDE_DIE_AFTER_READY", "1"), ("RUDE_EXIT_CODE", "3")]))
d.tell(ended=d.shows("loading", "exit status 3"))
d.end(args[0])
