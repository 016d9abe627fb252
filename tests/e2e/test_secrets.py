"""The Secret of an agent, when somebody else has a hand in it: what is met under its name, what is taken from it, and what may not be read."""

from __future__ import annotations

import base64

from scenario.kube import condition, is_true
from scenario.stage import Operator, Stage
from scenario.wait import until

MERGE = "application/merge-patch+json"
SECRETS = "api/v1/namespaces/default/secrets"
ROLES = "apis/rbac.authorization.k8s.io/v1/clusterroles"


def test_a_strangers_secret_is_a_conflict_for_as_long_as_it_is_there(stage: Stage, operator: Operator) -> None:
    name = "conflicted"
    stranger = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": f"{name}-gateway"}, "stringData": {"a": "b"}}
    stage.kube.request("POST", SECRETS, stranger)
    kind = {"apiVersion": "skykoi.io/v1alpha1", "kind": "KoiAgent"}
    spec = {"storage": {"deletionPolicy": "Delete"}}
    stage.kube.create_agent({**kind, "metadata": {"name": name}, "spec": spec})
    try:
        stage.wait_condition(name, "Stalled", reason="NameConflict", seconds=45)
        stage.kube.request("DELETE", f"{SECRETS}/{name}-gateway")
        stage.wait_ready(name, seconds=90)
    finally:
        stage.kube.delete_agent(name)
        stage.wait_gone(name, seconds=90)


def test_a_lost_label_comes_back_and_nothing_is_asked_for_ever(stage: Stage, operator: Operator, new_agent) -> None:
    name = new_agent()
    uid = stage.wait_ready(name)["metadata"]["uid"]
    path = f"{SECRETS}/{name}-gateway"
    before = stage.kube.get(path)
    stage.kube.request("PATCH", path, {"metadata": {"labels": {"skykoi.io/agent": None}}}, MERGE)
    found = until("the label is back", lambda: (found := stage.kube.get(path)) and labelled(found, uid) and found, 30)
    assert found["data"] == before["data"]
    assert is_true(stage.agent(name), "Ready")


def labelled(secret: dict, uid: str) -> bool:
    return (secret["metadata"].get("labels") or {}).get("skykoi.io/agent") == uid


def test_who_may_not_read_it_says_so_and_mends_what_runs(stage: Stage, operator: Operator, new_agent) -> None:
    name = new_agent()
    instance = stage.wait_ready(name)["status"]["instance"]["id"]
    found = stage.kube.request("GET", ROLES, labelSelector="app.kubernetes.io/name=koi-operator")["items"]
    role = next(role for role in found if any("secrets" in rule.get("resources", []) for rule in role["rules"]))
    path, whole = f"{ROLES}/{role['metadata']['name']}", role["rules"]
    without = [
        {**rule, "verbs": [verb for verb in rule["verbs"] if verb != "get"]} if "secrets" in rule["resources"] else rule
        for rule in whole
    ]
    assert without != whole
    stage.kube.request("PATCH", path, {"rules": without}, MERGE)
    try:
        # A new bundle is due, and what goes into it may not be read.
        stage.kube.patch_agent(name, {"spec": {"gateway": {"config": {"session": {"reset": {"atHour": 5}}}}}})
        agent = stage.wait_condition(name, "Stalled", reason="Unauthorized", seconds=45)
        assert 'cannot get resource "secrets"' in condition(agent, "Stalled")["message"]
        stage.cloud.boto("ec2").stop_instances(InstanceIds=[instance])
        until("it was seen", lambda: condition(stage.agent(name), "Ready")["status"] == "False", 60)
        until("it runs again", lambda: stage.agent(name)["status"]["instance"]["state"] == "running", 90)
    finally:
        stage.kube.request("PATCH", path, {"rules": whole}, MERGE)
    agent = stage.wait_ready(name, seconds=90)
    assert agent["status"]["instance"]["id"] == instance
    until("nothing stands against it", lambda: not is_true(stage.agent(name), "Stalled"), 60)


def test_a_status_that_was_wiped_is_told_anew(stage: Stage, operator: Operator, new_agent) -> None:
    name = new_agent()
    agent = stage.wait_ready(name)
    since = stage.cloud.next_call()
    path = f"apis/skykoi.io/v1alpha1/namespaces/default/koiagents/{name}"
    stage.kube.request("PUT", f"{path}/status", {**stage.agent(name), "status": {}})
    again = stage.wait_ready(name, seconds=45)
    assert again["status"]["instance"]["id"] == agent["status"]["instance"]["id"]
    changes = [call.action for call in stage.cloud.calls(since, principal="operator", mutating=True)]
    assert "RunInstances" not in changes and "TerminateInstances" not in changes


def test_a_token_edited_while_no_operator_was_there_is_handed_over(stage: Stage, operator: Operator, new_agent) -> None:
    name = new_agent()
    agent = stage.wait_ready(name)
    operator.stop()
    token = base64.b64encode(b"edited-while-nobody-looked").decode()
    stage.kube.request("PATCH", f"{SECRETS}/{name}-gateway", {"data": {"token": token}}, MERGE)
    stage.start_operator()

    def taken() -> bool:
        return stage.machine(name).sh("cat /run/skykoi/token").strip() == "edited-while-nobody-looked"

    until("the gateway has it", taken, 60)
    with stage.gateway(name) as gateway:
        assert gateway.call("health")["ok"]
    after = stage.wait_ready(name)
    assert after["status"]["bundle"] != agent["status"]["bundle"]
    assert condition(after, "Ready") == condition(agent, "Ready"), "Ready never turned"
