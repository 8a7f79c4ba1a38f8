"""Who listens on a TCP port, and whose process that is. Stateless; Linux only.

The kernel is asked over netlink (`sock_diag(7)`, one question for each address family): it then walks the listening
sockets only, about 50 µs. `/proc/net/tcp` and `tcp6` say the same but walk every bucket of the connection table,
several milliseconds on a machine with much memory, so they serve where netlink is not to be had.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Final

from vllm_fsm.adapters import procfs

_MAPPED: Final = bytes(10) + b"\xff\xff"
"""What stands before an IPv4 address that an IPv6 socket listens on."""


UNSEEN: Final = "another program"
"""What a holder is called that cannot be seen: it belongs to somebody else, or to another PID namespace."""


@dataclass(frozen=True, slots=True)
class Listener:
    """A TCP socket in state LISTEN. `address` is in network order, 4 or 16 bytes, all zero for the wildcard."""

    address: bytes
    port: int
    inode: int
    """The socket's number, as in `/proc/PID/fd`; 0 when it is not known."""


class Ownership(Enum):
    """Whose listeners these are."""

    OURS = "ours"
    """A process of the session holds every one of them."""
    FOREIGN = "foreign"
    """A process outside the session holds one that none inside holds."""
    UNKNOWN = "unknown"
    """Of at least one no holder can be seen (another user's process, another PID namespace), and none is foreign."""
    NONE = "none"
    """Nobody listens."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What was found out about some listeners. `holder`: the foreign holder's name and pid, where one was seen."""

    ownership: Ownership
    holder: str | None = None


def listening(port: int, host: str = "0.0.0.0") -> tuple[Listener, ...]:  # noqa: S104
    """Return the listeners on `port` that compete with a server on `host`.

    With a wildcard as `host` that is every one; with an address the same address and the wildcards that take its
    connections. Takes well under a millisecond with netlink.

    Raises:
        OSError: neither netlink nor `/proc/net/tcp` tells.
    """
    mine = _packed(host)
    rows = _ask_kernel(port) if _netlink_works() else _read_proc(port)
    return tuple(row for row in rows if _competes(row.address, mine))


def survey(listeners: Collection[Listener], session: int | None) -> Survey:
    """Find the processes that hold `listeners` and say whether they belong to `session` (None: nobody does).

    Looks at the session's leader first, then at its other processes, and at all others only for what they do not hold:
    up to there it takes below a millisecond, after that as long as reading every `/proc/PID/fd` takes.
    """
    if not listeners:
        return Survey(Ownership.NONE)
    left = {listener.inode for listener in listeners}
    others: list[int] = []
    if session is not None and (leader := procfs.read(session)) and leader.session == session:
        left -= _held(session, left)
    for pid in _pids() if left else ():
        process = procfs.read(pid) if session is not None else None
        if process is not None and process.session == session:
            left -= _held(pid, left)
        else:
            others.append(pid)
    if not left:
        return Survey(Ownership.OURS)
    for pid in others:
        if _held(pid, left):
            return Survey(Ownership.FOREIGN, _name(pid))
    return Survey(Ownership.UNKNOWN)


def ownership(port: int, session: int, host: str = "0.0.0.0") -> Ownership:  # noqa: S104
    """Say whose the listeners on `port` are: see `listening` and `survey`; UNKNOWN when neither can be looked at."""
    try:
        return survey(listening(port, host), session).ownership
    except OSError:
        return Ownership.UNKNOWN


def holder(port: int, host: str = "0.0.0.0") -> str | None:  # noqa: S104
    """Name program and pid of one process that listens on `port`, None where none can be seen."""
    try:
        return survey(listening(port, host), None).holder
    except OSError:
        return None


def occupant(port: int, host: str = "0.0.0.0") -> str | None:  # noqa: S104
    """Describe who holds `port` before an engine starts: None when it is free, or when nothing can be known of it.

    A row counts whether or not its holder can be seen.
    """
    try:
        rows = listening(port, host)
    except OSError:
        return None
    return (survey(rows, None).holder or UNSEEN) if rows else None


def parse_table(table: bytes, port: int) -> Iterator[Listener]:
    """Read the rows for `port` in state LISTEN from the text of `/proc/net/tcp` or `/proc/net/tcp6`.

    An address is printed as one or four 32-bit words, each in the machine's byte order although its bytes are in
    network order (`net/ipv4/tcp_ipv4.c`, `get_tcp4_sock`); the port is printed as a number. Rows that read otherwise
    are passed over.
    """
    for line in table.splitlines()[1:]:
        fields = line.split(maxsplit=10)
        if len(fields) < 10 or fields[3] != b"0A":
            continue
        address, _, number = fields[1].partition(b":")
        try:
            if int(number, 16) != port:
                continue
            words = bytes.fromhex(address.decode("ascii"))
            inode = int(fields[9])
        except ValueError:
            continue
        if len(words) in (4, 16):
            yield Listener(_plain(_network_order(words)), port, inode)


