"""The policy evaluation, as a table."""

from __future__ import annotations

import pytest
from world.cloud.policy import Effect, Request, decide, evaluate, lower_keys, trusts

ALLOW, DENY, SILENT = Effect.ALLOW, Effect.EXPLICIT_DENY, Effect.IMPLICIT_DENY
ARN = "arn:aws:ssm:us-east-1:123456789012:parameter/koi/a"


def _policy(**statement):
    return {"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "*", "Resource": "*", **statement}}


def _ask(document, action="ssm:GetParameter", resource=ARN, **context):
    keys = {key.replace("__", ":"): value for key, value in context.items()}
    return evaluate([document], Request(action, resource, lower_keys(keys)))


@pytest.mark.parametrize(
    ("pattern", "verdict"),
    [
        ("ssm:GetParameter", ALLOW),
        ("SSM:getparameter", ALLOW),
        ("ssm:Get*", ALLOW),
        ("ssm:GetParameter?", SILENT),
        ("ec2:*", SILENT),
    ],
)
def test_actions(pattern, verdict):
    assert _ask(_policy(Action=pattern)) is verdict


def test_not_action_and_not_resource():
    only = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "NotAction": "iam:*", "Resource": "*"}]}
    assert (_ask(only), _ask(only, action="iam:CreateRole")) == (ALLOW, SILENT)
    only = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "NotResource": ARN}]}
    assert (_ask(only), _ask(only, resource=ARN + "x")) == (SILENT, ALLOW)


@pytest.mark.parametrize(
    ("pattern", "verdict"),
    [
        (ARN, ALLOW),
        ("arn:aws:ssm:*:*:parameter/koi/*", ALLOW),
        ("arn:aws:ssm:us-east-1:123456789012:parameter/koi", SILENT),
        ("arn:aws:ssm:us-east-1:123456789012:parameter/koi/?", ALLOW),
        ("arn:aws:ssm:us-east-1:123456789012:parameter/${aws:PrincipalTag/x}", SILENT),
        ("arn:aws:ssm:us-east-1:123456789012:parameter/${kind}/a", ALLOW),
        ("arn:aws:ssm:us-east-1:123456789012:parameter/${missing, 'koi'}/a", ALLOW),
    ],
)
def test_resources(pattern, verdict):
    assert _ask(_policy(Resource=pattern), kind="koi") is verdict


def test_what_a_variable_stands_for_is_literal():
    assert _ask(_policy(Resource="arn:aws:ssm:us-east-1:123456789012:parameter/${kind}"), kind="*") is SILENT


def test_deny_beats_allow():
    documents = [_policy(), _policy(Effect="Deny", Action="ssm:*")]
    assert evaluate(documents, Request("ssm:GetParameter", ARN, {})) is DENY
    assert evaluate(documents, Request("ec2:RunInstances", "*", {})) is ALLOW


@pytest.mark.parametrize(
    ("operator", "wanted", "given", "verdict"),
    [
        ("StringEquals", "a", "a", ALLOW),
        ("StringEquals", ["b", "a"], "a", ALLOW),
        ("StringEquals", "A", "a", SILENT),
        ("StringEquals", "*", "a", SILENT),
        ("StringEquals", "a", None, SILENT),
        ("StringEqualsIfExists", "a", None, ALLOW),
        ("StringEqualsIgnoreCase", "A", "a", ALLOW),
        ("StringNotEquals", "a", "b", ALLOW),
        ("StringNotEquals", ["a", "b"], "b", SILENT),
        ("StringNotEquals", "a", None, ALLOW),
        ("StringLike", "i-*", "i-1", ALLOW),
        ("StringLike", "*/${own}", "arn:aws:ec2:us-east-1:1:instance/i-1", ALLOW),
        ("StringLike", "*/${missing}", "arn:aws:ec2:us-east-1:1:instance/i-1", SILENT),
        ("StringNotLike", "i-*", "x-1", ALLOW),
        ("ArnLike", "arn:aws:ec2:*:*:instance/*", "arn:aws:ec2:us-east-1:1:instance/i-1", ALLOW),
        ("ArnLike", "arn:aws:ec2:*:instance/*", "arn:aws:ec2:us-east-1:1:instance/i-1", SILENT),
        ("ArnLike", "*", "arn:aws:ec2:us-east-1:1:instance/i-1", ALLOW),
        ("ArnEquals", "arn:aws:ec2:*:*:instance/i-1", "arn:aws:ec2:us-east-1:1:instance/i-1", ALLOW),
        ("Bool", "true", "true", ALLOW),
        ("Bool", True, "true", ALLOW),
        ("Bool", "true", "false", SILENT),
        ("Null", "true", None, ALLOW),
        ("Null", "false", None, SILENT),
        ("NumericLessThanEquals", "2", "2", ALLOW),
        ("NumericLessThan", "2", "2", SILENT),
        ("DateGreaterThan", "2026-01-01T00:00:00Z", "2026-06-01T00:00:00+00:00", ALLOW),
        ("IpAddress", "172.31.0.0/16", "172.31.0.4", ALLOW),
        ("NotIpAddress", "172.31.0.0/16", "172.31.0.4", SILENT),
        ("ForAllValues:StringEquals", ["a", "b"], ["a"], ALLOW),
        ("ForAllValues:StringEquals", ["a", "b"], ["a", "c"], SILENT),
        ("ForAllValues:StringEquals", ["a"], None, ALLOW),
        ("ForAnyValue:StringEquals", ["a"], ["c", "a"], ALLOW),
        ("ForAnyValue:StringEquals", ["a"], None, SILENT),
        ("StringMagic", "a", "a", SILENT),
    ],
)
def test_conditions(operator, wanted, given, verdict):
    document = _policy(Condition={operator: {"Test:Key": wanted}})
    assert _ask(document, test__key=given, own="i-1") is verdict


def test_every_condition_must_hold():
    document = _policy(Condition={"StringEquals": {"a": "1", "b": "2"}, "StringLike": {"c": "3*"}})
    assert _ask(document, a="1", b="2", c="33") is ALLOW
    assert _ask(document, a="1", b="2", c="4") is SILENT
    assert _ask(document, a="1", c="33") is SILENT


def test_boundary_and_session_only_narrow():
    request = Request("ssm:GetParameter", ARN, {})
    everything, other = _policy(), _policy(Action="ec2:*")
    assert decide([everything], None, None, request) is ALLOW
    assert decide([everything], [other], None, request) is SILENT
    assert decide([other], [everything], None, request) is SILENT
    assert decide([everything], [everything], [other], request) is SILENT
    assert decide([everything], [_policy(Effect="Deny")], None, request) is DENY
    assert decide([everything], [], None, request) is SILENT


def test_trust():
    document = {
        "Statement": [
            {"Effect": "Allow", "Principal": {"AWS": ["123456789012"]}, "Action": "sts:AssumeRole"},
            {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:*"},
            {"Effect": "Deny", "Principal": {"AWS": "arn:evil"}, "Action": "sts:AssumeRole"},
        ]
    }
    assert trusts(document, "sts:AssumeRole", {"123456789012"}, None, {})
    assert trusts(document, "sts:AssumeRole", set(), "ec2.amazonaws.com", {})
    assert not trusts(document, "sts:AssumeRole", {"210987654321"}, None, {})
    assert not trusts(document, "sts:AssumeRole", {"123456789012", "arn:evil"}, None, {})
