"""The unit files, judged by systemd's own tools; it need not be the init of this machine."""

import re
import shutil
import socket

from bench.processes import REAL, Failure, run, wait_until

UNITS = REAL.parent.parent / "packaging" / "systemd"

# The bar: systemd's own scale goes from 0, all bounded, to 10.
MOST_EXPOSED = 1.5

CONFIGURATION = """state_dir = "state"
[[listener]]
protocol = "imap"
listen   = "127.0.0.1:{port}"
"""


def tests(ground, binary):
    yield "service: the unit's exposure is under 1.5", exposure
    yield "service: systemd knows all that the units say", lambda: verify(ground, binary)
    yield "service: systemd-socket-activate passes a port", lambda: activate(ground, binary)


def exposure():
    said = run(["systemd-analyze", "security", "--offline=true", "--no-pager", UNITS / "gatepost.service"]).decode()
    found = re.search(r"Overall exposure level for gatepost\.service: ([0-9.]+)", said)
    if not found or float(found[1]) >= MOST_EXPOSED:
        raise Failure(f"the exposure is not under {MOST_EXPOSED}\n{said[-600:]}")


def verify(ground, binary):
    """As the units are, but for the path: a program that is not there is an error too."""
    folder = ground.visit_folder()
    for unit in UNITS.iterdir():
        (folder / unit.name).write_text(unit.read_text().replace("/usr/bin/gatepost", str(binary)))
    verifying = 'exec systemd-analyze verify --man=no "$@" 2>&1'  # of warnings standard error alone knows
    said = run(["sh", "-c", verifying, "sh", folder / "gatepost.service", folder / "gatepost.socket"]).decode()
    ours = [line for line in said.splitlines() if "gatepost" in line]
    if ours:
        raise Failure("systemd complains\n" + "\n".join(ours))


def activate(ground, binary):
    folder, port = ground.visit_folder(), ground.ports.next()
    (folder / "gatepost.toml").write_text(CONFIGURATION.format(port=port))
    ground.start("activated", [
        shutil.which("systemd-socket-activate"), "-l", f"127.0.0.1:{port}",
        binary, "--config", folder / "gatepost.toml", "run"])
    greeting = wait_until("the greeting", lambda: greet(port))
    if not greeting.startswith(b"* OK"):
        raise Failure(f"it greets with {greeting!r}")


def greet(port):
    try:
        with socket.create_connection(("127.0.0.1", port), 10) as client:
            return client.recv(200)
    except ConnectionRefusedError:
        return None
