"""Imports what an engine will need, waits, and becomes the engine: run by path by the engine's own interpreter.

    parent.py DESCRIPTOR SCRIPT [PADDING]

Standard library only, and nothing of ours: what is imported here is in the engine too. DESCRIPTOR is a socket; whoever
holds its other end starts this process, or ends it by closing. SCRIPT is vLLM's console script.
PADDING makes room for the arguments of the engine, which will be shown in place of these.

vLLM starts its other processes by `multiprocessing`'s method `spawn`: a fresh interpreter, which imports everything
again. So each process here keeps a spare for every child that it is told it will spawn: a real child of it, executed
with exactly the environment that it would be spawned with. When the time comes, the spare takes the place of that
child, if the environment is the expected one; otherwise the child is spawned as ever.

Talk on the socket, one JSON text a line:

    they  {"depth": 0, "hasty": …, "children": [{"environment": {…}, "children": […]}]}     "nice" for a spare
    we    {"pid": …, "threads": …, "modules": …, "missing": […], "gpu": …, "children": […]}   all is imported
    they  {"argv": […], "variables": {…}}                                                    start
    we    {"taken": true}                                                                    this is the engine now
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

LOWEST = 19
"""The nice value of the imports."""
IDLE_CLASS = 3 << 13
"""The I/O priority of the imports: only what nobody else wants."""
IOPRIO_SET = {"x86_64": 251, "aarch64": 30}
PATIENCE = 3.0
"""Seconds in which a spare must answer."""
UNUSED = 300.0
"""Seconds that a spare waits once the process that keeps it is in use."""
ASIDE = 128
"""The lowest number of a descriptor of ours."""
LONGEST = 1 << 22
"""Bytes of a line."""
VOLATILE = ("VLLM_API_KEY",)
"""What is given at the start only: vLLM reads it when it needs it, and no import does."""
SPAWN = "from multiprocessing.spawn import spawn_main; spawn_main("
PR_SET_PDEATHSIG, PR_SET_NAME, PR_SET_MM, PR_SET_MM_MAP = 1, 15, 35, 14

LEADER = (
    "vllm.entrypoints.cli.main",
    "vllm.entrypoints.cli.benchmark.main",
    "vllm.entrypoints.cli.collect_env",
    "vllm.entrypoints.cli.download_kernels",
    "vllm.entrypoints.cli.launch",
    "vllm.entrypoints.cli.openai",
    "vllm.entrypoints.cli.preload",
    "vllm.entrypoints.cli.run_batch",
    "vllm.entrypoints.cli.serve",
    "vllm.entrypoints.cli.snapshot",
    "vllm.v1.engine.async_llm",
)
"""What the leader imports until it serves."""
CORE = (
    "vllm.entrypoints.cli.main",
    "vllm.v1.engine.core",
    "vllm.v1.executor.multiproc_executor",
    "vllm.v1.executor.uniproc_executor",
)
"""What the process with the scheduler imports."""
WORKER = ("vllm.entrypoints.cli.main", "vllm.v1.executor.multiproc_executor", "vllm.model_executor.model_loader")
"""What a process with a model imports, beside the worker of its platform."""
RUNNERS = {
    "cpu": ("vllm.v1.worker.cpu_worker", "vllm.v1.worker.cpu_model_runner"),
    "cuda": ("vllm.v1.worker.gpu_worker", "vllm.v1.worker.gpu_model_runner"),
    "rocm": ("vllm.v1.worker.gpu_worker", "vllm.v1.worker.gpu_model_runner"),
}
"""The worker of each platform. On GPUs it may live in the process with the scheduler."""


class Priority:
    """Lowered for the imports where it can be raised to `nice` again: else an engine would stay slow for ever."""

    def __init__(self, nice: int, *, leads: bool) -> None:
        self.nice = nice
        self._lowered = self._returns()
        self._group: str | None = None
        if self._lowered:
            os.setpriority(os.PRIO_PROCESS, 0, LOWEST)
            # Where the scheduler shares by session (autogroup, sched(7)), a nice value counts inside of one only.
            self._group = self._set_group(str(LOWEST)) if leads else None
        self._set_io(0, IDLE_CLASS)

    def _set_group(self, nice: str) -> str | None:
        """Set our session's nice value, and return the one before; None where there is none."""
        try:
            with open("/proc/self/autogroup", "r+", encoding="ascii") as file:
                before = file.read().rpartition("nice")[2].strip()
                file.seek(0)
                file.write(nice)
            return before or None
        except OSError:
            return None

    def _returns(self) -> bool:
        import resource

        capable = int(_status("CapEff:")[0][1], 16)
        allowed = resource.getrlimit(resource.RLIMIT_NICE)[0]
        return bool(capable >> 23 & 1) or allowed == resource.RLIM_INFINITY or allowed >= 20 - self.nice

    def _set_io(self, thread: int, priority: int) -> None:
        number = IOPRIO_SET.get(os.uname().machine)
        if number is not None:
            import ctypes

            ctypes.CDLL(None).syscall(number, 1, thread, priority)

    def restore(self) -> None:
        """Give every thread its priority back: libraries start some when they are loaded."""
        if self._group is not None:
            for _ in range(50):
                if self._set_group(self._group) is not None:
                    break
                time.sleep(0.1)  # the kernel takes one change in so much time
            else:
                sys.exit("the priority cannot be raised again")
        for thread in os.listdir("/proc/self/task"):
            if self._lowered:
                try:
                    os.setpriority(os.PRIO_PROCESS, int(thread), self.nice)
                except ProcessLookupError:
                    continue  # it ended meanwhile
            self._set_io(int(thread), 0)


