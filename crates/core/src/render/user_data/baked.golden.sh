#!/bin/sh
# Makes this machine the home of one agent. Renderer 1 of koi-operator: the same bytes for each boot of a launch, no secret.
set -eu
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
DEBIAN_FRONTEND=noninteractive
export PATH DEBIAN_FRONTEND

step=start
say() { echo "koi-userdata: $*"; }
trap 'code=$?; [ "$code" -eq 0 ] || say "step=$step failed, exit code $code"' EXIT

# The conventional place for a proxy or private endpoints; the units below read it too.
if [ -r /etc/default/skykoi ]; then
  set -a
  . /etc/default/skykoi
  set +a
fi

step=packages
need=''
command -v nginx >/dev/null || need="$need nginx"
install_packages() {
  apt-get -q update && apt-get -q -y -o DPkg::Lock::Timeout=120 install --no-install-recommends $need
}
if [ -n "$need" ]; then
  tries=1
  until install_packages; do
    [ "$tries" -lt 10 ] || { say "step=packages cannot install:$need"; exit 1; }
    tries=$((tries + 1))
    sleep 6
  done
fi

step=binary
binary=/usr/local/bin/koi-gateway
[ -x "$binary" ] || { say "step=binary the image has no $binary and the plan names no gateway artifact"; exit 1; }

step=units
install -d -m 0755 /etc/skykoi
cat >/etc/skykoi/bootstrap.json <<'KOI'
{"agentUid":"6f1c1f0e-8a39-4d0c-9e50-0f7f0a3b8f11","cluster":"demo","region":"eu-central-1"}
KOI
cat >/etc/systemd/system/skykoi-bootstrap.service <<'KOI'
[Unit]
Description=Koi bootstrap: data volume, secrets and configuration of the agent
Wants=network-online.target
After=network-online.target

[Service]
Type=oneshot
RemainAfterExit=yes
EnvironmentFile=-/etc/default/skykoi
ExecStart=/usr/local/bin/koi-gateway bootstrap
Restart=on-failure
RestartSec=5
TimeoutStartSec=infinity
StandardOutput=journal+console
StandardError=journal+console

[Install]
WantedBy=multi-user.target
KOI

step=enable
systemctl daemon-reload
systemctl enable skykoi-bootstrap.service
systemctl start --no-block skykoi-bootstrap.service

step=done
say "step=done"
