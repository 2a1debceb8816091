"""gatepost behind HAProxy, which announces its clients: they count, and nobody else is believed."""

import shutil

from bench import parts
from bench.gatepost import BALANCED, BALANCER, PROTOCOLS
from bench.processes import Failure, accepts
from bench.wire import WELCOME, Line, greet, log_in, must_begin

NEAR, FAR = "127.0.0.7", "127.0.0.8"

# What HAProxy is told to send; its checksum must be found right.
HEADERS = {"version 1": "send-proxy", "version 2": "send-proxy-v2", "with a checksum": "send-proxy-v2 proxy-v2-options crc32c"}

CONFIGURATION = """global
    maxconn 200
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
"""

DOOR = """listen door-{port}
    bind 127.0.0.1:{port}
    server gatepost 127.0.0.1:{to} source {balancer} {header}
"""


class Haproxy:
    """Its doors by (header, protocol, local TLS), each before a listener of gatepost."""

    def __init__(self, gatepost):
        self.gatepost = gatepost
        self.doors = {}
        self.password = None

    def start(self):
        text, ground = CONFIGURATION, self.gatepost.ground
        for name, header in HEADERS.items():
            for (protocol, tls), to in self.gatepost.balanced.items():
                port = self.doors[name, protocol, tls] = ground.ports.next()
                text += DOOR.format(port=port, to=to, balancer=BALANCER, header=header)
        file = ground.subfolder("haproxy") / "haproxy.cfg"
        file.write_text(text)
        process = ground.start("haproxy", [shutil.which("haproxy") or "/usr/sbin/haproxy", "-db", "-f", file])
        process.wait_for("its doors", lambda: all(accepts(port, "127.0.0.1") for port in self.doors.values()))
        self.password = self.gatepost.add_password(parts.SUPPORT, "--name", "balanced", "--from", f"{NEAR}/32")

    def tests(self):
        for name, protocol, tls in [(n, p, t) for n in HEADERS for p in PROTOCOLS for t in BALANCED]:
            yield (f"behind HAProxy, {name}: {protocol} {tls}",
                   lambda n=name, p=protocol, t=tls: self.client_counts(n, p, t))
        yield "behind HAProxy: its clients are the peers in the log", self.logged

    def client_counts(self, name, protocol, tls):
        """The password is for one client; the load balancer's own address is none of it."""
        for source, let_in in [(NEAR, True), (FAR, False)]:
            ca = self.gatepost.listener_certificate()
            with Line(self.doors[name, protocol, tls], tls, ca, source) as line:
                greet(line, protocol)
                answer = log_in(line, protocol, parts.SUPPORT, self.password)
            if let_in:
                must_begin(answer, WELCOME[protocol])
            elif "not for this protocol or network" not in answer:
                raise Failure(f"from {source}: {answer}")

    def logged(self):
        log = self.gatepost.log()
        for mark in [f'"peer":"{NEAR}:', f'"peer":"{FAR}:', f'"balancer":"{BALANCER}:']:
            if mark.encode() not in log:
                raise Failure(f"no {mark} in the log")
