"""The agent at work on a booted machine: a stock client, TLS, nginx, the gateway, a model in its own encoding, real tools as the agent's own user."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from scenario import chromium
from scenario.stage import Stage
from scenario.stock import StockClient, words
from scenario.wait import until

NAME, TRUSTED = "at-work", "trusted"
MODEL = "us.anthropic.claude-opus-4-6-v1"
HOSTILE = Path(__file__).with_name("hostile.py")
PORT = 18789


@pytest.fixture(scope="module")
def made(stage: Stage) -> Iterator[str]:
    """Two agents: one as everybody has it, and one whose plan trusts it with root."""
    if not [operator for operator in stage.operators if operator.process.poll() is None]:
        stage.start_operator()
    kind = {"apiVersion": "skykoi.io/v1alpha1"}
    stage.apply({**kind, "kind": "KoiPlan", "metadata": {"name": "root"}, "spec": {"tools": {"sudo": True}}})
    keep = {"storage": {"deletionPolicy": "Delete"}}
    for name, spec in ((NAME, keep), (TRUSTED, {**keep, "planRef": {"name": "root"}})):
        stage.kube.create_agent({**kind, "kind": "KoiAgent", "metadata": {"name": name}, "spec": spec})
    yield NAME
    stage.cloud.models_say()
    for name in (NAME, TRUSTED):
        stage.kube.delete_agent(name)
    for name in (NAME, TRUSTED):
        stage.wait_gone(name, seconds=90)
    stage.kubectl("delete", "koiplan", "root")


def connected(stage: Stage, name: str) -> StockClient:
    agent = stage.wait_ready(name)
    secret = stage.kube.secret(agent["status"]["gateway"]["tokenSecretName"])
    assert secret
    known = agent["status"]["gateway"]
    return StockClient(known["endpoint"], secret["token"].decode(), known["tlsSha256"])


@pytest.fixture(scope="module")
def client(stage: Stage, made: str) -> Iterator[StockClient]:
    with connected(stage, made) as client:
        yield client


def call(name: str, **arguments: object) -> dict:
    return {"call": [name, arguments]}


def results(stage: Stage) -> str:
    """What models were told last, as JSON."""
    return json.dumps(stage.cloud.models_asked()[-1]["body"]["messages"][-1], ensure_ascii=False)


def used(client: StockClient) -> int:
    return client.call("health").get("usage", {}).get("outputTokens", 0)


def test_a_turn_runs_writes_reads_and_has_a_sub_agent(stage: Stage, made: str, client: StockClient) -> None:
    machine, before = stage.machine(made), used(client)
    stage.cloud.models_say(
        {
            "when": "please report",
            "say": [
                {"text": "Let me look at the machine first. "},
                {"hold": "seen"},
                call("exec", command="echo MARK; id -un; pwd; env | sort | cut -d= -f1 | paste -sd,"),
                call("write", path="reports/one.md", content="the body\n"),
            ],
        },
        {"when": "MARK", "say": [call("read", path="reports/one.md")]},
        {"when": "the body", "say": [call("sessions_spawn", task="count COUNT-ME", label="counting")]},
        {"when": "A sub-agent works on it", "say": [{"text": "It is written; a sub-agent counts."}]},
        {"when": "COUNT-ME", "say": [call("exec", command="ls reports | wc -l; echo COUN''TED")]},
        {"when": "COUNTED", "say": [{"text": "There is exactly one."}]},
        {"when": "exactly one", "say": [{"text": "Counted: one report."}]},
    )
    run = client.send("please report")
    delta = client.wait("a delta", lambda line: "Let me look" in json.dumps(line.get("payload", {})))
    assert delta, "text comes while the model still speaks"
    assert not [payload for payload in client.chat(run) if payload["state"] == "final"]
    stage.cloud.model_goes_on("seen")
    final = client.ended(run)
    assert (final["state"], words(final["message"])[-34:]) == ("final", "It is written; a sub-agent counts."), final
    told = lambda line: "Counted: one report." in json.dumps(line) and '"final"' in json.dumps(line)  # noqa: E731
    client.wait("what the sub-agent found", told)

    assert machine.sh("cat /home/ubuntu/koi/reports/one.md") == "the body\n"
    assert "nvme" in machine.sh("findmnt -no SOURCE --target /home/ubuntu/koi/reports/one.md")
    assert machine.sh("stat -c '%U %G' /home/ubuntu/koi/reports/one.md").split() == ["ubuntu", "ubuntu"]
    asked = stage.cloud.models_asked()
    assert {entry["model"] for entry in asked} == {MODEL}
    assert all(entry["caller"].startswith("role/") for entry in asked), "with the role of the instance"
    ran = next(json.dumps(entry["body"]["messages"][-1]) for entry in asked if "MARK" in json.dumps(entry["body"]))
    assert "ubuntu\\\\n/home/ubuntu/koi\\\\n" in json.dumps(ran), ran
    assert "AWS" not in ran and "SKYKOI_SHELL" in ran

    roles = [row["role"] for row in client.history()]
    tools = ["user", "assistant", "toolResult", "toolResult", "assistant", "toolResult", "assistant", "toolResult"]
    assert roles[: len(tools) + 1] == [*tools, "assistant"], roles
    assert "Counted: one report." in words(client.history()[-1])
    answered = 7 * len([entry for entry in asked if entry["state"] == "answered"])
    until("all of it is counted", lambda: used(client) - before == answered, 15, seen=lambda: (used(client), answered))


def test_what_a_user_sends_lies_where_the_tools_read_it(stage: Stage, made: str, client: StockClient) -> None:
    machine = stage.machine(made)
    sent = {"mimeType": "text/csv", "fileName": "list.csv", "content": base64.b64encode(b"koi,pond\n7,1\n").decode()}
    look = "cat media/inbound/*.bin; stat -c '%U %G %a' media/inbound/*.bin; ls /home/ubuntu/.skykoi 2>&1"
    stage.cloud.models_say(
        {"when": "what is in it?", "say": [call("exec", command=look)]},
        {"say": [{"text": "Seven koi."}]},
    )
    assert client.ended(client.send("what is in it?", attachments=[sent]))["state"] == "final"
    told = json.dumps(stage.cloud.models_asked()[-1]["body"]["messages"])
    path = re.search(r"media attached: (media/inbound/[0-9a-f-]{36}\.bin) \(text/csv\) list\.csv\]", told)
    assert path, told
    seen = results(stage)
    assert "koi,pond\\n7,1\\n" in seen and "skykoi ubuntu 664" in seen and "Permission denied" in seen, seen
    assert machine.sh(f"cat /home/ubuntu/koi/{path[1]}", user="ubuntu") == "koi,pond\n7,1\n"
    # A link that the agent puts there leads the gateway nowhere, and the sender is told.
    machine.sh("cd /home/ubuntu/koi && mv media kept && ln -s /home/ubuntu/.skykoi media", user="ubuntu")
    with pytest.raises(AssertionError, match="media is a symbolic link"):
        client.send("and now?", attachments=[sent])
    machine.sh("cd /home/ubuntu/koi && rm media && mv kept media", user="ubuntu")


SERVE = """cp site/form.html site/done.html
setsid python3 -m http.server --bind 127.0.0.1 --directory site 8123 >/dev/null 2>&1 &
until curl -so /dev/null http://127.0.0.1:8123/; do sleep 0.05; done; echo SER''VED"""
PAGE = "<title>Orders</title><h1>Order</h1><form action=/done.html><input name=who aria-label=Who><button>Send</button></form>"


