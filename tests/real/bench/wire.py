"""Talking IMAP, POP3 and SMTP line by line, where a library would hide what is to be seen.

Used for logging in to the servers directly with XOAUTH2, and for refusals whose exact text counts.
"""

import base64
import contextlib
import imaplib
import poplib
import smtplib
import socket
import ssl

from bench.processes import Failure

SECONDS = 30
imaplib._MAXLINE = 1_000_000  # its own limit is for headers, not for a message on one line


def trusting(ca):
    """Checks certificate and name against one authority or one self-signed certificate.

    None trusts anybody, as a careless client does."""
    if ca is None:
        return ssl._create_unverified_context()
    return ssl.create_default_context(cafile=str(ca))


class Line:
    """One connection, read by lines, with everything that came and went for the failure's text."""

    def __init__(self, port, tls="none", ca=None, source=None):
        self.sock = socket.create_connection(
            ("127.0.0.1", port), SECONDS, source_address=(source, 0) if source else None)
        self.tls = tls
        self.ca = ca
        self.said = []
        if tls == "implicit":
            self.encrypt()
        self.reader = self.sock.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.reader.close()
        self.sock.close()

    def encrypt(self):
        self.sock = trusting(self.ca).wrap_socket(self.sock, server_hostname="localhost")
        self.reader = self.sock.makefile("rb")

    def send(self, line):
        self.sock.sendall(line.encode() + b"\r\n")
        self.said.append(f"C: {line[:100]}")

    def read(self):
        line = self.reader.readline(1_000_000)
        shown = line.decode(errors="replace").rstrip("\r\n")
        self.said.append(f"S: {shown}" if line else "S: (closed)")
        return shown

    def read_until(self, last):
        """The first line for which `last` holds; a Failure if the server closes before."""
        while True:
            line = self.read()
            if last(line):
                return line
            if self.said[-1] == "S: (closed)":
                raise Failure("the server closed\n" + self.talk())

    def ask(self, line, last):
        self.send(line)
        return self.read_until(last)

    def talk(self):
        return "\n".join(self.said)


def smtp_end(line):
    return line[3:4] == " "


def pop3_end(line):
    return line.startswith(("+", "-"))


def imap_end(tag):
    return lambda line: line.startswith((f"{tag} ", "+"))


def greet(line, protocol):
    """Reads the greeting and takes STARTTLS where this connection is set to it."""
    if protocol == "smtp":
        line.read_until(smtp_end)
        line.ask("EHLO bench.test", smtp_end)
    else:
        line.read()
    if line.tls == "starttls":
        upgrade(line, protocol)


def upgrade(line, protocol):
    command, end, good = {
        "imap": ("s0 STARTTLS", imap_end("s0"), "s0 OK"),
        "pop3": ("STLS", pop3_end, "+OK"),
        "smtp": ("STARTTLS", smtp_end, "220"),
    }[protocol]
    answer = line.ask(command, end)
    if not answer.startswith(good):
        raise Failure(f"no STARTTLS: {answer}\n{line.talk()}")
    line.encrypt()
    if protocol == "smtp":
        line.ask("EHLO bench.test", smtp_end)


def password_login(protocol, port, user, password, source=None):
    """The final answer to a login on a plain listener, as the server wrote it."""
    with Line(port, source=source) as line:
        greet(line, protocol)
        return log_in(line, protocol, user, password)


def log_in(line, protocol, user, password):
    if protocol == "imap":
        return line.ask(f"a1 LOGIN {quoted(user)} {quoted(password)}", imap_end("a1"))
    if protocol == "pop3":
        first = line.ask(f"USER {user}", pop3_end)
        return line.ask(f"PASS {password}", pop3_end) if first.startswith("+OK") else first
    return line.ask(f"AUTH PLAIN {plain(user, password)}", smtp_end)


# The first words of a login's answer, by what it means.
WELCOME = {"imap": "a1 OK", "pop3": "+OK", "smtp": "235"}
WRONG_PASSWORD = {"imap": "a1 NO [AUTHENTICATIONFAILED]", "pop3": "-ERR [AUTH]", "smtp": "535 5.7.8"}
TRY_LATER = {"imap": "a1 NO [UNAVAILABLE]", "pop3": "-ERR [SYS/TEMP]", "smtp": "4"}


@contextlib.contextmanager
def logged_in(protocol, port, user, password):
    """A connection through a plain listener, past its login."""
    with Line(port) as line:
        greet(line, protocol)
        must_begin(log_in(line, protocol, user, password), WELCOME[protocol])
        yield line


def must_begin(answer, start):
    if not answer.startswith(start):
        raise Failure(f"expected {start!r}, the answer is {answer!r}")


def quoted(word):
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def plain(user, password):
    return base64.b64encode(f"\0{user}\0{password}".encode()).decode()


def xoauth2(user, token):
    return f"user={user}\x01auth=Bearer {token}\x01\x01"


def direct(protocol, tls, port, ca, user, token):
    """A logged-in connection of Python's own library to an XOAUTH2 server."""
    login = {"imap": direct_imap, "pop3": direct_pop3, "smtp": direct_smtp}[protocol]
    return login(tls, port, trusting(ca), xoauth2(user, token))


def direct_imap(tls, port, context, response):
    if tls == "implicit":
        server = imaplib.IMAP4_SSL("localhost", port, ssl_context=context, timeout=SECONDS)
    else:
        server = imaplib.IMAP4("localhost", port, timeout=SECONDS)
        server.starttls(context)
    server.authenticate("XOAUTH2", lambda challenge: b"" if challenge else response.encode())
    return server


def direct_pop3(tls, port, context, response):
    if tls == "implicit":
        server = poplib.POP3_SSL("localhost", port, context=context, timeout=SECONDS)
    else:
        server = poplib.POP3("localhost", port, timeout=SECONDS)
        server.stls(context)
    server._shortcmd("AUTH XOAUTH2")
    answer = server._shortcmd(base64.b64encode(response.encode()).decode())
    if not answer.startswith(b"+OK"):  # the reason as a challenge, which poplib takes for a success
        raise poplib.error_proto(answer)
    return server


def direct_smtp(tls, port, context, response):
    if tls == "implicit":
        server = smtplib.SMTP_SSL("localhost", port, context=context, timeout=SECONDS)
    else:
        server = smtplib.SMTP("localhost", port, timeout=SECONDS)
        server.starttls(context=context)
    server.ehlo()
    # The command line may have 512 octets (RFC 4954 section 4), a token is longer: it goes alone.
    code, answer = server.docmd("AUTH", "XOAUTH2")
    if code == 334:
        code, answer = server.docmd(base64.b64encode(response.encode()).decode())
    if code != 235:
        raise smtplib.SMTPAuthenticationError(code, answer)
    return server
