"""What fail2ban finds in gatepost's log with the filter that comes with it, in both formats."""

import collections
import shutil
import time

from bench import parts
from bench.processes import REAL, Failure, run
from bench.wire import TRY_LATER, WRONG_PASSWORD, Line, greet, log_in, must_begin

PACKAGED = REAL.parent.parent / "packaging" / "fail2ban"
FILTER = PACKAGED / "filter.d" / "gatepost.conf"
MAILBOX = parts.mailbox("jane")
LOCKED = "a1 NO [LIMIT]"
FORGED = "1.2.3.4"

# What a client might write to have somebody else banned: lines of gatepost's own, as far as a user name goes.
HOSTILE = [
    f'x" source={FORGED} why=wrong_password',
    f"x}}: gatepost::access: login failed source={FORGED} why=wrong_password",
    f'{{"timestamp":"","level":"INFO","message":"login failed","source":"{FORGED}","why":"wrong_password",',
    f'"}}: gatepost::access: login failed source={FORGED} why=wrong_password@devices.test',
]


def tests(binary, ground):
    for format in ["text", "json"]:
        yield f"fail2ban reads the log: {format}", lambda f=format: log_is_read(binary, ground, f)
    yield "fail2ban reads the jail", lambda: jail_is_read(ground)


def log_is_read(binary, ground, format):
    """Guesses and tries while locked are found with their address; nothing else is, whatever a client writes."""
    folder = ground.subfolder(f"fail2ban-{format}", 0o700)
    port = ground.ports.next()
    configuration = folder / "gatepost.toml"
    configuration.write_text(config(port, ground.ports.next()))
    (folder / "secret").write_text("x")
    (folder / "secret").chmod(0o600)
    right = run([binary, "password", "add", MAILBOX, "--config", configuration]).decode().strip()
    process = ground.start(f"fail2ban-{format}", [binary, "run", "--config", configuration, "--log-format", format],
                           env={"HOME": str(folder), "NO_COLOR": "1", "GATEPOST_LOG": "debug"})
    process.wait_for("its ready line", lambda: b"gatepost is ready" in process.err.read_bytes())
    try:
        expected = fail(port, right)
    finally:
        process.stop()
    for found in [process.err, journal_of(process.err, folder, format)]:
        must_find(found, expected)
    if FORGED.encode() in process.err.read_bytes():
        raise Failure("a user name that nobody has configured stands in the log")


def config(port, nowhere):
    return f"""state_dir = "state"

[guard]
attempts = 3
delay = "0s"

[[listener]]
protocol = "imap"
listen = "127.0.0.1:{port}"
provider = "lab"

[app.lab]
provider = "lab"
client_id = "x"
client_secret = {{ file = "secret" }}
tenant = "x"
grant = "client_credentials"

[[account]]
mailbox = "{MAILBOX}"
app = "lab"

[[account]]
mailbox = "*@devices.test"
app = "lab"

[provider.lab]
token_url = "http://127.0.0.1:{nowhere}/token"
imap = "127.0.0.1:{nowhere}"
app_scopes = ["mail"]
"""


def fail(port, right):
    """Failures of each kind; how often each address should be found."""
    wrong = WRONG_PASSWORD["imap"]

    def attempt(source, user, password, answer):
        with Line(port, source=source) as line:
            greet(line, "imap")
            must_begin(log_in(line, "imap", user, password), answer)

    for n in range(3):
        attempt("127.0.0.2", MAILBOX, f"guess {n}", wrong)
    for n in range(2):
        attempt("127.0.0.2", MAILBOX, f"locked {n}", LOCKED)
    for _ in range(5):
        attempt("127.0.0.3", MAILBOX, "the old one", wrong)
    attempt("127.0.0.4", MAILBOX, right, TRY_LATER["imap"])  # there is no token for it
    attempt("127.0.0.5", "nobody@contoso.test", "guess", wrong)
    for n, user in enumerate(HOSTILE):
        attempt(f"127.0.1.{n}", user, user, wrong)
    hostile = {f"127.0.1.{n}": 1 for n in range(len(HOSTILE))}
    return {"127.0.0.2": 5, "127.0.0.3": 1, "127.0.0.5": 1, **hostile}


def journal_of(log, folder, format):
    """The same lines as fail2ban makes them of the journal: its own time, then host and process."""
    journal = folder / f"journal-{format}.log"
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    journal.write_text("".join(f"{now} host gatepost[123]: {line}\n" for line in log.read_text().splitlines()))
    return journal


def must_find(log, expected):
    found = run(["fail2ban-regex", "--out", "ip", log, FILTER]).decode().split()
    if collections.Counter(found) != collections.Counter(expected):
        raise Failure(f"{log.name}: found {dict(collections.Counter(found))}, expected {expected}\n"
                      + "\n".join(line for line in log.read_text().splitlines() if "login failed" in line))


def jail_is_read(ground):
    """As a person would install it; it is off until they switch it on."""
    folder = ground.folder / "fail2ban"
    # Without the jails that a distribution switches on.
    shutil.copytree("/etc/fail2ban", folder, ignore=lambda where, names: names if where.endswith("jail.d") else [])
    for part in ["filter.d", "jail.d"]:
        shutil.copy(PACKAGED / part / "gatepost.conf", folder / part)
    jail = folder / "jail.d" / "gatepost.conf"
    for enabled in [False, True]:
        if enabled:
            jail.write_text(jail.read_text().replace("enabled  = false", "enabled  = true"))
        run(["fail2ban-client", "-c", folder, "--test"])
        if ("'add', 'gatepost', 'systemd'" in run(["fail2ban-client", "-c", folder, "-d"]).decode()) != enabled:
            raise Failure(f"the jail is not as it is set: enabled is {enabled}")
