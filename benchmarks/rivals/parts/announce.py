"""Say for a server that it is ready: `announce.py DESCRIPTOR TEXT PORT PID`.

Asks `/health` every 100 ms until it is 200, for as long as the server PID lives, and then writes TEXT and a newline.
"""

import os
import sys
import time

from check import healthy

descriptor, text, port, server = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
while os.path.exists(f"/proc/{server}"):
    if healthy(port):
        os.write(descriptor, f"{text}\n".encode())
        break
    time.sleep(0.1)
