"""Work done by a real user without privileges, in a child process.

Whatever the child needs must be imported before: it may not read the library.
"""

import encodings.utf_8_sig  # noqa: F401
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

NOBODY = 65534


@contextmanager
def open_directory() -> Iterator[Path]:
    """A directory that every user can reach, which `tmp_path` is not."""
    path = Path(tempfile.mkdtemp(prefix="vllm-fsm-test-"))
    path.chmod(0o777)
    try:
        yield path
    finally:
        path.chmod(0o777)
        shutil.rmtree(path)


def unprivileged(work: Callable[[], object]) -> object:
    """Return what `work` returns (as JSON would) in a child that has no privileges; its failure is ours."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reader)
            if os.geteuid() == 0:
                os.setgroups([])
                os.setresgid(NOBODY, NOBODY, NOBODY)
                os.setresuid(NOBODY, NOBODY, NOBODY)
            os.write(writer, json.dumps(work()).encode())
            status = 0
        except BaseException as error:
            os.write(2, repr(error).encode())
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    assert status == 0
    return json.loads(answer)
