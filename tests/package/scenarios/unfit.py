"""Starts that must fail: parts of the image are missing, or a volume cannot be used. Each is repaired afterwards."""

import os
import subprocess

from dashboard import Dashboard

d = Dashboard(h, RpcError)
h.write("main/store.json", {"serveArgs": ["tiny", "--max-model-len", "4096"]})
h.init()
vllm = "/media/startos/image-fs/vllm/usr/local/bin/vllm"


def starts():
    """Start the service; return whether StartOS took it for started, and what it shows then."""
    started = h.start()
    shown = d.shows("failure", "has ended (")
    h.stop()
    return [started, shown]


os.rename(vllm, vllm + "~")
d.tell(noEngine=starts())
with open(vllm, "w") as script:
    script.write("#!/usr/bin/perl\n")
os.chmod(vllm, 0o755)
d.tell(otherEngine=starts())
os.replace(vllm + "~", vllm)

# A file where the directory of the controller is.
own = h.vol("main/.vllm-fsm")
subprocess.run(["rm", "-rf", own], check=True)
h.write("main/.vllm-fsm", "")
d.tell(noDirectory=starts())
os.remove(own)

# A disk that was remounted read-only, as the kernel does after an error.
volume = h.vol("main")
subprocess.run(["mount", "--bind", volume, volume], check=True)
subprocess.run(["mount", "-o", "remount,bind,ro", volume], check=True)
d.tell(readOnly=starts())
subprocess.run(["umount", volume], check=True)

d.tell(started=h.start(), repaired=d.shows("success"))
d.end(args[0])
