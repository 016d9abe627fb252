"""Among others: two operators, an API server that goes and comes back, lost rights, storms, other accounts."""

from __future__ import annotations

import copy
import json
import time

import pytest
from scenario.kube import KubeError, condition, is_true
from scenario.stage import NAMESPACE, Operator, Stage, readyz
from scenario.wait import until
from world.cloud.accounts import OTHER_ACCOUNT

LEASE = f"apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/koi-operator"
KINDS = "apis/apiextensions.k8s.io/v1/customresourcedefinitions"
ROLES = "apis/rbac.authorization.k8s.io/v1/clusterroles"


def claimed(stage: Stage, uid: str, principal: str = "admin") -> list[str]:
    """Ids of the instances that ever had the claim of an agent."""
    filters = [{"Name": "tag:skykoi:agent-uid", "Values": [uid]}]
    found = stage.cloud.boto("ec2", principal).describe_instances(Filters=filters)
    return [instance["InstanceId"] for reservation in found["Reservations"] for instance in reservation["Instances"]]


def second_operator(stage: Stage, leader_election: str) -> Operator:
    """Another process beside the running one."""
    return stage.start_operator(env={"KOI_METRICS_ADDR": "127.0.0.1:8081", "KOI_LEADER_ELECTION": leader_election})


def holder(stage: Stage) -> str:
    lease = stage.kube.get(LEASE)
    return ((lease or {}).get("spec") or {}).get("holderIdentity") or ""


def test_two_operators_that_both_believe_to_lead_make_one_instance(stage: Stage, operator: Operator, new_agent) -> None:
    other = second_operator(stage, "false")
    until("both are ready", lambda: (readyz(), readyz(8081)) == ("ok", "ok"), 30, seen=lambda: readyz(8081))
    names = [new_agent(), new_agent()]
    agents = [stage.wait_ready(name, seconds=120) for name in names]
    assert other.stop() == 0
    for agent in agents:
        assert claimed(stage, agent["metadata"]["uid"]) == [agent["status"]["instance"]["id"]]
    assert operator.process.poll() is None


def test_a_leader_that_dies_is_followed_within_20_seconds(stage: Stage, operator: Operator) -> None:
    until("the first one leads", lambda: readyz() == "ok", 30, seen=readyz)
    standby = second_operator(stage, "true")
    until("the second one waits", lambda: "waiting for the Lease" in readyz(8081), 20, seen=lambda: readyz(8081))
    before = holder(stage)
    operator.kill()
    died = time.monotonic()
    until("the second one leads", lambda: holder(stage) not in ("", before), 20, seen=lambda: holder(stage))
    assert time.monotonic() - died < 20
    assert standby.stop() == 0
    stage.start_operator()


def test_an_api_server_that_comes_back_finds_the_operator_at_work(stage: Stage, operator: Operator, new_agent) -> None:
    name = new_agent()
    instance = stage.wait_ready(name)["status"]["instance"]["id"]
    assert stage.world.control_plane
    stage.world.control_plane.kill_api_server()
    since = stage.cloud.next_call()
    stage.cloud.boto("ec2").stop_instances(InstanceIds=[instance])
    stage.world.control_plane.start_api_server()
    stage.world.control_plane.wait_ready()

    # Who is quick has started it before status could be written: then nobody saw it unready.
    def starts() -> list:
        return stage.cloud.calls(since, principal="operator", action="StartInstances")

    until("it is started again", starts, 60)
    assert stage.wait_ready(name, seconds=90)["status"]["instance"]["id"] == instance
    assert operator.process.poll() is None