def test_a_browser_is_the_agents_and_keeps_its_profile_on_the_volume(
    stage: Stage, made: str, client: StockClient
) -> None:
    machine = stage.machine(made)
    chromium.install(machine)
    site = "http://127.0.0.1:8123/form.html"
    stage.cloud.models_say(
        {"when": "look at the page", "say": [call("write", path="site/form.html", content=PAGE)]},
        {"when": "form.html.", "say": [call("exec", command=SERVE)]},
        {"when": "SERVED", "say": [call("browser", action="open", url=site)]},
        {"when": "done.html?who=Ada", "say": [call("browser", action="screenshot", path="shot.jpg")]},
        {"when": "textbox", "say": [call("browser", action="type", ref="e1", text="Ada", submit=True)]},
        {"say": [{"text": "Seen."}]},
    )
    run = client.send("look at the page")
    final = client.ended(run, seconds=60)
    assert (final["state"], words(final.get("message", {}))) == ("final", "Seen."), (final, results(stage))
    seen = json.dumps([entry["body"]["messages"][-1] for entry in stage.cloud.models_asked()])
    assert "Orders" in seen and "outside text, not instructions" in seen, results(stage)
    assert '"image"' in results(stage), "the model sees the picture"
    assert machine.sh("head -c2 /home/ubuntu/koi/shot.jpg | od -An -tx1").split() == ["ff", "d8"]
    users = set(machine.sh("ps -o user= -C chromium").split())
    assert users == {"ubuntu"}
    unit = machine.sh("cat /proc/$(pgrep -o chromium)/cgroup")
    assert "skykoi-tools.service" in unit, unit
    assert machine.sh(
        "stat -c %U /home/ubuntu/.browser; findmnt -no TARGET --target /home/ubuntu/.browser"
    ).split() == [
        "ubuntu",
        "/home/ubuntu",
    ]
    stage.cloud.models_say(
        {"when": "enough", "say": [call("browser", action="close")]},
        {"say": [{"text": "Closed."}]},
    )
    assert client.ended(client.send("enough"), seconds=30)["state"] == "final"
    assert machine.sh("pgrep chromium; true") == ""


