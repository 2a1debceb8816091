"""Mail into the spool: what real clients send comes out at the upstream octet for octet, attachment and all."""

import email
import email.policy

from bench import gatepost as gp
from bench.clients import CLIENTS, SENDING, Client, execute, fill, prepare, values_of
from bench.mail import Attached
from bench.passing import must_equal
from bench.processes import Failure

# Those that send a message as they are given it, and over which kinds of listener.
WHOLE = {
    "curl": gp.LOCAL_TLS,
    "msmtp login": ["none", "starttls"],
    "swaks LOGIN": ["none", "implicit"],
    "Python smtplib": gp.LOCAL_TLS,
    "Python smtplib AUTH LOGIN": ["none"],
    "Python aiosmtplib": ["none"],
    "Node nodemailer": ["none", "starttls"],
    "Perl Net::SMTP": ["none"],
    "Ruby net-smtp LOGIN": ["none"],
}

# Those that make it themselves, by the words that attach a file.
MAKING = {"s-nail": ["-a", "attachment"], "mailutils": ["--content-type", "application/octet-stream", "-A", "attachment"]}


def tests(gatepost):
    for name, kinds in WHOLE.items():
        client = next(c for c in CLIENTS if (c.name, c.protocol) == (name, "smtp"))
        for tls in kinds:
            yield f"spool: {name} {tls}", lambda c=client, t=tls: whole(gatepost, c, t)
    for name, words in MAKING.items():
        client = next(c for c in SENDING if (c.name, c.protocol) == (name, "smtp"))
        yield f"spool: {name}", lambda c=client, w=words: made(gatepost, c, w)


def send(gatepost, client, tls, attach=()):
    """The message that was sent, and what has arrived."""
    door = gatepost.spool_door(tls, gp.SPOOLED)
    message = Attached(door.user, "someone@fabrikam.test")
    folder = gatepost.ground.visit_folder()
    prepare(folder, message)
    (folder / "attachment").write_bytes(message.attachment)
    values = values_of(client, door, folder, message)
    (folder / "config").write_text(fill(client.config, values))
    (folder / "config").chmod(0o600)
    # The recipient is the last word of those that attach.
    command = [*client.command[:-1], *attach, client.command[-1]] if attach else client.command
    execute(Client(**{**vars(client), "command": command}), values, folder)
    octets, envelope = gatepost.servers.sent.wait_for(message)
    if envelope != {"from": message.sender, "to": [message.recipient]}:
        raise Failure(f"the envelope that arrived is {envelope}")
    return message, octets


def whole(gatepost, client, tls):
    message, octets = send(gatepost, client, tls)
    # Dovecot puts its Received line before it, and swaks a line end behind it.
    ending = b"\r\n" if client.name.startswith("swaks") else b""
    must_equal(client.name, octets[octets.index(b"From: "):], message.octets() + ending)


def made(gatepost, client, attach):
    message, octets = send(gatepost, client, "none", attach)
    parsed = email.message_from_bytes(octets, policy=email.policy.default)
    attached = [part.get_content() for part in parsed.walk() if part.get_filename() == "attachment"]
    if attached != [message.attachment]:
        raise Failure(f"{len(attached)} attachments arrived, or another one:\n{octets[:3000].decode(errors='replace')}")
    for name in ["From", "Date", "Message-ID"]:
        if len(parsed.get_all(name, [])) != 1:
            raise Failure(f"{name} is not there once:\n{octets[:3000].decode(errors='replace')}")