@pytest.mark.parametrize(
    ("verb", "resource", "spec"),
    [
        ("create", "secrets", {}),
        ("patch", "koiagents", {}),
        ("get", "configmaps", {"workspace": {"configMapRef": {"name": "its-files"}}}),
    ],
)
def test_a_lost_verb_is_named_and_given_back_works_again(
    stage: Stage, operator: Operator, new_agent, verb: str, resource: str, spec: dict
) -> None:
    files = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "its-files", "namespace": "default"}}
    stage.apply({**files, "data": {"AGENTS.md": "# Ada"}})
    found = stage.kube.request("GET", ROLES, labelSelector="app.kubernetes.io/name=koi-operator")["items"]
    role = next(role for role in found if any("secrets" in rule.get("resources", []) for rule in role["rules"]))
    path, whole = f"{ROLES}/{role['metadata']['name']}", role["rules"]
    without = [
        {**rule, "verbs": [kept for kept in rule["verbs"] if kept != verb]} if resource in rule["resources"] else rule
        for rule in whole
    ]
    without = [rule for rule in without if rule["verbs"]]
    assert without != whole
    patch = "application/merge-patch+json"
    stage.kube.request("PATCH", path, {"rules": without}, patch)
    try:
        name = new_agent(**spec)
        agent = stage.wait_condition(name, "Stalled", reason="Unauthorized", seconds=45)
        assert f'cannot {verb} resource "{resource}"' in condition(agent, "Stalled")["message"]
        assert agent["status"].get("instance") is None
    finally:
        stage.kube.request("PATCH", path, {"rules": whole}, patch)
    stage.kube.patch_agent(name, {"spec": {"owner": {"displayName": "Ada"}}})
    stage.wait_ready(name, seconds=90)


def test_a_kind_that_is_gone_is_told_and_found_again(stage: Stage, operator: Operator) -> None:
    path = KINDS
    kept = stage.kube.get(f"{path}/koiplans.skykoi.io")
    assert kept
    until("the operator is ready", lambda: readyz() == "ok", 30, seen=readyz)
    stage.kube.request("DELETE", f"{path}/koiplans.skykoi.io")
    until("it is told", lambda: "the kind KoiPlan is not installed" in readyz(), 60, seen=readyz)
    fresh = {"apiVersion": kept["apiVersion"], "kind": kept["kind"], "spec": kept["spec"]}
    fresh["metadata"] = {"name": "koiplans.skykoi.io", "labels": kept["metadata"].get("labels", {})}
    until("the old one is gone", lambda: stage.kube.get(f"{path}/koiplans.skykoi.io") is None, 30)
    stage.kube.request("POST", path, fresh)
    # Two pauses of the watch at their longest: what it saw is too old for the new kind, so that it begins again twice.
    until("it is found again", lambda: readyz() == "ok", 30, seen=readyz)
    assert operator.process.poll() is None


def test_an_object_that_makes_no_sense_holds_up_nobody(stage: Stage, operator: Operator, new_agent) -> None:
    """As one that was made under another version of the kind."""
    path, patch = f"{KINDS}/koiagents.skykoi.io", "application/merge-patch+json"
    versions = (stage.kube.get(path) or {})["spec"]["versions"]
    loose = copy.deepcopy(versions)
    schema = loose[0]["schema"]["openAPIV3Schema"]
    schema["properties"]["spec"] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    schema.pop("x-kubernetes-validations", None)
    kind = {"apiVersion": "skykoi.io/v1alpha1", "kind": "KoiAgent"}
    nonsense = {**kind, "metadata": {"name": "nonsense"}, "spec": {"power": 5, "storage": "much"}}
    stage.kube.request("PATCH", path, {"spec": {"versions": loose}}, patch)
    try:
        until("nonsense is taken", lambda: stage.kube.create_agent(nonsense), 30)
        told = stage.wait_condition("nonsense", "Stalled", reason="InvalidSpec", seconds=20)
        assert "not a valid KoiAgent" in condition(told, "Stalled")["message"]
        stage.wait_condition(new_agent(planRef={"name": "no-such-plan"}), "Stalled", reason="PlanNotFound", seconds=20)
        # One that has a finalizer of ours is not let go of in silence: its deletion says what it waits for.
        finalized = {"name": "nonsense-that-had-sense", "finalizers": ["skykoi.io/instance"]}
        stage.kube.create_agent({**nonsense, "metadata": finalized})
        stage.kube.delete_agent(finalized["name"])

        def says_what_it_waits_for() -> bool:
            agent = stage.kube.agent(finalized["name"]) or {}
            return "Its deletion waits" in (condition(agent, "Stalled") or {}).get("message", "")

        until("its deletion says what it waits for", says_what_it_waits_for, 20)
        forced = {"metadata": {"annotations": {"skykoi.io/force-delete": "true"}}}
        stage.kube.patch_agent(finalized["name"], forced)
        stage.wait_gone(finalized["name"], 20)
        # Told once it is so, a moment after it is gone.
        until(
            "what it leaves is told",
            lambda: any(
                "whatever has the tags skykoi:cluster=" in event["note"]
                for event in stage.kube.events(finalized["name"])
            ),
            10,
        )
    finally:
        if stage.kube.agent("nonsense"):
            stage.kube.delete_agent("nonsense")
        stage.kube.request("PATCH", path, {"spec": {"versions": versions}}, patch)
    until("the kind is as it was", lambda: is_refused(stage, nonsense), 30)
    assert operator.process.poll() is None


