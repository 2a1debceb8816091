"""Mail through gatepost: accounts, both kinds of upstream TLS, and what a pipe must not disturb."""

import base64
import imaplib
import poplib
import random
import smtplib
import socket
import threading
import time
import zlib

from bench import gatepost as gp
from bench import parts
from bench.clients import CLIENTS, visit
from bench.gatepost import LOCAL_TLS, PROTOCOLS
from bench.mail import Message
from bench.processes import Failure
from bench.wire import (
    SECONDS, WELCOME, Line, imap_end, logged_in, must_begin, password_login, plain,
    smtp_end, upgrade)

MEGABYTE = 1024 * 1024
TOGETHER = 24

# The clients that stand for the others where a test is not about the client.
USUAL = {"imap": "Python imaplib LOGIN", "pop3": "Python poplib USER", "smtp": "Python smtplib"}


def tests(gatepost):
    for protocol in PROTOCOLS:
        for tls in LOCAL_TLS:
            yield (f"upstream STARTTLS: {protocol} {tls}",
                   lambda p=protocol, t=tls: usual_visit(gatepost, p, t, gp.PRINTER))
        yield f"a signed-in person: {protocol}", lambda p=protocol: usual_visit(gatepost, p, "none", parts.JANE)
        yield f"a shared mailbox: {protocol}", lambda p=protocol: usual_visit(gatepost, p, "none", parts.TEAM)
        yield f"one octet a segment: {protocol}", lambda p=protocol: octet_by_octet(gatepost, p)
        yield f"pipelined behind the login: {protocol}", lambda p=protocol: pipelined(gatepost, p)
        for tls in LOCAL_TLS:
            yield f"capabilities: {protocol} {tls}", lambda p=protocol, t=tls: capabilities(gatepost, p, t)
    yield "IMAP IDLE wakes", lambda: idle(gatepost)
    yield "IMAP COMPRESS=DEFLATE", lambda: compress(gatepost)
    yield "20 MB up by APPEND, down by FETCH and RETR", lambda: large_mailbox(gatepost)
    yield "10 MB by SMTP", lambda: large_submission(gatepost)
    yield "SMTP BDAT", lambda: chunks(gatepost)
    yield "EHLO keywords are the upstream's", lambda: keywords(gatepost)
    yield "mail that is sent lands in an inbox", lambda: round_trip(gatepost)
    yield "logins go on when a token has expired", lambda: expiry(gatepost)


def account(gatepost, protocol, mailbox=parts.SUPPORT):
    """Port, user and password for the plain listener."""
    return gatepost.port(protocol), mailbox, gatepost.passwords[mailbox]


def usual_visit(gatepost, protocol, tls, mailbox):
    client = next(c for c in CLIENTS if (c.name, c.protocol) == (USUAL[protocol], protocol))
    visit(client, gatepost.door(protocol, tls, mailbox), gatepost.servers, gatepost.ground.visit_folder())


# --- the login, as it may arrive

def login_lines(protocol, user, password):
    return {
        "imap": f'a1 LOGIN "{user}" "{password}"\r\n',
        "pop3": f"USER {user}\r\nPASS {password}\r\n",
        "smtp": f"EHLO bench.test\r\nAUTH PLAIN {plain(user, password)}\r\n",
    }[protocol].encode()


# What is asked behind the login, and how the last answer begins.
BEHIND = {
    "imap": (b"a2 EXAMINE INBOX\r\na3 FETCH 1 FLAGS\r\na4 LOGOUT\r\n", "a4 OK"),
    "pop3": (b"STAT\r\nQUIT\r\n", "+OK Logging out"),
    "smtp": (b"NOOP\r\nQUIT\r\n", "221"),
}


def octet_by_octet(gatepost, protocol):
    port, user, password = account(gatepost, protocol)
    with Line(port) as line:
        line.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        line.read()
        for octet in login_lines(protocol, user, password):
            line.sock.sendall(bytes([octet]))
        line.read_until(lambda answer: answer.startswith(WELCOME[protocol]) and "UTF8" not in answer)


def pipelined(gatepost, protocol):
    """Login and what follows in one segment: nothing may be lost or answered twice."""
    port, user, password = account(gatepost, protocol)
    behind, last = BEHIND[protocol]
    with Line(port) as line:
        line.read()
        line.sock.sendall(login_lines(protocol, user, password) + behind)
        line.read_until(lambda answer: answer.startswith(last))
        if line.read():
            raise Failure("something came after the end\n" + line.talk())


