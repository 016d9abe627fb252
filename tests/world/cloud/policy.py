"""IAM policies: whether a set of documents allows a request. Pure."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import ipaddress
import re
from collections.abc import Callable, Iterable
from typing import Any

Context = dict[str, list[str]]  # keys in lower case


class Effect(enum.Enum):
    ALLOW = "allow"
    EXPLICIT_DENY = "explicit deny"
    IMPLICIT_DENY = "implicit deny"


@dataclasses.dataclass(frozen=True)
class Request:
    action: str  # "ec2:RunInstances"
    resource: str  # an ARN or "*"
    context: Context


def lower_keys(context: dict[str, Any]) -> Context:
    return {
        key.lower(): [str(item) for item in (value if isinstance(value, (list, tuple, set)) else [value])]
        for key, value in context.items()
        if value is not None
    }


def evaluate(documents: Iterable[Any], request: Request) -> Effect:
    """The verdict of one kind of policy (identity, boundary, session): deny beats allow, silence is deny."""
    allowed = False
    for document in documents:
        for statement in _list(document.get("Statement")):
            if not _applies(statement, request):
                continue
            if statement.get("Effect") == "Deny":
                return Effect.EXPLICIT_DENY
            allowed = allowed or statement.get("Effect") == "Allow"
    return Effect.ALLOW if allowed else Effect.IMPLICIT_DENY


def decide(
    identity: Iterable[Any], boundary: Iterable[Any] | None, session: Iterable[Any] | None, request: Request
) -> Effect:
    """All kinds of policy together: each one that exists must allow, none may deny."""
    verdicts = [evaluate(identity, request)]
    verdicts += [evaluate(documents, request) for documents in (boundary, session) if documents is not None]
    if Effect.EXPLICIT_DENY in verdicts:
        return Effect.EXPLICIT_DENY
    return Effect.ALLOW if all(v is Effect.ALLOW for v in verdicts) else Effect.IMPLICIT_DENY


def trusts(document: Any, action: str, principals: set[str], service: str | None, context: Context) -> bool:
    """Whether a trust policy lets the principal (its ARN, its account) or the AWS service assume the role."""
    allowed = False
    for statement in _list(document.get("Statement")):
        actions = _list(statement.get("Action"))
        if not any(_like(pattern.lower(), action.lower()) for pattern in actions):
            continue
        if not _principal_matches(statement.get("Principal"), principals, service):
            continue
        if not _conditions_hold(statement.get("Condition") or {}, context):
            continue
        if statement.get("Effect") == "Deny":
            return False
        allowed = True
    return allowed


def _principal_matches(element: Any, principals: set[str], service: str | None) -> bool:
    if element == "*":
        return True
    if not isinstance(element, dict):
        return False
    aws = _list(element.get("AWS"))
    if any(p == "*" or p in principals for p in aws):
        return True
    return service is not None and service in _list(element.get("Service"))


# matching


def _list(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _regex(pattern: str) -> str:
    return "".join({"*": ".*", "?": "."}.get(char) or re.escape(char) for char in pattern)


def _like(pattern: str, value: str) -> bool:
    return re.fullmatch(_regex(pattern), value, re.DOTALL) is not None


def _applies(statement: dict[str, Any], request: Request) -> bool:
    return (
        _action_matches(statement, request.action)
        and _resource_matches(statement, request)
        and _conditions_hold(statement.get("Condition") or {}, request.context)
    )


def _action_matches(statement: dict[str, Any], action: str) -> bool:
    if "NotAction" in statement:
        return not any(_like(p.lower(), action.lower()) for p in _list(statement["NotAction"]))
    return any(_like(p.lower(), action.lower()) for p in _list(statement.get("Action")))


def _resource_matches(statement: dict[str, Any], request: Request) -> bool:
    if "NotResource" in statement:
        return not any(_pattern_matches(p, request.resource, request.context) for p in _list(statement["NotResource"]))
    return any(_pattern_matches(p, request.resource, request.context) for p in _list(statement.get("Resource")))


VARIABLE = re.compile(r"\$\{([^}]*)\}")


def _parts(pattern: str, context: Context) -> list[tuple[str, bool]] | None:
    """The pattern cut into (text, literal) pieces, a variable's value being literal; None when one has no value."""
    pieces: list[tuple[str, bool]] = []
    position = 0
    for found in VARIABLE.finditer(pattern):
        pieces.append((pattern[position : found.start()], False))
        value = _variable(found[1], context)
        if value is None:
            return None
        pieces.append((value, True))
        position = found.end()
    pieces.append((pattern[position:], False))
    return pieces


