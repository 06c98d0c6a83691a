"""A headless Chromium that tests drive through its DevTools protocol: it waits for what it photographs."""

from __future__ import annotations

import asyncio
import base64
import itertools
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chromium-headless-shell")
CHROMIUM = next((path for name in BROWSERS if (path := shutil.which(name))), None)
NEEDS_BROWSER = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium installed")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars"),
    *("--remote-debugging-port=0", "about:blank"),
)
PHONE, DESK = 390, 1200
TILE = 1600
"""Height of one picture of a long page, in CSS pixels: it can still be read where a viewer shrinks it."""
READY = "document.readyState === 'complete'"


class NeverAppeared(AssertionError):
    """What was waited for did not come."""


class Browser:
    """One tab, in a profile of its own."""

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM is not None
        command = [CHROMIUM, f"--user-data-dir={profile}", *FLAGS]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.loop = asyncio.new_event_loop()
        self.console: list[str] = []
        self._ids = itertools.count(1)
        try:
            self.loop.run_until_complete(self._connect(profile / "DevToolsActivePort"))
        except BaseException:
            self.process.kill()
            raise
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    async def _connect(self, port_file: Path) -> None:
        deadline = time.monotonic() + 60
        while not (port_file.is_file() and port_file.read_text().strip()):
            assert time.monotonic() < deadline, "Chromium did not start"
            await asyncio.sleep(0.05)
        self.session = aiohttp.ClientSession()
        port = port_file.read_text().split()[0]
        async with self.session.get(f"http://127.0.0.1:{port}/json/list") as answer:
            tab = next(each for each in await answer.json() if each["type"] == "page")
        self.socket = await self.session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0)

    def send(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """One command, and its answer; what the console says meanwhile is kept."""
        return self.loop.run_until_complete(self._send(method, session, parameters))

    async def _send(self, method: str, session: str | None, parameters: dict[str, Any]) -> dict[str, Any]:
        number = next(self._ids)
        command = {"id": number, "method": method, "params": parameters}
        await self.socket.send_json(command | ({"sessionId": session} if session else {}))
        while True:
            message = await self.socket.receive_json(timeout=60)
            if message.get("id") == number:
                assert "error" not in message, (method, message["error"])
                return message["result"]
            self._listen(message.get("method", ""), message.get("params", {}))

    def _listen(self, event: str, said: dict[str, Any]) -> None:
        if event == "Runtime.consoleAPICalled":
            self.console.append(" ".join(str(each.get("value", "")) for each in said["args"]))
        elif event == "Runtime.exceptionThrown":
            self.console.append(str(said["exceptionDetails"]))
        elif event == "Log.entryAdded":
            self.console.append(said["entry"]["text"])

    def show(self, url: str, width: int = DESK, scheme: str = "light", height: int = 1400) -> None:
        """Open a page at a desk or on a phone, by day or by night; motion is reduced, so that nothing is half-way."""
        self.console.clear()
        is_phone = width < 600
        size = {"width": width, "height": 844 if is_phone else height, "deviceScaleFactor": 1}
        self.send("Emulation.setDeviceMetricsOverride", **size, mobile=is_phone)
        features = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
        self.emulate("screen", **features)
        self.send("Page.navigate", url="about:blank")
        self.send("Page.navigate", url=url)
        self.wait_for(f"location.href !== 'about:blank' && {READY}")

    def emulate(self, media: str, **features: str) -> None:
        """`screen` or `print`, and what the person prefers."""
        listed = [{"name": name, "value": value} for name, value in features.items()]
        self.send("Emulation.setEmulatedMedia", media=media, features=listed)

    def evaluate(self, expression: str, *, in_frame: bool = False) -> Any:
        """What an expression is in the page, or in its sandboxed frame, None while there is none; awaits promises."""
        session = None
        if in_frame:
            targets = self.send("Target.getTargets")["targetInfos"]
            frames = [each["targetId"] for each in targets if each["type"] == "iframe"]
            if not frames:
                return None
            session = self.send("Target.attachToTarget", targetId=frames[0], flatten=True)["sessionId"]
        given = {"expression": expression, "returnByValue": True, "awaitPromise": True}
        found = self.send("Runtime.evaluate", session=session, **given)
        assert "exceptionDetails" not in found, (expression, found["exceptionDetails"])
        return found["result"].get("value")

    def wait_for(self, condition: str, seconds: float = 60, *, in_frame: bool = False) -> None:
        """Wait until a condition holds in the page.

        Raises:
            NeverAppeared: it did not in that time.
        """
        deadline = time.monotonic() + seconds
        while not self.evaluate(condition, in_frame=in_frame):
            if time.monotonic() > deadline:
                there = self.evaluate("location.href + ': ' + (document.body?.innerText ?? '').slice(0, 600)")
                raise NeverAppeared(f"not in {seconds:g} s: {condition}\n{there}")
            time.sleep(0.1)

    def picture(self, path: Path, *, whole: bool = True) -> list[Path]:
        """The page from top to foot as `PATH-1.png`, `PATH-2.png`, …, a tile each; or only what a screen shows."""
        view = self.send("Page.getLayoutMetrics")
        height = view["cssContentSize" if whole else "cssLayoutViewport"]
        height, width = (
            height.get("height") or height["clientHeight"],
            view["cssLayoutViewport"]["clientWidth"],
        )
        tops = range(0, int(height), TILE) if whole else [0]
        found = []
        for number, top in enumerate(tops, 1):
            clip = {"x": 0, "y": top, "width": width, "height": min(TILE, height - top), "scale": 1}
            shot = self.send("Page.captureScreenshot", clip=clip, captureBeyondViewport=whole)
            found.append(path.with_name(f"{path.name}-{number}.png"))
            found[-1].write_bytes(base64.b64decode(shot["data"]))
        return found

    def close(self) -> None:
        """End it."""
        self.loop.run_until_complete(self.session.close())
        self.loop.close()
        self.process.terminate()
        self.process.wait(30)
