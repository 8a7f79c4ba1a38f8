"""The API key: how it is had, and how it is replaced."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from vllm_fsm.actions.problems import Problem, Rejected, rejected
from vllm_fsm.core.snapshot import Message, Secret
from vllm_fsm.files.credentials import FIELD, MODE, new_key, read_credentials, store_new_key
from vllm_fsm.files.reading import Broken, Empty, Good, Missing
from vllm_fsm.files.writing import Refused, update

if TYPE_CHECKING:
    from vllm_fsm.actions.site import Site

PATIENCE: Final = 3.0
"""Seconds in which a running controller has made a key where there is none; it takes a third of one."""
STEP: Final = 0.05
EVERYWHERE: Final = ("0.0.0.0", "::", "")  # noqa: S104 - compared with, not listened on
"""What stands for all addresses of a machine, and is none that a client can use."""


@dataclass(frozen=True, slots=True)
class Access:
    """What a client needs."""

    key: Secret
    url: str
    """Of the API, `/v1` at its end."""
    aside: str | None = field(default=None)
    """Where a broken file is kept that stood in the key's place."""


def get(site: Site, address: str | None = None, *, sleep: Callable[[float], None] = time.sleep) -> Access:
    """Return the key. Where there is none, a running controller is about to make it; without one it is made here.

    `address` is the service's, as clients reach it (`http://host:8000`).

    Raises:
        Rejected: the file is broken, or a key is needed and cannot be stored.
    """
    for _ in range(round(PATIENCE / STEP)):
        reading = read_credentials(site.config.credentials)
        match reading:
            case Broken(message, contents):
                # What is no file is not replaced by a rotation either.
                advice = [Problem(Message.of("KeyRotatable"))] if contents else []
                raise Rejected([Problem(message), *advice])
            case Good((credentials, content)):
                if (key := credentials.key()) is not None:
                    return Access(key, base_url(site, address))
                found: Good[dict[str, object]] | Missing | Empty = Good(content)
            case Missing() | Empty():
                found = reading
        if not site.running:
            try:
                made = store_new_key(site.config.credentials, found)
            except Refused as refused:
                raise Rejected([Problem(refused.message)]) from None
            if made is not None:
                return Access(made, base_url(site, address))
        sleep(STEP)
    raise rejected(None, "KeyNotMade")


def rotate(site: Site, address: str | None = None) -> Access:
    """Replace the key; other fields stay, and a broken file is kept aside.

    The new key is made here, in one atomic write, whether or not a controller runs: removing the old one would leave
    dependent services without a key until the controller has made one. A running controller takes any good key that
    appears, and starts the engine anew with it.

    Raises:
        Rejected: it cannot be stored.
    """
    key = new_key()
    path = site.config.credentials
    try:
        written = update(path, {FIELD: key.reveal()}, MODE, keep=isinstance(read_credentials(path), Broken))
    except Refused as refused:
        raise Rejected([Problem(refused.message)]) from None
    return Access(key, base_url(site, address), written.aside)


def base_url(site: Site, address: str | None = None) -> str:
    """Return the URL that clients are given; without an address, one that works on this machine."""
    if not address:
        host = "localhost" if site.config.host in EVERYWHERE else site.config.host
        address = f"http://{f'[{host}]' if ':' in host else host}:{site.config.port}"
    return f"{address.rstrip('/')}/v1"
