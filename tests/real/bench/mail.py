"""Test messages, the folders they lie in, and comparing what came through."""

import base64
import email
import email.policy
import itertools
import json
import os
import secrets
import time

from bench.processes import Failure, wait_until

# Lines that break proxies which look at the data: dots as SMTP and POP3 stuff them, things that look
# like commands or their answers, trailing blanks.
BODY = [
    "The first line of a message that must arrive as it is.",
    ".",
    "..two dots at the beginning",
    ".one dot at the beginning",
    "a1 OK LOGIN completed",
    "+OK said the body",
    "* BYE said the body",
    "QUIT",
    "",
    "The last line.",
]


class Message:
    """A message with a subject of its own, so that a test can find it again."""

    def __init__(self, sender, recipient, body=None):
        self.mark = secrets.token_hex(8)
        self.sender = sender
        self.recipient = recipient
        self.subject = f"gatepost {self.mark}"
        self.body = [*(BODY if body is None else body), f"mark {self.mark}"]

    def octets(self, end="\r\n"):
        head = [
            f"From: {self.sender}",
            f"To: {self.recipient}",
            f"Subject: {self.subject}",
            "Date: Mon, 01 Jun 2026 10:00:00 +0000",
            f"Message-ID: <{self.mark}@contoso.test>",
            "MIME-Version: 1.0",
            "Content-Type: text/plain; charset=us-ascii",
        ]
        return end.join([*head, "", *self.body, ""]).encode()

    def body_text(self, end="\n"):
        return end.join([*self.body, ""])

    def must_be_in(self, got):
        """Fails unless the whole body stands in what a client read, whatever ends its lines there."""
        got = got.encode() if isinstance(got, str) else got
        want = self.body_text().encode().strip()
        if want not in got.replace(b"\r\n", b"\n"):
            raise Failure(f"the message that was read is not the one in the mailbox:\n{got[:3000].decode(errors='replace')}")


class Attached(Message):
    """A message with a file of random octets, as scanners send it."""

    def __init__(self, sender, recipient):
        super().__init__(sender, recipient)
        self.attachment = secrets.token_bytes(150_000)

    def octets(self, end="\r\n"):
        text = super().octets(end).decode()
        head, body = text.split(end + end, 1)
        head = head.replace("text/plain; charset=us-ascii", f'multipart/mixed;{end}\tboundary="=_{self.mark}"')
        encoded = base64.encodebytes(self.attachment).decode().replace("\n", end)
        return end.join([
            head, "", f"--=_{self.mark}", "Content-Type: text/plain", "", body + f"--=_{self.mark}",
            'Content-Type: application/octet-stream; name="scan.bin"', "Content-Transfer-Encoding: base64", "",
            encoded + f"--=_{self.mark}--", "",
        ]).encode()


def lines_of(octets):
    """The text of a message, decoded, without the blank lines at its end that some clients add."""
    parsed = email.message_from_bytes(octets, policy=email.policy.default)
    body = parsed.get_body(("plain",))
    if body is None:
        raise Failure("the message that arrived has no text")
    return body.get_content().replace("\r\n", "\n").rstrip("\n").split("\n")


class Mailboxes:
    """The maildirs that Dovecot serves and the sink delivers to, one folder per mailbox."""

    def __init__(self, ground, owner):
        self.root = ground.subfolder("mail")
        self.owner = owner
        self.counter = itertools.count(1)
        self.give(self.root)

    def give(self, path):
        if self.owner:
            os.chown(path, *self.owner)

    def create(self, mailbox):
        for part in ["", "cur", "new", "tmp"]:
            folder = self.root / mailbox / part
            folder.mkdir(exist_ok=True)
            folder.chmod(0o700)
            self.give(folder)

    def put(self, mailbox, octets):
        """Delivers as any maildir writer does: written in tmp, renamed to new."""
        name = f"{int(time.time())}.M{next(self.counter):06}.bench"
        at = self.root / mailbox / "tmp" / name
        at.write_bytes(octets)
        at.chmod(0o600)
        self.give(at)
        at.rename(self.root / mailbox / "new" / name)

    def files(self, mailbox):
        return [at for part in ["new", "cur"] for at in (self.root / mailbox / part).iterdir()]

    def wait_for(self, mailbox, mark, seconds=15):
        """The octets of the message with this mark, once it lies in the mailbox."""
        return wait_until(f"the message {mark} in {mailbox}", lambda: self.find(mailbox, mark), seconds)

    def find(self, mailbox, mark):
        for at in self.files(mailbox):
            try:
                octets = at.read_bytes()
            except FileNotFoundError:  # renamed by Dovecot meanwhile
                continue
            if mark.encode() in octets:
                return octets
        return None


class Sent:
    """What the SMTP sink got: octets as they came, with their envelope beside them."""

    def __init__(self, folder):
        self.folder = folder

    def wait_for(self, message, seconds=15):
        return wait_until(f"the message {message.mark} at the sink", lambda: self.find(message.mark), seconds)

    def find(self, mark):
        for at in self.folder.glob("*.eml"):
            octets = at.read_bytes()
            if mark.encode() in octets:
                return octets, json.loads(at.with_suffix(".json").read_text())
        return None

    def must_have(self, message):
        """Fails unless the message arrived with its envelope, subject and text."""
        octets, envelope = self.wait_for(message)
        if envelope != {"from": message.sender, "to": [message.recipient]}:
            raise Failure(f"the envelope that arrived is {envelope}")
        parsed = email.message_from_bytes(octets, policy=email.policy.default)
        if parsed["subject"] != message.subject:
            raise Failure(f"the subject that arrived is {parsed['subject']!r}")
        if lines_of(octets) != message.body:
            raise Failure(f"the text that arrived is not the one that was sent:\n{octets.decode(errors='replace')}")