def die_with_parent(signal: int) -> None:
    """Be sent this signal when our parent ends; 0: none. A spare is of no use without it, and nobody else ends it."""
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal, 0, 0, 0)


class Channel:
    """Lines of JSON on a socket, with descriptors; out of the way of the numbers that a spawned process is given."""

    def __init__(self, descriptor: int) -> None:
        import fcntl

        self.socket = socket.socket(fileno=fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, ASIDE))
        os.close(descriptor)
        self._rest = b""
        self.descriptors: list[int] = []
        """Those that came."""

    def send(self, message: object, descriptors: Sequence[int] = ()) -> None:
        """Send one line. Raises OSError."""
        data = json.dumps(message).encode() + b"\n"
        sent = socket.send_fds(self.socket, [data], list(descriptors)) if descriptors else 0
        if sent < len(data):  # who has read all may have closed already
            self.socket.sendall(data[sent:])

    def receive(self, timeout: float | None = None) -> Any:
        """Return a line, None at the end. Raises OSError, ValueError."""
        self.socket.settimeout(timeout)
        while b"\n" not in self._rest:
            part, found, _, _ = socket.recv_fds(self.socket, 1 << 16, 64)
            self.descriptors += found
            self._rest += part
            if not part:
                return None
            if len(self._rest) > LONGEST:
                raise ValueError("too long")
        line, _, self._rest = self._rest.partition(b"\n")
        return json.loads(line)

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()


class Spare:
    """A child that waits to be what we will spawn, as `plan` describes it."""

    def __init__(self, plan: dict[str, Any], depth: int, nice: int, script: str, *, hasty: bool) -> None:
        import multiprocessing.util
        import subprocess

        self.environment: dict[str, str] = plan["environment"]
        self._inherited = [*_inherited(), nice]
        ours, theirs = socket.socketpair()
        flags = multiprocessing.util._args_from_interpreter_flags()  # type: ignore[attr-defined]
        words = [sys.executable, *flags, os.path.abspath(__file__), str(theirs.fileno()), script]
        # As `multiprocessing` would, down to the signals that are ignored.
        process = subprocess.Popen(words, env=self.environment, pass_fds=(theirs.fileno(),), restore_signals=False)
        process.returncode = 0  # it is `multiprocessing` that will wait for it
        self.pid = process.pid
        theirs.close()
        self._channel = Channel(ours.detach())
        self._channel.send({"depth": depth, "nice": nice, "hasty": hasty, "children": plan["children"]})

    def ready(self) -> Any:
        """Wait until all is imported, its own children's too; return what it says, None if it ended."""
        try:
            return self._channel.receive()
        except (OSError, ValueError):
            return None

    def fits(self) -> bool:
        """Whether a child that is spawned now would have the same environment, and the same of us, as this one."""
        environment = {name: value for name, value in os.environ.items() if name not in VOLATILE}
        nice = os.getpriority(os.PRIO_PROCESS, 0)
        return self.environment == environment and self._inherited == [*_inherited(), nice]

    def take(self, words: list[str], descriptors: list[int]) -> bool:
        """Let it be the child that is started by `words`; False if it does not answer."""
        import resource

        order = {
            "argv": words,
            "variables": {name: os.environ.get(name) for name in VOLATILE},
            "limits": [[number, *resource.getrlimit(number)] for number in limits()],
            "umask": umask(),
            "directory": os.getcwd(),
            "descriptors": descriptors,
        }
        try:
            self._channel.send(order, descriptors)
            return bool(self._channel.receive(PATIENCE)["taken"])
        except (OSError, ValueError, TypeError):
            return False
        finally:
            self._channel.close()

    def end(self) -> None:
        """Kill and reap it."""
        try:
            os.kill(self.pid, 9)
            os.waitpid(self.pid, 0)
        except OSError:
            pass
        self._channel.close()

    def call(self) -> None:
        """Say that its time comes soon, or never."""
        try:
            self._channel.send({"soon": True})
        except OSError:
            pass


