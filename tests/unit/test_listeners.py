import os
import socket
import sys

import pytest

from vllm_fsm.adapters.probes import listeners
from vllm_fsm.adapters.probes.listeners import Listener, Ownership, listening, parse_table, survey

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
TAIL = "00000000:00000000 00:00000000 00000000  1000        0 {inode} 1 0000000017f42056 100 0 0 10 0"


def table(*rows: tuple[str, str, int]) -> bytes:
    text = HEAD
    for number, (local, state, inode) in enumerate(rows):
        remote = "0" * local.index(":") + ":0000"
        text += f"{number:4}: {local} {remote} {state} {TAIL.format(inode=inode)}\n"
    return text.encode()


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "byteorder", "little")


@pytest.mark.usefixtures("little")
def test_an_ipv4_row_is_read_in_the_machine_s_byte_order() -> None:
    assert list(parse_table(table(("0100007F:1F40", "0A", 77)), 8000)) == [Listener(bytes([127, 0, 0, 1]), 8000, 77)]


def test_a_big_endian_machine_prints_addresses_the_other_way_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "byteorder", "big")
    assert [row.address for row in parse_table(table(("7F000001:1F40", "0A", 7)), 8000)] == [bytes([127, 0, 0, 1])]


@pytest.mark.usefixtures("little")
@pytest.mark.parametrize(
    ("printed", "address"),
    [
        ("00000000000000000000000000000000", "::"),
        ("00000000000000000000000001000000", "::1"),
        ("B80D01200000000000000000DDCCBBAA", "2001:db8::aabb:ccdd"),
        ("0000000000000000FFFF00000100007F", "127.0.0.1"),
    ],
)
def test_an_ipv6_row_is_four_such_words_and_a_mapped_address_is_ipv4(printed: str, address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    rows = list(parse_table(table((f"{printed}:1F40", "0A", 5)), 8000))
    assert rows == [Listener(socket.inet_pton(family, address), 8000, 5)]


def test_only_listeners_on_exactly_this_port_count() -> None:
    rows = table(
        ("00000000:1F40", "01", 1),  # established
        ("00000000:1F40", "06", 2),  # time-wait
        ("00000000:1F41", "0A", 3),
        ("00000000:401F", "0A", 4),  # the same bytes the other way round
        ("00000000:1F40", "0A", 5),
    )
    assert [row.inode for row in parse_table(rows, 8000)] == [5]


@pytest.mark.parametrize("rubbish", [b"", b"\n\n", b"x", HEAD.encode(), HEAD.encode() + b"0: zz:1F40 0:0 0A"])
def test_rubbish_is_no_row(rubbish: bytes) -> None:
    assert list(parse_table(rubbish, 8000)) == []


def test_broken_rows_are_passed_over() -> None:
    rows = table(("0100007F:1F4", "0A", 1), ("0100007:1F40", "0A", 2), ("01:1F40", "0A", 3), ("zz00007F:1F40", "0A", 4))
    good = table(("00000000:1F40", "0A", 9)).split(b"\n", 1)[1]
    assert [row.inode for row in parse_table(rows + good, 8000)] == [9]


def addresses(port: int, host: str) -> set[int]:
    return {row.inode for row in listening(port, host)}


def inode(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino


@pytest.fixture(params=["netlink", "proc"])
def source(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "proc":
        monkeypatch.setattr(listeners, "_netlink_works", lambda: False)
    else:
        assert listeners._netlink_works()
    return str(request.param)


@pytest.mark.usefixtures("source")
@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::1", "::"])
def test_a_listener_is_found_with_its_address_and_its_socket_s_number(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as sock:
        sock.bind((address, 0))
        port = sock.getsockname()[1]
        assert listening(port) == (), "bound is not listening"
        sock.listen()
        assert listening(port) == (Listener(socket.inet_pton(family, address), port, inode(sock)),)
    assert listening(port) == ()


@pytest.mark.usefixtures("source")
def test_a_connection_to_the_port_is_no_listener() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)), server.accept()[0]:
            assert [row.inode for row in listening(port)] == [inode(server)]


@pytest.mark.usefixtures("source")
def test_all_of_several_listeners_are_found() -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as one:
        port = one.getsockname()[1]
        with (
            socket.create_server(("127.0.0.1", port), reuse_port=True) as two,
            socket.create_server(("127.0.0.2", port)) as three,
            socket.create_server(("::1", port), family=socket.AF_INET6) as four,
        ):
            assert addresses(port, "0.0.0.0") == {inode(sock) for sock in (one, two, three, four)}


def test_only_what_can_take_a_client_s_connection_competes() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as mine,
        socket.create_server(("127.0.0.2", port := mine.getsockname()[1])) as other,
        socket.create_server(("::1", port), family=socket.AF_INET6) as six,
    ):
        assert addresses(port, "127.0.0.1") == {inode(mine)}
        assert addresses(port, "::1") == {inode(six)}
        assert addresses(port, "some.name") == {inode(mine), inode(other), inode(six)}
    with socket.create_server(("0.0.0.0", 0)) as wild:
        port = wild.getsockname()[1]
        assert addresses(port, "127.0.0.1") == {inode(wild)}
        assert addresses(port, "::1") == set()
    with socket.create_server(("::", 0), family=socket.AF_INET6) as wild:
        port = wild.getsockname()[1]
        assert addresses(port, "127.0.0.1") == {inode(wild)}
        assert addresses(port, "::1") == {inode(wild)}


def test_a_socket_of_our_own_session_is_ours_and_to_nobody_s_session_foreign() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        assert listeners.ownership(port, os.getsid(0)) is Ownership.OURS
        assert f"(pid {os.getpid()})" in (listeners.holder(port) or "")
    assert listeners.ownership(port, os.getsid(0)) is Ownership.NONE
    assert listeners.holder(port) is None


def test_a_listener_of_the_session_s_leader_is_found_without_reading_all_of_proc(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never() -> list[int]:
        raise AssertionError("not needed")

    with socket.create_server(("127.0.0.1", 0)) as sock:
        rows = listening(sock.getsockname()[1])
        own = listeners.procfs.read(os.getpid())
        assert own is not None
        own.session = os.getpid()
        monkeypatch.setattr(listeners.procfs, "read", lambda _pid: own)
        monkeypatch.setattr(listeners, "_pids", never)
        assert survey(rows, os.getpid()).ownership is Ownership.OURS


def test_a_socket_that_nobody_is_seen_to_hold_is_unknown_not_foreign() -> None:
    assert survey([Listener(bytes(4), 8000, 0)], os.getsid(0)).ownership is Ownership.UNKNOWN
    assert survey([Listener(bytes(4), 8000, 2**32 - 1)], os.getsid(0)).ownership is Ownership.UNKNOWN
    assert survey([], os.getsid(0)).ownership is Ownership.NONE


def test_one_that_is_unknown_beside_ours_stays_unknown() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        rows = (*listening(sock.getsockname()[1]), Listener(bytes(4), 8000, 2**32 - 1))
        assert survey(rows, os.getsid(0)).ownership is Ownership.UNKNOWN


def test_without_netlink_and_proc_nothing_is_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(_path: str) -> bytes:
        raise PermissionError(13, "denied")

    monkeypatch.setattr(listeners, "_netlink_works", lambda: False)
    monkeypatch.setattr(listeners, "_table", denied)
    with pytest.raises(PermissionError):
        listening(8000)
    assert listeners.ownership(8000, 1) is Ownership.UNKNOWN
    assert listeners.holder(8000) is None


def test_a_kernel_without_ipv6_still_tells_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    read = listeners._table

    def four_only(path: str) -> bytes:
        if path.endswith("6"):
            raise FileNotFoundError(2, "no IPv6")
        return read(path)

    monkeypatch.setattr(listeners, "_netlink_works", lambda: False)
    monkeypatch.setattr(listeners, "_table", four_only)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        assert [row.inode for row in listening(sock.getsockname()[1])] == [inode(sock)]


def test_a_program_s_name_is_shown_without_control_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        own = listeners.procfs.read(os.getpid())
        assert own is not None
        own.name = "a\nb\x1b[0m"
        monkeypatch.setattr(listeners.procfs, "read", lambda _pid: own)
        assert listeners.holder(sock.getsockname()[1]) == f"a?b?[0m (pid {os.getpid()})"
