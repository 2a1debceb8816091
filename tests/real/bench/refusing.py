"""Who must not get in, whom gatepost must not trust, and what is only a matter of time."""

import time

from bench import gatepost as gp
from bench import parts, trap
from bench.gatepost import PROTOCOLS, trap_mailbox
from bench.processes import Failure, wait_until
from bench.wire import TRY_LATER, WELCOME, WRONG_PASSWORD, Line, greet, log_in, must_begin, password_login

# Those who guess come from an address of their own: gatepost may well slow it down.
GUESSER = "127.0.0.9"
SOON = 1.0  # how fast a running proxy honours what a command has changed


def tests(gatepost):
    for protocol in PROTOCOLS:
        yield f"a wrong password: {protocol}", lambda p=protocol: wrong_password(gatepost, p)
        yield f"an unknown mailbox: {protocol}", lambda p=protocol: unknown_mailbox(gatepost, p)
        for kind in trap.KINDS:
            yield f"an upstream with {kind}: {protocol}", lambda k=kind, p=protocol: bad_upstream(gatepost, k, p)
        yield f"a password in plain text before STARTTLS: {protocol}", lambda p=protocol: before_starttls(gatepost, p)
        yield f"commands smuggled in behind STARTTLS: {protocol}", lambda p=protocol: smuggled(gatepost, p)
    yield "a password for one protocol", lambda: one_protocol(gatepost)
    yield "a password for one network", lambda: one_network(gatepost)
    yield "a new password counts at once, a revoked one no more", lambda: new_and_revoked(gatepost)
    yield "a chosen password with odd characters", lambda: odd_password(gatepost)


def try_password(gatepost, protocol, user, password, source=None):
    provider = gatepost.accounts[user][0] if user in gatepost.accounts else gp.LAB
    return password_login(protocol, gatepost.port(protocol, "none", provider), user, password, source)


def wrong_password(gatepost, protocol):
    """Refused in the protocol's own terms; the right one is then taken on the same connection."""
    right = gatepost.passwords[parts.SUPPORT]
    with Line(gatepost.port(protocol), source=GUESSER) as line:
        greet(line, protocol)
        must_begin(log_in(line, protocol, parts.SUPPORT, right[:-1] + "#"), WRONG_PASSWORD[protocol])
        must_begin(log_in(line, protocol, parts.SUPPORT, right), WELCOME[protocol])


def unknown_mailbox(gatepost, protocol):
    right = gatepost.passwords[parts.SUPPORT]
    answer = try_password(gatepost, protocol, parts.mailbox("nobody"), right, GUESSER)
    must_begin(answer, WRONG_PASSWORD[protocol])


def before_starttls(gatepost, protocol):
    """Refused though it is right, and nothing of what upstream would say: RFC 2595, RFC 3207, RFC 4954."""
    with Line(gatepost.port(protocol, "starttls")) as line:
        greet(line, protocol)
        answer = log_in(line, protocol, parts.SUPPORT, gatepost.passwords[parts.SUPPORT])
    must_begin(answer, {"imap": "a1 NO [PRIVACYREQUIRED]", "pop3": "-ERR", "smtp": "5"}[protocol])


def smuggled(gatepost, protocol):
    """What came in plain text with STARTTLS must not be taken for something that came by TLS."""
    command, injected = {"imap": ("s0 STARTTLS", "x1 CAPABILITY"), "pop3": ("STLS", "CAPA"),
                         "smtp": ("STARTTLS", "EHLO evil.test")}[protocol]
    with Line(gatepost.port(protocol, "starttls"), ca=gatepost.listener_certificate()) as line:
        greet(line, protocol)
        line.said.clear()
        line.send(f"{command}\r\n{injected}")
        line.read()
        try:
            line.encrypt()
            after = line.read()
        except OSError:  # closed, in the handshake or after it
            return
    if after:
        raise Failure(f"the smuggled command was answered\n{line.talk()}")


def bad_upstream(gatepost, kind, protocol):
    mailbox = trap_mailbox(kind)
    answer = try_password(gatepost, protocol, mailbox, gatepost.passwords[mailbox])
    must_begin(answer, TRY_LATER[protocol])
    gatepost.traps[kind, protocol].must_be_clean()