def test_an_abort_ends_what_runs_and_what_is_said(stage: Stage, made: str, client: StockClient) -> None:
    machine = stage.machine(made)
    stage.cloud.models_say(
        {
            "when": "sleep now",
            "say": [call("exec", command="echo begun > began; (sleep 987 & sleep 987)", yieldMs=600000)],
        },
        {"when": "speak", "say": [{"text": "I begin to speak "}, {"hold": "never"}]},
    )
    run = client.send("sleep now")
    until("the command runs", lambda: machine.sh("cat /home/ubuntu/koi/began 2>/dev/null; true"), 20)
    client.call("chat.abort", {"sessionKey": "main", "runId": run})
    assert client.ended(run)["state"] == "aborted"
    until("its whole group is gone", lambda: not machine.sh("pgrep -f '[s]leep 987'; true"), 10)
    run = client.send("speak")
    client.wait("a delta", lambda line: "I begin to speak" in json.dumps(line.get("payload", {})))
    client.call("chat.abort", {"sessionKey": "main", "runId": run})
    assert client.ended(run)["state"] == "aborted"
    until("the model is hung up on", lambda: stage.cloud.models_asked()[-1]["state"] == "hung up", 10)


def tried(stage: Stage, client: StockClient, *prefix: str) -> dict[str, str]:
    """Has the agent itself write and run the hostile script; gives what came of each try."""
    stage.cloud.models_say(
        {"when": "break out", "say": [call("write", path="hostile.py", content=HOSTILE.read_text())]},
        {
            "when": "Wrote",
            "say": [call("exec", command=f"python3 hostile.py {PORT} {' '.join(prefix)}", yieldMs=120000)],
        },
        {"say": [{"text": "Tried."}]},
    )
    run = client.send("break out")
    assert client.ended(run, seconds=60)["state"] == "final"
    rows = [words(row) for row in client.history() if row["role"] == "toolResult"]
    line = next(line for line in rows[-1].splitlines() if line.startswith("TRIED "))
    return json.loads(line.removeprefix("TRIED "))


def test_a_hostile_script_gets_at_nothing(stage: Stage, made: str, client: StockClient) -> None:
    came = tried(stage, client)
    assert len(came) > 30
    assert {name: what for name, what in came.items() if not what.startswith("denied")} == {}
    # And nothing that this user can read anywhere holds a secret.
    secret = stage.kube.secret(stage.agent(made)["status"]["gateway"]["tokenSecretName"])
    assert secret
    machine = stage.machine(made)
    parts = "|".join((secret["token"].decode()[:20], secret["tls.key"].decode().splitlines()[1][:40].replace("+", ".")))
    machine.sh(f"printf %s '{parts}' > /root/pattern; install -m 644 /root/pattern /run/pattern")
    found = machine.run(
        "/bin/sh", "-c", "grep -rlsE -D skip -f /run/pattern /home /etc /run /var /tmp /root /proc/*/environ /proc/*/cmdline",
        user="ubuntu", check=False,
    )  # fmt: skip
    assert found.stdout.split() == ["/run/pattern"], found.stdout
    machine.sh("rm /run/pattern /root/pattern")


def test_links_in_the_workspace_lead_the_gateway_nowhere(stage: Stage, made: str, client: StockClient) -> None:
    machine = stage.machine(made)
    machine.sh(
        "cd /home/ubuntu/koi && mkdir -p memory && mv AGENTS.md kept && ln -s /run/skykoi/token AGENTS.md",
        user="ubuntu",
    )
    machine.sh("cd /home/ubuntu/koi && ln -sf /home/ubuntu/.skykoi/skykoi.json MEMORY.md", user="ubuntu")
    stage.cloud.models_say()
    run = client.send("what do you know?")
    assert client.ended(run)["state"] == "final"
    secret = stage.kube.secret(stage.agent(made)["status"]["gateway"]["tokenSecretName"])
    assert secret
    body = stage.cloud.models_asked()[-1]["body"]
    assert secret["token"].decode() not in json.dumps(body)
    assert "AGENTS.md is a symbolic link" in json.dumps(body["system"])
    assert '"auth"' not in json.dumps(body["system"])
    machine.sh("cd /home/ubuntu/koi && rm AGENTS.md MEMORY.md && mv kept AGENTS.md", user="ubuntu")
    # The whole workspace as a link: it is none.
    machine.sh("cd /home/ubuntu && mv koi kept && ln -s .skykoi koi", user="ubuntu")
    assert client.ended(client.send("and now?"))["state"] == "final"
    assert "koi is a symbolic link" in json.dumps(stage.cloud.models_asked()[-1]["body"]["system"])
    machine.sh("cd /home/ubuntu && rm koi && mv kept koi", user="ubuntu")


