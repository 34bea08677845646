"""A hub of our own: the few routes that huggingface_hub's client uses, over HTTP on loopback.

Also, run as a script, the process that asks it: huggingface_hub reads its environment variables
when it is imported, so each setting of them needs a process. It reads one JSON object a line,
``{"model": ..., "weights": ...}``, and answers each with a line.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

Files = dict[str, bytes]


@dataclass
class Repository:
    """Its revisions by name, each a commit; ``gated`` and ``broken`` answer 403 and 500."""

    commits: dict[str, Files]
    branches: dict[str, str]
    gated: bool = False
    broken: bool = False

    @classmethod
    def of(cls, files: Files, **flags: bool) -> Repository:
        commit = hashlib.sha1(json.dumps(sorted(files)).encode()).hexdigest()
        return cls({commit: files}, {"main": commit}, **flags)


@dataclass
class Hub:
    """A running server."""

    repositories: dict[str, Repository]
    downloads: list[str] = field(default_factory=list)
    """Paths of the files whose content was sent."""
    num_requests: int = 0

    def __post_init__(self) -> None:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                hub.answer(self, with_body=False)

            def do_GET(self) -> None:
                hub.answer(self, with_body=True)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, handler: BaseHTTPRequestHandler, *, with_body: bool) -> None:
        self.num_requests += 1
        path = unquote(urlsplit(handler.path).path)
        status, headers, body = self._find(path)
        if with_body and "/resolve/" in path and status == 200:
            self.downloads.append(path.split("/", 5)[5])
        handler.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            handler.send_header(name, value)
        handler.end_headers()
        if with_body:
            handler.wfile.write(body)

    def _find(self, path: str) -> tuple[int, dict[str, str], bytes]:
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(revision|tree)/(.+)", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        match = api or file
        repository = self.repositories.get(match[1]) if match else None
        if match is None or repository is None:
            return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"
        if repository.gated:
            return 403, {"X-Error-Code": "GatedRepo"}, b"{}"
        if repository.broken:
            return 500, {}, b"out of order"
        revision = match[3] if api else match[2]
        commit = repository.branches.get(revision, revision)
        files = repository.commits.get(commit)
        if files is None:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        if api:
            return 200, {"Content-Type": "application/json"}, _listing(match, commit, files)
        content = files.get(match[3])
        if content is None:
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b""
        etag = hashlib.sha1(content).hexdigest()
        return 200, {"X-Repo-Commit": commit, "ETag": f'"{etag}"'}, content


def _listing(match: re.Match[str], commit: str, files: Files) -> bytes:
    if match[2] == "revision":
        value: Any = {"id": match[1], "sha": commit, "siblings": [{"rfilename": f} for f in files]}
    else:
        value = [
            {
                "type": "file",
                "path": name,
                "size": len(content),
                "oid": hashlib.sha1(content).hexdigest(),
            }
            for name, content in files.items()
        ]
    return json.dumps(value).encode()


class Asker:
    """A process with its own cache and environment that resolves models, one after the other."""

    def __init__(self, endpoint: str, home: Path, working_folder: Path, **variables: str) -> None:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))
            and "proxy" not in name.lower()
        }
        kept |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=kept | variables,
            cwd=working_folder,
        )

    def resolve(self, model: str, *, weights: bool = True) -> dict[str, Any]:
        """``{"folder": ...}`` or ``{"error": class, "message": ..., "hint": ...}``."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"model": model, "weights": weights}) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        self._process.communicate()


def main() -> None:
    from octavo.core.errors import OctavoError
    from octavo.models.folder import resolve

    for line in sys.stdin:
        try:
            answer = {"folder": str(resolve(**json.loads(line)))}
        except OctavoError as error:
            answer = {
                "error": type(error).__name__,
                "message": error.message,
                "hint": error.hint or "",
            }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