def one_protocol(gatepost):
    password = gatepost.add_password(parts.SUPPORT, "--name", "imap only", "--protocol", "imap")
    must_begin(soon(lambda: try_password(gatepost, "imap", parts.SUPPORT, password), WELCOME["imap"]), WELCOME["imap"])
    for protocol in ["pop3", "smtp"]:
        must_not_enter(protocol, try_password(gatepost, protocol, parts.SUPPORT, password, GUESSER))


def one_network(gatepost):
    password = gatepost.add_password(parts.SUPPORT, "--name", "elsewhere", "--from", "127.0.0.7/32")
    must_begin(soon(lambda: try_password(gatepost, "imap", parts.SUPPORT, password, "127.0.0.7"), WELCOME["imap"]), WELCOME["imap"])
    must_not_enter("imap", try_password(gatepost, "imap", parts.SUPPORT, password, GUESSER))


def new_and_revoked(gatepost):
    password = gatepost.add_password(parts.SUPPORT, "--name", "for a while")
    must_begin(soon(lambda: try_password(gatepost, "imap", parts.SUPPORT, password), WELCOME["imap"]), WELCOME["imap"])
    gatepost.command("password", "revoke", parts.SUPPORT, "for a while")
    soon(lambda: try_password(gatepost, "imap", parts.SUPPORT, password, GUESSER), WRONG_PASSWORD["imap"])


def odd_password(gatepost):
    chosen = 'a "quoted" \\word{3} with % and spaces *'
    gatepost.add_password(parts.SUPPORT, "--name", "odd", "--stdin", given=chosen + "\n")
    for protocol in PROTOCOLS:
        answer = soon(lambda p=protocol: try_password(gatepost, p, parts.SUPPORT, chosen), WELCOME[protocol])
        must_begin(answer, WELCOME[protocol])


def soon(ask, start):
    """The answer that begins as it should, or the last one after the time is over."""
    end = time.monotonic() + SOON
    while not (answer := ask()).startswith(start):
        if time.monotonic() > end:
            raise Failure(f"after {SOON} s the answer is still {answer!r}, not {start!r}")
        time.sleep(0.1)
    return answer


def must_not_enter(protocol, answer):
    if answer.startswith(WELCOME[protocol]):
        raise Failure(f"the login was taken: {answer}")


# --- one after the other: they stop what the other tests need

def upstream_down(gatepost):
    """A server that is away is no wrong password, and nothing is left of it when it is back."""
    gatepost.servers.dovecot.stop()
    try:
        for protocol in PROTOCOLS:
            answer = try_password(gatepost, protocol, parts.SUPPORT, gatepost.passwords[parts.SUPPORT])
            must_begin(answer, TRY_LATER[protocol])
    finally:
        gatepost.servers.dovecot.start()
    for protocol in PROTOCOLS:
        wait_until(f"{protocol} to work again", lambda p=protocol: try_password(
            gatepost, p, parts.SUPPORT, gatepost.passwords[parts.SUPPORT]).startswith(WELCOME[p]), 10)


def token_endpoint_hangs(gatepost):
    """Who has a token notices nothing; once it has run out, one is told to come back, and nothing else."""
    def login(mailbox, protocol):
        return try_password(gatepost, protocol, mailbox, gatepost.passwords[mailbox])

    gatepost.servers.oidc.process.pause()
    try:
        must_begin(login(gp.BRIEF, "imap"), WELCOME["imap"])
        time.sleep(parts.BRIEF_LIFE + 1)
        must_begin(login(gp.BRIEF, "imap"), TRY_LATER["imap"])
        for protocol in PROTOCOLS:
            must_begin(login(parts.SUPPORT, protocol), WELCOME[protocol])
    finally:
        gatepost.servers.oidc.process.resume()
    wait_until("the token endpoint to be asked again", lambda: login(gp.BRIEF, "imap").startswith(WELCOME["imap"]), 60)


def restart(gatepost):
    """Passwords and the rotated refresh token are on disk: nobody has to sign in anew."""
    for end in [gatepost.stop, gatepost.kill]:
        end()
        gatepost.start()
        for mailbox in [parts.SUPPORT, parts.JANE, gp.PRINTER]:
            for protocol in PROTOCOLS:
                answer = try_password(gatepost, protocol, mailbox, gatepost.passwords[mailbox])
                must_begin(answer, WELCOME[protocol])
