"""Files of a package index: where one lies, and its bytes. The index is the one that pip is set up to ask.

pip itself would run the build scripts of a source distribution to learn its metadata; so the simple repository API
(PEP 503, PEP 691) is asked here.
"""

from __future__ import annotations

import ast
import http.client
import json
import re
import ssl
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser

PATIENCE = 60
"""Seconds that an index may be silent."""
CHUNK = 1 << 18
ACCEPT = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"


class Unreachable(Exception):
    """No index gave the file: one sentence for each of them."""


@dataclass(frozen=True)
class Settings:
    """What pip is set up to ask."""

    indexes: tuple[str, ...]
    """Addresses of simple repositories, in the order of preference."""
    certificates: str | None = None
    """A file with the certificates to trust, instead of the system's."""


def settings() -> Settings:
    """Read them, by asking pip.

    Raises:
        Unreachable: this Python has no pip.
    """
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    try:
        listed, described = (
            subprocess.run((*pip, *words), capture_output=True, text=True, check=True).stdout
            for words in (("config", "list"), ("download", "--help"))
        )
    except subprocess.CalledProcessError as error:
        raise Unreachable(f"{sys.executable} has no pip, which knows the package index to ask") from error
    return read(listed, described)


def read(listed: str, described: str) -> Settings:
    """Return the settings from what `pip config list` and `pip download --help` print; the latter has the default.

    What is said in the environment comes before what is said for `pip download`, and that before what is said for all.
    """
    said: dict[str, str] = {}
    for line in listed.splitlines():
        key, found, value = line.partition("=")
        if found:
            said[key] = str(ast.literal_eval(value))

    def setting(name: str) -> str | None:
        return next((said[key] for key in (f":env:.{name}", f"download.{name}", f"global.{name}") if key in said), None)

    default = re.search(r"--index-url .*?\(default\s+(\S+?)\)", described, re.DOTALL)
    first = setting("index-url") or (default[1] if default else None)
    others = (setting("extra-index-url") or "").split()
    return Settings(tuple(([first] if first else []) + others), setting("cert"))


class Index:
    """One simple repository."""

    def __init__(self, address: str, certificates: str | None = None) -> None:
        parts = urllib.parse.urlsplit(address)
        place = parts.netloc.rpartition("@")[2]
        self.address = urllib.parse.urlunsplit(parts._replace(netloc=place)).rstrip("/")
        """Without a password: it may be shown."""
        handlers: list[urllib.request.BaseHandler] = []
        if parts.scheme == "https":
            handlers.append(urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=certificates)))
        if parts.username is not None:
            known = urllib.request.HTTPPasswordMgrWithDefaultRealm()
            user, password = (urllib.parse.unquote(word or "") for word in (parts.username, parts.password))
            known.add_password(None, f"{parts.scheme}://{place}/", user, password)
            handlers.append(urllib.request.HTTPBasicAuthHandler(known))
        self._opener = urllib.request.build_opener(*handlers)

    def find(self, package: str, name: str) -> str | None:
        """Return the address of the file `name` of a package; None where it is not offered.

        Raises:
            OSError, http.client.HTTPException, ValueError: the index does not answer, or not as one.
        """
        page = f"{self.address}/{package}/"
        if page.startswith("file:"):
            page += "index.html"
        request = urllib.request.Request(page, headers={"Accept": ACCEPT})
        try:
            with self._opener.open(request, timeout=PATIENCE) as answer:
                text, kind, page = answer.read().decode(), answer.headers.get_content_type(), answer.url
        except urllib.error.HTTPError as error:
            if error.code == http.client.NOT_FOUND:
                return None
            raise
        links = listed_by_json(text) if kind.endswith("+json") else listed_by_html(text)
        return next((urllib.parse.urljoin(page, link) for found, link in links if found == name), None)

    def fetch(self, address: str) -> Iterator[bytes]:
        """Yield the bytes of a file.

        Raises:
            OSError, http.client.HTTPException: they do not come.
        """
        with self._opener.open(address, timeout=PATIENCE) as answer:
            while chunk := answer.read(CHUNK):
                yield chunk
            missing = getattr(answer, "length", None)  # of HTTP: what was announced and did not come
            if missing:
                raise http.client.IncompleteRead(b"", missing)


def listed_by_json(text: str) -> list[tuple[str, str]]:
    """Return names and links of the files on a page of PEP 691."""
    try:
        return [(file["filename"], file["url"]) for file in json.loads(text)["files"]]
    except (KeyError, TypeError) as error:
        raise ValueError("not a page of a package index") from error


def listed_by_html(text: str) -> list[tuple[str, str]]:
    """Return names and links of the files on a page of PEP 503; what follows a `#` in a link is left out."""
    page = _Page()
    page.feed(text)
    page.close()
    return [(urllib.parse.unquote(link.rpartition("/")[2]), link) for link in page.links]


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.links += [value.partition("#")[0] for name, value in attrs if name == "href" and value]
