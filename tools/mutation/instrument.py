"""Puts every small fault into the source at once, each behind a switch: one build, and each fault costs one run of the tests.

The faults are those that `cargo mutants` makes: another value for a whole function, another operator, a negation or a match arm that is
not there, a guard that is always or never true, a field that keeps its default.
"""

from __future__ import annotations

import dataclasses
import re

import tree_sitter_rust
from tree_sitter import Language, Node, Parser

_PARSER = Parser(Language(tree_sitter_rust.language()))

OPERATORS: dict[str, tuple[str, ...]] = {
    "==": ("!=",),
    "!=": ("==",),
    "&&": ("||",),
    "||": ("&&",),
    "<": ("==", ">", "<="),
    ">": ("==", "<", ">="),
    "<=": (">",),
    ">=": ("<",),
    "+": ("-", "*"),
    "-": ("+", "/"),
    "*": ("+", "/"),
    "/": ("%", "*"),
    "%": ("/", "+"),
    "&": ("|", "^"),
    "|": ("&", "^"),
    "^": ("|", "&"),
    "<<": (">>",),
    ">>": ("<<",),
    "+=": ("-=", "*="),
    "-=": ("+=", "/="),
    "*=": ("+=", "/="),
    "/=": ("%=", "*="),
    "&=": ("|=", "^="),
    "|=": ("&=", "^="),
}
UNSIGNED = {"u8", "u16", "u32", "u64", "u128", "usize"}
SIGNED = {"i8", "i16", "i32", "i64", "i128", "isize"}
COLLECTIONS = ("BTreeMap", "BTreeSet", "HashMap", "HashSet")


@dataclasses.dataclass
class Mutant:
    """One fault."""

    number: int
    file: str
    line: int
    function: str
    change: str
    viable: bool = True

    @property
    def name(self) -> str:
        """What it is called as long as its function is not rewritten."""
        return f"{self.file}: {self.function}: {self.change}"


