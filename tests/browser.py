"""A real browser without a window: Chromium, led over its DevTools pipe, for pages that we make."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND", "--remote-debugging-pipe",
)  # fmt: skip
# Chromium reads commands from descriptor 3 and answers on 4.
_LAUNCH = (
    "import fcntl, os, sys\n"
    "ends = [fcntl.fcntl(int(text), fcntl.F_DUPFD, 20) for text in sys.argv[1:3]]\n"
    "os.dup2(ends[0], 3)\n"
    "os.dup2(ends[1], 4)\n"
    "os.execvp(sys.argv[3], sys.argv[3:])\n"
)


def browser_path() -> str:
    """Chromium's place; without one the test is skipped, and under CI it fails."""
    for name in (os.environ.get("CHROMIUM", ""), *_NAMES):
        found = shutil.which(name) if name else None
        if found:
            return found
    reason = "no Chromium to look at pages with; `make browser` as root installs Debian's"
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(f"{reason}; under CI these tests may not be skipped")
    pytest.skip(reason)


class Browser:
    """One Chromium process; `open` gives a new tab."""

    def __init__(self, profile: Path) -> None:
        command_out, self._commands = os.pipe()
        self._answers, answer_in = os.pipe()
        words = [browser_path(), *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _LAUNCH, str(command_out), str(answer_in), *words],
            pass_fds=(command_out, answer_in),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"HOME": str(profile)},
        )
        os.close(command_out)
        os.close(answer_in)
        self._buffer = b""
        self._next_id = 0
        self._events: list[dict[str, Any]] = []

    def close(self) -> None:
        os.close(self._commands)
        os.close(self._answers)
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Send one command and wait for its answer; events on the way are kept."""
        self._next_id += 1
        message: dict[str, Any] = {"id": self._next_id, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read(30.0)
            if answer.get("id") == self._next_id:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return dict(answer["result"])
            self._events.append(answer)

    def _read(self, limit_seconds: float) -> dict[str, Any]:
        stop = time.monotonic() + limit_seconds
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._answers], [], [], max(stop - time.monotonic(), 0))
            assert ready, f"no answer from the browser within {limit_seconds} s"
            part = os.read(self._answers, 1 << 20)
            assert part, "the browser has ended"
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\0")
        return dict(json.loads(line))

    def wait_for(self, event: str, session: str) -> None:
        """Until this event has come."""

        def has_come() -> bool:
            return any(e.get("method") == event and e.get("sessionId") == session
                       for e in self._events)  # fmt: skip

        while not has_come():
            self._events.append(self._read(30.0))

    def events(self, method: str, session: str) -> list[dict[str, Any]]:
        """Parameters of all events of this kind so far."""
        return [e["params"] for e in self._events
                if e.get("method") == method and e.get("sessionId") == session]  # fmt: skip

    def open(
        self,
        page: Path,
        *,
        size: tuple[int, int] = (1200, 900),
        dark: bool = False,
        scripts: bool = True,
        touch: bool = False,
    ) -> Tab:
        """A new tab that shows a file."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = Tab(self, session)
        for domain in ("Page", "Runtime", "Network", "Log"):
            tab.call(f"{domain}.enable")
        tab.call("Emulation.setDeviceMetricsOverride", width=size[0], height=size[1],
                 deviceScaleFactor=1, mobile=touch)  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        tab.call("Emulation.setEmulatedMedia", features=[scheme])
        tab.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        tab.call("Page.navigate", url=page.resolve().as_uri())
        self.wait_for("Page.loadEventFired", session)
        return tab


class Tab:
    """One page."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **params)

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives, as plain data."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True,
                           awaitPromise=True)  # fmt: skip
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def settle(self) -> None:
        """Until the page has been drawn with all that was done to it."""
        self.value("new Promise(f => requestAnimationFrame(() => requestAnimationFrame(f)))")

    def move(self, x: float, y: float) -> None:
        """The mouse goes there."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        self.settle()

    def click(self, x: float, y: float) -> None:
        self.move(x, y)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
        self.settle()

    def key(self, name: str, code: int) -> None:
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=name, code=name,
                      windowsVirtualKeyCode=code)  # fmt: skip
        self.settle()

    def media(self, kind: str) -> None:
        """`print` or `screen`."""
        self.call("Emulation.setEmulatedMedia", media=kind)
        self.settle()

    def screenshot(self, path: Path) -> None:
        image = self.call("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(image))

    def complaints(self) -> list[str]:
        """Errors and warnings on the console, and what the page was refused."""
        thrown = self._events("Runtime.exceptionThrown")
        found = [str(e["exceptionDetails"].get("exception")) for e in thrown]
        found += [str(e["args"]) for e in self._events("Runtime.consoleAPICalled")]
        return found + [e["entry"]["text"] for e in self._events("Log.entryAdded")]

    def requests(self) -> list[str]:
        """All addresses that the page asked for."""
        return [e["request"]["url"] for e in self._events("Network.requestWillBeSent")]

    def _events(self, method: str) -> list[dict[str, Any]]:
        return self._browser.events(method, self._session)
