"""A gatepost with a configuration of its own, for one test: its commands, its sign-ins, its proxies."""

import contextlib
import json
import os
import re
import subprocess
import time
import urllib.error
import urllib.request

from bench.processes import CERTS, Failure, run, wait_until
from bench.signin import apps
from bench.wire import password_login

# Nothing may open a window on the desk of whoever runs the tests.
NO_BROWSER = {"BROWSER": "", "DISPLAY": "", "WAYLAND_DISPLAY": "", "WSL_DISTRO_NAME": ""}
SECRET_VARIABLE = "GATEPOST_REAL_SIGNIN_SECRET"


class Instance:
    """`app` holds the lines of its one app registration, `accounts` are pairs of mailbox and signed_in_as."""

    def __init__(self, bench, app, accounts, top="", provider=None):
        self.bench = bench
        self.ground = bench.servers.ground
        self.folder = self.ground.visit_folder()
        self.folder.chmod(0o700)
        self.name = f"gatepost-{self.folder.name}"
        self.accounts = accounts
        self.sections = [top, provider or self.provider(), f'[app.lab]\nprovider = "lab"\n{app}', *map(account, accounts)]
        self.port = self.ground.ports.next()
        self.configuration = self.write("gatepost.toml", self.port)
        self.passwords = {}
        self.counter = 0

    def write(self, name, port):
        """A configuration that listens on this port; all of them share one state folder."""
        state = f'state_dir = "{self.folder / "state"}"'
        listener = f'[[listener]]\nprotocol = "imap"\nlisten = "localhost:{port}"\nprovider = "lab"'
        at = self.folder / name
        at.write_text("\n\n".join([f"{state}\n{self.sections[0]}", *self.sections[1:], listener]) + "\n")
        return at

    def provider(self):
        oidc = self.bench.servers.oidc
        return f"""\
[provider.lab]
authorize_url = "{oidc.issuer}/auth"
token_url     = "{oidc.token_url}"
device_url    = "{oidc.issuer}/device/auth"
revoke_url    = "{oidc.issuer}/token/revocation"
imap          = "localhost:{self.bench.servers.port('imap', 'implicit')}"
scopes        = ["mail", "offline_access"]
app_scopes    = ["mail"]
ca_file       = "{CERTS / 'ca.pem'}"
# OpenID Connect Core section 11: offline_access only after a consent
authorize_parameters = {{ prompt = "consent" }}"""

    # --- commands

    def argv(self, *arguments, configuration=None):
        return [self.bench.binary, *arguments, "--config", configuration or self.configuration]

    def environment(self):
        return {**NO_BROWSER, SECRET_VARIABLE: apps.SECRET, "HOME": str(self.folder), "NO_COLOR": "1",
                "GATEPOST_LOG": "trace"}

    def command(self, *arguments, given=None):
        return run(self.argv(*arguments), given=given, env=self.environment()).decode()

    def fails(self, *arguments, given=""):
        """What a command says that must end with status 1."""
        done = subprocess.run([str(part) for part in self.argv(*arguments)], input=given, capture_output=True, text=True,
                              timeout=60, env={**os.environ, **self.environment()}, check=False)
        if done.returncode != 1:
            raise Failure(f"{arguments[0]} ended with status {done.returncode}, not 1\n{done.stdout}{done.stderr}")
        return done.stderr

    def status(self, mailbox):
        accounts = json.loads(self.command("status", "--json"))["accounts"]
        return next(account for account in accounts if account["mailbox"] == mailbox)

    def must_be(self, state, *mailboxes):
        for mailbox in mailboxes:
            if (status := self.status(mailbox))["state"] != state:
                raise Failure(f"{mailbox} is not {state}: {status}")

    def sign_in(self, client, mailbox):
        """Without a browser, by a refresh token."""
        token = self.bench.servers.oidc.mint_refresh_token(client, mailbox)
        self.command("login", mailbox, "--refresh-token-stdin", given=token + "\n")

    # --- processes

    def login(self, *arguments, env=None):
        self.counter += 1
        process = self.ground.start(f"{self.name}-login-{self.counter}", self.argv("login", *arguments),
                                    given=subprocess.PIPE, env={**self.environment(), **(env or {})})
        return Login(process)

    @contextlib.contextmanager
    def running(self, name="run", configuration=None):
        """The proxy, which has to end well when it is asked to."""
        process = self.start(name, configuration)
        try:
            yield process
        finally:
            self.end(process)

    def start(self, name="run", configuration=None):
        self.counter += 1
        argv = self.argv("run", configuration=configuration)
        process = self.ground.start(f"{self.name}-{name}-{self.counter}", argv, env=self.environment())
        process.wait_for("its ready line", lambda: b"gatepost is ready" in process.err.read_bytes())
        return process

    def end(self, process):
        if (status := process.stop(20)) != 0:
            raise Failure(f"gatepost ended with {status} after SIGTERM\n{process.tail()}")

    def imap(self, mailbox, port=None):
        """The answer to a login through the running proxy."""
        if mailbox not in self.passwords:
            self.passwords[mailbox] = self.command("password", "add", mailbox).strip()
            self.bench.passwords.append(self.passwords[mailbox])
            time.sleep(0.6)  # a running proxy has it within half a second
        return password_login("imap", port or self.port, mailbox, self.passwords[mailbox])

    def imap_soon(self, mailbox, start, seconds=10):
        wait_until(f"a login's answer {start!r}", lambda: self.imap(mailbox).startswith(start), seconds)


class Login:
    """A `gatepost login` that waits for somebody."""

    def __init__(self, process):
        self.process = process

    def said(self):
        return self.process.err.read_text()

    def lines(self, count=1):
        """What it printed for scripts: the URLs, or the code. Nothing else may be there."""
        def printed():
            lines = self.process.out.read_text().splitlines()
            return len(lines) >= count and lines
        lines = self.process.wait_for(f"{count} lines on its standard output", printed)
        if len(lines) != count:
            raise Failure(f"it printed {lines}")
        return lines

    def paste(self, text):
        self.process.popen.stdin.write(text.encode() + b"\n")
        self.process.popen.stdin.flush()

    def must_end(self, status, seconds=20):
        try:
            ended = self.process.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Failure(f"login did not end within {seconds} s\n{self.process.tail()}") from None
        if ended != status:
            raise Failure(f"login ended with status {ended}, not {status}\n{self.process.tail()}")
        return self.said()

    def must_wait(self):
        if (ended := self.process.popen.poll()) is not None:
            raise Failure(f"login ended with status {ended}, it should wait\n{self.process.tail()}")

    def kill(self):
        """Ends it as a power cut does."""
        self.process.popen.kill()
        self.process.popen.wait(10)


def account(entry):
    mailbox, signed_in_as = entry
    section = f'[[account]]\nmailbox = "{mailbox}"\napp = "lab"'
    return section + (f'\nsigned_in_as = "{signed_in_as}"' if signed_in_as else "")


def fetch(url, method="GET"):
    """Status and body, whatever the status; no cookie, no redirect taken."""
    request = urllib.request.Request(url, method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read().decode()


def must_say(text, *words):
    """Fails unless all the words are in the text, whatever breaks its lines."""
    plain = re.sub(r"\s+", " ", text)
    for word in words:
        if word not in plain:
            raise Failure(f"nothing says {word!r}:\n{text}")
