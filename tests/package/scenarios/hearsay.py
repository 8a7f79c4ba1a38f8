"""What is shown of a `health.json` that this scenario writes itself: the controller is one that only prints."""

import os
import time

from dashboard import Dashboard

d = Dashboard(h, RpcError)
h.write("main/store.json", {"serveArgs": ["tiny"]})
h.init()
path, said = h.vol("main/.vllm-fsm/health.json"), h.vol("main/said")
os.mkfifo(said)
with open("/proc/sys/kernel/random/boot_id") as file:
    boot = file.read().strip()


def says(*report, **more):
    """Have the controller say that; return what is shown then."""
    write(*report, **more)
    return looked()


def write(state, result, *parts, download=None, boot=boot, age=0.0):
    """Put a report in the controller's place."""
    listed = [{"id": id_, "params": params} for id_, params in parts]
    content = {"state": state, "result": result, "parts": listed, "message": "", "download": download, "bootId": boot}
    h.write("main/.vllm-fsm/health.json", content)
    os.utime(path, (time.time() - age,) * 2)


def prints(line):
    """Have the controller print that on standard error."""
    with open(said, "w") as pipe:
        pipe.write(line + "\n")


def looked():
    """Wait for a look of both checks that began after this, and return what they show."""
    mark = h.mark()
    for check in ("primary", "primary", "download"):
        event = h.wait(lambda e, c=check: e.get("method") == "set-health" and e["params"]["id"] == c, 30, mark)
        assert event is not None, f"no look of {check} within 30 s"
        mark = h.events.index(event) + 1
    return {check: [health["result"], health["message"]] for check, health in h.health.items()}


write("Ready", "success", ("Ready", {}), age=5.0)
d.tell(started=h.start(), fromAnEarlierRun=looked())
more = {"repo": "org/next", "percent": 43, "minutes": 6}
d.tell(ready=says("Ready", "success", ("Ready", {}), ("ReservedArgument", {"argument": "--port"})))
d.tell(failed=says("Failed", "failure", ("StartupTimeout", {"minutes": 35})))
write("Ready", "success", ("Ready", {}))
prints("a stray line")
d.tell(stray=looked(), strayAndSilent=says("Ready", "success", ("Ready", {}), age=7.0))
d.tell(strayAndHeard=says("Ready", "success", ("Ready", {})))
d.tell(form=h.action_input("set-model"))
d.tell(cached=h.action_input("delete-model-cache"))
d.tell(deleted=h.action_run("delete-model-cache", {"model": "tiny", "force": False}))
if os.environ["LANG"] != "C.UTF-8":
    # For another language, this is enough.
    d.end(args[0])
    raise SystemExit
d.tell(
    next=says("Ready", "success", ("ReadyNextTime", more), download={"repo": "org/next"}),
    loading=says("Downloading", "loading", ("Downloading", {"repo": "org/1"}), ("Loading", {}), download={"repo": ""}),
    unknown=says("Ready", "splendid", ("Ready", {})),
    anotherBoot=says("Ready", "success", ("Ready", {}), boot="another"),
    old=says("Ready", "success", ("Ready", {}), age=16.0),
)
h.write("main/.vllm-fsm/health.json", "{ nonsense")
d.tell(nonsense=looked())
h.write("main/.vllm-fsm/health.json", "null")
d.tell(null=looked())
os.remove(path)
os.mkfifo(path)
d.tell(pipe=looked())
os.remove(path)
os.mkdir(path)
d.tell(directory=looked())
d.end(args[0])
