"""Machines that really boot: systemd-nspawn on overlayfs, each in network namespace and control groups of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import shutil
import signal
import stat
import subprocess
import threading
from pathlib import Path

from ..network import MachineLink, Namespace
from ..paths import NotSetUp, rootfs_dir, system_program
from ..shell import run, wait_for
from . import cgroups
from .base import BAKED_IMAGE, Attachment, DriverError, MachineSpec, VolumeBusy
from .volumes import VolumeStore, free_loops_below
from .wires import WiredDriver

log = logging.getLogger("world.machines")

EXIT_REBOOT = 133  # how nspawn says, with --keep-unit, that the guest asked for a reboot
POWEROFF, REBOOT = signal.SIGRTMIN + 4, signal.SIGRTMIN + 5  # what systemd as PID 1 understands
SHUTDOWN_GRACE = 20.0  # seconds that a guest gets; then it is a power cut
UNMOUNT_GRACE = 10.0
NSPAWN = (
    "systemd-nspawn",
    "--quiet",
    "--boot",
    "--register=no",
    "--keep-unit",
    "--private-users=no",
    "--console=read-only",
    "--link-journal=no",
    "--resolv-conf=off",
    "--timezone=off",
    "--suppress-sync=yes",
    "--capability=CAP_NET_ADMIN",
)


@dataclasses.dataclass
class Machine:
    """One machine: what was asked for, and the run that is going on, if one is."""

    spec: MachineSpec
    directory: Path
    link: MachineLink
    groups: list[Path]
    attachments: dict[str, Attachment]
    devices: dict[str, str] = dataclasses.field(default_factory=dict)  # volume id -> "nvme1n1" of this run
    process: subprocess.Popen | None = None
    leader: int = 0
    going_down: bool = False  # we end this run: its end is no event
    lock: threading.RLock = dataclasses.field(default_factory=threading.RLock)

    @property
    def root(self) -> Path:
        return self.directory / "root"

    @property
    def console(self) -> Path:
        return self.directory / "console.log"

    @property
    def inside(self) -> Path:
        """The guest's root as the guest sees it, with its /run and /dev."""
        return Path(f"/proc/{self.leader}/root")