CAPABILITIES = {
    "imap": ("c1 CAPABILITY", imap_end("c1")),
    "pop3": ("CAPA", lambda answer: answer == "."),
    "smtp": ("EHLO bench.test", smtp_end),
}
# A stored hash cannot answer a challenge, and no client here has a token.
NEVER = {"CRAM", "APOP", "DIGEST", "XOAUTH2", "OAUTHBEARER"}
BY_PASSWORD = {"imap": {"AUTH=PLAIN", "AUTH=LOGIN"}, "pop3": {"USER", "PLAIN", "LOGIN"}, "smtp": {"PLAIN", "LOGIN"}}


def capabilities(gatepost, protocol, tls):
    """Logins by password wherever they are safe; STARTTLS where it is set, and only until it is taken."""
    door = gatepost.door(protocol, tls, parts.SUPPORT)
    with Line(door.port, "implicit" if tls == "implicit" else "none", door.ca) as line:
        greeting = line.read()
        if protocol == "imap" and "[CAPABILITY " not in greeting:
            raise Failure(f"no capabilities in the greeting {greeting!r}")
        offers(line, protocol, upgrade_open=tls == "starttls")
        if tls == "starttls":
            upgrade(line, protocol)
            offers(line, protocol, upgrade_open=False)


def offers(line, protocol, upgrade_open):
    line.said.clear()
    line.ask(*CAPABILITIES[protocol])
    words = {word.upper() for said in line.said[1:] for word in said.replace("250-", "").split()}
    wrong = {word for word in words if any(never in word for never in NEVER)}
    wrong |= BY_PASSWORD[protocol] & words if upgrade_open else BY_PASSWORD[protocol] - words
    wrong |= {"STARTTLS", "STLS"} & words if not upgrade_open else set()
    if wrong or (upgrade_open and not {"STARTTLS", "STLS"} & words):
        raise Failure(f"offered or missing wrongly {sorted(wrong)}\n{line.talk()}")


# --- the pipe after it

def idle(gatepost):
    with logged_in("imap", *account(gatepost, "imap", gp.IDLE)) as line:
        line.ask("a2 SELECT INBOX", imap_end("a2"))
        line.ask("a3 IDLE", lambda answer: answer.startswith("+"))
        gatepost.servers.mailboxes.put(gp.IDLE, Message("someone@fabrikam.test", gp.IDLE).octets())
        line.read_until(lambda answer: answer.endswith(" EXISTS"))
        must_begin(line.ask("DONE", imap_end("a3")), "a3 OK")


def compress(gatepost):
    """RFC 4978: from the OK on, both directions are raw deflate streams."""
    with logged_in("imap", *account(gatepost, "imap")) as line:
        must_begin(line.ask("a2 COMPRESS DEFLATE", imap_end("a2")), "a2 OK")
        out, back = zlib.compressobj(wbits=-15), zlib.decompressobj(wbits=-15)
        line.sock.sendall(out.compress(b"a3 EXAMINE INBOX\r\na4 FETCH 1 BODY[]\r\n") + out.flush(zlib.Z_SYNC_FLUSH))
        got = b""
        while b"\r\na4 OK" not in got:
            octets = line.sock.recv(65536)
            if not octets:
                raise Failure(f"the connection ended after {got[-200:]!r}")
            got += back.decompress(octets)
        gatepost.servers.seeded[parts.SUPPORT].must_be_in(got)


