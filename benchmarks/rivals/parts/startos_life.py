"""Run by the stand-in for StartOS in its namespaces, with its harness as `h`: start, and stop when `end` appears."""

import os
import socket
import subprocess
import sys
import time

root, parts = args  # noqa: F821 - the harness gives them, and `h`
if os.environ.get("COMPARE_STRANGER"):
    port = int(os.environ["COMPARE_PORT"])
    subprocess.Popen((sys.executable, "-E", "-S", f"{parts}/stranger.py", str(port)))
    while socket.socket().connect_ex(("127.0.0.1", port)):
        time.sleep(0.01)
h.init()  # noqa: F821
h.start()  # noqa: F821
while not os.path.exists(f"{root}/end"):
    time.sleep(0.01)
h.stop()  # noqa: F821
