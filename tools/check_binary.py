"""Holds a release binary against its bounds: size, and the glibc that it needs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

MAX_BYTES = 18_000_000
MAX_GLIBC = (2, 35)


def highest_glibc(binary: Path) -> tuple[int, ...]:
    """The newest version of glibc that a symbol of the binary asks for."""
    symbols = subprocess.run(("objdump", "-T", binary), check=True, stdout=subprocess.PIPE, text=True).stdout
    versions = re.findall(r"GLIBC_(\d+(?:\.\d+)+)", symbols)
    return max((tuple(int(part) for part in version.split(".")) for version in versions), default=())


def main() -> int:
    """One line that says what it is; exit 1 when that is too much."""
    binary = Path(sys.argv[1])
    size, glibc = binary.stat().st_size, highest_glibc(binary)
    shown = ".".join(str(part) for part in glibc)
    print(f"{binary}: {size / 1e6:.1f} MB, glibc {shown}")
    if size > MAX_BYTES:
        print(f"larger than {MAX_BYTES / 1e6:.0f} MB", file=sys.stderr)
    if glibc > MAX_GLIBC:
        print(
            f"needs a glibc newer than {'.'.join(map(str, MAX_GLIBC))}: Ubuntu 22.04 does not have it", file=sys.stderr
        )
    return int(size > MAX_BYTES or glibc > MAX_GLIBC)


if __name__ == "__main__":
    sys.exit(main())
