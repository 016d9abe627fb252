"""The operator's IAM policy: what it may do in AWS, and to whose things."""

from __future__ import annotations

import json
import re

import pytest
from rendering import CHART
from world import paths

TEXT = (CHART / "files" / "iam-policy.json").read_text()
STATEMENTS = json.loads(TEXT)["Statement"]
PLACEHOLDERS = {"${partition}", "${account}", "${cluster_id}", "${cluster_id_24}"}
LOOKS = re.compile(r"^(ec2:(Describe|Get)\w+|ssm:(Get|Describe|List)\w+|iam:(Get|List)\w+|sts:GetCallerIdentity)$")
VERBS = (
    "add|assume|associate|attach|authorize|create|delete|describe|detach|disassociate|get|list|modify|put|reboot|"
    "remove|replace|revoke|run|start|stop|tag|terminate|untag"
)
SDK_CALL = re.compile(rf"\.((?:{VERBS})_[a-z_]+)\(\)")
#: What IAM asks for besides the call itself: tags in a creating call, and the role of an instance.
IMPLIED = {"CreateTags", "AddTagsToResource", "TagInstanceProfile", "TagRole", "PassRole"}
#: Only where plans name other accounts, and then for roles that nobody but their owner can name: the chart's README says so.
GRANTED_BY_HAND = {"AssumeRole"}
#: One pattern for the role and the profile of a name: their actions tell them apart.
IAM_NAMES = "arn:${partition}:iam::${account}:*/"
#: Largest managed policy, in characters without white space.
LIMIT = 6144


def listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def claims(statement: dict) -> set[str]:
    """The condition keys by which a statement asks for our cluster id."""
    equal = statement.get("Condition", {}).get("StringEquals", {})
    return {key for key, value in equal.items() if value == "${cluster_id}"}


def test_placeholders_are_the_documented_ones() -> None:
    assert set(re.findall(r"\$\{[^}]*\}", TEXT)) == PLACEHOLDERS
    readme = (CHART / "README.md").read_text()
    assert all(f"| `{placeholder}` |" in readme for placeholder in PLACEHOLDERS)


def test_it_allows_the_calls_that_the_operator_makes_and_no_others() -> None:
    """The SDK's calls are found in the source by their form: `client.verb_noun()`."""
    sources = [paths.ROOT / "src" / "aws.rs", *(paths.ROOT / "src" / "aws").rglob("*.rs")]
    code = [source.read_text() for source in sources if source.name != "tests.rs"]
    calls = {name for text in code for name in SDK_CALL.findall(text)}
    made = {"".join(word.title() for word in name.split("_")) for name in calls}
    allowed = {action.partition(":")[2] for statement in STATEMENTS for action in listed(statement["Action"])}
    assert (sorted(made - allowed), sorted(allowed - made - IMPLIED)) == (sorted(GRANTED_BY_HAND), [])
    readme = (CHART / "README.md").read_text()
    assert all(f"sts:{action}`" in readme for action in GRANTED_BY_HAND)


def test_it_fits_a_managed_policy() -> None:
    longest = {
        "${partition}": "aws-us-gov",
        "${account}": "1" * 12,
        "${cluster_id_24}": "x" * 24,
        "${cluster_id}": "x" * 63,
    }
    text = json.dumps(json.loads(TEXT))
    for placeholder, value in longest.items():
        text = text.replace(placeholder, value)
    assert len(re.sub(r"\s", "", text)) <= LIMIT


def test_every_statement_has_a_sid_of_its_own_and_no_wildcard_action() -> None:
    sids = [statement["Sid"] for statement in STATEMENTS]
    assert len(set(sids)) == len(sids)
    assert [a for s in STATEMENTS for a in listed(s["Action"]) if "*" in a] == []
    assert {s["Effect"] for s in STATEMENTS} == {"Allow"}