def is_refused(stage: Stage, manifest: dict) -> bool:
    """Whether the API server takes no such object; one that it takes is deleted again."""
    try:
        stage.kube.create_agent(manifest)
    except KubeError as error:
        return error.status == 422
    stage.kube.delete_agent(manifest["metadata"]["name"])
    return False


def test_a_storm_of_one_namespace_does_not_hold_up_another(stage: Stage, operator: Operator, new_agent) -> None:
    """Launches of one namespace are refused for their rate, again and again; an agent of another one gets ready."""
    assert operator.stop() == 0
    operator = stage.start_operator(env={"KOI_LOG_FORMAT": "json"})
    stage.kube.request("POST", "api/v1/namespaces", {"metadata": {"name": "storm"}})
    stage.cloud.inject("RunInstances", code="RequestLimitExceeded", status=503, match="storm/", times=0)
    since = stage.cloud.next_call()
    manifest = {
        "apiVersion": "skykoi.io/v1alpha1",
        "kind": "KoiAgent",
        "spec": {"storage": {"deletionPolicy": "Delete"}},
    }
    for number in range(12):
        stage.kube.create_agent({**manifest, "metadata": {"name": f"gust-{number}"}}, "storm")
    until(
        "the storm rages",
        lambda: len([call for call in stage.cloud.calls(since, action="RunInstances") if call.fault]) >= 6,
        30,
    )
    stage.wait_ready(new_agent(), seconds=90)
    told = [json.loads(line) for line in operator.text().splitlines() if line.startswith("{")]
    refused = [line for line in told if line.get("step") == "RunInstances" and line.get("code")]
    assert refused and all(line.get("request_id") and line["span"]["agent"] for line in refused), refused[:3]
    assert {(line["code"], line["span"]["namespace"]) for line in refused} == {("RequestLimitExceeded", "storm")}
    # The namespace goes with everything in it, though nothing of it ever worked.
    stage.kube.request("DELETE", "api/v1/namespaces/storm")
    until("the namespace is gone", lambda: stage.kube.get("api/v1/namespaces/storm") is None, 60)


