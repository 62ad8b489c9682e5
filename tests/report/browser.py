"""Headless Chromium, driven through its DevTools pipe with the standard library alone."""

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --hide-scrollbars "
    "--disable-background-networking --disable-component-update --disable-extensions --disable-sync "
    "--remote-debugging-pipe"
)
_KEYS = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Home": 36, "End": 35, "Tab": 9}


def find_chromium() -> str | None:
    """Return the path of Chromium, or None if it is not installed."""
    return next(filter(None, map(shutil.which, _NAMES)), None)


class Browser:
    """A browser with one tab, and a context manager. `requests` are the addresses requested, in order."""

    def __init__(self, path: str, timeout: float = 60):
        self.timeout, self.requests = timeout, []
        self._events, self._last = [], 0
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        profile = [f"--user-data-dir={self._profile.name}"]
        self._write, self._read, self._process = _spawn([path, *_FLAGS.split(), *profile, "about:blank"])
        self._buffer = b""
        self._session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        os.killpg(self._process, signal.SIGKILL)
        os.waitpid(self._process, 0)
        os.close(self._read)
        os.close(self._write)
        self._profile.cleanup()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Return a DevTools command's result.

        Raises AssertionError for an error, and if there is no answer within the timeout.
        """
        self._last += 1
        number = self._last
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        answer = self._wait(lambda message: message.get("id") == number)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def open(
        self, page: Path, width: int, height: int = 900, scheme: str = "light", script: bool = True
    ) -> None:
        """Load a file into a window of the given size and colour scheme, and wait until it is loaded."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Emulation.setScriptExecutionDisabled", value=not script)
        self._events.clear()
        self.call("Page.navigate", url=page.as_uri())
        self._wait(lambda message: message.get("method") == "Page.loadEventFired")

    def value(self, expression: str) -> Any:
        """Return the value of a JavaScript expression. Raises AssertionError for an exception."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """Press and release a key, wherever the focus is."""
        for kind in ("rawKeyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=_KEYS[key]
            )

    def screenshot(self, path: Path, whole: bool = True) -> None:
        """Write a PNG file of the whole page, or of the window alone."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(shot))

    def _wait(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Return the first wanted message, and forget it and all messages before it."""
        end = time.monotonic() + self.timeout
        while True:
            for i, message in enumerate(self._events):
                if wanted(message):
                    del self._events[: i + 1]
                    return message
            self._events += self._receive(end - time.monotonic())

    def _receive(self, seconds: float) -> list[dict[str, Any]]:
        ready, _, _ = select.select([self._read], [], [], max(seconds, 0))
        assert ready and seconds > 0, f"Chromium did not answer within {self.timeout} s"
        read = os.read(self._read, 1 << 16)
        assert read, "Chromium has ended"
        *whole, self._buffer = (self._buffer + read).split(b"\0")
        messages = [json.loads(message) for message in whole]
        for message in messages:
            if message.get("method") == "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])
        return messages


def _spawn(arguments: list[str]) -> tuple[int, int, int]:
    """Start Chromium; return the descriptors for commands and for answers, and the process id.

    It reads commands from its descriptor 3 and answers on 4; a zero byte ends each message.
    """
    commands, write = os.pipe()
    read, answers = os.pipe()
    # Copies with numbers from 10 on, so that none of them is 3 or 4 itself.
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (commands, answers)]
    actions = [(os.POSIX_SPAWN_DUP2, end, place) for end, place in zip(high, (3, 4), strict=True)]
    actions += [(os.POSIX_SPAWN_OPEN, place, os.devnull, os.O_WRONLY, 0) for place in (1, 2)]
    process = os.posix_spawn(arguments[0], arguments, os.environ, file_actions=actions, setsid=True)
    for end in (commands, answers, *high):
        os.close(end)
    return write, read, process