class Source:
    """One file, with its faults."""

    def __init__(self, file: str, text: str, first: int) -> None:
        self.file, self.raw, self.next = file, text.encode(), first
        self.mutants: list[Mutant] = []
        self._function = ["-"]
        self._seen: dict[str, int] = {}
        tree = _PARSER.parse(self.raw)
        self._edges = {"left", "right"}
        self._collect(tree.root_node)
        self._root = tree.root_node

    # finding

    def _plain(self, node: Node) -> str:
        return self.raw[node.start_byte : node.end_byte].decode()

    def _add(self, node: Node, change: str) -> int:
        change = re.sub(r"\s+", " ", change)
        key = f"{self._function[-1]}: {change}"
        self._seen[key] = self._seen.get(key, 0) + 1
        if self._seen[key] > 1:
            change = f"{change} ({self._seen[key]})"
        mutant = Mutant(self.next, self.file, node.start_point[0] + 1, self._function[-1], change)
        self.next += 1
        self.mutants.append(mutant)
        return mutant.number

    def _collect(self, root: Node) -> None:
        self._rules: dict[int, tuple[str, list[tuple[int, str]]]] = {}
        self._visit(root)

    def _visit(self, node: Node) -> None:
        if node.type in ("const_item", "static_item", "macro_invocation", "attribute_item", "macro_definition"):
            return
        if node.type == "array_type" or _for_tests(node, self._plain):
            return
        entered = node.type == "function_item"
        if entered:
            if any(child.type == "function_modifiers" and b"const" in child.text for child in node.children):
                return
            name = node.child_by_field_name("name")
            self._function.append(_owner(node, self._plain) + self._plain(name))
            self._whole(node)
        self._offer(node)
        for child in node.children:
            self._visit(child)
        if entered:
            self._function.pop()

    def _whole(self, node: Node) -> None:
        """The function's whole value."""
        body, result = node.child_by_field_name("body"), node.child_by_field_name("return_type")
        if body is None or body.named_child_count == 0:
            return
        wanted = self._plain(result) if result else "()"
        own = self._plain(node.child_by_field_name("name"))
        values = [value for value in values_of(wanted) if not (own == "default" and "default()" in value)]
        said = re.sub(r"\s+", "", self._plain(body))
        values = [value for value in values if said != "{" + re.sub(r"\s+", "", value) + "}"]
        if values:
            self._rules[body.id] = ("body", [(self._add(node, f"-> {value}"), value) for value in values])

    def _offer(self, node: Node) -> None:
        if node.type in ("binary_expression", "compound_assignment_expr"):
            operator = node.child_by_field_name("operator")
            instead = OPERATORS.get(self._plain(operator), ())
            found = [
                (self._add(node, f"{self._plain(operator)} becomes {new}: {self._brief(node)}"), new) for new in instead
            ]
            if found:
                self._rules[node.id] = ("operator", found)
        elif node.type == "unary_expression" and self._plain(node.children[0]) in ("!", "-"):
            number = self._add(node, f"no {self._plain(node.children[0])}: {self._brief(node)}")
            self._rules[node.id] = ("unary", [(number, "")])
        elif node.type == "match_expression":
            self._arms(node)
        elif node.type == "struct_expression":
            self._fields(node)

    def _brief(self, node: Node) -> str:
        text = re.sub(r"\s+", " ", self._plain(node))
        return text if len(text) <= 60 else text[:57] + "..."

    def _arms(self, node: Node) -> None:
        block = node.child_by_field_name("body")
        arms = [child for child in block.children if child.type == "match_arm"]
        patterns = [arm.child_by_field_name("pattern") for arm in arms]
        open_ended = any(self._plain(pattern).strip() == "_" for pattern in patterns)
        for pattern in patterns:
            condition = pattern.child_by_field_name("condition")
            if condition is not None and condition.type in ("let_condition", "let_chain"):
                continue
            found: list[tuple[int, str]] = []
            if open_ended and self._plain(pattern).strip() != "_":
                found.append((self._add(pattern, f"no arm {self._brief(pattern)}"), "arm"))
            if condition is not None:
                for word in ("true", "false"):
                    found.append((self._add(condition, f"guard is {word}: {self._brief(condition)}"), word))
            if found:
                self._rules[pattern.id] = ("arm", found)

    def _fields(self, node: Node) -> None:
        body = node.child_by_field_name("body")
        base = next((child for child in body.children if child.type == "base_field_initializer"), None)
        if base is None or not self._plain(base).strip().endswith(")"):
            return
        kind = self._plain(node.child_by_field_name("name"))
        start = self._plain(base).strip().removeprefix("..")
        for field in body.children:
            if field.type != "field_initializer":
                continue
            name = self._plain(field.child_by_field_name("field"))
            number = self._add(field, f"{kind} without {name}")
            self._rules[field.child_by_field_name("value").id] = (
                "field",
                [(number, f"{{ let koi_base: {kind} = {start}; koi_base.{name} }}")],
            )

    # writing

    def text(self, alive: set[int]) -> str:
        """The file with those faults that are alive."""
        return self._render(self._root, alive)

    def _render(self, node: Node, alive: set[int]) -> str:
        rule, found = self._rules.get(node.id, ("", []))
        found = [(number, value) for number, value in found if number in alive]
        if not found:
            return self._inside(node, alive)
        if rule == "body":
            inner = self._inside(node, alive)
            return "{" + "".join(_switch(n, f"return {_value(v)};") for n, v in found) + inner[1:]
        if rule == "operator":
            left, right = node.child_by_field_name("left"), node.child_by_field_name("right")
            tries = [(n, f"{self._plain(left)} {new} {self._plain(right)}") for n, new in found]
            return _either(tries, self._inside(node, alive))
        if rule == "unary":
            tries = [(n, self._plain(node.children[1])) for n, _ in found]
            return _either(tries, self._inside(node, alive))
        if rule == "field":
            return _either(found, self._inside(node, alive))
        return self._arm(node, found, alive)

    def _arm(self, node: Node, found: list[tuple[int, str]], alive: set[int]) -> str:
        condition = node.child_by_field_name("condition")
        gone = [number for number, value in found if value == "arm"]
        words = [(number, value) for number, value in found if value != "arm"]
        pattern = self._plain(node)
        test = "true"
        if condition is not None:
            head = self.raw[node.start_byte : condition.start_byte].decode().rstrip()
            pattern = head.removesuffix("if").rstrip()
            test = self._render(condition, alive)
            test = _either(words, test) if words else f"({test})"
        if gone:
            left_out = f"!/*<{gone[0]}*/crate::koi_mutant({gone[0]})/*{gone[0]}>*/"
            test = left_out if condition is None else f"{left_out} && {test}"
        return f"{pattern} if {test}"

    def _inside(self, node: Node, alive: set[int]) -> str:
        out, at = [], node.start_byte
        for child in node.children:
            out.append(self.raw[at : child.start_byte].decode())
            out.append(self._render(child, alive))
            at = child.end_byte
        out.append(self.raw[at : node.end_byte].decode())
        return "".join(out)