def incompressible(message, size):
    """The message with a body of `size` random octets in base64."""
    octets = random.Random(message.mark).randbytes(size * 3 // 4)
    message.body[:0] = base64.encodebytes(octets).decode().splitlines()
    return message


def large_mailbox(gatepost):
    message = incompressible(Message("someone@fabrikam.test", gp.LARGE), 20 * MEGABYTE)
    octets = message.octets()
    port, user, password = account(gatepost, "imap", gp.LARGE)
    server = imaplib.IMAP4("localhost", port, timeout=SECONDS)
    server.login(user, password)
    server.append("INBOX", None, None, octets)
    server.select("INBOX", readonly=True)
    fetched = server.fetch("2", "(BODY[])")[1][0][1]
    server.logout()
    must_equal("FETCH", fetched, octets)
    port, user, password = account(gatepost, "pop3", gp.LARGE)
    server = poplib.POP3("localhost", port, timeout=SECONDS)
    server.user(user)
    server.pass_(password)
    lines = server.retr(2)[1]
    server.quit()
    must_equal("RETR", b"\r\n".join(lines) + b"\r\n", octets)


def must_equal(what, got, want):
    if got != want:
        at = next((index for index, pair in enumerate(zip(got, want)) if pair[0] != pair[1]), min(len(got), len(want)))
        raise Failure(f"{what}: {len(got)} octets instead of {len(want)}, different from octet {at} on")


def large_submission(gatepost):
    port, user, password = account(gatepost, "smtp")
    message = incompressible(Message(user, "someone@fabrikam.test"), 10 * MEGABYTE)
    server = smtplib.SMTP("localhost", port, timeout=SECONDS)
    server.login(user, password)
    server.sendmail(user, [message.recipient], message.octets())
    server.quit()
    octets, _ = gatepost.servers.sent.wait_for(message)
    # Dovecot puts its Received line before it.
    must_equal("DATA", octets[octets.index(b"From: "):], message.octets())


def chunks(gatepost):
    port, user, password = account(gatepost, "smtp")
    message = Message(user, "someone@fabrikam.test")
    octets = message.octets()
    with logged_in("smtp", port, user, password) as line:
        must_begin(line.ask(f"MAIL FROM:<{user}>", smtp_end), "250")
        must_begin(line.ask(f"RCPT TO:<{message.recipient}>", smtp_end), "250")
        for command, chunk in [("BDAT 100", octets[:100]), (f"BDAT {len(octets) - 100} LAST", octets[100:])]:
            line.sock.sendall(command.encode() + b"\r\n" + chunk)
            must_begin(line.read_until(smtp_end), "250")
    gatepost.servers.sent.must_have(message)


def keywords(gatepost):
    """An SMTP client keeps what EHLO said before AUTH, so it has to be what the upstream can do."""
    servers = gatepost.servers
    with Line(servers.port("smtp", "implicit"), "implicit", parts.CA) as line:
        upstream = ehlo(line)
    with Line(gatepost.port("smtp")) as line:
        ours = ehlo(line)
    wanted = {word for word in upstream if word.split()[0] in {"SIZE", "8BITMIME", "CHUNKING", "DSN", "PIPELINING", "ENHANCEDSTATUSCODES"}}
    if missing := wanted - ours:
        raise Failure(f"{sorted(missing)} of the upstream are missing in {sorted(ours)}")
    if foreign := {word.split()[0] for word in ours} - {word.split()[0] for word in upstream} - {"AUTH"}:
        raise Failure(f"{sorted(foreign)} are offered, but not by the upstream")


def ehlo(line):
    line.read_until(smtp_end)
    line.said.clear()
    line.ask("EHLO bench.test", smtp_end)
    return {said.removeprefix("S: ")[4:].upper() for said in line.said[2:]}


def round_trip(gatepost):
    port, user, password = account(gatepost, "smtp")
    message = Message(user, gp.SYNC)
    server = smtplib.SMTP("localhost", port, timeout=SECONDS)
    server.login(user, password)
    server.sendmail(user, [gp.SYNC], message.octets())
    server.quit()
    gatepost.servers.mailboxes.wait_for(gp.SYNC, message.mark)
    port, user, password = account(gatepost, "imap", gp.SYNC)
    server = imaplib.IMAP4("localhost", port, timeout=SECONDS)
    server.login(user, password)
    server.select("INBOX", readonly=True)
    number = server.search(None, "SUBJECT", message.mark)[1][0].decode()
    message.must_be_in(server.fetch(number, "(BODY[])")[1][0][1])
    server.logout()


# --- tokens

def one_token(gatepost):
    """For an account without a token, at a token endpoint that is slow to answer."""
    answers = []
    start = threading.Barrier(TOGETHER + 1)

    def one(protocol):
        start.wait()
        answers.append((protocol, password_login(protocol, *account(gatepost, protocol, gp.COUNTED))))

    threads = [threading.Thread(target=one, args=[PROTOCOLS[number % 3]]) for number in range(TOGETHER)]
    for thread in threads:
        thread.start()
    start.wait()
    time.sleep(1)
    early = len(answers)
    gatepost.servers.oidc.process.resume()
    for thread in threads:
        thread.join(60)
    for protocol, answer in answers:
        must_begin(answer, WELCOME[protocol])
    requests = len(gatepost.servers.oidc.requests_of(parts.COUNTED))
    if (early, len(answers), requests) != (0, TOGETHER, 1):
        raise Failure(f"{early} logins were answered before there was a token, {len(answers)} of {TOGETHER} "
                      f"in the end, with {requests} token requests")


def expiry(gatepost):
    """Logins over three lives of a token, never a failure; a session from the beginning lives on."""
    before = len(gatepost.servers.oidc.requests_of(parts.BRIEF))
    with logged_in("imap", *account(gatepost, "imap", gp.BRIEF)) as session:
        end = threading.Event()
        timer = threading.Timer(3 * parts.BRIEF_LIFE, end.set)
        timer.start()
        while not end.wait(0.5):
            for protocol in PROTOCOLS:
                must_begin(password_login(protocol, *account(gatepost, protocol, gp.BRIEF)), WELCOME[protocol])
        must_begin(session.ask("a9 NOOP", imap_end("a9")), "a9 OK")
    if len(gatepost.servers.oidc.requests_of(parts.BRIEF)) < before + 3:
        raise Failure("the token was not renewed")
