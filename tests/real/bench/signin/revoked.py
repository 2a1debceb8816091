"""A sign-in that comes to its end: a person is called, once, and nobody is bothered meanwhile."""

import stat
import time

from bench import parts
from bench.processes import Failure, wait_until
from bench.signin import apps
from bench.signin.instance import SECRET_VARIABLE, Instance, must_say
from bench.wire import TRY_LATER, WELCOME, must_begin

QUIET = 3 * apps.BRIEF_LIFE  # long enough for three renewals, were there any

# Writes what it got: arguments, then its environment, one file for each time it is run.
HOOK = """\
#!/bin/sh
at=$(mktemp "{folder}/call.XXXXXX")
{{ printf '%s\\n' "$@"; echo ---; env; }} > "$at"
mv "$at" "$at.done"
"""


def tests(bench):
    yield "a revoked sign-in calls a person, once", lambda: revoked(bench)


def revoked(bench):
    one = watched(bench)
    oidc = bench.servers.oidc
    one.sign_in(apps.WATCHED, parts.JANE)
    with one.running():
        must_begin(one.imap(parts.JANE), WELCOME["imap"])
        oidc.revoke(apps.WATCHED, parts.JANE)
        wait_until("the hook to be run", lambda: calls(one), 2 * apps.BRIEF_LIFE)
        must_be_told(calls(one)[0], bench)
        asked = len(oidc.requests_of(apps.WATCHED))
        wait_until("the last token to run out", lambda: not one.imap(parts.JANE).startswith(WELCOME["imap"]), 10)
        must_be_quiet(one, oidc, asked)
    with one.running():
        must_be_quiet(one, oidc, asked)
        one.sign_in(apps.WATCHED, parts.JANE)
        one.imap_soon(parts.JANE, WELCOME["imap"])
        one.must_be("ready", parts.JANE)
        if len(calls(one)) != 1:
            raise Failure(f"the hook was run {len(calls(one))} times")
        oidc.revoke(apps.WATCHED, parts.JANE)
        wait_until("the hook to be run for the next sign-in", lambda: len(calls(one)) == 2, 2 * apps.BRIEF_LIFE)


def watched(bench):
    app = f'client_id = "{apps.WATCHED}"\nclient_secret = {{ env = "{SECRET_VARIABLE}" }}'
    folder = bench.servers.ground.visit_folder()
    hook = folder / "hook"
    hook.write_text(HOOK.format(folder=folder))
    hook.chmod(hook.stat().st_mode | stat.S_IXUSR)
    one = Instance(bench, app, [(parts.JANE, None)], top=f'on_attention = ["{hook}", "--urgent"]')
    one.hook_folder = folder
    return one


def calls(one):
    """What the hook got, each time: its arguments and its environment."""
    got = [at.read_text().partition("---\n") for at in sorted(one.hook_folder.glob("*.done"))]
    return [(arguments.splitlines(), environment) for arguments, _, environment in got]


def must_be_told(call, bench):
    arguments, environment = call
    if arguments[:2] != ["--urgent", parts.JANE] or len(arguments) != 4:
        raise Failure(f"the hook's arguments are {arguments}")
    reason, remedy = arguments[2:]
    must_say(reason, "invalid_grant")
    must_say(remedy, f"gatepost login {parts.JANE}")
    variables = dict(line.split("=", 1) for line in environment.splitlines() if "=" in line)
    for name, value in {"EVENT": "sign_in_needed", "ACCOUNT": parts.JANE, "REASON": reason, "REMEDY": remedy}.items():
        if variables.get(f"GATEPOST_{name}") != value:
            raise Failure(f"GATEPOST_{name} is {variables.get(f'GATEPOST_{name}')!r}, not {value!r}")
    for secret in [SECRET_VARIABLE, apps.SECRET, *bench.servers.oidc.secrets()]:
        if secret in environment or any(secret in argument for argument in arguments):
            raise Failure("the hook gets a secret")


def must_be_quiet(one, oidc, asked):
    """For a while: no token request, whoever logs in; and everybody who tries is told the same."""
    end = time.monotonic() + QUIET / 2
    while time.monotonic() < end:
        answer = one.imap(parts.JANE)
        must_begin(answer, TRY_LATER["imap"])
        must_say(answer, f"gatepost login {parts.JANE}")
        time.sleep(0.5)
    one.must_be("sign_in_needed", parts.JANE)
    must_say(one.status(parts.JANE)["last_error"], "invalid_grant")
    if (now := len(oidc.requests_of(apps.WATCHED))) != asked:
        raise Failure(f"{now - asked} token requests, though only a person can help")
