"""An SMTP server that keeps what it gets: the end of the way for mail that is sent.

Called with the port, the folder that the messages go to, and the folder of the maildirs: a message
for a mailbox that has one is delivered there too.
"""

import asyncio
import itertools
import json
import os
import sys
from pathlib import Path

from aiosmtpd.controller import Controller

LARGEST = 64 * 1024 * 1024


class Keep:
    def __init__(self, folder, mailboxes):
        self.folder = folder
        self.mailboxes = mailboxes
        self.counter = itertools.count(1)

    async def handle_DATA(self, _server, _session, envelope):
        name = f"{next(self.counter):06}"
        to = [recipient.lower() for recipient in envelope.rcpt_tos]
        (self.folder / f"{name}.json").write_text(json.dumps({"from": envelope.mail_from, "to": to}))
        # The readers look for *.eml: it appears whole, and after its envelope.
        partial = self.folder / f"{name}.partial"
        partial.write_bytes(envelope.original_content)
        for recipient in to:
            self.deliver(recipient, name, envelope.original_content)
        partial.rename(self.folder / f"{name}.eml")
        return f"250 2.0.0 kept as {name}"

    def deliver(self, recipient, name, octets):
        mailbox = self.mailboxes / recipient
        if not mailbox.is_dir():
            return
        owner = mailbox.stat()
        at = mailbox / "tmp" / f"{name}.sink"
        at.write_bytes(octets)
        os.chown(at, owner.st_uid, owner.st_gid)
        at.rename(mailbox / "new" / at.name)


def main():
    port, folder, mailboxes = int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    controller = Controller(
        Keep(folder, mailboxes), hostname="127.0.0.1", port=port,
        data_size_limit=LARGEST, enable_SMTPUTF8=True,
    )
    controller.start()
    print("ready", flush=True)
    asyncio.new_event_loop().run_forever()


main()
