#!/bin/bash
# Builds the root file systems that machines boot from:
#   OUT/stock   what the public Ubuntu image stands for: systemd, cloud-init, user `ubuntu`; no nginx, no koi-gateway.
#               /srv/apt inside is the one package source: machines have no way out, and `apt-get install nginx` works.
#   OUT/baked   a layer above stock: nginx installed.
# usage: build.sh OUT     needs root, mmdebstrap, overlayfs. The hash of this file is the cache key.
set -euo pipefail
out=$1
suite=bookworm
packages=systemd,systemd-sysv,dbus,dbus-user-session,libpam-systemd,cloud-init,apt,ca-certificates,curl,openssl,python3,iproute2
packages+=,nftables,e2fsprogs,util-linux,mount,sudo,procps,netbase,jq,less,gzip,xz-utils,logrotate

umount -q "$out/.merged" 2>/dev/null || true
rm -rf "$out"
mkdir -p "$out"

# The hooks run with the apt of this machine: its mirrors and proxies work there, those of the image need not.
cat > "$out/.fetch" <<'H'
#!/bin/bash
# Fills /srv/apt of the image in $1 with nginx and whatever it needs beyond the image, and an index of it.
set -euo pipefail
archives=$1/var/cache/apt/archives
rm -f "$archives"/*.deb
APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-get --yes --download-only -o APT::Keep-Downloaded-Packages=true install nginx
mkdir -p "$1/srv/apt"
find "$archives" -maxdepth 1 -name '*.deb' -exec mv -t "$1/srv/apt" {} +
cd "$1/srv/apt"
for deb in *.deb; do
  dpkg-deb -f "$deb"
  printf 'Filename: ./%s\nSize: %s\nSHA256: %s\n\n' "$deb" "$(stat -c %s "$deb")" "$(sha256sum < "$deb" | cut -d' ' -f1)"
done > Packages
grep -q '^Package: nginx$' Packages
H
chmod +x "$out/.fetch"

mmdebstrap --mode=root --variant=minbase --include="$packages" \
  --aptopt='APT::Install-Recommends "false"' --dpkgopt=force-unsafe-io \
  --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
  --dpkgopt='path-exclude=/usr/share/locale/*' \
  --customize-hook="$out/.fetch" "$suite" "$out/stock"

chroot "$out/stock" bash -euo pipefail <<'C'
rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/* /var/lib/apt/lists/*
echo 'deb [trusted=yes] file:/srv/apt ./' > /etc/apt/sources.list

id debian >/dev/null 2>&1 && userdel -r debian
useradd --create-home --uid 1000 --shell /bin/bash ubuntu
echo 'ubuntu ALL=(ALL) NOPASSWD:ALL' > /etc/sudoers.d/90-cloud-init-users
: > /etc/machine-id
rm -f /var/lib/dbus/machine-id

# What a machine without hardware of its own has no use for, and the timers of the distribution.
systemctl mask apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer fstrim.timer dpkg-db-backup.timer logrotate.timer \
  getty@tty1.service console-getty.service systemd-timesyncd.service systemd-networkd-wait-online.service \
  systemd-udevd.service systemd-udev-trigger.service systemd-networkd.service systemd-resolved.service \
  e2scrub_reap.service >/dev/null 2>&1

cat > /etc/cloud/cloud.cfg.d/99-world.cfg <<'Y'
# The network is there before the machine boots (its namespace brings it); all else is cloud-init's stock way on EC2.
locale: false
network: {config: disabled}
manage_etc_hosts: false
preserve_hostname: false
disable_root: true
system_info: {default_user: {name: ubuntu, gecos: Ubuntu, shell: /bin/bash, sudo: ["ALL=(ALL) NOPASSWD:ALL"], lock_passwd: true}}
datasource_list: [Ec2]
datasource: {Ec2: {strict_id: false, timeout: 5, max_wait: 30, metadata_urls: ["http://169.254.169.254"]}}
output: {all: "| tee -a /var/log/cloud-init-output.log"}
Y

# cloud-init asks for IMDSv2 tokens only where it believes itself on EC2. It ignores DMI in containers and believes
# /sys/hypervisor/uuid, which sysfs does not let us make: that one path is moved.
source=/usr/lib/python3/dist-packages/cloudinit/sources/DataSourceEc2.py
grep -q '"/sys/hypervisor/uuid"' "$source"
sed -i 's#"/sys/hypervisor/uuid"#"/etc/world-hypervisor-uuid"#' "$source"
echo ec2e2e00-0000-4000-8000-000000000001 > /etc/world-hypervisor-uuid
python3 -m compileall -q /usr/lib/python3/dist-packages/cloudinit /usr/lib/python3.11 >/dev/null 2>&1 || true

# Nobody answers DHCP (the address is there already); with the client out of the way cloud-init does not wait for it.
dpkg-divert --quiet --rename --add /usr/sbin/dhclient

mkdir -p /etc/systemd/journald.conf.d /etc/systemd/system.conf.d
printf '[Journal]\nStorage=persistent\nSystemMaxUse=16M\n' > /etc/systemd/journald.conf.d/world.conf
# A machine that hangs while it goes down must not hang the tests.
printf '[Manager]\nDefaultTimeoutStopSec=10s\n' > /etc/systemd/system.conf.d/world.conf
# A resolver that never answers costs cloud-init 15 s; an empty file means "refused" at once.
: > /etc/resolv.conf
rm -rf /var/lib/cloud/* /var/log/cloud-init* /var/cache/apt/*.bin /var/cache/apt/archives/*.deb
C

mkdir -p "$out/baked" "$out/.work" "$out/.merged"
mount -t overlay overlay -o "lowerdir=$out/stock,upperdir=$out/baked,workdir=$out/.work" "$out/.merged"
trap 'umount "$out/.merged"' EXIT
printf '#!/bin/sh\nexit 101\n' > "$out/.merged/usr/sbin/policy-rc.d"   # nothing starts while the image is made
chmod +x "$out/.merged/usr/sbin/policy-rc.d"
chroot "$out/.merged" sh -euc 'export DEBIAN_FRONTEND=noninteractive; apt-get -q update; apt-get -qy install nginx; apt-get clean'
rm "$out/.merged/usr/sbin/policy-rc.d"
umount "$out/.merged"
trap - EXIT
rm -rf "$out/.work" "$out/.merged" "$out/.fetch"