class NspawnDriver(WiredDriver):
    """Runs the machines of one world; lives in the cloud's process, inside the world's network namespace."""

    def __init__(self, name: str, state_dir: Path, endpoint_for_machines: str) -> None:
        super().__init__(name)
        self.state_dir, self.endpoint = state_dir, endpoint_for_machines
        self.images = rootfs_dir()
        if not (self.images / "complete").exists():
            raise NotSetUp("the root file systems of machines are not there: run `tools/setup.py rootfs`")
        self.store = VolumeStore(state_dir)
        self._machines: dict[str, Machine] = {}

    # volumes

    def create_volume(self, volume_id: str, size_gib: int, snapshot_id: str | None = None) -> None:
        self.store.create(volume_id, size_gib, snapshot_id)

    def delete_volume(self, volume_id: str) -> None:
        self.store.delete(volume_id)

    def grow_volume(self, volume_id: str, size_gib: int) -> None:
        self.store.grow(volume_id, size_gib)

    def create_snapshot(self, snapshot_id: str, volume_id: str) -> None:
        """A file system that a guest has mounted is frozen meanwhile, so that the copy is of one moment."""
        mount = self._mount_of(volume_id)
        if not mount:
            return self.store.snapshot(snapshot_id, volume_id)
        run("fsfreeze", "--freeze", mount)
        try:
            self.store.snapshot(snapshot_id, volume_id)
        finally:
            run("fsfreeze", "--unfreeze", mount, check=False)

    def delete_snapshot(self, snapshot_id: str) -> None:
        self.store.delete_snapshot(snapshot_id)

    # power

    def launch(self, spec: MachineSpec) -> None:
        machine = self._new_machine(spec)
        with machine.lock:
            prepare_root(machine, self.images, self.endpoint, self.state_dir / "artifacts")
            self._boot(machine)

    def start(self, instance_id: str) -> None:
        machine = self._machine(instance_id)
        with machine.lock:
            if not machine.process:
                self._boot(machine)

    def stop(self, instance_id: str, force: bool = False) -> None:
        machine = self._machine(instance_id)
        if force:  # without the lock: an orderly stop that hangs may hold it
            machine.going_down = True
            cgroups.kill(machine.groups)
        with machine.lock:
            if machine.process:
                self._shut_down(machine, None if force else POWEROFF)

    def reboot(self, instance_id: str) -> None:
        machine = self._machine(instance_id)
        with machine.lock:
            if machine.process:
                self._shut_down(machine, REBOOT)
                self._boot(machine)

    def terminate(self, instance_id: str) -> None:
        with self._lock:
            machine = self._machines.get(instance_id)
        if not machine:
            return
        with machine.lock:
            self._shut_down(machine, None)
            remove_machine(machine.directory)
        self.drop_link(instance_id)
        with self._lock:
            del self._machines[instance_id]

    # devices

    def attach(self, instance_id: str, attachment: Attachment) -> None:
        machine = self._machine(instance_id)
        with machine.lock:
            if machine.process:
                self._plug_volume(machine, attachment.volume_id)
            machine.attachments[attachment.volume_id] = attachment

    def detach(self, instance_id: str, volume_id: str, force: bool = False) -> None:
        machine = self._machine(instance_id)
        with machine.lock:
            if machine.process and volume_id in machine.devices:
                self._let_go(machine, volume_id, force)
                self.store.close(volume_id)
                remove_node(machine, volume_id)
            machine.attachments.pop(volume_id, None)

    # reports and end

    def console(self, instance_id: str) -> bytes:
        try:
            return self._machine(instance_id).console.read_bytes()
        except OSError:
            return b""

    def leader(self, instance_id: str) -> int:
        """PID 1 of the machine as this side numbers it (tests enter it with nsenter); 0 when it does not run."""
        return self._machine(instance_id).leader

    def close(self) -> None:
        with self._lock:
            doomed = list(self._machines)
        for instance_id in doomed:
            with contextlib.suppress(KeyError):
                self._machines[instance_id].going_down = True
        threads = [threading.Thread(target=self._terminate_quietly, args=(instance_id,)) for instance_id in doomed]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        free_loops_below(self.state_dir)

    # inside

    def _terminate_quietly(self, instance_id: str) -> None:
        try:
            self.terminate(instance_id)
        except Exception:
            log.exception("%s: not cleaned up", instance_id)

    def _new_machine(self, spec: MachineSpec) -> Machine:
        with self._lock:
            if spec.instance_id in self._machines:
                raise DriverError(f"{spec.instance_id} exists already")
            machine = self._machines[spec.instance_id] = Machine(
                spec=spec,
                directory=self.state_dir / "machines" / spec.instance_id,
                link=self.add_link(spec.instance_id, spec.private_ip),
                groups=cgroups.groups_below_ours(f"koi-{self.world}.{spec.instance_id}"),
                attachments={attachment.volume_id: attachment for attachment in spec.attachments},
            )
            return machine

    def _machine(self, instance_id: str) -> Machine:
        with self._lock:
            if instance_id not in self._machines:
                raise DriverError(f"there is no machine {instance_id}")
            return self._machines[instance_id]

    def _boot(self, machine: Machine) -> None:
        """The caller holds the machine's lock and nothing of the machine runs."""
        machine.going_down = False
        cgroups.create(machine.groups)
        self.network.plug(machine.link)
        try:
            machine.process = start_nspawn(machine)
            machine.leader = wait_for_leader(machine)
            # Nitro promises no order of devices over boots: here it is that of the volume ids, whatever was asked.
            for volume_id in sorted(machine.attachments):
                self._plug_volume(machine, volume_id)
        except BaseException:
            machine.going_down = True
            self._clear_run(machine)
            raise
        watcher = threading.Thread(target=self._watch, args=(machine, machine.process), daemon=True)
        watcher.start()

    def _watch(self, machine: Machine, process: subprocess.Popen) -> None:
        """Notices what the guest does to itself: a reboot or a power-off."""
        status = process.wait()
        with machine.lock:
            if machine.going_down or machine.process is not process:
                return
            self._clear_run(machine)
            if status == EXIT_REBOOT:
                try:
                    return self._boot(machine)
                except Exception:
                    log.exception("%s does not come back from its reboot", machine.spec.instance_id)
        self.on_poweroff(machine.spec.instance_id)

    def _shut_down(self, machine: Machine, how: signal.Signals | int | None) -> None:
        """Ends the current run, orderly with a signal to PID 1, or at once."""
        machine.going_down = True
        if machine.process and how is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(machine.leader, how)
            with contextlib.suppress(subprocess.TimeoutExpired):
                machine.process.wait(SHUTDOWN_GRACE)
        self._clear_run(machine)

    def _clear_run(self, machine: Machine) -> None:
        """Power is off: no process, no device, no link of the machine remains."""
        cgroups.kill(machine.groups)
        if machine.process:
            machine.process.wait(10)
        machine.process, machine.leader = None, 0
        for volume_id in list(machine.devices):
            self.store.close(volume_id)
        machine.devices.clear()
        self.network.unplug(machine.link)
        cgroups.remove(machine.groups)

    def _plug_volume(self, machine: Machine, volume_id: str) -> None:
        if volume_id in machine.devices:
            return
        number = self.store.open(volume_id)
        taken = set(machine.devices.values())
        device = next(name for index in range(1, 64) if (name := f"nvme{index}n1") not in taken)
        machine.devices[volume_id] = device
        add_node(machine, volume_id, number)

    def _let_go(self, machine: Machine, volume_id: str, force: bool) -> None:
        number = self.store.device_number(volume_id)

        def unmounted() -> bool:
            mounts = mounts_of(machine.leader, number)
            for mount in reversed(mounts) if force else ():
                run("nsenter", f"--target={machine.leader}", "--mount", "--pid", "umount", "--lazy", mount, check=False)
            return not mounts

        try:
            wait_for(f"{volume_id} to be unmounted", unmounted, UNMOUNT_GRACE)
        except TimeoutError as error:
            raise VolumeBusy(f"{volume_id} is mounted on {machine.spec.instance_id}") from error

    def _mount_of(self, volume_id: str) -> Path | None:
        """Where a running guest has the volume mounted, as a path of this side."""
        with self._lock:
            machines = list(self._machines.values())
        for machine in machines:
            if machine.leader and volume_id in machine.devices:
                for mount in mounts_of(machine.leader, self.store.device_number(volume_id)):
                    return machine.inside / mount.lstrip("/")
        return None


