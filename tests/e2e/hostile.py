"""Run on a machine as the user of the agent: tries to get at what is the gateway's, and prints what came of each try as JSON.

Nothing but the standard library: it is written to the machine by the agent's own tools.
"""

import base64
import contextlib
import ctypes
import glob
import json
import os
import socket
import struct
import subprocess
import sys

GATEWAY_PORT = int(sys.argv[1])
PREFIX = sys.argv[2:]  # what goes before each command: nothing, or sudo -n
STATE = "/home/ubuntu/.skykoi"
TRIES = {}


def attempt(function):
    TRIES[function.__name__] = function
    return function


def sh(command, stdin=""):
    """A command's exit code and output."""
    line = [*PREFIX, "/bin/sh", "-c", command]
    done = subprocess.run(line, input=stdin, capture_output=True, text=True, timeout=20, errors="replace")
    return done.returncode, done.stdout + done.stderr


def opened(command):
    code, output = sh(command)
    return "OPEN: " + output[:80] if code == 0 else "denied"


def pid_of(unit):
    return subprocess.run(
        ["systemctl", "show", "--property=MainPID", "--value", unit], capture_output=True, text=True, timeout=10
    ).stdout.strip()


GATEWAY = pid_of("skykoi-gateway")
assert int(GATEWAY) > 1, GATEWAY


@attempt
def read_the_token():
    return opened("cat /run/skykoi/token")


@attempt
def list_the_secrets():
    return opened("ls /run/skykoi")


@attempt
def read_the_tls_key():
    return opened("cat /run/skykoi-tls/tls.key")


@attempt
def read_the_config():
    return opened(f"cat {STATE}/skykoi.json")


@attempt
def list_the_state():
    return opened(f"ls {STATE}")


@attempt
def move_the_state():
    if PREFIX:
        return "OPEN: root may"
    return opened(f"mv {STATE} /home/ubuntu/stolen")


@attempt
def read_the_memory():
    return opened(f"head -c1 /proc/{GATEWAY}/mem")


@attempt
def read_the_environment():
    return opened(f"cat /proc/{GATEWAY}/environ")


@attempt
def read_the_maps():
    return opened(f"head -c1 /proc/{GATEWAY}/maps | grep -q .")


@attempt
def list_the_files_it_holds():
    return opened(f"ls /proc/{GATEWAY}/fd")


@attempt
def go_through_its_root():
    return opened(f"ls /proc/{GATEWAY}/root/run/skykoi /proc/{GATEWAY}/cwd/")


@attempt
def enter_its_namespaces():
    return opened(f"nsenter -t {GATEWAY} -m true")


@attempt
def attach_to_it():
    libc = ctypes.CDLL(None, use_errno=True)
    if PREFIX:
        return "OPEN: root may"
    if libc.ptrace(16, int(GATEWAY), 0, 0) == 0:  # PTRACE_ATTACH
        return "OPEN: attached"
    return "denied"


@attempt
def end_it():
    return opened(f"kill -0 {GATEWAY}")


@attempt
def restart_it():
    return opened("systemctl --no-ask-password try-restart skykoi-metadata.service")


@attempt
def run_as_root_by_systemd():
    return opened("systemd-run --no-ask-password --wait --pipe -q cat /run/skykoi/token")


@attempt
def become_root_by_sudo():
    return opened("sudo -n id" if not PREFIX else "id -u | grep -qx 0")


@attempt
def become_the_gateway():
    return opened("setpriv --reuid=skykoi --regid=skykoi --clear-groups cat /run/skykoi/token")


@attempt
def change_the_program():
    return opened("test -w /usr/local/bin/koi-gateway || test -w /usr/local/bin")


@attempt
def change_the_units():
    return opened("test -w /etc/systemd/system || test -w /etc/systemd/system/skykoi-gateway.service")


@attempt
def change_what_units_read():
    return opened("touch /etc/default/skykoi")


@attempt
def change_the_filter():
    return opened("/usr/sbin/nft list ruleset | grep -q skykoi")


@attempt
def read_the_disk():
    devices = " ".join(glob.glob("/dev/nvme*") + glob.glob("/dev/loop*")) or "/dev/none"
    return opened(f"for d in {devices}; do head -c1 $d >/dev/null 2>&1 && exit 0; done; exit 1")


METADATA = 'curl -sf -m 2 -X PUT -H "X-aws-ec2-metadata-token-ttl-seconds: 60" http://%s/latest/api/token'


@attempt
def ask_for_the_machines_role():
    return opened(METADATA % "169.254.169.254")


@attempt
def ask_for_it_by_number():
    return opened(METADATA % "2852039166")


@attempt
def ask_for_it_the_old_way():
    return opened("curl -sf -m 2 http://169.254.169.254/latest/meta-data/iam/security-credentials/")


