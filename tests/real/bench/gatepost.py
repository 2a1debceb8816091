"""gatepost itself: its configuration, its commands, its process."""

import re

from bench import parts, trap
from bench.clients import Door
from bench.processes import CERTS, Failure, accepts, run

PROTOCOLS = ["imap", "pop3", "smtp"]
LOCAL_TLS = ["none", "starttls", "implicit"]
L    def own_certificate_sections(self):
        """Listeners with an administrator's certificate, of an RSA key."""
        certificate, key = self.folder / "own.pem", self.folder / "own.key"
        run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "90", "-subj", "/CN=localhost",
             "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", certificate])
        for tls in ["implicit", "starttls"]:
            port = self.own_certificate_ports[tls] = self.ground.ports.next()
            yield (f'[[listener]]\nprotocol = "imap"\nlisten = "localhost:{port}"\ntls = "{tls}"\n'
                   f'provider = "{LAB}"\ncertificate = "{certificate}"\nprivate_key = "{key}"')

    def balanced_sections(self):
        for protocol in PROTOCOLS:
            for tls in BALANCED:
                port = self.balanced[protocol, tls] = self.ground.ports.next()
                yield (f'[[listener]]\nprotocol = "{protocol}"\nlisten = "127.0.0.1:{port}"\n'
                       f'tls = "{tls}"\nprovider = "{LAB}"\nproxy_protocol = ["{BALANCER}"]')

, LAB_STARTTLS = "lab", "lab-starttls"
SECRET_VARIABLE = "GATEPOST_REAL_CLIENT_SECRET"

PRINTER, SYNC, IDLE, LARGE, BRIEF, COUNTED, SPOOLED = (
    parts.mailbox(name) for name in ["printer", "sync", "idle", "large", "brief", "counted", "spooled"])

# The load balancer's address, and the local TLS of the listeners behind it.
BALANCER = "127.0.0.2"
BALANCED = ["none", "implicit"]

# How the ports of the listeners with delivery = "spool" are told from the other ones for SMTP.
SPOOL = "spool"

# mailbox -> (provider, app at the authorization server, whose token opens it)
ACCOUNTS = {
    parts.SUPPORT: (LAB, parts.APP, None),
    SYNC: (LAB, parts.APP, None),
    IDLE: (LAB, parts.APP, None),
    LARGE: (LAB, parts.APP, None),
    BRIEF: (LAB, parts.BRIEF, None),
    COUNTED: (LAB, parts.COUNTED, None),
    SPOOLED: (LAB, parts.APP, None),
    parts.JANE: (LAB, parts.PERSON, None),
    parts.TEAM: (LAB, parts.PERSON, parts.JANE),
    PRINTER: (LAB_STARTTLS, parts.APP, None),
}


class Gatepost:
    """The proxy of the run. `doors` are its listeners by (provider, protocol, local TLS)."""

    def __init__(self, binary, servers):
        self.binary = binary
        self.ground = servers.ground
        self.servers = servers
        self.folder = servers.ground.subfolder("gatepost", 0o700)
        self.state = self.folder / "state"
        self.configuration = self.folder / "gatepost.toml"
        self.ports = {}
        self.own_certificate_ports = {}
        self.balanced = {}
        self.traps = {(kind, protocol): trap.Trap(kind, protocol) for kind in trap.KINDS for protocol in PROTOCOLS}
        self.accounts = {**ACCOUNTS, **{trap_mailbox(kind): (f"trap-{kind}", parts.APP, None) for kind in trap.KINDS}}
        self.passwords = {}
        self.known_secrets = [parts.CLIENT_SECRET]
        self.process = None
        self.write_configuration()

    # --- configuration

    def write_configuration(self):
        secret_file = self.folder / "client-secret"
        secret_file.write_text(parts.CLIENT_SECRET + "\n")
        secret_file.chmod(0o600)
        sections = [f'state_dir = "{self.state}"']
        for provider in self.providers():
            sections.append(self.provider_section(provider))
            sections += self.listener_sections(provider)
        sections += self.own_certificate_sections()
        sections += self.balanced_sections()
        apps = {(provider, app) for provider, app, _ in self.accounts.values()}
        sections += [self.app_section(provider, app, secret_file) for provider, app in sorted(apps)]
        sections += [self.account_section(mailbox, *entry) for mailbox, entry in self.accounts.items()]
        self.configuration.write_text("\n\n".join(sections) + "\n")

    def providers(self):
        return [LAB, LAB_STARTTLS, *(f"trap-{kind}" for kind in trap.KINDS)]

    def provider_section(self, provider):
        hosts = "\n".join(f'{protocol} = "{self.upstream(provider, protocol)}"' for protocol in PROTOCOLS)
        return (f'[provider.{provider}]\nauthorize_url = "{self.servers.oidc.issuer}/auth"\n'
                f'token_url = "{self.servers.oidc.token_url}"\n{hosts}\n'
                f'scopes = ["mail", "offline_access"]\napp_scopes = ["mail"]\nca_file = "{CERTS / "ca.pem"}"\n'
                # Dovecot has none, and clients give up sooner than their turn would come.
                'limits = { connections = 0, messages_per_minute = 0 }')

    def upstream(self, provider, protocol):
        if provider.startswith("trap-"):
            caught = self.traps[provider.removeprefix("trap-"), protocol]
            return f"localhost:{caught.port}" + (" starttls" if caught.tls == "starttls" else "")
        if provider == LAB_STARTTLS:
            return f"localhost:{self.servers.port(protocol, 'starttls')} starttls"
        return f"localhost:{self.servers.port(protocol, 'implicit')}"

    def listener_sections(self, provider):
        for protocol in PROTOCOLS:
            for tls in ["none"] if provider.startswith("trap-") else LOCAL_TLS:
                port = self.ports[provider, protocol, tls] = self.ground.ports.next()
                yield (f'[[listener]]\nprotocol = "{protocol}"\nlisten = "localhost:{port}"\n'
                       f'tls = "{tls}"\nprovider = "{provider}"')
        for tls in LOCAL_TLS if provider == LAB else []:
            port = self.ports[provider, SPOOL, tls] = self.ground.ports.next()
            yield (f'[[listener]]\nprotocol = "smtp"\nlisten = "localhost:{port}"\n'
                   f'tls = "{tls}"\nprovider = "{provider}"\ndelivery = "spool"')

