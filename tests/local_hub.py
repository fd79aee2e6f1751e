"""A hub on this machine, as much of it as the real client asks for: models, commits, branches, uploads."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest


class LocalHub:
    """Repositories by name: branch → commit → file → bytes; safetensors are large files, the rest is in git."""

    def __init__(self) -> None:
        self.branches: dict[str, dict[str, str]] = {}
        self.commits: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.served: dict[str, bytes] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.tokens: set[str | None] = set()
        self.gated: set[str] = set()

    def commit(self, name: str, files: Mapping[str, bytes], branch: str = "main") -> str:
        """Put files on a branch, beside what is there; returns the commit."""
        before = self.commits.get(self.branches.get(name, {}).get(branch, ""), {})
        after = {**before, **files}
        sha = hashlib.sha1(f"{name}{len(self.commits)}{sorted(after)}".encode()).hexdigest()
        self.commits[sha] = after
        self.branches.setdefault(name, {})[branch] = sha
        self.private.setdefault(name, False)
        return sha

    def files(self, name: str, branch: str = "main") -> dict[str, bytes]:
        return self.commits[self.branches[name][branch]]

    def info(self, name: str, revision: str) -> dict[str, Any] | None:
        sha = self.branches.get(name, {}).get(revision, revision)
        if name not in self.branches or sha not in self.commits:
            return None
        siblings = []
        for path, content in self.commits[sha].items():
            entry: dict[str, Any] = {"rfilename": path, "size": len(content), "blobId": "0" * 40}
            if path.endswith(".safetensors"):
                digest = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 134}
            siblings.append(entry)
        return {"id": name, "sha": sha, "private": self.private[name], "siblings": siblings, "tags": []}

    @contextmanager
    def open(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
        """Serve, and make the client ask here and nowhere else, with no token and no cache of the user's."""
        from huggingface_hub import constants

        handler = type("Handler", (_Handler,), {"hub": self})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        self.address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", self.address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", self.address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        try:
            yield self.address
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: LocalHub

    def log_message(self, *_: object) -> None:
        pass

    def _parts(self) -> list[str]:
        self.hub.requests.append(f"{self.command} {self.path}")
        self.hub.tokens.add(self.headers.get("authorization"))
        return [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]

    def _answer(self, status: int, content: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, value: Any) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _missing(self, code: str) -> None:
        self._answer(404, b"{}", {"X-Error-Code": code})

    def do_GET(self) -> None:
        parts = self._parts()
        if parts[:2] == ["api", "models"] and parts[4:5] == ["tree"]:
            files = self.hub.commits[parts[5]]
            return self._json([{"type": "file", "path": p, "size": len(files[p]), "oid": "0" * 40} for p in files])
        if parts[:2] == ["api", "models"]:
            revision = parts[5] if parts[4:5] == ["revision"] else "main"
            info = self.hub.info("/".join(parts[2:4]), revision)
            known = "/".join(parts[2:4]) in self.hub.branches
            return self._json(info) if info else self._missing("RevisionNotFound" if known else "RepoNotFound")
        name, commit, path = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
        if name in self.hub.gated:
            return self._answer(401, b"{}", {"X-Error-Code": "GatedRepo"})
        content = self.hub.commits.get(commit, {}).get(path)
        if content is None:
            return self._missing("EntryNotFound")
        content = self.hub.served.get(path, content)
        headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
        return self._answer(200, content, headers)

    do_HEAD = do_GET  # noqa: N815

    def do_PUT(self) -> None:
        parts = self._parts()
        self.hub.large[parts[1]] = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(200)

    def do_POST(self) -> None:
        parts = self._parts()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if parts == ["api", "validate-yaml"]:
            return self._json({"errors": [], "warnings": []})
        if parts == ["api", "repos", "create"]:
            return self._create(json.loads(body))
        if parts[-3:] == ["lfs", "objects", "batch"]:
            upload = {"actions": {"upload": {"href": f"{self.hub.address}/large/OID"}}}
            objects = json.loads(body)["objects"]
            answers = [{**one, **json.loads(json.dumps(upload).replace("OID", one["oid"]))} for one in objects]
            return self._json({"transfer": "basic", "objects": answers})
        name, verb, revision = "/".join(parts[2:4]), parts[4], parts[5]
        if verb == "branch":
            if revision in self.hub.branches[name]:
                return self._answer(409, b"{}")
            self.hub.branches[name][revision] = self.hub.branches[name]["main"]
            return self._json({})
        if verb == "preupload":
            mode = {True: "lfs", False: "regular"}
            files = [
                {"path": f["path"], "uploadMode": mode[f["path"].endswith(".safetensors")], "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]
            return self._json({"files": files})
        return self._commit(name, revision, [json.loads(line) for line in body.splitlines()])

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.hub.branches:
            return self._answer(409, json.dumps({"url": f"{self.hub.address}/{name}"}).encode())
        self.hub.private[name] = asked.get("visibility") == "private"
        self.hub.commit(name, {".gitattributes": b""})
        return self._json({"url": f"{self.hub.address}/{name}"})

    def _commit(self, name: str, branch: str, lines: list[dict[str, Any]]) -> None:
        if lines[0]["value"].get("parentCommit") not in (None, self.hub.branches[name][branch]):
            return self._answer(412, b"{}")
        files = {}
        for line in lines[1:]:
            value = line["value"]
            stored = line["key"] == "lfsFile"
            files[value["path"]] = self.hub.large[value["oid"]] if stored else base64.b64decode(value["content"])
        sha = self.hub.commit(name, files, branch)
        return self._json({"commitUrl": f"{self.hub.address}/{name}/commit/{sha}", "commitOid": sha})
