#!/usr/bin/env python3
"""A fake HuggingFace hub that can be told to misbehave. Standard library only; listens on 127.0.0.1.

    hub.py --root DIR [--port N] [--port-file FILE] [--bandwidth BYTES_PER_SECOND] [--cdn]
           [--token TOKEN=org/a,org/b …] [--until-eof]

A client uses it with `HF_ENDPOINT=http://127.0.0.1:PORT`. It answers what `huggingface_hub` 2.4 and vLLM 0.32 ask for,
never with an `X-Xet-Hash`, so that files come over plain HTTP.

| request | answer |
|---|---|
| `GET /api/models/ORG/NAME[/revision/REV][?blobs=true]` | the model, its files, its commit |
| `GET /api/models/ORG/NAME/tree/REV[/PATH][?recursive=true]` | files and folders |
| `GET /api/models/ORG/NAME/refs` | branches |
| `POST /api/models/ORG/NAME/paths-info/REV` | the files among the `paths` of a form |
| `GET /api/models/ORG/NAME/auth-check` | 200 if the token may read files |
| `GET /api/whoami-v2` | the user of the token |
| `HEAD`, `GET /ORG/NAME/resolve/REV/PATH` | a file, or what `Range` asks for (206, 416), with `X-Repo-Commit` and |
| | `ETag`; for a file in LFS `X-Linked-ETag` and `X-Linked-Size` too |

A repository is a folder `DIR/ORG/NAME`, read anew for every request. Its file `.hub.json` may hold:

| option | meaning |
|---|---|
| `"private": true` | absent for everybody but a token that was granted it |
| `"gated": true` | information is public, files need a token that was granted it |
| `"disabled": true` | 403, `Access to this resource is disabled.` |
| `"moved_to": "org/other"` | 307 to the same path there |
| `"commit": "<40 hex>"` | the commit, instead of a hash over the files |
| `"revisions": {"v1": "main"}` | more names of the commit |
| `"sparse": {"model-00001.safetensors": 1000000000}` | files of zeros that take no room |

Errors have the real hub's status and headers:

| what is wrong | status | `X-Error-Code` | `X-Error-Message` |
|---|---|---|---|
| a token that is not valid | 401 | | `Invalid credentials in Authorization header` |
| no such repository, no token | 401 | `RepoNotFound` | `Invalid username or password.` |
| no such repository, with a token | 404 | `RepoNotFound` | `Repository not found` |
| gated, no token | 401 | `GatedRepo` | `Access to model … is restricted. …` |
| gated, the token was not granted it | 403 | `GatedRepo` | `Access to model … is restricted and you are not …` |
| no such revision | 404 | `RevisionNotFound` | `Invalid rev id: …` |
| no such file or folder | 404 | `EntryNotFound` | `Entry not found`, and `X-Repo-Commit` |

(A client guesses RepoNotFound from a bare 401 only behind https, hence the code.) Without `--token`, every token that
begins with `hf_` is valid and grants nothing; `--token TOKEN=org/a` names the valid ones and what each may read.
`--cdn`: files in LFS are answered by 302 to `http://localhost:PORT/_cdn/…`, another host name as on the real hub, so
that a client keeps its token to itself. `--bandwidth` holds for each connection. `--until-eof`: end when stdin does,
and so with the process that holds its other end.

Control: `GET /_fake/health`. `POST /_fake/bandwidth` (a number, 0 for unlimited). `GET /_fake/requests[?since=N]`:
a list of all requests, or of those after the N first to end; `t` is CLOCK_MONOTONIC, `sent` counts bytes of the body,
`aborted` says that the client left, `running` that it is not over. `POST /_fake/faults`: a list of rules that replaces
the last one; the first that fits a request and can act on it is used:

| key | meaning |
|---|---|
| `match` | regular expression, searched in `METHOD /path` (unquoted, without the query) |
| `action` | `status` (answer `status` with `headers` and `body`), `delay` (wait `seconds`, default 5, then answer), |
| | `stall` (stop for `seconds`, default 3600, after `after_bytes` of the body), `drop` (close after them), |
| | `corrupt` (invert every byte after them), `ignore-range` (200 and the whole file for a `Range`) |
| `times` | forget the rule after it was used so often |
"""

import argparse
import json
import os
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote

from hub_repo import Entry, Repo
from hub_server import Handler, Headers, Refusal, Server

API = r"/api/models/([^/]+/[^/]+)(?:/(revision|tree|refs|paths-info|auth-check)(?:/([^/]+)(?:/(.*))?)?)?"
RESOLVE = r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)"
CDN = r"/_cdn/([^/]+/[^/]+)/[^/]+/(.+)"
BAD_TOKEN = "Invalid credentials in Authorization header"


class Hub(Server):
    """A server of the repositories below `root`."""

    def __init__(self, port: int, bandwidth: float, root: Path, tokens: Mapping[str, set[str]], cdn: bool) -> None:
        self.root, self.tokens, self.cdn = root, tokens, cdn
        for folder in sorted(root.glob("*/*/")):  # a client gives up after 10 s: hash big files before one can ask
            Repo.find(root, f"{folder.parent.name}/{folder.name}")
        super().__init__(port, bandwidth, Answers)


