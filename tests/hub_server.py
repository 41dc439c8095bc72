"""A Hugging Face Hub on loopback: what reads models and data sets asks for, and counters of what it was sent.

Routes, with M = ``/api/models/{repo}``, or ``/api/datasets/{repo}`` for a data set, called ``datasets/{repo}`` here:

* ``GET M`` and ``GET M/revision/{rev}``, with ``?blobs=true`` for sizes and digests, ``?expand=sha`` for the commit alone;
* ``GET M/tree/{rev}/{path}`` and ``POST M/paths-info/{rev}``, by which data sets are listed;
* ``HEAD`` and ``GET /{repo}/resolve/{rev}/{path}`` with ``ETag``, ``X-Repo-Commit`` and ``Range``.

Errors carry ``X-Error-Code``: RepoNotFound, RevisionNotFound, EntryNotFound (404) and GatedRepo (403). Weights
(``*.safetensors``) are in large-file storage, every other file is an ordinary git blob. A renamed model is a redirect.

    with HubServer() as server:
        server.commit("acme/base", {"config.json": b"{}"})
        Hub(server.url).resolve(ModelReference("acme/base"))
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

_REPO = r"(?P<repo>(?:datasets/)?[\w.-]+/[\w.-]+)"
_MODEL = re.compile(rf"/api/(?:models/)?{_REPO}(?:/revision/(?P<revision>.+))?")
_TREE = re.compile(rf"/api/(?:models/)?{_REPO}/tree/(?P<revision>[^/]+)(?:/(?P<path>.*))?")
_PATHS = re.compile(rf"/api/(?:models/)?{_REPO}/paths-info/(?P<revision>[^/]+)")
_FILE = re.compile(rf"/{_REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass
class Repository:
    """Commits by id, and the names of some of them."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    token: str | None = None
    gated: bool = False

    def find(self, revision: str) -> str | None:
        """The commit id of a branch, tag or commit."""
        commit = self.names.get(revision, revision)
        return commit if commit in self.commits else None


@dataclass(frozen=True)
class Served:
    """One answer: what was asked, how it was answered, how many body bytes were sent."""

    method: str
    path: str
    status: int
    sent: int


class HubServer:
    """The server; listens while used as a context manager."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.served: list[Served] = []
        self.cut: dict[str, int] = {}
        """File name -> bytes after which its next answer breaks off; used up by that answer."""
        self.hold = threading.Event()
        """While clear, answers with weights stop half-way and wait."""
        self.hold.set()
        self.held: list[str] = []
        """Names of the files whose answers were stopped, in order."""
        self.ignore_ranges = False
        self.refuse: dict[str, tuple[int, Mapping[str, str]]] = {}
        """Repository, or ``*`` for all -> status and headers of every answer."""
        self.says: dict[str, bytes] = {}
        """Repository -> what every answer about it says instead."""
        self.headers: Mapping[str, str] = {}
        """Sent with every answer."""
        self.down = False
        """Connections are closed without an answer."""
        self.renamed: dict[str, str] = {}
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> HubServer:
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.hold.set()
        self._http.shutdown()
        self._http.server_close()

    def commit(self, repo: str, files: Mapping[str, bytes | None], branch: str = "main") -> str:
        """Commit files on top of a branch (``None`` deletes one) and return the commit's id."""
        repository = self.repositories.setdefault(repo, Repository())
        tree = {**repository.commits.get(repository.names.get(branch, ""), {}), **files}
        content = {path: data for path, data in tree.items() if data is not None}
        number = len(repository.commits)
        commit = hashlib.sha1(f"{repo} {number} {sorted(content)}".encode()).hexdigest()
        repository.commits[commit] = content
        repository.names[branch] = commit
        return commit

    def tag(self, repo: str, name: str, commit: str) -> None:
        """Give a commit a name that does not move."""
        self.repositories[repo].names[name] = commit

    def gate(self, repo: str, token: str) -> None:
        """Show the model to everybody, but its files only to the bearer of a token."""
        self.repositories[repo].token, self.repositories[repo].gated = token, True

    def hide(self, repo: str, token: str) -> None:
        """Make the model private: without the token it looks missing."""
        self.repositories[repo].token = token

    def rename(self, old: str, new: str) -> None:
        """Move a model; its old name leads to the new one."""
        self.repositories[new] = self.repositories.pop(old)
        self.renamed[old] = new

    def asked(self, repo: str = "") -> int:
        """How many requests there were about a model, or in all."""
        return sum(f"/{repo}/" in f"{each.path}/" for each in self.served) if repo else len(self.served)

    def sent(self, suffix: str) -> int:
        """Body bytes sent for files whose path ends so."""
        return sum(each.sent for each in self.served if each.path.endswith(suffix))


