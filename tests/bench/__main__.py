"""Measures, prints a table, and writes target/bench/bench.json.

python -m bench                    everything
python -m bench --fleets 1 50      fleets of these sizes alone, with token buckets and without
python -m bench --gateway          the gateway and its agent alone
python -m bench --only identity    what the words are in the title of
"""

from __future__ import annotations

import argparse
import json
import sys

from scenario import stage
from world.paths import ROOT

from . import agent, fleet, gateway
from .fleet import Size
from .goals import verdicts
from .large import LargeFleet

SIZES = (1, 50, 200, 1000, 10_000)
#: Up to here the cloud is the test world's; larger fleets get one in memory.
WORLD = 1000


def main() -> int:
    """Each group in turn; a figure that the machine cannot show is absent, never made up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fleets", nargs="+", type=int, metavar="N", help="fleets of these sizes and nothing else")
    parser.add_argument("--buckets", choices=("both", "with", "without"), default="both", help="of fleets by size")
    parser.add_argument("--only", metavar="WORDS", help="groups that have these words in their title and nothing else")
    parser.add_argument("--debug", action="store_true", help="the development build: counts are as good, times are not")
    parser.add_argument("--gateway", action="store_true", help="the gateway and nothing else")
    args = parser.parse_args()
    if not args.debug:
        stage.OPERATOR = ROOT / "target" / "release" / "koi-operator"
        # A fleet's machines are switched off: only the digest of their gateway counts.
        if not (args.fleets or args.only):
            stage.GATEWAY = ROOT / "target" / "release" / "koi-gateway"
    target = ROOT / "target" / "bench" / "bench.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    part = args.fleets or args.gateway or args.only
    results = json.loads(target.read_text()) if part and target.exists() else {}
    if not (args.fleets or args.only):
        for group, measure in (("gateway", gateway.measure), ("agent", agent.measure)):
            results[group] = measure()
            show(group, results[group])
            target.write_text(json.dumps(results, indent=2) + "\n")
    for size in [] if args.gateway else groups(args.fleets, args.buckets):
        if args.only and args.only not in size.title:
            continue
        results[size.title] = fleet.measure(size, LargeFleet if size.agents > WORLD else fleet.Fleet)
        show(size.title, results[size.title])
        target.write_text(json.dumps(results, indent=2) + "\n")
    print("\nthe goals")
    for size in groups(None, "both"):
        for verdict in verdicts(size, results.get(size.title, {})):
            print(verdict)
    print(f"\nwritten to {target.relative_to(ROOT)}")
    return 0


def groups(fleets: list[int] | None, buckets: str) -> list[Size]:
    """What is measured, the small first. Under AWS's buckets 10,000 launches alone would take 83 minutes."""
    sizes = fleets or SIZES
    found = [Size(count) for count in sizes if buckets != "with"]
    found += [Size(count, buckets=True) for count in sizes if count <= WORLD and buckets != "without"]
    if not fleets:
        found += [Size(50, own_identity=True), Size(50, own_identity=True, deletion_policy="Snapshot")]
    return sorted(found, key=lambda size: size.agents)


def show(group: str, figures: dict[str, float]) -> None:
    """A group as a table."""
    print(f"\n{group}")
    for name, value in figures.items():
        print(f"  {name:65} {value:12.2f}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
