#!/usr/bin/env python3
"""gatepost between real clients and real servers.

Starts Dovecot, oidc-provider and an SMTP sink, puts gatepost before them, and lets real clients log in
and do their work. One line per test; the last line is `N passed, N failed`.
"""

import argparse
import re
import sys

from bench import direct, parts
from bench.processes import Ground
from bench.results import Results

THREADS = 6


def main():
    options = arguments()
    results = Results(re.compile(options.only) if options.only else None)
    with Ground() as ground:
        servers = parts.Servers(ground, [parts.SUPPORT, parts.JANE, parts.TEAM])
        results.run_all(direct.tests(servers), THREADS)
        ground.keep = options.keep or results.failed > 0
    print(results.summary())
    return 1 if results.failed or not results.passed else 0


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("gatepost", nargs="?", help="the binary; without it only the servers are tested")
    parser.add_argument("--only", metavar="REGEX", help="run the tests whose names match")
    parser.add_argument("--keep", action="store_true", help="keep the temporary folder")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
