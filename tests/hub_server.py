# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""As much of the Hub's interface as a download takes, served from folders on this machine."""

import hashlib
import json
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Handler(BaseHTTPRequestHandler):
    """Serves models by name: `/api/models/NAME/...` tells about them, `/NAME/resolve/COMMIT/FILE` sends a file."""

    protocol_version = "HTTP/1.1"

    def __init__(self, *args, folders: dict[str, Path], faults: set[str]):
        self.folders, self.faults = folders, faults
        super().__init__(*args)

    def do_GET(self):  # noqa: N802
        path = self.path.partition("?")[0]
        name = "/".join(path.removeprefix("/api/models/").strip("/").split("/")[:2])
        files = sorted(self.folders[name].iterdir()) if name in self.folders else []
        if path.startswith("/api/models/") and "/tree/" in path:
            self.answer([self.entry(file) for file in files])
        elif path.startswith("/api/models/") and files:
            self.answer({"id": name, "sha": COMMIT, "siblings": [{"rfilename": file.name} for file in files]})
        elif "/resolve/" in path and self.folders[name] / path.rpartition("/")[2] in files:
            self.send(self.folders[name] / path.rpartition("/")[2])
        else:
            self.answer({"error": "not found"}, 404)

    do_HEAD = do_GET  # noqa: N815

    def entry(self, file: Path) -> dict:
        content = file.read_bytes()
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        entry = {"type": "file", "path": file.name, "size": len(content), "oid": blob}
        if file.suffix in (".safetensors", ".bin"):
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
        return entry

    def answer(self, content, status: int = 200):
        content = json.dumps(content).encode()
        self.start(status, {"Content-Length": len(content)})
        self.wfile.write(content if self.command == "GET" else b"")

    def send(self, file: Path):
        content, entry = file.read_bytes(), self.entry(file)
        first = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        headers = {"ETag": f'"{entry.get("lfs", entry)["oid"]}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if "lfs" in entry:
            headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": len(content)}
        if first:
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        self.start(206 if first else 200, headers | {"Content-Length": len(content) - first})
        if "damaged" in self.faults and "lfs" in entry:
            content = content[:-1] + bytes([content[-1] ^ 1])
        if "cut" in self.faults and "lfs" in entry:
            content, self.close_connection = content[: len(content) // 2], True
        self.wfile.write(content[first:] if self.command == "GET" else b"")

    def start(self, status: int, headers: dict):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()

    def log_message(self, *args):
        pass


@contextmanager
def serve(folders: dict[str, Path]):
    """Serve folders by the names of models; give the address, and a set of `"cut"` and `"damaged"`, empty at first."""
    faults: set[str] = set()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, folders=folders, faults=faults))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", faults
    finally:
        server.shutdown()
        server.server_close()
