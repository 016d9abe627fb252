"""Measures, prints a table, and writes target/bench/bench.json."""

from __future__ import annotations

import json
import sys

from world.paths import ROOT

from . import fleet, gateway

SIZES = (1, 50)


def main() -> int:
    """Each group in turn; a figure that the machine cannot show is absent, never made up."""
    results = {"gateway": gateway.measure()}
    for size in SIZES:
        results[f"fleet of {size}"] = fleet.measure(size)
    for group, figures in results.items():
        print(f"\n{group}")
        for name, value in figures.items():
            print(f"  {name:44} {value:12.2f}")
    target = ROOT / "target" / "bench" / "bench.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(results, indent=2) + "\n")
    print(f"\nwritten to {target.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