@attempt
def ask_for_it_as_root_of_an_own_world():
    return opened("unshare -Ur " + METADATA % "169.254.169.254")


@attempt
def ask_for_it_by_the_gateways_proxy():
    return opened("curl -skf -m 2 -H 'Host: 169.254.169.254' https://127.0.0.1/latest/meta-data/")


@attempt
def find_credentials_in_the_environment():
    words = ("AWS", "TOKEN", "SECRET", "PASSWORD", "KEY", "SKYKOI_CONFIG", "SKYKOI_STATE")
    environments = [dict(os.environ)]
    # The tools' own process belongs to this user: what it holds is no secret to it.
    with contextlib.suppress(OSError):
        for path in glob.glob("/proc/[0-9]*/environ"):
            with contextlib.suppress(OSError), open(path, "rb") as file:
                pairs = file.read().decode(errors="replace").split("\0")
                environments.append(dict(pair.partition("=")[::2] for pair in pairs if "=" in pair))
    found = {name for environment in environments for name in environment if any(w in name.upper() for w in words)}
    return f"OPEN: {sorted(found)}" if found else "denied"


@attempt
def ask_the_own_tools_for_what_is_not_bound():
    wish = {"tool": "exec", "arguments": {"command": "id"}, "session": "s"}
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect("/run/skykoi-tools/socket")
        connection.sendall(json.dumps({"perform": wish}).encode() + b"\n")
        return "OPEN: " + connection.recv(80).decode() if connection.recv(1, socket.MSG_PEEK) else "denied"


@attempt
def read_the_log_of_the_gateway():
    code, output = sh("journalctl -q --no-pager -u skykoi-gateway -n 5 -o cat")
    return "OPEN: " + output[:80] if code == 0 and output.strip() else "denied"


def frames(stream):
    """The text frames of a WebSocket, as JSON."""
    while True:
        head = stream.read(2)
        if len(head) < 2:
            return
        length = head[1] & 127
        if length == 126:
            (length,) = struct.unpack(">H", stream.read(2))
        elif length == 127:
            (length,) = struct.unpack(">Q", stream.read(8))
        content = stream.read(length)
        if head[0] & 15 != 1:
            return
        yield json.loads(content)


def say(connection, what):
    content = json.dumps(what).encode()
    head = b"\x81" + (bytes([128 | len(content)]) if len(content) < 126 else b"\xfe" + struct.pack(">H", len(content)))
    connection.sendall(head + b"\0\0\0\0" + content)


def knock(auth, **headers):
    """Connects to the gateway itself, past nginx."""
    fields = {"Host": f"127.0.0.1:{GATEWAY_PORT}", "Connection": "Upgrade", "Upgrade": "websocket", **headers}
    fields |= {"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode()}
    hello = {
        "minProtocol": 3,
        "maxProtocol": 4,
        "client": {"id": "gateway-client", "version": "1", "platform": "linux", "mode": "backend"},
        "role": "operator",
        "scopes": ["operator.admin"],
        "auth": auth,
    }
    with socket.create_connection(("127.0.0.1", GATEWAY_PORT), timeout=5) as connection:
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        connection.sendall(f"GET / HTTP/1.1\r\n{lines}\r\n".encode())
        stream = connection.makefile("rb")
        status = stream.readline().decode()
        while stream.readline().strip():
            pass
        if " 101 " not in status:
            return "denied"
        for frame in frames(stream):
            if frame.get("event") == "connect.challenge":
                say(connection, {"type": "req", "id": "1", "method": "connect", "params": hello})
            elif frame.get("type") == "res":
                return "OPEN: connected" if frame["ok"] else "denied"
    return "denied"


@attempt
def knock_without_a_token():
    return knock({})


@attempt
def knock_with_an_empty_token():
    return knock({"token": ""})


@attempt
def knock_with_a_guess():
    return knock({"token": "x" * 43, "password": "x"})


@attempt
def knock_as_somebody_from_here():
    return knock({}, **{"X-Forwarded-For": "127.0.0.1", "X-Real-IP": "127.0.0.1"})


@attempt
def ask_over_http_without_a_token():
    answers = []
    for path in ("/v1/chat/completions", "/tools/invoke", "/hooks/agent", "/v1/responses"):
        code = sh(
            f"curl -s -m 3 -o /dev/null -w '%{{http_code}}' -X POST -d '{{}}' http://127.0.0.1:{GATEWAY_PORT}{path}"
        )[1]
        answers.append(code)
    return f"OPEN: {answers}" if any(code.startswith("2") for code in answers) else "denied"


def main():
    for name, function in TRIES.items():
        try:
            came = function()
        except Exception as error:  # noqa: BLE001 - whatever stops it stops it
            came = f"denied ({type(error).__name__})"
        TRIES[name] = came
    print("TRIED " + json.dumps(TRIES))


main()
