"""What is generated in the charts is what its sources say."""

from __future__ import annotations

import subprocess
import sys

from world import paths

SCRIPT = paths.ROOT / "charts" / "generate.py"


def test_nothing_drifted() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "--check"], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_chart_carries_both_crds() -> None:
    """Both folders empty would not be drift."""
    source = {path.name: path.read_text() for path in (paths.ROOT / "crds").glob("*.yaml")}
    copies = {path.name: path.read_text() for path in (paths.ROOT / "charts" / "koi-operator" / "crds").glob("*.yaml")}
    assert copies == source
    assert len(source) == 2
