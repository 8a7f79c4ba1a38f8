"""Run a command again and again: `python -I -S spawner.py TIMES COMMAND…`. Prints seconds and bytes of each as JSON."""

import os
import sys
import time


def spawn(command):
    """Run it once, its output thrown away; it must succeed."""
    to_null = [(os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0)]
    began = time.monotonic()
    pid = os.posix_spawn(command[0], command, os.environ, file_actions=to_null)
    _, status, usage = os.wait4(pid, 0)
    wall = time.monotonic() - began
    if status:
        sys.exit(f"{command}: status {status}")
    return f'{{"wall": {wall}, "rss": {1024 * usage.ru_maxrss}}}'


if __name__ == "__main__":
    spawn(sys.argv[2:])  # compiles and caches
    print(f"[{', '.join(spawn(sys.argv[2:]) for _ in range(int(sys.argv[1])))}]")
