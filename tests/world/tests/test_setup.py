"""Set-up is quick when all is there, and says in one line what is missing when it cannot be had."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from world import paths

SETUP = paths.ROOT / "tools" / "setup.py"


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module, with an empty cache."""
    specification = importlib.util.spec_from_file_location("setup_under_test", SETUP)
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    monkeypatch.setattr(paths, "CACHE", tmp_path / "cache")
    return module


def program(directory: Path, name: str, says: str) -> None:
    directory.mkdir(exist_ok=True)
    (directory / name).write_text(f"#!/bin/sh\necho '{says}'\n")
    (directory / name).chmod(0o755)


def test_it_is_quick_when_everything_is_there() -> None:
    # What whoever runs this has: a clone in which only the demo was run has no browser and no npm packages.
    began = time.monotonic()
    done = subprocess.run([sys.executable, SETUP, "demo"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert time.monotonic() - began < 1


def test_an_unknown_part_is_refused() -> None:
    done = subprocess.run([sys.executable, SETUP, "everything"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "rootfs" in done.stderr


def test_without_go_it_says_what_to_install(
    setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    assert setup.main(["kube"]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "install it from https://go.dev/dl" in line


@pytest.mark.parametrize("part", ["demo", "all"])
def test_go_is_missed_before_anything_slow_begins(
    setup: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    part: str,
) -> None:
    monkeypatch.setattr(setup.paths, "kube_dir", lambda: tmp_path / "kube")
    monkeypatch.setattr(setup.ability, "why_no_boot", lambda: "")
    monkeypatch.setattr(setup, "run_logged", lambda *_a, **_k: pytest.fail("something slow has begun"))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    program(tmp_path, "go", "go version go1.19.8 linux/amd64")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert setup.main([part]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "Go 1.21 or later is needed (here is go1.19)" in line


def test_without_rust_the_demo_says_so(
    setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert setup.main(["rust"]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "https://rustup.rs" in line


def test_without_root_missing_packages_are_named(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(setup.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(setup, "has", lambda command: command not in ("nft", "mmdebstrap"))
    assert setup.main(["debs"]) == 2
    assert capsys.readouterr().err.endswith("install: mmdebstrap nftables\n")


def test_fit_programs_are_used_and_unfit_ones_are_not(
    setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assets, path = tmp_path / "assets", tmp_path / "path"
    program(assets, "kube-apiserver", "Kubernetes v1.35.2")
    program(path, "etcd", "etcd Version: 3.4.23")
    program(path, "helm", "v4.1.0+g123")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(assets))
    monkeypatch.setenv("PATH", str(path))
    found = {name: setup.fit_program(name) for name in paths.KUBE_PROGRAMS}
    assert found == {
        "etcd": None,
        "kube-apiserver": str(assets / "kube-apiserver"),
        "kube-controller-manager": None,
        "kubectl": None,
        "helm": str(path / "helm"),
    }


def test_the_versions_of_the_module_are_stamped_in(setup: ModuleType) -> None:
    flags = setup.linker_flags()
    assert "version.gitVersion=v1." in flags and "version.version=v4." in flags and "gitMinor=" in flags


def test_a_changed_input_is_another_key(tmp_path: Path) -> None:
    file = tmp_path / "input"
    file.write_text("one")
    before = paths.key(file)
    file.write_text("two")
    assert paths.key(file) != before