def _variable(name: str, context: Context) -> str | None:
    if name in ("*", "?", "$"):
        return name
    key, comma, default = name.partition(",")
    values = context.get(key.strip().lower())
    if values and len(values) == 1:
        return values[0]
    return default.strip().strip("'") if comma else None


def _pattern_matches(pattern: str, value: str, context: Context, wildcards: bool = True, fold: bool = False) -> bool:
    pieces = _parts(pattern, context)
    if pieces is None:
        return False
    if not wildcards:
        text = "".join(piece for piece, _ in pieces)
        return text.lower() == value.lower() if fold else text == value
    regex = "".join(re.escape(piece) if literal else _regex(piece) for piece, literal in pieces)
    return re.fullmatch(regex, value, re.DOTALL) is not None


# conditions

Test = Callable[[str, str, Context], bool]


def _number(test: Callable[[float, float], bool]) -> Test:
    def run(pattern: str, value: str, _: Context) -> bool:
        try:
            return test(float(value), float(pattern))
        except ValueError:
            return False

    return run


def _moment(text: str) -> datetime.datetime:
    moment = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    return moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)


def _date(test: Callable[[datetime.datetime, datetime.datetime], bool]) -> Test:
    def run(pattern: str, value: str, _: Context) -> bool:
        try:
            return test(_moment(value), _moment(pattern))
        except ValueError:
            return False

    return run


def _address(pattern: str, value: str, _: Context) -> bool:
    try:
        return ipaddress.ip_address(value) in ipaddress.ip_network(pattern, strict=False)
    except ValueError:
        return False


def _arn_like(pattern: str, value: str, context: Context) -> bool:
    """Like, but each of the six parts on its own: a star does not reach over a colon."""
    wanted, given = pattern.split(":", 5), value.split(":", 5)
    if len(given) != 6:
        return False
    if len(wanted) != 6:
        return pattern == "*"
    return all(_pattern_matches(w, g, context) for w, g in zip(wanted, given, strict=True))


OPERATORS: dict[str, Test] = {
    "stringequals": lambda p, v, c: _pattern_matches(p, v, c, wildcards=False),
    "stringequalsignorecase": lambda p, v, c: _pattern_matches(p, v, c, wildcards=False, fold=True),
    "stringlike": lambda p, v, c: _pattern_matches(p, v, c),
    "arnequals": _arn_like,
    "arnlike": _arn_like,
    "bool": lambda p, v, c: p.lower() == v.lower(),
    "numericequals": _number(lambda v, p: v == p),
    "numericlessthan": _number(lambda v, p: v < p),
    "numericlessthanequals": _number(lambda v, p: v <= p),
    "numericgreaterthan": _number(lambda v, p: v > p),
    "numericgreaterthanequals": _number(lambda v, p: v >= p),
    "dateequals": _date(lambda v, p: v == p),
    "datelessthan": _date(lambda v, p: v < p),
    "datelessthanequals": _date(lambda v, p: v <= p),
    "dategreaterthan": _date(lambda v, p: v > p),
    "dategreaterthanequals": _date(lambda v, p: v >= p),
    "ipaddress": _address,
}
NEGATED = {
    "stringnotequals": "stringequals",
    "stringnotequalsignorecase": "stringequalsignorecase",
    "stringnotlike": "stringlike",
    "arnnotequals": "arnequals",
    "arnnotlike": "arnlike",
    "numericnotequals": "numericequals",
    "datenotequals": "dateequals",
    "notipaddress": "ipaddress",
}


def _conditions_hold(conditions: dict[str, Any], context: Context) -> bool:
    return all(
        _condition_holds(
            operator, key, [str(v) if not isinstance(v, bool) else str(v).lower() for v in _list(values)], context
        )
        for operator, keys in conditions.items()
        for key, values in keys.items()
    )


def _condition_holds(operator: str, key: str, wanted: list[str], context: Context) -> bool:
    name = operator.lower()
    quantifier = ""
    if name.startswith(("forallvalues:", "foranyvalue:")):
        quantifier, name = name.split(":", 1)
    if_exists = name.endswith("ifexists")
    name = name.removesuffix("ifexists")
    given = context.get(key.lower())
    if name == "null":
        return (given is None) == (wanted[0].lower() == "true")
    if given is None or (not given and not quantifier):
        if quantifier == "forallvalues":
            return True
        return if_exists or (name in NEGATED and quantifier != "foranyvalue")
    negated = name in NEGATED
    test = OPERATORS.get(NEGATED.get(name, name))
    if test is None:
        return False  # an operator that nobody knows allows nothing

    def one(value: str) -> bool:
        hit = any(test(pattern, value, context) for pattern in wanted)
        return not hit if negated else hit

    if quantifier == "foranyvalue":
        return any(one(value) for value in given)
    return all(one(value) for value in given) if quantifier or negated else any(one(value) for value in given)