class Answers(Handler):
    """What the hub says."""

    server_version = "fake-hub"
    server: Hub

    def answer(self) -> None:
        if self.quoted == "/api/whoami-v2":
            self._whoami()
        elif match := re.fullmatch(API, self.quoted):
            repo_id, verb, revision, path = (unquote(part or "") for part in match.groups())
            repo = self._open(repo_id, revision or "main", files=verb == "auth-check")
            self.reply(200, json.dumps(self._about(repo, verb, path)).encode())
        elif match := re.fullmatch(RESOLVE, self.quoted):
            repo_id, revision, path = map(unquote, match.groups())
            self._resolve(self._open(repo_id, revision, files=True), path)
        elif match := re.fullmatch(CDN, self.quoted):
            repo_id, path = map(unquote, match.groups())
            held = Repo.find(self.server.root, repo_id)
            if held is None or path not in held.files:
                raise Refusal(404, message="Not Found")
            self._send(held.files[path], {})
        else:
            raise Refusal(404, message="Not Found")

    def _whoami(self) -> None:
        if self._token() is None:
            raise Refusal(401, message=BAD_TOKEN)
        user = {"type": "user", "name": "tester", "orgs": [], "auth": {"type": "access_token"}}
        self.reply(200, json.dumps(user).encode())

    def _about(self, repo: Repo, verb: str, path: str) -> object:
        match verb:
            case "auth-check":
                return {}
            case "refs":
                return repo.refs()
            case "tree":
                found = repo.tree(path, self._says("recursive"))
                if path and not found:
                    raise Refusal(404, "EntryNotFound", "Entry not found", X_Repo_Commit=repo.commit)
                return found
            case "paths-info":
                paths = parse_qs(self.content.decode()).get("paths", [])
                return [repo.files[path].listed() for path in paths if path in repo.files]
        return repo.info(self._says("blobs"))

    def _says(self, flag: str) -> bool:
        return self.query.get(flag, "").lower() in ("1", "true")

    def _resolve(self, repo: Repo, path: str) -> None:
        if path not in repo.files:
            raise Refusal(404, "EntryNotFound", "Entry not found", X_Repo_Commit=repo.commit)
        entry = repo.files[path]
        headers = {"X-Repo-Commit": repo.commit}
        if entry.sha256:
            headers |= {"X-Linked-ETag": entry.etag, "X-Linked-Size": str(entry.size)}
        if entry.sha256 and self.server.cdn:
            place = f"http://localhost:{self.server.port}/_cdn/{repo.id}/{repo.commit}/{quote(path)}"
            headers |= {"Location": place, "ETag": f'"{entry.oid}"', "Accept-Ranges": "bytes"}
            self.reply(302, b"", headers)
        else:
            self._send(entry, headers)

    def _send(self, entry: Entry, headers: Headers) -> None:
        name = quote(entry.path.rpartition("/")[2])
        described = {
            "Content-Type": "application/octet-stream" if entry.sha256 else "text/plain",
            "Content-Disposition": f"inline; filename*=UTF-8''{name}; filename=\"{name}\";",
            "ETag": entry.etag,
        }
        self.reply_file(entry.place, entry.size, {**described, **headers})

    # --- access --------------------------------------------------------------------------------------------------

    def _token(self) -> str | None:
        kind, _, token = self.headers.get("Authorization", "").partition(" ")
        if kind != "Bearer":
            return None
        if token not in self.server.tokens and (self.server.tokens or not token.startswith("hf_")):
            raise Refusal(401, message=BAD_TOKEN)
        return token

    def _open(self, repo_id: str, revision: str, *, files: bool) -> Repo:
        """Return the repository for its information, or for its `files`; refuse as the real hub does."""
        token = self._token()
        granted = repo_id in self.server.tokens.get(token or "", ())
        repo = Repo.find(self.server.root, repo_id, lately=files)
        if repo is None or (repo.meta.private and not granted):
            if token is None:
                realm = 'Bearer realm="Authentication required"'
                raise Refusal(401, "RepoNotFound", "Invalid username or password.", WWW_Authenticate=realm)
            raise Refusal(404, "RepoNotFound", "Repository not found")
        if repo.meta.moved_to:
            raise Refusal(307, Location=self.path.replace(repo_id, repo.meta.moved_to, 1))
        if repo.meta.disabled:
            raise Refusal(403, message="Access to this resource is disabled.")
        if files and repo.meta.gated and not granted:
            restricted = f"Access to model {repo_id} is restricted"
            if token is None:
                ask = "You must have access to it and be authenticated to access it. Please log in."
                raise Refusal(401, "GatedRepo", f"{restricted}. {ask}")
            ask = f"Visit https://huggingface.co/{repo_id} to ask for access."
            raise Refusal(403, "GatedRepo", f"{restricted} and you are not in the authorized list. {ask}")
        if not repo.knows(revision):
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repo


def end_with_stdin() -> None:
    while os.read(0, 4096):  # not by sys.stdin, whose lock the end of the interpreter wants
        pass
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, type=Path)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--port-file", type=Path, help="write the port here once it listens")
    parser.add_argument("--bandwidth", type=float, default=0)
    parser.add_argument("--cdn", action="store_true")
    parser.add_argument("--token", action="append", default=[], metavar="TOKEN=REPO,REPO")
    parser.add_argument("--until-eof", action="store_true")
    options = parser.parse_args()
    if options.until_eof:
        threading.Thread(target=end_with_stdin, daemon=True).start()
    pairs = (item.partition("=") for item in options.token)
    tokens = {token: set(repos.split(",")) for token, _, repos in pairs}
    with Hub(options.port, options.bandwidth, options.root, tokens, options.cdn) as hub:
        if options.port_file:
            temporary = options.port_file.with_name(f"{options.port_file.name}.new")
            temporary.write_text(str(hub.port))
            temporary.replace(options.port_file)
        hub.serve_forever()


if __name__ == "__main__":
    main()
