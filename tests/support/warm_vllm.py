"""A package named vllm, installed as pip would, whose imports can be seen and are rude; its server is the rude engine.

| variable | meaning |
|---|---|
| `FAKE_IMPORT=MODE` | what importing it does in a warm parent: `hang`, `busy` (it works for ever), `die` (an |
| | exception), `exit`, `child-exit` (in its children only), `gpu` (says that it initialised one), `noise` (prints |
| | what would be a cause of failure) |
| `FAKE_IMPORT_TIME=S` | it takes so long there |
| `FAKE_RAISE=PATH` | raise at entry what that file names, if it is there |
| `FAKE_REPORT=PATH` | write PATH (JSON): the environment at import and at entry, the version at import |
| `FAKE_SPAWN=PATH` | before it serves, it changes its environment and spawns a process, which spawns one more; each |
| | writes PATH.1, PATH.2 (JSON) and stays |
| `FAKE_SPAWN_OTHER=PATH` | … with a variable OTHER whose value is that file's content |
"""

import shutil
import sys
import sysconfig
from pathlib import Path

from support.rude import SCRIPT

INIT = '''\
"""Imported once in each process; says what the environment was."""
import os, sys, time
from vllm._version import NUMBER
ENVIRONMENT = dict(os.environ)
PARENT = sys.argv[0].endswith("parent.py")
if PARENT:
    mode = os.environ.get("FAKE_IMPORT")
    time.sleep(float(os.environ.get("FAKE_IMPORT_TIME", "0")))
    if mode == "hang":
        time.sleep(3600)
    if mode == "die":
        raise RuntimeError("not today")
    if mode == "exit" or (mode == "child-exit" and len(sys.argv) == 3):
        os._exit(7)
    while mode == "busy":
        pass
    if mode == "noise":
        print("OSError: [Errno 98] Address already in use", flush=True)
    if mode == "gpu":
        import types
        torch = sys.modules["torch"] = types.ModuleType("torch")
        torch.cuda = types.SimpleNamespace(is_initialized=lambda: True)
'''
MAIN = """\
import os

import vllm
from vllm import rude


def main():
    if os.environ.get("FAKE_REPORT"):
        import json

        facts = {"imported": vllm.ENVIRONMENT, "entered": dict(os.environ), "version": vllm.NUMBER, "warm": vllm.PARENT}
        with open(os.environ["FAKE_REPORT"] + ".new", "w") as file:
            json.dump({**facts, "pid": os.getpid()}, file)
        os.replace(os.environ["FAKE_REPORT"] + ".new", os.environ["FAKE_REPORT"])
    if os.path.exists(os.environ.get("FAKE_RAISE", "")):
        with open(os.environ["FAKE_RAISE"]) as file:
            raise {"KeyboardInterrupt": KeyboardInterrupt, "ValueError": ValueError}[file.read()]("as asked")
    path = os.environ.get("FAKE_SPAWN")
    if path:
        import multiprocessing
        from vllm import child

        os.environ["CORE"] = "1"
        os.environ["CORE_TMPDIR"] = os.environ["TMPDIR"] + "/x"
        os.environ.pop("GONE", None)
        if os.environ.get("FAKE_SPAWN_OTHER"):
            with open(os.environ["FAKE_SPAWN_OTHER"]) as file:
                os.environ["OTHER"] = file.read()
        kept = multiprocessing.get_context("spawn").Process(target=child.run, args=(path, 1), name="Core")
        kept.start()
    rude.main()
"""
CHILD = """\
import json, multiprocessing, os, resource, sys, time


def run(path, depth):
    if depth == 1:
        os.environ["WORKER"] = "1"
        multiprocessing.get_context("spawn").Process(target=run, args=(path, 2), name="Worker").start()
    import vllm

    with open("/proc/self/status") as file:
        status = dict(line.split(":\\t", 1) for line in file if ":\\t" in line)
    facts = {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "session": os.getsid(0),
        "imported_with": vllm.ENVIRONMENT,
        "environ": dict(os.environ),
        "warm": vllm.PARENT,
        "argv": sys.argv,
        "main": getattr(sys.modules["__main__"], "__file__", None),
        "path": sys.path,
        "cwd": os.getcwd(),
        "name": multiprocessing.current_process().name,
        "fds": {fd: os.readlink(f"/proc/self/fd/{fd}").split(":")[0] for fd in os.listdir("/proc/self/fd")
                if os.path.lexists(f"/proc/self/fd/{fd}")},
        "limits": resource.getrlimit(resource.RLIMIT_NOFILE),
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "ignored": status["SigIgn"].strip(),
        "blocked": status["SigBlk"].strip(),
        "umask": status["Umask"].strip(),
    }
    with open(f"{path}.{depth}.new", "w") as file:
        json.dump(facts, file)
    os.replace(f"{path}.{depth}.new", f"{path}.{depth}")
    while os.getppid() == facts["parent"]:
        time.sleep(0.05)
"""
SCRIPT_TEXT = """\
#!{python}
import re
import sys
from vllm.entrypoints.cli.main import main
if __name__ == '__main__':
    sys.argv[0] = re.sub(r'(-script\\.pyw|\\.exe)?$', '', sys.argv[0])
    sys.exit(main())
"""


def install(root: Path, version: str = "0.32.0+cpu") -> Path:
    """Make an environment below `root` with this package in it; return the console script."""
    real = Path(sys.executable).resolve()
    python, script = root / "bin" / "python", root / "bin" / "vllm"
    packages = root / sysconfig.get_path("purelib", "posix_prefix", {"base": "."})
    cli = packages / "vllm" / "entrypoints" / "cli"
    cli.mkdir(parents=True)
    (root / "bin").mkdir()
    python.symlink_to(real)
    (root / "pyvenv.cfg").write_text(f"home = {real.parent}\ninclude-system-site-packages = false\n")
    (packages / f"vllm-{version}.dist-info").mkdir()
    (packages / "vllm" / "__init__.py").write_text(INIT)
    (packages / "vllm" / "_version.py").write_text("NUMBER = 0\n")
    (packages / "vllm" / "child.py").write_text(CHILD)
    shutil.copy(SCRIPT, packages / "vllm" / "rude.py")
    for folder in (cli.parent, cli):
        (folder / "__init__.py").write_text("")
    (cli / "main.py").write_text(MAIN)
    (cli / "serve.py").write_text("")
    script.write_text(SCRIPT_TEXT.format(python=python))
    script.chmod(0o755)
    return script
