"""Figures of the agent, seen from outside of the release binary: what turns, calls, prompts and commands cost beside the model's own time.

The model is a script that answers at once; files are in memory, so that no disk is measured. What a turn costs has all in it: the message's
frame, the inbox, the transcript, the deltas.
"""

from __future__ import annotations

import http.client
import json
import re
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scenario.wait import until

from .gateway import BINARY, MEMORY, Running, running

#: A conversation is read anew before each turn: short ones, and many.
CONVERSATIONS = 25
TURNS = 20
CALLS = 50
COMMANDS = 100

#: Where the gateway asks for tools, as on an instance: in a process of their own.
TOOLS = {"SKYKOI_TOOLS_SOCKET": "{folder}/tools"}


def scripted(folder: Path, script: list[dict[str, Any]]) -> None:
    """What the model says."""
    (folder / "script.json").write_text(json.dumps(script))


def config(**more: Any) -> dict[str, Any]:
    """The script as the model, and further sections."""
    defaults = {"model": {"primary": "scripted/script"}, "bootstrapMaxChars": 100_000}
    provider = {"scripted": {"file": "{folder}/script.json"}}
    return {"agents": {"defaults": defaults}, "models": {"providers": provider}, **more}


def say(*steps: dict[str, Any], when: str | None = None) -> dict[str, Any]:
    """One answer of the model."""
    return {"say": list(steps), **({"when": when} if when else {})}


def call(number: int) -> dict[str, Any]:
    """A wish to read a file."""
    return {"call": {"id": f"c{number}", "name": "read", "arguments": {"path": f"{number}.txt"}}}


@contextmanager
def tools(gateway: Running) -> Iterator[None]:
    """The process that performs tools."""
    socket = gateway.folder / "tools"
    command = [BINARY, "tools", "--socket", socket, "--workspace", gateway.folder / "koi"]
    with subprocess.Popen(command, env={"HOME": str(gateway.folder)}, stdin=subprocess.DEVNULL) as process:
        try:
            until("the tools listen", socket.exists, 10, every=0.001)
            yield
        finally:
            process.terminate()


def cpu_of_turns(gateway: Running) -> float:
    """Microseconds of the gateway's CPU for each of many turns in many conversations."""
    gateway.load("chat", count=TURNS, key="agent:main:direct:first")
    before = gateway.cpu_seconds()
    for number in range(CONVERSATIONS):
        gateway.load("chat", count=TURNS, key=f"agent:main:direct:{number}")
    return (gateway.cpu_seconds() - before) / (CONVERSATIONS * TURNS) * 1e6


def turns() -> dict[str, float]:
    """A turn of 100 words, and how much more it costs with a full workspace."""

    def full(folder: Path) -> None:
        scripted(folder, script)
        (folder / "koi").mkdir()
        for name in ("AGENTS.md", "SOUL.md", "IDENTITY.md", "USER.md", "TOOLS.md"):
            (folder / "koi" / name).write_text("A line of twenty.. \n" * 1000)

    script = [say(*[{"text": "word "}] * 100)]
    with running(lambda folder: scripted(folder, script), MEMORY, config()) as gateway:
        empty = cpu_of_turns(gateway)
    with running(full, MEMORY, config()) as gateway:
        more = cpu_of_turns(gateway) - empty
    return {"a turn of 100 words: CPU us": empty, "100 KB of workspace in front of it: CPU us more": more}


def calls() -> dict[str, float]:
    """Fifty readings of files in one turn."""
    together = [say(*map(call, range(CALLS)), when="hello"), say({"text": "done"})]
    chain = [say(call(number + 1), when=f"next {number};") for number in range(CALLS - 1)]
    figures = {}
    for name, script in {
        "side by side": together,
        "one by one": [say(call(0), when="hello"), *chain, say({"text": "done"})],
    }.items():

        def files(folder: Path, script: list[dict[str, Any]] = script) -> None:
            scripted(folder, script)
            (folder / "koi").mkdir()
            for number in range(CALLS):
                (folder / "koi" / f"{number}.txt").write_text(f"next {number};\n")

        with running(files, MEMORY, config(), TOOLS) as gateway, tools(gateway):
            seen = [gateway.load("chat", count=1, key=f"agent:main:direct:{number}") for number in range(CONVERSATIONS)]
            took = [one["final"]["p50_us"] for one in seen]
            transcript = next((gateway.folder / "agents" / "main" / "sessions").glob("*.jsonl")).read_text()
            assert transcript.count("next ") == CALLS, "every call was performed"
            figures[f"a turn with {CALLS} calls {name}: ms"] = statistics.median(took) / 1e3
    return figures


def commands() -> dict[str, float]:
    """From a request over HTTP to the first byte of what a command prints."""
    figures = {}
    for name, sections in {"a command": {}, "a confined command": {"tools": {"workspaceOnly": True}}}.items():
        with running(lambda folder: scripted(folder, []), MEMORY, config(**sections), TOOLS) as gateway:
            with tools(gateway):
                took = [first_byte(gateway) for _ in range(COMMANDS)]
            figures[f"{name} to its first byte, p50 ms"] = statistics.median(took) * 1e3
    return figures


def first_byte(gateway: Running) -> float:
    """Seconds."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10)
    connection.connect()
    body = json.dumps({"tool": "exec", "args": {"command": "date +%s%N"}})
    begin = time.time_ns()
    connection.request("POST", "/tools/invoke", body, {"Authorization": f"Bearer {gateway.token}"})
    answer = json.loads(connection.getresponse().read())
    connection.close()
    assert answer["ok"], answer
    return (int(answer["result"]["content"][0]["text"].split()[0]) - begin) / 1e9


def prompt() -> dict[str, float]:
    """What stands in front of each conversation, with all tools on and nothing in the workspace."""
    search = {"provider": "searxng", "baseUrl": "http://127.0.0.1:1"}
    sections = config(tools={"web": {"search": search}, "speech": {}})
    with running(lambda folder: scripted(folder, []), MEMORY, sections) as gateway:
        said = gateway.load("chat", count=1, message="/context")["said"]
    text = said if isinstance(said, str) else said[0]["text"]
    found = re.search(r"Together: about (\d+) tokens", text)
    assert found, text
    return {"base prompt, bundled skills and all tools: tokens": float(found[1])}


def memory() -> dict[str, float]:
    """What a thousand turns in ten conversations leave behind."""
    with running(lambda folder: scripted(folder, [say(*[{"text": "word "}] * 100)]), MEMORY, config()) as gateway:
        for number in range(10):
            gateway.load("chat", count=1, key=f"agent:main:direct:{number}")
        first = gateway.rss_mib()
        for number in range(10):
            gateway.load("chat", count=99, key=f"agent:main:direct:{number}")
        last = gateway.rss_mib()
    return {
        "RSS after the first turn of ten conversations MiB": first,
        "RSS after 1,000 turns MiB": last,
        "RSS after 1,000 turns, more than after the first: %": (last / first - 1) * 100,
    }


def measure() -> dict[str, float]:
    """All figures, by name; units are in the names."""
    return turns() | calls() | commands() | prompt() | memory()