AB
    def app_section(self, provider, app, secret_file):
        head = f'[app.{provider}-{app}]\nprovider = "{provider}"\nclient_id = "{app}"\n'
        if app == parts.PERSON:
            return head.rstrip()
        secret = f'{{ env = "{SECRET_VARIABLE}" }}' if provider == LAB else f'{{ file = "{secret_file}" }}'
        return f'{head}client_secret = {secret}\ngrant = "client_credentials"'

    def account_section(self, mailbox, provider, app, signed_in_as):
        section = f'[[account]]\nmailbox = "{mailbox}"\napp = "{provider}-{app}"'
        return section + (f'\nsigned_in_as = "{signed_in_as}"' if signed_in_as else "")

    # --- commands

    def command(self, *arguments, given=None):
        argv = [self.binary, *arguments, "--config", self.configuration]
        return run(argv, given=given, env=self.environment()).decode()

    def environment(self):
        return {SECRET_VARIABLE: parts.CLIENT_SECRET, "GATEPOST_LOG": "trace", "HOME": str(self.folder), "NO_COLOR": "1"}

    def add_password(self, mailbox, *options, given=None):
        """A new app password; standard output is the password and nothing else."""
        printed = self.command("password", "add", mailbox, *options, given=given)
        password = printed.removesuffix("\n")
        if given is None and not re.fullmatch(r"[!-~]{16,}", password):
            raise Failure(f"password add printed {printed!r}")
        self.known_secrets.append(given.strip() if given else password)
        return password

    def sign_in(self, mailbox):
        """Imports a refresh token, as if this person had just signed in."""
        token = self.servers.oidc.mint_refresh_token(parts.PERSON, mailbox)
        self.command("login", mailbox, "--refresh-token-stdin", given=token + "\n")

    def prepare(self):
        """A password for every account, and a sign-in for the one that needs a person."""
        for mailbox in self.accounts:
            self.passwords[mailbox] = self.add_password(mailbox)
        self.sign_in(parts.JANE)

    # --- process

    def start(self):
        """Waits for its word that all listeners accept, and holds it to that."""
        before = self.process.err.stat().st_size if self.process else 0
        self.process = self.ground.start(
            "gatepost", [self.binary, "run", "--config", self.configuration, "--log-format", "json"],
            env=self.environment())
        self.process.wait_for("its ready line", lambda: b"gatepost is ready" in self.process.err.read_bytes()[before:])
        for (provider, protocol, tls), port in self.ports.items():
            for host in ["127.0.0.1", "::1"]:
                if not accepts(port, host):
                    raise Failure(f"ready, but {protocol} {tls} of {provider} does not accept on {host}")

    def stop(self):
        """Stops it as a service manager does; it has to end by itself and well."""
        status = self.process.stop(20)
        if status != 0:
            raise Failure(f"gatepost ended with {status} after SIGTERM\n{self.process.tail()}")

    def kill(self):
        """Ends it as a power cut does."""
        self.process.popen.kill()
        self.process.popen.wait(10)

    def close(self):
        for caught in self.traps.values():
            caught.close()

    # --- what the tests use

    def port(self, protocol, tls="none", provider=LAB):
        return self.ports[provider, protocol, tls]

    def door(self, protocol, tls, user):
        provider = self.accounts[user][0]
        return Door(protocol, tls, self.ports[provider, protocol, tls], user, self.passwords[user], self.listener_certificate())

    def spool_door(self, tls, user):
        return Door("smtp", tls, self.ports[LAB, SPOOL, tls], user, self.passwords[user], self.listener_certificate())

    def listener_certificate(self):
        return self.state / "listener.pem"

    def log(self):
        return self.process.err.read_bytes() + self.process.out.read_bytes()


def trap_mailbox(kind):
    return parts.mailbox(f"trap-{kind}")