@pytest.mark.parametrize("statement", STATEMENTS, ids=lambda statement: statement["Sid"])
def test_what_changes_things_is_held_to_our_own(statement: dict) -> None:
    """By a tag, by a name, or because only a statement with a tag completes it (RunInstances, CreateSecurityGroup)."""
    changing = {action for action in listed(statement["Action"]) if not LOOKS.match(action)}
    if not changing:
        return
    resources = listed(statement["Resource"])
    assert "*" not in resources
    by_tag = bool(claims(statement))
    by_name = all(
        re.search(r"/koi[-/]\$\{cluster_id(_24)?\}|skykoi-tenant-agent-profile", resource) for resource in resources
    )
    parts = {
        "ec2:RunInstances": r":(image|snapshot|network-interface|subnet)/\*$",
        "ec2:CreateSecurityGroup": r":vpc/\*$",
    }
    completed = all(action in parts and all(re.search(parts[action], r) for r in resources) for action in changing)
    assert by_tag or by_name or completed


def test_the_claim_is_demanded_where_things_are_made_and_where_they_are_touched() -> None:
    def demands(action: str, kind: str) -> set[str]:
        fit = [
            s
            for s in STATEMENTS
            if action in listed(s["Action"])
            and any(f":{kind}/" in r or r.startswith(IAM_NAMES) for r in listed(s["Resource"]))
        ]
        return {key for statement in fit for key in claims(statement)}

    made, ours = "aws:RequestTag/skykoi:cluster", "aws:ResourceTag/skykoi:cluster"
    assert demands("ec2:RunInstances", "instance") == demands("ec2:RunInstances", "volume") == {made}
    assert demands("ec2:CreateSecurityGroup", "security-group") == {made}
    assert demands("iam:CreateRole", "role") == demands("iam:CreateInstanceProfile", "instance-profile") == {made}
    for action in ("Start", "Stop", "Terminate"):
        assert demands(f"ec2:{action}Instances", "instance") == {ours}
    assert demands("ec2:DeleteVolume", "volume") == demands("ec2:CreateSnapshot", "volume") == {ours}
    assert demands("ec2:CreateSnapshot", "snapshot") == {made}
    assert demands("ec2:DeleteSecurityGroup", "security-group") == {ours}
    assert demands("ec2:ModifyInstanceAttribute", "instance") == {ours}
    assert demands("ec2:ModifyInstanceAttribute", "security-group") == {ours}
    for action in ("RebootInstances", "AssociateIamInstanceProfile", "ReplaceIamInstanceProfileAssociation"):
        assert demands(f"ec2:{action}", "instance") == {ours}
    assert demands("ec2:ModifyVolume", "volume") == {ours}
    assert demands("iam:PutRolePolicy", "role") == demands("iam:DeleteRole", "role") == {ours}


def test_a_lost_claim_is_put_back_only_where_the_rest_of_it_still_stands() -> None:
    """No instance or volume without the agent's tag, and none of another installation, can be claimed by tags."""
    (again,) = [s for s in STATEMENTS if s["Sid"] == "ClaimOursAgain"]
    assert again["Condition"] == {
        "StringEquals": {"aws:RequestTag/skykoi:cluster": "${cluster_id}"},
        "Null": {"aws:ResourceTag/skykoi:agent-uid": "false", "aws:ResourceTag/skykoi:cluster": "true"},
    }


def test_roles_are_passed_to_instances_only() -> None:
    passing = [s for s in STATEMENTS if "iam:PassRole" in listed(s["Action"])]
    assert [s["Condition"] for s in passing] == [{"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}}]
    assert all(":role/" in resource and not resource.endswith(":role/*") for resource in listed(passing[0]["Resource"]))


def test_the_boundary_of_agents_lets_their_roles_do_what_the_operator_writes_and_no_more() -> None:
    text = (CHART / "files" / "agent-boundary.json").read_text()
    assert set(re.findall(r"\$\{[^}]*\}", text)) <= PLACEHOLDERS
    written = (
        (paths.ROOT / "crates" / "core" / "src" / "render" / "identity.rs").read_text().partition("#[cfg(test)]")[0]
    )
    wished = set(re.findall(r'"((?:bedrock|ssm):\w+)"', written))
    statements = json.loads(text)["Statement"]
    assert {action for statement in statements for action in listed(statement["Action"])} == wished
    assert "files/agent-boundary.json" in (CHART / "README.md").read_text()
