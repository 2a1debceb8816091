"""The servers of a run, put together, with the mailboxes and clients that the tests use."""

import secrets
import sys

from bench.dovecot import Dovecot, unprivileged
from bench.mail import Mailboxes, Message, Sent
from bench.oidc import TokenServer
from bench.processes import CERTS, REAL, accepts
from bench.signin import apps
from bench.signin.keys import Keys

DOMAIN = "contoso.test"
CA = CERTS / "ca.pem"

# The apps at the authorization server. "brief" tokens live so short that tests see them expire.
APP, BRIEF, COUNTED, PERSON = "app", "app-brief", "app-counted", "person"
BRIEF_LIFE = 6
CLIENT_SECRET = f"client-secret-{secrets.token_hex(8)}"


def clients():
    app_only = {"secret": CLIENT_SECRET, "grant": "client_credentials", "domain": DOMAIN}
    return [
        {"id": APP, **app_only},
        {"id": BRIEF, **app_only, "life": BRIEF_LIFE},
        {"id": COUNTED, **app_only},
        {"id": PERSON, "grant": "refresh_token"},
    ]


def mailbox(name):
    return f"{name}@{DOMAIN}"


# Opened by app-only tokens, by a signed-in person, and by that person on behalf of a team.
SUPPORT, JANE, TEAM = mailbox("support"), mailbox("jane"), mailbox("team")


class Servers:
    """Dovecot, oidc-provider and the sink, with a message in each mailbox."""

    def __init__(self, ground, mailboxes):
        self.ground = ground
        self.mailboxes = Mailboxes(ground, unprivileged())
        self.sent = Sent(ground.subfolder("sent"))
        self.seeded = {}
        for name in mailboxes:
            self.create(name)
        self.keys = None
        self.oidc = None
        self.dovecot = None

    def start(self):
        sink_port = self.ground.ports.next()
        sink = self.ground.start("sink", [sys.executable, REAL / "sink.py", sink_port,
                                          self.sent.folder, self.mailboxes.root])
        self.keys = Keys(self.ground)
        self.oidc = TokenServer(self.ground, [*clients(), *apps.clients(self.keys, DOMAIN)],
                                [{"mailbox": JANE, "shared": TEAM}, {"mailbox": apps.JOHN}])
        sink.wait_for("its port", lambda: accepts(sink_port))
        self.dovecot = Dovecot(self.ground, self.mailboxes, sink_port, self.oidc.issuer, self.oidc.key)
        self.dovecot.start()

    def create(self, name):
        """A mailbox with one known message in it, the first of the mailbox for every protocol."""
        self.mailboxes.create(name)
        self.seeded[name] = Message("someone@fabrikam.test", name)
        self.mailboxes.put(name, self.seeded[name].octets())

    def port(self, protocol, tls):
        return self.dovecot.ports[protocol, tls]
