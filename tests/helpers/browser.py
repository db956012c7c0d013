"""A real headless chromium, driven by the DevTools protocol over two pipes: no port, no network."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)


class Page:
    """One page of the browser; ``errors`` holds what it complained of on its console."""

    def __init__(self, to_browser: Any, from_browser: Any) -> None:
        self._to, self._from = to_browser, from_browser
        self._number = 0
        self._session: str | None = None
        self.errors: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.requests: list[str] = []

    def call(self, method: str, **parameters: Any) -> Any:
        """Send a command and return its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        self._to.write(json.dumps(message).encode() + b"\0")
        self._to.flush()
        while True:
            heard = self._hear()
            if heard.get("id") == self._number:
                assert "error" not in heard, heard
                return heard["result"]

    def open(self, path: Path, fragment: str = "") -> None:
        """Load a file and wait until it is loaded."""
        self.call("Page.navigate", url="about:blank")  # else only the fragment might change
        self.call("Page.navigate", url=path.as_uri() + fragment)
        while self._hear().get("method") != "Page.loadEventFired" or self.at() == "about:blank":
            pass

    def at(self) -> str:
        """Return the address of the page that is loaded."""
        return str(self.run("location.href"))

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """Send an event of the left button: mouseMoved, mousePressed or mouseReleased."""
        held = {"button": "left", "clickCount": 1, **more}
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **held)

    def press(self, key: str, text: str = "") -> None:
        """Press a key and let it go."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, text=text, code=key,
                      windowsVirtualKeyCode=13 if key == "Enter" else 0)  # fmt: skip

    def run(self, script: str) -> Any:
        """Return the value of a JavaScript expression."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def shape(self, width: int, height: int, *, dark: bool = False) -> None:
        """Set the window's size and the preferred colours."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, path: Path) -> None:
        """Write a PNG of the whole page."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _hear(self) -> Any:
        raw = bytearray()
        while (byte := self._from.read(1)) != b"\0":
            assert byte, "the browser has gone"
            raw += byte
        heard = json.loads(raw)
        method, said = heard.get("method"), heard.get("params", {})
        if method == "Runtime.exceptionThrown":
            thrown = said["exceptionDetails"]
            self.errors.append(thrown.get("exception", {}).get("description", thrown["text"]))
        elif method == "Log.entryAdded" and said["entry"]["level"] == "error":
            self.errors.append(said["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(said["request"]["url"])
        return heard


@contextmanager
def browsing() -> Iterator[Page]:
    """Run a browser until the block ends."""
    assert CHROMIUM is not None
    theirs_in, ours_out = (_high(end) for end in os.pipe())
    ours_in, theirs_out = (_high(end) for end in os.pipe())
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # The protocol is read from descriptor 3 and answered on 4.
        command = f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out}'
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                 "--remote-debugging-pipe", f"--user-data-dir={profile}"]  # fmt: skip
        process = subprocess.Popen(
            ["bash", "-c", command, CHROMIUM, *flags],
            pass_fds=(theirs_in, theirs_out),
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        with os.fdopen(ours_out, "wb") as to_browser, os.fdopen(ours_in, "rb") as from_browser:
            try:
                yield Page(to_browser, from_browser)
            finally:
                process.terminate()
                process.wait(timeout=30)


def _high(descriptor: int) -> int:
    """Return a copy out of the way of descriptors 3 and 4."""
    copy = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 20)
    os.close(descriptor)
    return copy
