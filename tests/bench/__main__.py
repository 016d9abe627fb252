"""Measures, prints a table, and writes target/bench/bench.json.

python -m bench                    everything
python -m bench --fleets 1 50      fleets of these sizes alone
"""

from __future__ import annotations

import argparse
import json
import sys

from scenario import stage
from world.paths import ROOT

from . import fleet, gateway

#: Up to here the cloud is the test world's.
SIZES = (1, 50, 200, 1000)


def main() -> int:
    """Each group in turn; a figure that the machine cannot show is absent, never made up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fleets", nargs="+", type=int, metavar="N", help="fleets of these sizes and nothing else")
    parser.add_argument("--debug", action="store_true", help="the development build: counts are as good, times are not")
    args = parser.parse_args()
    if not args.debug:
        stage.OPERATOR = ROOT / "target" / "release" / "koi-operator"
        stage.GATEWAY = ROOT / "target" / "release" / "koi-gateway"
    results = {} if args.fleets else {"gateway": gateway.measure()}
    target = ROOT / "target" / "bench" / "bench.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    for size in args.fleets or SIZES:
        for buckets in (False, True):
            group = f"fleet of {size}, {'with' if buckets else 'without'} token buckets"
            results[group] = fleet.measure(size, buckets)
            show(group, results[group])
            target.write_text(json.dumps(results, indent=2) + "\n")
    if "gateway" in results:
        show("gateway", results["gateway"])
    print(f"\nwritten to {target.relative_to(ROOT)}")
    return 0


def show(group: str, figures: dict[str, float]) -> None:
    """A group as a table."""
    print(f"\n{group}")
    for name, value in figures.items():
        print(f"  {name:60} {value:12.2f}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