def _switch(number: int, deed: str) -> str:
    return f"if crate::koi_mutant({number}) {{ /*<{number}*/{deed}/*{number}>*/ }} "


def _either(tries: list[tuple[int, str]], usual: str) -> str:
    arms = [f"if crate::koi_mutant({number}) {{ /*<{number}*/{text}/*{number}>*/ }}" for number, text in tries]
    return f"({' else '.join(arms)} else {{ {usual} }})"


def _value(value: str) -> str:
    return "" if value == "()" else value


def _owner(node: Node, plain) -> str:
    parent = node.parent
    while parent is not None:
        if parent.type == "impl_item":
            kind = plain(parent.child_by_field_name("type"))
            return re.sub(r"<.*", "", kind) + "::"
        parent = parent.parent
    return ""


def _for_tests(node: Node, plain) -> bool:
    """Whether an attribute says that it is there for tests alone, or made by a derive."""
    before = node.prev_named_sibling
    while before is not None and before.type in ("attribute_item", "line_comment"):
        if before.type == "attribute_item" and re.search(r"\btest\b", plain(before)):
            return True
        before = before.prev_named_sibling
    return False


def values_of(kind: str) -> list[str]:
    """Other values of a type, by its name."""
    kind = kind.strip()
    inside = re.fullmatch(r"(?:[\w:]+::)?(\w+)<(.*)>", kind, re.DOTALL)
    if kind == "()":
        return ["()"]
    if kind == "bool":
        return ["true", "false"]
    if kind in UNSIGNED:
        return ["0", "1"]
    if kind in SIGNED:
        return ["0", "1", "-1"]
    if kind in ("f32", "f64"):
        return ["0.0", "1.0", "-1.0"]
    if kind == "String":
        return ["String::new()", '"xyzzy".into()']
    if re.fullmatch(r"&('\w+ )?str", kind):
        return ['""', '"xyzzy"']
    if kind.startswith(("impl ", "!", "&mut", "fn(", "dyn ")):
        return []
    if kind.startswith("&"):
        return []
    if inside and inside[1] == "Option":
        return ["None", *(f"Some({value})" for value in values_of(inside[2]))]
    if inside and inside[1] == "Result":
        first = _first(inside[2])
        return [f"Ok({value})" for value in values_of(first)]
    if inside and inside[1] == "Vec":
        return ["vec![]", *(f"vec![{value}]" for value in values_of(inside[2]))]
    if inside and inside[1] in COLLECTIONS:
        return [f"std::collections::{inside[1]}::new()"]
    if inside and inside[1] in ("Box", "Arc"):
        return [f"{inside[1]}::new({value})" for value in values_of(inside[2])]
    if kind.startswith("(") and kind.endswith(")"):
        parts = _split(kind[1:-1])
        options = [values_of(part) for part in parts]
        return [f"({', '.join(first[0] for first in options)})"] if all(options) else []
    return ["Default::default()"]


def _split(text: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for at, letter in enumerate(text):
        depth += letter in "<([" and 1 or 0
        depth -= letter in ">)]" and 1 or 0
        if letter == "," and depth == 0:
            parts.append(text[start:at].strip())
            start = at + 1
    return [part for part in [*parts, text[start:].strip()] if part]


def _first(text: str) -> str:
    return _split(text)[0]