def _network_order(words: bytes) -> bytes:
    if sys.byteorder == "big":
        return words
    return b"".join(words[at : at + 4][::-1] for at in range(0, len(words), 4))


def _plain(address: bytes) -> bytes:
    return address[12:] if len(address) == 16 and address.startswith(_MAPPED) else address


def _packed(host: str) -> bytes | None:
    """Return `host` in network order, None for a name."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            return _plain(socket.inet_pton(family, host))
        except OSError:
            continue
    return None


def _competes(address: bytes, mine: bytes | None) -> bool:
    if mine is None or not any(mine):
        return True
    if any(address):
        return address == mine
    # The IPv6 wildcard takes IPv4 connections too unless it was told not to, which is not shown.
    return len(address) == 16 or len(mine) == 4


# --- /proc/net ---------------------------------------------------------------------------------------------------


def _read_proc(port: int) -> list[Listener]:
    rows = list(parse_table(_table("/proc/net/tcp"), port))
    try:
        rows += parse_table(_table("/proc/net/tcp6"), port)
    except OSError:
        pass  # a kernel without IPv6
    return rows


def _table(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.read()


# --- netlink -----------------------------------------------------------------------------------------------------

# linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h
_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_NLM_F_REQUEST_DUMP: Final = 0x001 | 0x300
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_TCP_LISTEN: Final = 10
_HEADER: Final = struct.Struct("=IHHII")
"""`nlmsghdr`: length with this header, type, flags, sequence, port."""
_REQUEST: Final = struct.Struct("=BBBBI")
"""Beginning of `inet_diag_req_v2`: family, protocol, extensions, padding, bits of states."""
_SOCKET: Final = struct.Struct("!HH16s16s12s")
"""`inet_diag_sockid`: source port, destination port, source, destination, interface and cookie."""
_ANSWER: Final = struct.Struct("=BBBB48sIIIII")
"""`inet_diag_msg`: family, state, timer, retransmits, socket, expires, two queues, uid, inode."""
_PATIENCE: Final = 0.2
"""Seconds; the kernel answers while it is asked."""


@cache
def _netlink_works() -> bool:
    """Ask once in a process's life: a kernel without it would try to load a module at each question."""
    try:
        _ask_kernel(0)
    except OSError:
        return False
    return True


def _ask_kernel(port: int) -> list[Listener]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as netlink:
        netlink.settimeout(_PATIENCE)
        rows = list(_dump(netlink, socket.AF_INET, port))
        try:
            rows += _dump(netlink, socket.AF_INET6, port)
        except TimeoutError:
            raise
        except OSError:
            pass  # a kernel without IPv6
        return rows


def _dump(netlink: socket.socket, family: int, port: int) -> Iterator[Listener]:
    wanted = _SOCKET.pack(port, 0, b"", b"", bytes(4) + b"\xff" * 8)
    body = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, 1 << _TCP_LISTEN) + wanted
    head = _HEADER.pack(_HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST_DUMP, int(family), 0)
    netlink.send(head + body)
    while True:
        messages = netlink.recv(1 << 16)
        while messages:
            length, kind, _, _, _ = _HEADER.unpack_from(messages)
            payload = messages[_HEADER.size : length]
            if kind == _NLMSG_DONE:
                return
            if kind == _NLMSG_ERROR:
                code = -struct.unpack_from("=i", payload)[0]
                raise OSError(code, os.strerror(code))
            row = _listener(payload)
            if row.port == port:
                yield row
            messages = messages[(length + 3) & ~3 :]


def _listener(payload: bytes) -> Listener:
    family, _, _, _, id_, _, _, _, _, inode = _ANSWER.unpack_from(payload)
    port, _, address, _, _ = _SOCKET.unpack(id_)
    return Listener(_plain(address if family == socket.AF_INET6 else address[:4]), port, inode)


# --- /proc/PID/fd ------------------------------------------------------------------------------------------------


def _pids() -> list[int]:
    return sorted(int(entry) for entry in os.listdir("/proc") if entry.isdigit())


def _held(pid: int, inodes: Collection[int]) -> set[int]:
    """Return those of `inodes` that process `pid` has open; none when it ended or may not be looked at."""
    links = {f"socket:[{inode}]": inode for inode in inodes if inode}
    found: set[int] = set()
    try:
        directory = os.open(f"/proc/{pid}/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return found
    try:
        for name in os.listdir(directory):
            try:
                inode = links.get(os.readlink(name, dir_fd=directory))
            except OSError:
                continue
            if inode is not None:
                found.add(inode)
                if len(found) == len(links):
                    break
    except OSError:
        pass
    finally:
        os.close(directory)
    return found


def _name(pid: int) -> str:
    """Return `name (pid N)`. The name is the kernel's: a command line may hold secrets."""
    process = procfs.read(pid)
    name = process.name if process is not None else ""
    name = "".join(character if character.isprintable() else "?" for character in name)
    return f"{name or 'a program'} (pid {pid})"
