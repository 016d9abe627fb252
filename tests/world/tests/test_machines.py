"""Machines boot, obey, and are what EC2 machines are as far as an operator and a guest can see."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from world.machines.base import BAKED_IMAGE, Attachment, DriverError, IngressRule, VolumeBusy
from world.machines.nspawn import by_id_name
from world.shell import wait_for

from .conftest import Ground, Guest, new_id

HTTPS_FROM_VPC = (IngressRule("tcp", 443, 443, "172.31.0.0/16"),)


@pytest.fixture(scope="module")
def guest(ground: Ground) -> Guest:
    """One machine for the tests that do not wear it out."""
    return ground.boot("#!/bin/bash\necho greetings from user data\nid -u > /root/ran-as\nhostname > /root/ran-on\n")


def test_a_stock_machine_runs_its_user_data_through_cloud_init(ground: Ground, guest: Guest) -> None:
    result = json.loads(guest.file("/run/cloud-init/result.json").read_text())["v1"]
    assert result == {"datasource": "DataSourceEc2Local", "errors": []}
    assert guest.sh("cat /root/ran-as") == "0"
    assert guest.sh("cat /root/ran-on") == f"ip-{guest.address.replace('.', '-')}"
    assert b"greetings from user data" in ground.driver.console(guest.id)
    assert guest.sh("systemctl is-system-running") == "running"


def test_a_stock_machine_is_as_the_public_image(guest: Guest) -> None:
    assert guest.sh("id -u ubuntu") == "1000"
    assert guest.sh("cat /etc/default/skykoi") == "AWS_ENDPOINT_URL=http://172.31.0.1:4566"
    assert guest.sh("command -v nginx koi-gateway || true") == ""
    assert guest.sh("for p in nft mkfs.ext4 curl python3; do command -v $p; done | wc -l") == "4"
    assert guest.sh("ss -Hltn | wc -l") == "0"


def test_nginx_installs_without_a_network(ground: Ground) -> None:
    script = "#!/bin/bash\nset -e\nexport DEBIAN_FRONTEND=noninteractive\napt-get update && apt-get install -y nginx\n"
    guest = ground.boot(script)
    assert guest.sh("systemctl is-active nginx") == "active"
    assert ground.reaches(guest.address, 80)
    guest.terminate()


def test_a_baked_machine_has_nginx_and_the_gateway(ground: Ground, tmp_path: Path) -> None:
    program = tmp_path / "koi-gateway"
    program.write_text("#!/bin/sh\necho here\n")
    ground.world.publish("koi-gateway", program)
    guest = ground.boot(image=BAKED_IMAGE)
    assert guest.sh("koi-gateway; systemctl is-enabled nginx") == "here\nenabled"
    guest.terminate()


def test_a_failing_script_shows(ground: Ground) -> None:
    guest = ground.boot("#!/bin/sh\necho about to fail\nexit 3\n")
    assert json.loads(guest.file("/run/cloud-init/result.json").read_text())["v1"]["errors"] != []
    assert b"about to fail" in ground.driver.console(guest.id)
    guest.terminate()


def test_power(ground: Ground) -> None:
    """Stop, start, reboot from both sides, power-off from inside: disk and identity stay, user data runs once."""
    guest = ground.boot("#!/bin/sh\necho run >> /root/runs\n")
    machine_id, first = guest.sh("cat /etc/machine-id"), guest.leader
    ground.driver.stop(guest.id)
    assert not os.path.exists(f"/proc/{first}") and guest.leader == 0
    assert not ground.reaches(guest.address, 443)
    ground.driver.start(guest.id)
    guest.wait_booted()
    assert guest.leader != first
    ground.driver.reboot(guest.id)
    guest.wait_booted()
    before = guest.leader
    guest.sh("nft add table ip own && systemctl reboot")
    wait_for("the guest's own reboot", lambda: guest.leader not in (0, before), 30)
    guest.wait_booted()
    assert guest.sh("nft list tables") == "", "a reboot clears what the guest did to its network"
    assert guest.sh("cat /root/runs; cat /etc/machine-id") == f"run\n{machine_id}"
    assert ground.powered_off == []
    guest.sh("systemctl poweroff")
    wait_for("the report of the power-off", lambda: ground.powered_off == [guest.id], 30)
    assert guest.leader == 0
    ground.driver.stop(guest.id)  # stopping what is off already is no error
    ground.driver.start(guest.id)
    guest.wait_booted()
    guest.terminate()
    with pytest.raises(DriverError):
        ground.driver.start(guest.id)


def test_force_stop_does_not_wait_for_the_guest(ground: Ground, guest: Guest) -> None:
    stubborn = ground.boot()
    stubborn.sh("systemd-run --quiet --property=KillSignal=SIGCONT --property=TimeoutStopSec=60 sleep 1000")
    ground.driver.stop(stubborn.id, force=True)
    assert stubborn.leader == 0
    assert guest.leader != 0, "a power cut meets one machine only"
    stubborn.terminate()


# volumes


def test_a_volume_is_plugged_in_mounted_and_pulled(ground: Ground, guest: Guest) -> None:
    volume = ground.new_volume()
    link = f"/dev/disk/by-id/{by_id_name(volume)}"
    ground.driver.attach(guest.id, Attachment(volume, "/dev/sdf"))
    assert guest.sh(f"readlink -f {link}") == "/dev/nvme1n1"
    assert guest.sh(f"blockdev --getsize64 {link}") == str(1 << 30)
    guest.sh(f"mkfs.ext4 -q {link} && mkdir -p /data && mount {link} /data && echo kept > /data/file")
    with pytest.raises(DriverError):
        ground.driver.delete_volume(volume)
    guest.sh("umount /data")
    ground.driver.detach(guest.id, volume)
    assert guest.sh(f"ls {link} /dev/nvme1n1 2>/dev/null || true") == ""
    ground.driver.attach(guest.id, Attachment(volume, "/dev/sdg"))
    assert guest.sh(f"mount {link} /data && cat /data/file && umount /data") == "kept"
    ground.driver.detach(guest.id, volume)
    ground.driver.delete_volume(volume)


def test_a_mounted_volume_comes_off_by_force_only(
    ground: Ground, guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("world.machines.nspawn.UNMOUNT_GRACE", 0.2)
    volume = ground.new_volume()
    ground.driver.attach(guest.id, Attachment(volume, "/dev/sdf"))
    guest.sh("mkfs.ext4 -q /dev/nvme1n1 && mkdir -p '/a b' && mount /dev/nvme1n1 '/a b'")
    with pytest.raises(VolumeBusy):
        ground.driver.detach(guest.id, volume)
    assert guest.sh("test -b /dev/nvme1n1 && findmnt -no SOURCE '/a b'") == "/dev/nvme1n1"
    ground.driver.detach(guest.id, volume, force=True)
    assert guest.sh("ls /dev/nvme1n1 2>/dev/null || findmnt '/a b' || true") == ""
    ground.driver.delete_volume(volume)


def test_volumes_outlive_their_machine_and_grow(ground: Ground) -> None:
    """A replacement finds the data by volume id, whatever number the device has, and sees the new size."""
    volumes = ground.new_volume(), ground.new_volume()
    links = [f"/dev/disk/by-id/{by_id_name(volume)}" for volume in volumes]
    first = ground.boot(volumes=volumes)
    for number, link in enumerate(links):
        first.sh(f"mkfs.ext4 -q {link} && mount {link} /mnt && echo {number} > /mnt/number && umount /mnt")
    first.terminate()
    ground.driver.grow_volume(volumes[1], 2)
    second = ground.boot(volumes=tuple(reversed(volumes)))
    for number, link in enumerate(links):
        assert second.sh(f"mount {link} /mnt && cat /mnt/number && umount /mnt") == str(number)
    second.sh(f"e2fsck -fp {links[1]} && resize2fs {links[1]}")
    ground.driver.grow_volume(volumes[1], 3)
    assert second.sh(f"blockdev --getsize64 {links[1]}") == str(3 << 30)
    with pytest.raises(DriverError):
        ground.driver.grow_volume(volumes[1], 1)
    second.terminate()


def test_a_snapshot_of_a_mounted_volume_is_a_clean_copy(ground: Ground, guest: Guest) -> None:
    volume, snapshot = ground.new_volume(), new_id("snap")
    ground.driver.attach(guest.id, Attachment(volume, "/dev/sdf"))
    guest.sh("mkfs.ext4 -q /dev/nvme1n1 && mount /dev/nvme1n1 /mnt && echo then > /mnt/file")
    ground.driver.create_snapshot(snapshot, volume)
    guest.sh("echo now > /mnt/file && umount /mnt")
    ground.driver.detach(guest.id, volume)
    copy = ground.new_volume(2, snapshot)
    ground.driver.delete_snapshot(snapshot)
    ground.driver.attach(guest.id, Attachment(copy, "/dev/sdf"))
    assert (
        guest.sh("e2fsck -fp /dev/nvme1n1 >/dev/null; mount /dev/nvme1n1 /mnt && cat /mnt/file && umount /mnt")
        == "then"
    )
    ground.driver.detach(guest.id, copy)
    with pytest.raises(DriverError):
        ground.new_volume(2, snapshot)


# network


def test_ingress_is_enforced_where_the_guest_cannot_change_it(ground: Ground, guest: Guest) -> None:
    guest.listen(443, 18789)
    other = ground.boot()
    probe = (
        f"for p in 443 18789; do timeout 0.25 bash -c '</dev/tcp/{guest.address}/'$p 2>/dev/null && echo $p; done; true"
    )

    def open_ports() -> tuple[list[int], list[int]]:
        from_router = [port for port in (443, 18789) if ground.reaches(guest.address, port)]
        return from_router, [int(port) for port in other.sh(probe).split()]

    ground.driver.set_ingress(guest.id, HTTPS_FROM_VPC)
    assert open_ports() == ([443], [443])
    guest.sh("nft flush ruleset")
    assert open_ports() == ([443], [443]), "security groups are not the guest's to flush"
    ground.driver.set_ingress(guest.id, (IngressRule("tcp", 443, 443, f"{other.address}/32"),))
    assert open_ports() == ([], [443])
    ground.driver.set_ingress(
        guest.id, (IngressRule("tcp", 18000, 19000, "172.31.0.1/32"), IngressRule("udp", 0, 65535, "::/0"))
    )
    assert open_ports() == ([18789], [])
    ground.driver.set_ingress(guest.id, ())
    assert open_ports() == ([], [])
    assert guest.sh("curl -s -o /dev/null -w '%{http_code}' http://169.254.169.254/latest/") == "401", (
        "answers come back"
    )
    ground.driver.set_ingress(guest.id, HTTPS_FROM_VPC)
    other.terminate()


def test_ingress_is_the_same_after_a_reboot(ground: Ground) -> None:
    guest = ground.boot(ingress=HTTPS_FROM_VPC)
    ground.driver.reboot(guest.id)
    guest.wait_booted()
    guest.listen(443, 80)
    assert [ground.reaches(guest.address, port) for port in (443, 80)] == [True, False]
    guest.terminate()


def test_a_public_address_leads_to_its_machine(ground: Ground, guest: Guest) -> None:
    ground.driver.set_ingress(guest.id, (IngressRule("tcp", 443, 443, "0.0.0.0/0"),))
    assert not ground.reaches("54.214.1.2", 443)
    ground.driver.set_public_ip(guest.id, "54.214.1.2")
    assert ground.reaches("54.214.1.2", 443)
    ground.driver.set_public_ip(guest.id, "54.214.1.3")
    assert [ground.reaches(f"54.214.1.{n}", 443) for n in (2, 3)] == [False, True]
    ground.driver.set_public_ip(guest.id, None)
    assert not ground.reaches("54.214.1.3", 443)


def test_a_cut_wire_drops_established_connections_too(ground: Ground, guest: Guest) -> None:
    ground.driver.set_ingress(guest.id, HTTPS_FROM_VPC)
    connection = ground.world.connect(guest.address, 443, timeout=0.5)
    ground.driver.set_network_cut(guest.id, True)
    connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
    with pytest.raises(TimeoutError):
        connection.recv(1)
    assert not ground.reaches(guest.address, 443)
    ground.driver.set_network_cut(guest.id, False)
    connection.settimeout(10)
    assert connection.recv(8) == b"HTTP/1.0", "TCP repeats what was dropped"
    connection.close()


def test_a_machine_cannot_take_the_address_of_another(ground: Ground, guest: Guest) -> None:
    thief = ground.boot()
    thief.sh(f"ip addr add {guest.address}/32 dev eth0")
    ask = f"curl -s -m 1 --interface {guest.address} -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60'"
    assert thief.sh(f"{ask} http://169.254.169.254/latest/api/token || true") == ""
    thief.terminate()


def test_a_container_behind_the_machine_needs_a_hop_more(ground: Ground, guest: Guest) -> None:
    """HttpPutResponseHopLimit 1 keeps the token from whatever the machine forwards for; 2 lets one hop pass."""
    guest.sh(
        "ip netns add box && ip link add b0 type veth peer name b1 netns box && ip addr add 10.9.0.1/24 dev b0 && ip link set b0 up"
        " && ip -n box addr add 10.9.0.2/24 dev b1 && ip -n box link set b1 up && ip -n box route add default via 10.9.0.1"
        " && sysctl -qw net.ipv4.ip_forward=1 && nft 'add table ip box; add chain ip box post { type nat hook postrouting priority 100; };"
        " add rule ip box post ip saddr 10.9.0.0/24 masquerade'"
    )
    ask = "ip netns exec box curl -s -m 1 -o /dev/null -w '%{http_code}' -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60'"
    answers = []
    for limit in (1, 2):
        old = ground.metadata[guest.address]
        ground.metadata[guest.address] = type(old)(**{**vars(old), "hop_limit": limit})
        answers.append(guest.sh(f"{ask} http://169.254.169.254/latest/api/token || true"))
    guest.sh("ip netns del box; nft delete table ip box")
    assert answers == ["000", "200"]
