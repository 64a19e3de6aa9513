"""Another program's view of exported meshes: three.js in headless Chromium.

``.ci/run`` installs both where it may. ``VIEWER_PACKAGES`` names the folder that holds npm's ``node_modules`` with
``three``; the browser is looked for in the PATH.
"""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
)
SECONDS_TO_OPEN, SECONDS_TO_DRAW = 60, 120


@dataclass(frozen=True)
class Shot:
    """One picture of one file.

    Attributes:
        file: below the folder that ``draw`` serves.
        what: base ``colors``, ``normals`` in the camera's frame, or ``lit`` by a sun, for a person to look at.
        position, up: of the camera in the file's frame; it looks at the origin.
        fovy: vertical field of view in degrees.
        material: the OBJ's ``.mtl``.
    """

    file: str
    what: str
    position: tuple[float, float, float]
    up: tuple[float, float, float] = (0.0, 1.0, 0.0)
    fovy: float = 49.1
    material: str = ""


def find_three() -> Path:
    """The package ``three``; the test is skipped without it."""
    packages = os.environ.get("VIEWER_PACKAGES", "")
    folder = Path(packages, "node_modules", "three")
    if not packages or not (folder / "build" / "three.module.js").is_file():
        pytest.skip(
            "needs three.js: `npm install --prefix FOLDER three` and VIEWER_PACKAGES=FOLDER (.ci/run has it if it can)"
        )
    return folder


def find_browser() -> str:
    """Path of Chromium; the test is skipped without it."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"needs one of {', '.join(BROWSERS)} in the PATH (.ci/run installs it as root on Debian)")
    return found


def draw(folder: Path, shots: list[Shot], size: int) -> list[tuple[np.ndarray, dict]]:
    """Of every shot its picture, RGBA uint8 ``[size, size, 4]`` with alpha 0 where nothing was drawn, and what three.js
    makes of the material.

    Raises:
        AssertionError: the viewer could not read or draw a file.
    """
    three, browser = find_three(), find_browser()
    task = {"size": size, "shots": [vars(shot) | {"file": f"/files/{shot.file}"} for shot in shots]}
    for shot in task["shots"]:
        shot["material"] = shot["material"] and f"/files/{shot['material']}"
    server = _Server(json.dumps(task).encode(), {"three": three, "files": folder})
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [browser, *FLAGS, f"--user-data-dir={profile}", f"http://127.0.0.1:{server.server_port}/viewer.html"]
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            if not server.opened.wait(SECONDS_TO_OPEN):
                pytest.skip(f"{browser} did not open a page within {SECONDS_TO_OPEN} s")
            assert server.done.wait(SECONDS_TO_DRAW), f"the viewer did not finish within {SECONDS_TO_DRAW} s"
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            server.shutdown()
            server.server_close()
    if "WebGL" in server.error:
        pytest.skip(f"{browser} has no WebGL here: {server.error}")
    assert not server.error, server.error
    return [(_decoded(drawn["picture"]), drawn["material"]) for drawn in json.loads(server.answer)]


def _decoded(url: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as image:
        return np.asarray(image.convert("RGBA"))


class _Server(ThreadingHTTPServer):
    """Serves the page, its task and the given folders on a free local port, and keeps what the page posts."""

    daemon_threads = True

    def __init__(self, task: bytes, folders: dict[str, Path]) -> None:
        super().__init__(("127.0.0.1", 0), partial(_Handler, directory="/"))
        self.task, self.folders = task, folders
        self.opened, self.done = threading.Event(), threading.Event()
        self.answer, self.error = "", ""


class _Handler(SimpleHTTPRequestHandler):
    server: _Server
    extensions_map = {**SimpleHTTPRequestHandler.extensions_map, ".js": "text/javascript"}

    def do_GET(self) -> None:
        if self.path != "/shots.json":
            super().do_GET()
            return
        self.server.opened.set()
        self._reply(self.server.task)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if self.path == "/drawn":
            self.server.answer = body
        else:
            self.server.error = body or "the viewer failed without a word"
        self._reply(b"")
        self.server.done.set()

    def translate_path(self, path: str) -> str:
        top, _, rest = path.lstrip("/").partition("/")
        if top in self.server.folders:
            return str(self.server.folders[top] / rest)
        return str(Path(__file__).with_name("viewer.html"))

    def log_message(self, *args: object) -> None:
        """Silence."""

    def _reply(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