# one machine, seen from outside


def prepare_root(machine: Machine, images: Path, endpoint: str, artifacts: Path) -> None:
    """The root disk: a layer of its own above the image."""
    baked = machine.spec.image_id == BAKED_IMAGE
    upper, work = machine.directory / "upper", machine.directory / "work"
    for directory in (upper, work, machine.root):
        directory.mkdir(parents=True, mode=0o755)
    record = {"groups": [str(group) for group in machine.groups], "namespace": machine.link.namespace.name}
    (machine.directory / "machine.json").write_text(json.dumps(record))
    lower = f"{images}/baked:{images}/stock" if baked else f"{images}/stock"
    # volatile: nothing of it outlives the world, so nothing has to reach the disk
    options = f"lowerdir={lower},upperdir={upper},workdir={work},volatile"
    run("mount", "-t", "overlay", f"koi-{machine.spec.instance_id}", "-o", options, machine.root)
    settings = machine.root / "etc" / "default" / "skykoi"
    settings.write_text(f"AWS_ENDPOINT_URL={endpoint}\n")
    gateway = artifacts / "koi-gateway"
    if baked and gateway.exists():
        shutil.copyfile(gateway, machine.root / "usr/local/bin/koi-gateway")
        (machine.root / "usr/local/bin/koi-gateway").chmod(0o755)


def remove_machine(directory: Path) -> None:
    """Removes what a machine left, from its directory alone: processes, namespace, groups, mounts, root disk."""
    record: dict = {}
    with contextlib.suppress(OSError, ValueError):
        record = json.loads((directory / "machine.json").read_text())
    groups = [Path(group) for group in record.get("groups", ())]
    cgroups.kill(groups)
    cgroups.remove(groups)
    if name := record.get("namespace"):
        Namespace(name).remove()
    unmount_below(directory)
    for leftover in ("propagate", "unix-export"):
        with contextlib.suppress(OSError):
            os.rmdir(f"/run/systemd/nspawn/{leftover}/{machine_name(directory.name)}")
    shutil.rmtree(directory, ignore_errors=True)