def _handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            path = unquote(url.path)
            model, file = _MODEL.fullmatch(path), _FILE.fullmatch(path)
            tree, paths = _TREE.fullmatch(path), _PATHS.fullmatch(path)
            match = tree or paths or model or file
            asked = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if hub.down:
                hub.served.append(Served(self.command, url.path, 0, 0))
                self.close_connection = True
            elif match is None:
                self._error(404, "Unrouted")
            elif refusal := hub.refuse.get(match["repo"]) or hub.refuse.get("*"):
                self._error(refusal[0], "", refusal[1])
            elif said := hub.says.get(match["repo"]):
                self._send(200, said, {"Content-Type": "application/json"})
            elif new := hub.renamed.get(match["repo"]):
                self._send(307, b"", {"Location": self.path.replace(match["repo"], new, 1)})
            elif tree or paths:
                self._list(match, parse_qs(asked.decode()).get("paths") if paths else None)
            elif model:
                query = parse_qs(url.query)
                self._model(model, blobs="blobs" in query, brief=query.get("expand") == ["sha"])
            elif file:
                self._file(file)

        do_HEAD = do_POST = do_GET

        def _model(self, match: re.Match[str], *, blobs: bool, brief: bool) -> None:
            found = self._find(match)
            if found is None:
                return
            repository, commit = found
            files = repository.commits[commit]
            siblings = [_sibling(name, data) if blobs else {"rfilename": name} for name, data in sorted(files.items())]
            info = {"id": match["repo"], "sha": commit}
            if not brief:
                info |= {"modelId": match["repo"], "siblings": siblings}
            self._send(200, json.dumps(info).encode(), {"Content-Type": "application/json"})

        def _list(self, match: re.Match[str], paths: list[str] | None) -> None:
            """What lies in a folder, or what some paths are."""
            found = self._find(match, gated=True)
            if found is None:
                return
            repository, commit = found
            files = repository.commits[commit]
            folders = {str(folder): b"" for name in files for folder in PurePath(name).parents if folder.name}
            names = paths or [
                name for name in (*folders, *files) if PurePath(name).parent == PurePath(match["path"] or "")
            ]
            entries = [
                {"type": "directory", "path": name, "oid": "0" * 40, "size": 0}
                if name in folders
                else {"type": "file", "path": name, "oid": _blob_id(files[name]), "size": len(files[name])}
                for name in sorted(names)
                if name in folders or name in files
            ]
            if paths is None and not entries:
                self._error(404, "EntryNotFound")
                return
            self._send(200, json.dumps(entries).encode(), {"Content-Type": "application/json"})

        def _file(self, match: re.Match[str]) -> None:
            found = self._find(match, gated=True)
            if found is None:
                return
            repository, commit = found
            data = repository.commits[commit].get(match["path"])
            if data is None:
                self._error(404, "EntryNotFound", {"X-Repo-Commit": commit})
                return
            headers = {"X-Repo-Commit": commit, "ETag": f'"{_etag(match["path"], data)}"', "Accept-Ranges": "bytes"}
            if _is_large(match["path"]):
                headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(len(data))}
            wanted = _RANGE.fullmatch(self.headers.get("Range", ""))
            if wanted is None or hub.ignore_ranges:
                self._send(200, data, headers, match["path"])
                return
            begin, end = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1) + 1
            headers["Content-Range"] = f"bytes {begin}-{end - 1}/{len(data)}"
            self._send(206, data[begin:end], headers, match["path"])

        def _find(self, match: re.Match[str], *, gated: bool = False) -> tuple[Repository, str] | None:
            """The repository and commit of a request; answers it if there is none, or if it asks for what is behind a gate."""
            repository = hub.repositories.get(match["repo"])
            if repository is None or (repository.token and not repository.gated and not self._bears(repository.token)):
                self._error(404, "RepoNotFound")
                return None
            commit = repository.find(match["revision"] or "main")
            if commit is None:
                self._error(404, "RevisionNotFound")
                return None
            if gated and repository.gated and not self._bears(repository.token):
                self._error(403, "GatedRepo")
                return None
            return repository, commit

        def _bears(self, token: str | None) -> bool:
            return self.headers.get("Authorization") == f"Bearer {token}"

        def _error(self, status: int, code: str, headers: Mapping[str, str] | None = None) -> None:
            said = {"X-Error-Code": code, "X-Error-Message": code} if code else {}
            self._send(status, json.dumps({"error": code}).encode(), {**said, **(headers or {})})

        def _send(self, status: int, body: bytes, headers: Mapping[str, str], name: str = "") -> None:
            self.send_response(status)
            for key, value in {**hub.headers, **headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "HEAD":
                body = b""
            cut = hub.cut.pop(name, None) if body else None
            whole, body = body, body[:cut]
            hub.served.append(Served(self.command, urlsplit(self.path).path, status, len(body)))
            half = len(body) // 2
            try:
                self.wfile.write(body[:half])
                if _is_large(name) and not hub.hold.is_set():
                    hub.held.append(name)
                    hub.hold.wait(300)
                self.wfile.write(body[half:])
            except OSError:
                self.close_connection = True  # the client went away
            if len(body) < len(whole):
                self.close_connection = True

    return Handler


def _is_large(path: str) -> bool:
    return path.endswith(".safetensors")


def _blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _etag(path: str, data: bytes) -> str:
    return hashlib.sha256(data).hexdigest() if _is_large(path) else _blob_id(data)


def _sibling(path: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"rfilename": path, "size": len(data), "blobId": _blob_id(data)}
    if _is_large(path):
        entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return entry
