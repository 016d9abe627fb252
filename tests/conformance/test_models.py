"""Models: the encoding is read by boto3's own parser, and policies are held to."""

from __future__ import annotations

import json
import threading

import pytest
from botocore.exceptions import ClientError, EventStreamError
from conftest import refused

PROFILE = "us.anthropic.claude-opus-4-6-v1"


@pytest.fixture
def ask(world):
    client = world.boto("bedrock-runtime")

    def ask(words: str, of=client) -> list[dict]:
        messages = [{"role": "user", "content": [{"text": words}]}]
        return list(of.converse_stream(modelId=PROFILE, messages=messages)["stream"])

    yield ask
    world.models_say()


def text_of(events: list[dict]) -> str:
    return "".join(e["contentBlockDelta"]["delta"].get("text", "") for e in events if "contentBlockDelta" in e)


def test_what_no_rule_fits_is_answered(ask, world):
    events = ask("good morning")
    assert text_of(events) == "I heard: good morning"
    assert next(e for e in events if "messageStop" in e)["messageStop"]["stopReason"] == "end_turn"
    assert events[-1]["metadata"]["usage"]["outputTokens"] == 7
    assert [(entry["model"], entry["state"]) for entry in world.models_asked()][-1] == (PROFILE, "answered")


def test_calls_come_in_pieces_and_end_the_turn_as_tool_use(ask, world):
    arguments = {"command": "df -h /home/ubuntu"}
    world.models_say({"when": "disk", "say": [{"thinking": "let me see"}, {"call": ["exec", arguments]}]})
    events = ask("how full is the disk?")
    deltas = [e["contentBlockDelta"]["delta"] for e in events if "contentBlockDelta" in e]
    pieces = [delta["toolUse"]["input"] for delta in deltas if "toolUse" in delta]
    assert json.loads("".join(pieces)) == arguments and len(pieces) > 1
    assert next(e for e in events if "messageStop" in e)["messageStop"]["stopReason"] == "tool_use"


def test_faults_come_before_and_in_the_stream(ask, world):
    world.models_say(
        {"when": "slow", "say": [{"refuse": [429, "ThrottlingException", "Too many"]}]},
        {"when": "broken", "say": [{"text": "half"}, {"exception": ["modelStreamErrorException", "it broke"]}]},
    )
    with refused("ThrottlingException", 429, says="Too many"):
        ask("slow")
    with pytest.raises(EventStreamError, match="it broke"):
        ask("broken")


def test_a_hold_waits_for_its_release(ask, world):
    world.models_say({"say": [{"text": "a"}, {"hold": "gate"}, {"text": "b"}]})
    heard: list[str] = []
    asking = threading.Thread(target=lambda: heard.append(text_of(ask("go"))))
    asking.start()
    while not [entry for entry in world.models_asked() if entry["held"] == "gate"]:
        assert asking.is_alive()
    assert heard == []
    world.model_goes_on("gate")
    asking.join(10)
    assert heard == ["ab"]


def test_a_role_without_the_grant_is_refused(ask, world, iam, fresh):
    user = fresh()
    iam.create_user(UserName=user)
    key = iam.create_access_key(UserName=user)["AccessKey"]
    client = world.boto_with("bedrock-runtime", key["AccessKeyId"], key["SecretAccessKey"], None)
    with pytest.raises(ClientError, match="not authorized to perform: bedrock:InvokeModelWithResponseStream"):
        ask("hello", client)
    iam.delete_access_key(UserName=user, AccessKeyId=key["AccessKeyId"])
    iam.delete_user(UserName=user)