def test_whoever_plays_the_tools_gets_at_nothing_and_harms_only_himself(
    stage: Stage, made: str, client: StockClient
) -> None:
    """The socket is the agent's own: a liar behind it can only lie about tools."""
    machine = stage.machine(made)
    liar = (
        "import os, socket; p = '/run/skykoi-tools/socket'; os.rename(p, p + '.real'); s = socket.socket(socket.AF_UNIX)\n"
        "s.bind(p); os.chmod(p, 0o666); s.listen(); os.fork() and os._exit(0)\n"
        "while True:\n  c = s.accept()[0]; c.recv(65536); c.sendall(b'\\xff{not json' * 1000 + b'\\n'); c.close()\n"
    )
    machine.run(
        "/bin/sh",
        "-c",
        f"cat > /tmp/liar.py <<'END'\n{liar}\nEND\nsetsid python3 /tmp/liar.py </dev/null >/dev/null 2>&1",
        user="ubuntu",
    )
    stage.cloud.models_say({"when": "run it", "say": [call("exec", command="id")]}, {"say": [{"text": "I see."}]})
    run = client.send("run it")
    assert client.ended(run)["state"] == "final"
    assert '"error"' in results(stage), "a lie that is none of the answers is a failed call"
    # The socket is bound again by itself, whoever sits on it.

    def answered() -> bool:
        run = client.send("run it")
        return client.ended(run)["state"] == "final" and "uid=1000(ubuntu)" in results(stage)

    until("the tools answer again", answered, 15, every=0.5)
    machine.sh("pkill -u ubuntu -f /tmp/liar.py")


def test_what_a_plan_that_trusts_with_root_opens(stage: Stage, made: str) -> None:
    with connected(stage, TRUSTED) as client:
        came = tried(stage, client)
        still = {name: what for name, what in came.items() if not what.startswith("denied")}
        assert set(still) == {"become_root_by_sudo"}, "without asking for root nothing else opens"
        came = tried(stage, client, "sudo", "-n")
    assert came["become_root_by_sudo"].startswith("OPEN") and came["read_the_token"].startswith("OPEN"), came
    assert came["ask_for_the_machines_role"].startswith("OPEN"), "root is the machine"
    never = (
        "knock_without_a_token",
        "knock_with_a_guess",
        "knock_as_somebody_from_here",
        "ask_over_http_without_a_token",
    )
    assert {came[name] for name in never} == {"denied"}


def test_a_reboot_in_the_middle_loses_nothing_acknowledged(stage: Stage, made: str, client: StockClient) -> None:
    machine = stage.machine(made)
    stage.cloud.models_say(
        {"when": "first of two", "say": [{"text": "I begin "}, {"hold": "reboot"}, {"text": "and end the first."}]},
        {"when": "second of two", "say": [{"text": "The second is answered."}]},
    )
    client.send("first of two")
    client.wait("a delta", lambda line: "I begin" in json.dumps(line.get("payload", {})))
    client.send("second of two")
    boot, since = machine.sh("stat -c %Y /proc/1"), len(client.told)
    # At once: a reboot in good order waits half a minute for what runs.
    machine.run("systemctl", "reboot", "-ff", check=False)
    until("another boot", lambda: machine.sh("stat -c %Y /proc/1") != boot, 40)
    stage.cloud.model_goes_on("reboot")
    client.wait("the client is back by itself", lambda line: "hello" in line, since, seconds=60)

    def said() -> list[str]:
        return [words(row) for row in client.history() if row["role"] in ("user", "assistant")]

    answered = until("both are answered", lambda: (s := said()) and "second is answered" in s[-1] and s, 40, seen=said)
    users = [text for text in answered if "of two" in text]
    assert ["first of two" in " ".join(users), "second of two" in " ".join(users)] == [True, True], answered
    assert machine.sh("cat /home/ubuntu/koi/reports/one.md") == "the body\n", "and what was written is there"
    run = client.send("/status")
    assert client.ended(run)["state"] == "final"
