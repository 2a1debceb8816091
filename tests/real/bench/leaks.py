"""Nothing secret in what gatepost writes, though it wrote everything that it can."""

import base64
from pathlib import Path

from bench.processes import Failure


def arguments(gatepost):
    """What every user of the machine can read of a process."""
    line = Path(f"/proc/{gatepost.process.popen.pid}/cmdline").read_bytes()
    must_not_hold("the process's arguments", line, secrets_of(gatepost))


def log(gatepost):
    """Passwords, the client secret and all tokens, as they are and in base64 at any offset."""
    written = gatepost.log()
    if b"TRACE" not in written and b"trace" not in written:
        raise Failure("the log holds no TRACE lines, so this shows nothing")
    must_not_hold("the log", written, secrets_of(gatepost))


def secrets_of(gatepost):
    return gatepost.known_secrets + gatepost.servers.oidc.secrets()


def must_not_hold(where, written, secrets):
    for secret in secrets:
        for form in forms(secret):
            if (at := written.find(form)) >= 0:
                line = written[written.rfind(b"\n", 0, at) + 1:at + 40]
                raise Failure(f"{where} hold {form[:12]!r}…\n{line[-400:].decode(errors='replace')}")


def forms(secret):
    """The end of a long secret is its own alone: tokens begin alike."""
    octets = secret.encode()[-40:]
    yield octets
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + octets)
        # The first and last groups of four depend on what stands beside it.
        yield encoded[4:-4]
