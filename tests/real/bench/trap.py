"""Upstreams that gatepost must not trust. They answer everything and write down what they hear.

A trap is good when nothing after the TLS handshake, and no login before it, was ever heard.
"""

import re
import socket
import ssl
import threading

from bench.processes import CERTS, Failure

# What a trap offers: a bad certificate, at once or behind STARTTLS, or no STARTTLS where it is demanded.
KINDS = {
    "wrong-name": ("wrong-name", "implicit"),
    "wrong-name-starttls": ("wrong-name", "starttls"),
    "expired": ("expired", "implicit"),
    "expired-starttls": ("expired", "starttls"),
    "self-signed": ("self-signed", "implicit"),
    "stripped": (None, "starttls"),
}

GREETINGS = {"imap": "* OK trap", "pop3": "+OK trap", "smtp": "220 trap.test ESMTP"}
LOGIN = re.compile(rb"AUTH|LOGIN|USER|PASS|Bearer|dXNlcj", re.IGNORECASE)


class Trap:
    def __init__(self, kind, protocol):
        self.leaf, self.tls = KINDS[kind]
        self.kind = kind
        self.protocol = protocol
        self.heard = []
        self.visits = 0
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                connection, _ = self.server.accept()
            except OSError:  # closed at the end of the run
                return
            self.visits += 1
            threading.Thread(target=self.serve, args=[connection], daemon=True).start()

    def close(self):
        self.server.close()

    def serve(self, connection):
        connection.settimeout(20)
        try:
            if self.tls == "implicit":
                connection = self.encrypt(connection)
            self.talk(connection)
        except OSError:  # the alert of a client that does not trust us, which is what we hope for
            pass
        finally:
            connection.close()

    def encrypt(self, connection):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTS / f"{self.leaf}.pem", CERTS / f"{self.leaf}.key")
        return context.wrap_socket(connection, server_side=True)

    def talk(self, connection):
        secured = self.tls == "implicit"
        reader = connection.makefile("rb")
        self.say(connection, GREETINGS[self.protocol])
        while line := reader.readline(100_000):
            self.heard.append((secured, line))
            command = line.upper()
            if b"STARTTLS" in command or b"STLS" in command:
                if not self.leaf:
                    self.say(connection, self.refusal(line))
                    continue
                self.say(connection, self.success(line))
                connection = self.encrypt(connection)
                reader, secured = connection.makefile("rb"), True
                continue
            for answer in self.answers(line):
                self.say(connection, answer)

    def answers(self, line):
        """Capabilities that tempt: XOAUTH2 is always there, STARTTLS where the trap has a certificate."""
        word = line.upper().split()
        if self.protocol == "imap" and b"CAPABILITY" in word:
            yield "* CAPABILITY IMAP4rev1 SASL-IR AUTH=XOAUTH2 AUTH=PLAIN" + (" STARTTLS" if self.leaf else "")
        if self.protocol == "pop3" and b"CAPA" in word:
            yield "\r\n".join(["+OK", "SASL XOAUTH2 PLAIN", "USER", *(["STLS"] if self.leaf else []), "."])
            return
        if self.protocol == "smtp" and b"EHLO" in word:
            yield "\r\n".join(["250-trap.test", *(["250-STARTTLS"] if self.leaf else []), "250 AUTH XOAUTH2 PLAIN"])
            return
        yield self.success(line)

    def success(self, line):
        return {"imap": f"{tag(line)} OK done", "pop3": "+OK done", "smtp": "220 done"}[self.protocol]

    def refusal(self, line):
        return {"imap": f"{tag(line)} BAD unknown", "pop3": "-ERR unknown", "smtp": "502 5.5.1 unknown"}[self.protocol]

    def say(self, connection, line):
        connection.sendall(line.encode() + b"\r\n")

    def must_be_clean(self):
        if not self.visits:
            raise Failure("gatepost never connected to it, so this shows nothing")
        leaked = [line for secured, line in self.heard if secured or LOGIN.search(line)]
        if leaked:
            raise Failure(f"gatepost trusted it and sent {leaked[0][:80]!r}")


def tag(line):
    return line.split()[0].decode(errors="replace") if line.split() else "*"