def unmount_below(directory: Path) -> None:
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for mount in reversed(mounts):
        if Path(mount).is_relative_to(directory):
            run("umount", "--lazy", mount, check=False)


def machine_name(instance_id: str) -> str:
    return f"koi-{instance_id}"


def start_nspawn(machine: Machine) -> subprocess.Popen:
    """Starts it in the machine's control groups; the shell steps in before it becomes nspawn."""
    enter = 'for group in $1; do echo 0 > "$group/cgroup.procs" || exit 1; done; shift; exec "$@"'
    command = [
        # In there from the start: nspawn mounts /sys before it changes over, and /sys shows the network of its mounter.
        *machine.link.namespace.prefix(),
        *(system_program("systemd-nspawn"), *NSPAWN[1:]),
        f"--directory={machine.root}",
        f"--machine={machine_name(machine.spec.instance_id)}",
        f"--network-namespace-path={machine.link.namespace.path}",
    ]
    groups = " ".join(str(group) for group in machine.groups)
    with machine.console.open("ab") as console:
        return subprocess.Popen(
            ["/bin/sh", "-c", enter, "machine", groups, *command],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            env={**os.environ, "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network"},  # sysctl net.* works, as on any machine
            start_new_session=True,
        )


def wait_for_leader(machine: Machine) -> int:
    """The process that is PID 1 inside, once it is systemd (before that, nspawn still sets up its file systems)."""
    process = machine.process
    assert process

    def leader() -> int | None:
        if process.poll() is not None:
            end = machine.console.read_text(errors="replace")[-800:]
            raise DriverError(f"{machine.spec.instance_id}: nspawn ended with status {process.returncode}: {end}")
        return next((pid for pid in children(process.pid) if is_init(pid)), None)

    return wait_for(f"PID 1 of {machine.spec.instance_id}", leader, 30, interval=0.01)


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def is_init(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return fields["NSpid"].split()[-1] == "1" and fields["Name"].strip() in ("systemd", "init")


def mounts_of(leader: int, device_number: str) -> list[str]:
    """Where the guest has the device mounted, in the order of mounting."""
    try:
        lines = Path(f"/proc/{leader}/mountinfo").read_text().splitlines()
    except OSError:
        return []
    return [unescape(fields[4]) for line in lines if (fields := line.split())[2] == device_number]


def unescape(path: str) -> str:
    """mountinfo writes white space and backslashes as octal numbers."""
    return path.encode("latin-1", "backslashreplace").decode("unicode_escape") if "\\" in path else path


def by_id_name(volume_id: str) -> str:
    return "nvme-Amazon_Elastic_Block_Store_" + volume_id.replace("-", "")


def add_node(machine: Machine, volume_id: str, number: int) -> None:
    """The block device and its by-id link appear in the guest's /dev, as udev of a Nitro machine makes them."""
    devices = machine.inside / "dev"
    node = devices / machine.devices[volume_id]
    os.mknod(node, stat.S_IFBLK | 0o660, number)
    os.chmod(node, 0o660)
    os.chown(node, 0, 6)  # group disk
    links = devices / "disk" / "by-id"
    links.mkdir(parents=True, exist_ok=True)
    (links / by_id_name(volume_id)).symlink_to(f"../../{node.name}")


def remove_node(machine: Machine, volume_id: str) -> None:
    device = machine.devices.pop(volume_id)
    devices = machine.inside / "dev"
    for path in (devices / "disk" / "by-id" / by_id_name(volume_id), devices / device):
        with contextlib.suppress(OSError):
            path.unlink()


def reap_machines(state_dir: Path) -> None:
    """Cleans up after a driver that is gone."""
    for directory in sorted((state_dir / "machines").glob("*")):
        remove_machine(directory)
    unmount_below(state_dir)
    free_loops_below(state_dir)
