#!/usr/bin/env python3
"""gatepost between real clients and real servers.

Starts Dovecot, oidc-provider and an SMTP sink, puts gatepost before them, and lets real clients log in
and do their work. One line per test; the last line is `N passed, N failed`.
"""

import argparse
import os
import re
import sys
from pathlib import Path

from bench import balancing, banning, direct, leaks, parts, passing, refusing, scanning, service, spooling
from bench.clients import CLIENTS, visit
from bench.gatepost import ACCOUNTS, SYNC, Gatepost
from bench.processes import Ground
from bench.results import Results
from bench.signin import suite

THREADS = 6


def main():
    options = arguments()
    without_proxies()
    results = Results(re.compile(options.only) if options.only else None)
    with Ground() as ground:
        servers = parts.Servers(ground, ACCOUNTS)
        if results.run("the servers start", servers.start, always=True):
            test_servers(servers, options.gatepost, results)
        ground.keep = options.keep or results.failed > 0
    print(results.summary())
    return 1 if results.failed or not results.passed else 0


def test_servers(servers, binary, results):
    results.run_all(direct.tests(servers), THREADS)
    if binary:
        results.run_all(service.tests(servers.ground, binary.resolve()), THREADS)
        test_sign_ins(suite.Bench(servers, binary.resolve()), results)
        test_gatepost(Gatepost(binary.resolve(), servers), results)
        results.run_all(banning.tests(binary.resolve(), servers.ground), THREADS)


def test_sign_ins(bench, results):
    if results.run("the browser's driver starts", bench.start, always=True):
        results.run_all(bench.tests(), THREADS)
        results.run("no secret in what sign-ins wrote", bench.no_secret_written)


def without_proxies():
    """All servers are on loopback, where a proxy that the environment names has no business."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        del os.environ[name]


def test_gatepost(gatepost, results):
    if not results.run("gatepost starts while the token endpoint hangs", lambda: start(gatepost), always=True):
        return
    results.run(f"{passing.TOGETHER} logins at once cost one token", lambda: passing.one_token(gatepost), always=True)
    results.run_all(client_tests(gatepost), THREADS)
    results.run_all([*passing.tests(gatepost), *refusing.tests(gatepost), *spooling.tests(gatepost)], THREADS)
    results.run_all(scanning.tests(gatepost), THREADS)
    haproxy = balancing.Haproxy(gatepost)
    if results.run("HAProxy starts before gatepost", haproxy.start, always=True):
        *visits, logged = haproxy.tests()
        results.run_all(visits, THREADS)
        results.run_all([logged], 1)
    results.run("Dovecot stops and comes back", lambda: refusing.upstream_down(gatepost))
    results.run("the token endpoint hangs", lambda: refusing.token_endpoint_hangs(gatepost))
    results.run("gatepost is stopped, killed and starts again", lambda: refusing.restart(gatepost))
    results.run("no secret in its arguments", lambda: leaks.arguments(gatepost))
    results.run("gatepost stops when it is asked to", gatepost.stop, always=True)
    results.run("no secret in its log", lambda: leaks.log(gatepost))
    gatepost.close()


def start(gatepost):
    gatepost.prepare()
    gatepost.servers.oidc.process.pause()  # the next test resumes it
    gatepost.start()


def client_tests(gatepost):
    """Each client over each local TLS that it supports. Those that upload have a mailbox of their own."""
    for client in CLIENTS:
        for tls in client.words:
            door = gatepost.door(client.protocol, tls, SYNC if client.uploads else parts.SUPPORT)
            yield (f"{client.name}: {client.protocol} {tls}",
                   lambda c=client, d=door: visit(c, d, gatepost.servers, gatepost.ground.visit_folder()))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("gatepost", nargs="?", type=Path, help="the binary; without it only the servers are tested")
    parser.add_argument("--only", metavar="REGEX", help="run the tests whose names match")
    parser.add_argument("--keep", action="store_true", help="keep the temporary folder")
    options = parser.parse_args()
    if options.gatepost and not options.gatepost.is_file():
        parser.error(f"there is no {options.gatepost}; build it first")
    return options


if __name__ == "__main__":
    sys.exit(main())