class Children:
    """The spares of this process, in the order in which they will be spawned.

    All are executed at once where that is `hasty`; else one after the other, as the machine has other things to do.
    """

    def __init__(self, plans: Iterable[dict[str, Any]], depth: int, nice: int, script: str, *, hasty: bool) -> None:
        made = (Spare(plan, depth + 1, nice, script, hasty=hasty) for plan in plans)
        self._executed = list(made) if hasty else []
        self._coming = iter(self._executed) if hasty else made
        self._spares: list[Spare] = []
        self.said: list[Any] = []

    def wait(self) -> None:
        """Wait until all have imported what they need; those after one that ended are of no use."""
        for spare in self._coming:
            ready = spare.ready()
            if ready is None:
                spare.end()
                break
            self._spares.append(spare)
            self.said.append(ready)
        for spare in self._executed[len(self._spares) + 1 :]:
            spare.end()

    def attach(self) -> None:
        """From now on be asked before a child is spawned."""
        if not self._spares:
            return
        import multiprocessing.util

        for spare in self._spares:
            spare.call()
        util: Any = multiprocessing.util
        self._spawn = util.spawnv_passfds
        util.spawnv_passfds = self._instead

    def _instead(self, path: bytes, arguments: Sequence[str | bytes], descriptors: Iterable[int]) -> int:
        """Take the place of `multiprocessing.util.spawnv_passfds`; return the pid."""
        words = [os.fsdecode(word) for word in arguments]
        spawned = len(words) > 2 and words[-1] == "--multiprocessing-fork" and words[-2].startswith(SPAWN)
        if spawned and self._spares and os.fsdecode(path) == sys.executable:
            spare = self._spares.pop(0)
            if spare.fits() and spare.take(words, sorted(set(descriptors))):
                return spare.pid
            spare.end()
        pid: int = self._spawn(path, arguments, descriptors)
        return pid


def _status(*names: str) -> list[list[str]]:
    """Return these lines of what the kernel says of this thread, as words."""
    with open("/proc/thread-self/status", encoding="ascii", errors="replace") as file:
        return [line.split() for line in file if line.startswith(names)]


def _inherited() -> list[Any]:
    """What a spawned process has from the thread that spawns it, and its imports may have been affected by."""
    return [_status("SigBlk:", "SigIgn:"), sorted(os.sched_getaffinity(0))]


def limits() -> list[int]:
    """Return the numbers of the kinds of resource limits."""
    import resource

    return sorted({getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")})


def umask() -> int:
    """Return our umask without setting it for a moment, as `os.umask` would: other threads make files.

    -1 where the kernel does not tell.
    """
    lines = _status("Umask:")
    return int(lines[0][1], 8) if lines else -1


def imported(depth: int) -> list[str]:
    """Import what a process at this depth needs; return the names that there are not."""
    import importlib

    missing: list[str] = []

    def load(names: Iterable[str]) -> None:
        for name in names:
            try:
                importlib.import_module(name)
            except ImportError as error:
                missing.append(f"{name}: {error}")

    load((LEADER, CORE, WORKER)[min(depth, 2)])
    if depth > 0 and "vllm.platforms" in sys.modules:
        kind = getattr(sys.modules["vllm.platforms"].current_platform, "device_type", "")
        # On a CPU the worker is always a process of its own.
        if depth > 1 or kind != "cpu":
            load(RUNNERS.get(kind, ()))
    return missing


def gpu_touched() -> bool:
    """Whether a GPU was initialised; nothing that is imported may do that."""
    torch = sys.modules.get("torch")
    kinds = [getattr(torch, kind, None) for kind in ("cuda", "xpu")]
    return any(kind.is_initialized() for kind in kinds if kind is not None)


def show(words: Sequence[str], name: str) -> None:
    """Let the kernel show these arguments and this name for the process, as after an exec.

    They are written over our own, as far as there is room. Where the kernel does not let us say how long they are
    (PR_SET_MM_MAP, without privileges since Linux 4.18), zeros follow.
    """
    import ctypes
    import struct

    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_NAME, ctypes.c_char_p(os.fsencode(name)[:15]), 0, 0, 0)
    with open("/proc/self/stat", "rb") as file:
        fields = [b"", b"", *file.read().rpartition(b")")[2].split()]  # field n of proc(5) is fields[n - 1]
    if not _SPACE:
        _SPACE.extend(map(int, fields[47:49]))
    start, end = _SPACE
    text = b"".join(os.fsencode(word) + b"\0" for word in words)[: end - start - 1]
    ctypes.memmove(start, text.ljust(end - start, b"\0"), end - start)
    libc.sbrk.restype = ctypes.c_void_p
    numbers = [*fields[25:27], *fields[44:47], libc.sbrk(0), fields[27], start, start + len(text), *fields[49:51]]
    layout = struct.pack("<12QIi", *map(int, numbers), 0, 0, -1)
    libc.prctl(PR_SET_MM, PR_SET_MM_MAP, ctypes.c_char_p(layout), ctypes.c_ulong(len(layout)), 0)


_SPACE: list[int] = []
"""Where our arguments began and ended when we were executed."""


def place(descriptors: Iterable[int], wanted: Sequence[int]) -> bool:
    """Give received `descriptors` the numbers `wanted`, in which a spawned process would have them.

    False if something else has one of these numbers: an import opened it.
    """
    import fcntl

    above = max(ASIDE, *wanted) + 1
    moved = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, above) for descriptor in descriptors]
    for descriptor in descriptors:
        os.close(descriptor)
    if len(moved) != len(wanted) or any(os.path.lexists(f"/proc/self/fd/{number}") for number in wanted):
        return False
    for descriptor, number in zip(moved, wanted, strict=True):
        os.dup2(descriptor, number)  # left open at an exec, as they are in a spawned process
        os.close(descriptor)
    return True


