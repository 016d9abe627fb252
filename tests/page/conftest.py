"""A gateway on loopback and a real browser."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from scenario.wait import until
from world.paths import BROWSERS, ROOT, NotSetUp, system_program

#: it neither looks for updates nor calls anybody: the tests need no network
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
DESK, PHONE = {"width": 1100, "height": 760}, {"width": 390, "height": 780}


#: what the model says that is not an echo
SCRIPT = [
    {
        "when": "disk",
        "say": [
            {"text": "The data volume is **41 %** full:\n\n```\nFilesystem      Size  Used Avail Use% Mounted on\n"}
        ]
        + [{"text": "/dev/nvme1n1     20G  8.1G   12G  41% /home\n```\n\nMost of it is `~/koi/reports` (5.2 GB). "}]
        + [{"text": "I can pack what is older than a month, if you like."}],
    },
    {"say": [{"text": "It begins"}, {"waitMs": 200}, {"text": " and goes on"}, "hang"]},
]


class Gateway:
    """A gateway that runs, and can be ended and started again at the same address."""

    def __init__(self, home: Path) -> None:
        self.home, self.token, self.port = home, secrets.token_urlsafe(32), 0
        (home / "koi").mkdir()
        script = home / "script.json"
        script.write_text(json.dumps(SCRIPT))
        wish = {
            "gateway": {"mode": "local", "auth": {"mode": "token", "token": self.token}},
            "agents": {"defaults": {"model": {"primary": "echo/echo"}}},
            "models": {"providers": {"scripted": {"file": str(script)}}},
        }
        self.config = home / "skykoi.json"
        self.config.write_text(json.dumps(wish))
        self.config.chmod(0o600)
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def start(self) -> None:
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.home), "SKYKOI_STATE_DIR": str(self.home / "state")}
        log = self.home / "log"
        command = [ROOT / "target/debug/koi-gateway", "run", "--port", str(self.port), "--config", self.config]
        with log.open("wb") as out:
            self.process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stderr=out)
        self.port = until("the gateway listens", lambda: port_in(log), 10, seen=log.read_text)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(15)


def port_in(log: Path) -> int | None:
    """Where the gateway says that it listens."""
    found = re.search(r"address=127\.0\.0\.1:(\d+)", re.sub(r"\x1b\[[0-9;]*m", "", log.read_text()))
    return int(found[1]) if found else None


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    gateway = Gateway(tmp_path_factory.mktemp("gateway"))
    yield gateway
    gateway.stop()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    program = next(filter(None, (find(name) for name in BROWSERS)), None)
    assert program, f"no browser: install one of {', '.join(BROWSERS)}"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(QUIET))
        yield browser
        browser.close()


def find(name: str) -> str | None:
    try:
        return str(system_program(name))
    except NotSetUp:
        return None


@dataclasses.dataclass
class Visit:
    """A page, and what went wrong on it."""

    page: Page
    faults: list[str]


@pytest.fixture(params=[DESK, PHONE], ids=["desk", "phone"])
def visit(request: pytest.FixtureRequest, browser: Browser, gateway: Gateway) -> Iterator[Visit]:
    """A browser that was never here, on a desk and on a phone; what its console complains about fails the test."""
    context = browser.new_context(viewport=request.param, locale="en-GB", timezone_id="Europe/Berlin")
    page = context.new_page()
    page.set_default_timeout(10_000)
    faults: list[str] = []
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda asked: None if asked.url.startswith((gateway.url, "blob:")) else faults.append(asked.url))
    page.goto(gateway.url)
    yield Visit(page, faults)
    context.close()
    assert faults == []
