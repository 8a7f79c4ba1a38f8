"""Run a command whenever a file of a folder changed: `follow.py FOLDER NAME COMMAND…`, the customary helper.

What changes while the command runs is not missed: watchfiles keeps it, and the command runs once more.
"""

import subprocess
import sys
from pathlib import Path

from watchfiles import watch

folder, name, *command = sys.argv[1:]
for _ in watch(folder, watch_filter=lambda change, path: Path(path).name == name, raise_interrupt=False):
    subprocess.run(command, check=False)
