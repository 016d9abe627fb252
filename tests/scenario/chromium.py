"""The browser of this machine, put into another one of the same distribution: machines have no way to a package archive that holds it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from world.paths import system_program

from .machine import Machine

HOME = Path("/usr/lib/chromium")
FONTS = (
    "/etc/fonts",
    "/usr/share/fontconfig",
    "/usr/share/fonts/truetype/dejavu",
    "/usr/share/fonts/truetype/liberation",
)
#: opened by name only while it runs
LATER = ("libsoftokn3.so", "libfreebl3.so", "libfreeblpriv3.so", "libnssckbi.so")
WRAPPER = """\
#!/bin/sh
export LD_LIBRARY_PATH={places}
exec /opt/browser/usr/lib/chromium/chromium "$@"
"""


def install(machine: Machine) -> None:
    """Copies program, libraries and fonts, and puts `chromium` where commands find it."""
    assert HOME.is_dir(), "tools/setup.py installs Chromium"
    listed = subprocess.run(("ldd", HOME / "chromium"), check=True, capture_output=True, text=True).stdout
    libraries = [line.split()[2] for line in listed.splitlines() if "=> /" in line]
    libraries += [f"/usr/lib/x86_64-linux-gnu/{name}" for name in LATER]
    skip = ("libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1")
    own = [path for path in libraries if Path(path).exists() and Path(path).name not in skip]
    pack = (system_program("tar"), "-C", "/", "-ch", "--exclude=libVk*", "-f", "-")
    sources = [path.lstrip("/") for path in (str(HOME), *own)]
    fonts = [path.lstrip("/") for path in FONTS if Path(path).exists()]
    machine.sh("mkdir -p /opt/browser")
    for target, what in (("/opt/browser", sources), ("/", fonts)):
        unpack = ("nsenter", "-t", str(machine.leader()), "-m", "--", "tar", "-x", "-C", target, "-f", "-")
        with subprocess.Popen((*pack, *what), stdout=subprocess.PIPE) as packing:
            subprocess.run(unpack, stdin=packing.stdout, check=True, timeout=60)
    places = ":".join(sorted({f"/opt/browser{Path(path).parent}" for path in own}))
    text = WRAPPER.format(places=places)
    machine.sh(f"cat > /usr/local/bin/chromium <<'END'\n{text}END\nchmod 755 /usr/local/bin/chromium")
