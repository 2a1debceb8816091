"""All tests of sign-ins; the longest begins first."""

from bench import leaks
from bench.processes import Failure
from bench.signin import apps, by_browser, by_certificate, by_device, forged, like_msal, replicas, revoked
from bench.signin.browser import Browsers
from bench.signin.keys import PASSPHRASE


class Bench:
    """What the tests share: the servers, the binary, a source of browsers."""

    def __init__(self, servers, binary):
        self.servers = servers
        self.binary = binary
        self.browsers = None
        self.passwords = []

    def start(self):
        self.browsers = Browsers(self.servers.ground)

    def tests(self):
        for subject in [replicas, revoked, by_device, by_browser, forged, by_certificate, like_msal]:
            yield from subject.tests(self)

    def no_secret_written(self):
        """Proxies and commands wrote everything that they can, for people and into logs."""
        secrets = [apps.SECRET, PASSPHRASE, *self.passwords, *self.servers.oidc.secrets()]
        written = {at.name: at.read_bytes() for at in sorted(self.servers.ground.folder.glob("gatepost-*.err"))}
        if not any(b"TRACE" in octets for octets in written.values()):
            raise Failure(f"no TRACE lines in {list(written)}, so this shows nothing")
        for name, octets in written.items():
            leaks.must_not_hold(name, octets, secrets)
