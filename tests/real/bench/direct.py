"""Judging the judges: the servers by themselves, without gatepost.

Were Dovecot to take a password, an expired token or somebody else's, the tests that follow would show
nothing.
"""

import base64
import imaplib
import poplib
import smtplib
import ssl
import time

from bench import parts, trap
from bench.mail import Message
from bench.processes import Failure, run
from bench.wire import Line, direct, greet, smtp_end, trusting, xoauth2

REFUSED = (imaplib.IMAP4.error, poplib.error_proto, smtplib.SMTPAuthenticationError)


def tests(servers):
    app = servers.oidc.app_token(parts.APP)
    person = servers.oidc.refresh(
        parts.PERSON, servers.oidc.mint_refresh_token(parts.PERSON, parts.JANE))["access_token"]
    for protocol, tls in servers.dovecot.ports:
        yield f"direct: {protocol} {tls}, app-only token", lambda p=protocol, t=tls: use(servers, p, t, parts.SUPPORT, app)
        yield f"direct: {protocol} {tls}, curl", lambda p=protocol, t=tls: use_curl(servers, p, t, app)
    for protocol in ["imap", "pop3", "smtp"]:
        yield f"direct: {protocol}, a person's token", lambda p=protocol: use(servers, p, "implicit", parts.JANE, person)
        yield f"direct: {protocol}, a shared mailbox", lambda p=protocol: use(servers, p, "implicit", parts.TEAM, person)
        for what, user, token in bad_logins(servers, app, person):
            yield f"direct: {protocol} refuses {what}", lambda p=protocol, u=user, t=token: must_refuse(servers, p, u, t)
    yield "direct: no password is taken", lambda: no_password(servers)
    yield "direct: tokens are about 2.5 KB", lambda: token_size(app)
    yield "direct: submission refuses a token on the AUTH line", lambda: line_limit(servers, app)
    for kind in trap.KINDS:
        for protocol in ["imap", "pop3", "smtp"]:
            yield f"direct: {protocol} trap {kind} notices a login", lambda k=kind, p=protocol: careless(k, p, app)
    yield "direct: a refresh token is good once", lambda: rotation(servers)


def bad_logins(servers, app, person):
    brief = servers.oidc.app_token(parts.BRIEF)
    yield "an expired token", parts.SUPPORT, (brief, parts.BRIEF_LIFE + 1)
    yield "somebody else's token", parts.SUPPORT, person
    yield "an app of another domain", "someone@fabrikam.test", app
    yield "a forged token", parts.SUPPORT, app[:-8] + "AAAAAAAA"


def use(servers, protocol, tls, user, token):
    server = direct(protocol, tls, servers.port(protocol, tls), parts.CA, user, token)
    if protocol == "imap":
        server.select("INBOX", readonly=True)
        servers.seeded[user].must_be_in(server.fetch("1", "(BODY[])")[1][0][1])
        server.logout()
    elif protocol == "pop3":
        servers.seeded[user].must_be_in(b"\n".join(server.retr(1)[1]))
        server.quit()
    else:
        message = Message(user, "someone@fabrikam.test")
        server.sendmail(message.sender, [message.recipient], message.octets())
        server.quit()
        servers.sent.must_have(message)


def use_curl(servers, protocol, tls, token):
    scheme = protocol + ("s" if tls == "implicit" else "")
    url = f"{scheme}://localhost:{servers.port(protocol, tls)}"
    login = ["curl", "-sS", "--ssl-reqd", "--cacert", parts.CA, "--max-time", "30",
             "--user", parts.SUPPORT, "--oauth2-bearer", token, "--login-options", "AUTH=XOAUTH2"]
    if protocol == "smtp":
        message = Message(parts.SUPPORT, "someone@fabrikam.test")
        run([*login, f"{url}/bench.test", "--mail-from", message.sender,
             "--mail-rcpt", message.recipient, "--upload-file", "-"], given=message.octets())
        servers.sent.must_have(message)
    else:
        path = "INBOX;MAILINDEX=1" if protocol == "imap" else "1"
        servers.seeded[parts.SUPPORT].must_be_in(run([*login, f"{url}/{path}"]))


def must_refuse(servers, protocol, user, token):
    if isinstance(token, tuple):
        token, age = token
        time.sleep(age)
    try:
        direct(protocol, "implicit", servers.port(protocol, "implicit"), parts.CA, user, token)
    except REFUSED:
        return
    raise Failure("the login was taken")


def no_password(servers):
    server = imaplib.IMAP4_SSL("localhost", servers.port("imap", "implicit"), ssl_context=trusting(parts.CA))
    try:
        server.login(parts.SUPPORT, "password")
    except imaplib.IMAP4.error:
        return
    raise Failure("the login was taken")


def token_size(token):
    if not 2400 <= len(token) <= 2600:
        raise Failure(f"the token has {len(token)} octets")


def line_limit(servers, token):
    """What makes the two-line form of AUTH necessary: the long line is no success on this server."""
    response = base64.b64encode(xoauth2(parts.SUPPORT, token).encode()).decode()
    with Line(servers.port("smtp", "implicit"), "implicit", parts.CA) as line:
        greet(line, "smtp")
        answer = line.ask(f"AUTH XOAUTH2 {response}", smtp_end)
        if not answer.startswith("5"):
            raise Failure(f"the server answered {answer}")


def careless(kind, protocol, token):
    """Logs in without looking at the certificate, or in plain text where STARTTLS was taken away."""
    caught = trap.Trap(kind, protocol)
    command = {"imap": "a1 AUTHENTICATE XOAUTH2", "pop3": "AUTH XOAUTH2", "smtp": "AUTH XOAUTH2"}[protocol]
    with Line(caught.port, caught.tls if caught.leaf else "none") as line:
        greet(line, protocol)
        line.ask(f"{command} {token}", lambda answer: True)
    caught.close()
    try:
        caught.must_be_clean()
    except Failure:
        return
    raise Failure("it noticed nothing")


def rotation(servers):
    first = servers.oidc.mint_refresh_token(parts.PERSON, parts.JANE)
    second = servers.oidc.refresh(parts.PERSON, first)["refresh_token"]
    if first == second:
        raise Failure("the refresh token was not replaced")
    servers.oidc.refresh(parts.PERSON, second)
    try:
        servers.oidc.refresh(parts.PERSON, first)
    except Failure:
        return
    raise Failure("a used refresh token was taken")