def inherit(order: dict[str, Any]) -> None:
    """Be as a process that its parent has just spawned."""
    import resource

    for number, soft, hard in order["limits"]:
        try:
            resource.setrlimit(number, (soft, hard))
        except (OSError, ValueError):
            pass
    if order["umask"] >= 0:
        os.umask(order["umask"])
    os.chdir(order["directory"])


def anew(script: str | None) -> dict[str, Any]:
    """Return a module that is `__main__` of a fresh interpreter, in which nothing ran yet."""
    import builtins
    from importlib.machinery import SourceFileLoader

    module: Any = type(sys)("__main__")
    module.__builtins__ = builtins
    module.__annotations__ = {}
    if script is not None:
        module.__file__ = script
        module.__cached__ = None
        module.__loader__ = SourceFileLoader("__main__", script)
    sys.modules["__main__"] = module
    names: dict[str, Any] = module.__dict__
    return names


def run(words: list[str], script: str | None) -> None:
    """Do what an interpreter does that is started by `words`, the interpreter itself first."""
    sys.orig_argv[:] = words
    if script is None:  # [python, flags…, "-c", code, "--multiprocessing-fork"]
        sys.argv[:] = ["-c", *words[-1:]]
        exec(compile(words[-2], "<string>", "exec"), anew(None))  # noqa: S102 - what `python -c` does
        return
    sys.argv[:] = words[words.index(script) :]  # the interpreter's options come before it
    with open(script, "rb") as file:
        source = file.read()
    exec(compile(source, script, "exec"), anew(script))  # noqa: S102 - what `python SCRIPT` does


def hook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Print what nobody caught as it is printed without us: our own calls are left out."""
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    sys.__excepthook__(kind, error.with_traceback(trace), trace)


def main() -> None:
    """Import, wait, become what is asked for."""
    channel, script = Channel(int(sys.argv[1])), sys.argv[2]
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = os.path.dirname(os.path.realpath(script))
    if len(sys.argv) > 3:
        show([*sys.orig_argv[:-1]], os.path.basename(sys.executable))
    plan = channel.receive()
    if plan is None:
        return
    depth, nice = plan["depth"], plan.get("nice", os.getpriority(os.PRIO_PROCESS, 0))
    hasty = plan["hasty"]
    if depth:
        die_with_parent(9)
    priority = None if hasty else Priority(nice, leads=depth == 0)
    children = Children(plan["children"], depth, nice, script, hasty=hasty)
    missing = imported(depth)
    children.wait()
    if priority is not None:
        priority.restore()
    threads = len(os.listdir("/proc/self/task"))
    said = {
        "pid": os.getpid(),
        "threads": threads,
        "modules": len(sys.modules),
        "missing": missing,
        "gpu": gpu_touched(),
        "children": children.said,
    }
    try:
        channel.send(said)
    except OSError:  # nobody waits for it any more
        os._exit(0)
    order = channel.receive()
    if order is not None and "soon" in order:
        try:
            order = channel.receive(UNUSED)
        except OSError:
            order = None
    if order is None:
        os._exit(0)
    taken = not depth or place(channel.descriptors, order["descriptors"])
    for name, value in order["variables"].items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    words = order["argv"]
    channel.send({"taken": taken})
    channel.close()
    if not taken:
        os._exit(0)
    if depth:
        die_with_parent(0)
        inherit(order)
    else:
        show(words, os.path.basename(script))
    children.attach()
    sys.excepthook = hook
    run(words, script if depth == 0 else None)


if __name__ == "__main__":
    main()
