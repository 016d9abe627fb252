"""The linker that lays functions out by a list."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
from world.paths import ROOT

sys.path.insert(0, str(ROOT / "tools" / "layout"))
import cc  # noqa: E402

PROGRAM = """
mod one { #[inline(never)] pub fn first(n: usize) -> usize { std::hint::black_box(n) + 1 } }
mod two { #[inline(never)] pub fn second<T: std::fmt::Debug>(t: T) -> usize { format!("{t:?}").len() } }
mod three { #[inline(never)] pub fn third(n: usize) -> usize { std::hint::black_box(n) + 3 } }
fn main() { println!("{}", one::first(1) + two::second(1_u8) + two::second("x") + three::third(1)); }
"""


def test_of_one_name_those_are_taken_that_ran_or_all_where_another_compiler_named_them():
    there = {"a::f": {"1" * 16: ["f1"], "2" * 16: ["f2"]}, "b::g": {"": ["g"]}}
    ran = f"a::f\t{'2' * 16}"
    assert cc.ordered(["b::g", ran], there) == ["g", "f2"]
    assert cc.ordered([f"a::f\t{'3' * 16}", "b::g"], there) == ["f1", "f2", "g"]


def test_a_list_that_is_too_old_says_so(capfd):
    assert cc.ordered(["a", "b", "c"], {"a": {"": ["a"]}}) == ["a"]
    assert "2 of the 3 functions" in capfd.readouterr().err
    cc.ordered(["a", "b"], {"a": {"": ["a"]}})
    assert capfd.readouterr().err == ""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="elsewhere rustc does not link with lld")
@pytest.mark.parametrize("wanted", [("three::third", "two::second", "one::first"), ("one::first", "three::third")])
def test_a_program_is_laid_out_as_the_list_says_and_runs(tmp_path, wanted):
    source, layout, program = tmp_path / "p.rs", tmp_path / "list.txt", tmp_path / "p"
    source.write_text(PROGRAM)
    layout.write_text("".join(f"p::{name}\n" for name in (*wanted, "p::gone")))
    options = ("-C", f"linker={ROOT}/tools/layout/cc.py", "-C", f"link-arg=--layout={layout}")
    subprocess.run(("rustc", source, "-o", program, *options), check=True)
    assert subprocess.run((program,), check=True, capture_output=True, text=True).stdout == "10\n"
    rows = subprocess.run(("nm", program), check=True, capture_output=True, text=True).stdout.splitlines()
    addresses = {row.split()[2]: int(row.split()[0], 16) for row in rows if len(row.split()) == 3}
    placed = {name: list(map(addresses.__getitem__, sum(found.values(), []))) for name, found in own(addresses).items()}
    order = [placed[f"p::{name}"] for name in wanted]
    assert all(max(before) < min(after) for before, after in zip(order, order[1:], strict=False)), placed


def own(addresses: dict[str, int]) -> dict[str, cc.Namesakes]:
    """The program's own functions."""
    return {name: found for name, found in cc.by_name(list(addresses)).items() if name.startswith("p::")}