def can_work_there(stage: Stage, role: str) -> bool:
    """Whether the operator may take the role, and the role may look; what IAM has just been told takes time to be known."""
    session = {"RoleArn": role, "RoleSessionName": "look", "ExternalId": "koi-demo"}
    keys = stage.cloud.boto("sts", "operator").assume_role(**session)["Credentials"]
    ec2 = stage.cloud.boto_with("ec2", keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"])
    return "Reservations" in ec2.describe_instances()


@pytest.fixture
def other_account(stage: Stage):
    """A role in another account that trusts the operator, and the operator's right to take it."""
    iam = stage.cloud.boto("iam", "admin-other")
    home = stage.cloud.ready().account
    trust = {
        "Effect": "Allow",
        "Principal": {"AWS": f"arn:aws:iam::{home}:root"},
        "Action": "sts:AssumeRole",
        "Condition": {"StringEquals": {"sts:ExternalId": "koi-demo"}},
    }
    document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    arn = iam.create_role(RoleName="koi-elsewhere", AssumeRolePolicyDocument=document)["Role"]["Arn"]
    everything = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
    iam.put_role_policy(RoleName="koi-elsewhere", PolicyName="all", PolicyDocument=json.dumps(everything))
    policy = stage.iam_policy()
    take = {"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": arn}
    stage.cloud.operator_policy({**policy, "Statement": [*policy["Statement"], take]})
    until("IAM knows the role everywhere", lambda: can_work_there(stage, arn), 30)
    yield arn
    stage.cloud.operator_policy(policy)
    iam.delete_role_policy(RoleName="koi-elsewhere", PolicyName="all")
    iam.delete_role(RoleName="koi-elsewhere")


def test_a_plan_in_another_account_lives_there_and_a_broken_one_stalls_its_own_agents(
    stage: Stage, operator: Operator, other_account: str, new_agent
) -> None:
    # Both accounts have the same networks, and the world's machines one: of two subnets no two machines get one address.
    subnets = stage.cloud.boto("ec2", "admin-other").describe_subnets()["Subnets"]
    last = sorted(subnets, key=lambda subnet: subnet["CidrBlock"])[-1]["SubnetId"]

    def plan(name: str, aws: dict) -> None:
        spec = {"aws": aws, "network": {"subnetIds": [last]}}
        stage.apply({"apiVersion": "skykoi.io/v1alpha1", "kind": "KoiPlan", "metadata": {"name": name}, "spec": spec})

    plan("elsewhere", {"roleArn": other_account, "externalId": "koi-demo"})
    plan("locked-out", {"roleArn": other_account + "-missing"})
    there = new_agent(planRef={"name": "elsewhere"})
    locked = new_agent(planRef={"name": "locked-out"})
    agent = stage.wait_condition(there, "InstanceReady", seconds=90)
    assert agent["status"]["cloud"]["account"] == OTHER_ACCOUNT
    assert agent["status"]["cloud"]["roleArn"] == other_account
    assert claimed(stage, agent["metadata"]["uid"]) == [], "nothing of it is in the operator's own account"
    assert claimed(stage, agent["metadata"]["uid"], "admin-other") == [agent["status"]["instance"]["id"]]
    stalled = stage.wait_condition(locked, "Stalled", reason="Unauthorized", seconds=45)
    told = condition(stalled, "Stalled")["message"]
    assert "sts:AssumeRole" in told and other_account + "-missing" in told
    home = new_agent()
    at_home = stage.wait_ready(home, seconds=90)["status"]["instance"]["id"]
    # A plan that leads away is told, and moves nobody.
    since = stage.cloud.next_call()
    stage.kube.patch_agent(home, {"spec": {"planRef": {"name": "elsewhere"}}})
    led = stage.wait_condition(home, "Stalled", reason="AccountChanged", seconds=30)
    assert OTHER_ACCOUNT in condition(led, "Stalled")["message"]
    assert led["status"]["instance"]["id"] == at_home
    assert led["status"]["cloud"]["account"] != OTHER_ACCOUNT
    stage.kube.patch_agent(home, {"spec": {"planRef": None}})
    stage.wait_ready(home, seconds=30)
    assert [call for call in stage.cloud.calls(since, mutating=True) if at_home in str(call)] == []
    assert claimed(stage, led["metadata"]["uid"], "admin-other") == []
    # Plans in use are deleted: their agents say so and go on.
    since = stage.cloud.next_call()
    stage.kubectl("delete", "koiplan", "elsewhere", "locked-out")
    orphaned = stage.wait_condition(there, "Stalled", reason="PlanNotFound", seconds=30)
    assert "elsewhere" in condition(orphaned, "Stalled")["message"]
    assert is_true(orphaned, "InstanceReady")
    until(
        "an Event says so, once",
        lambda: [event["reason"] for event in stage.kube.events(there)].count("PlanNotFound") == 1,
        10,
    )
    assert orphaned["status"]["instance"]["id"] == agent["status"]["instance"]["id"]
    touched = [
        call for call in stage.cloud.calls(since, mutating=True) if agent["status"]["instance"]["id"] in str(call)
    ]
    assert touched == []
    # Deleted without its plan: status remembers the way.
    stage.kube.delete_agent(there)
    stage.wait_gone(there, seconds=90)
