"""Two proxies on one store: a refresh token that comes twice would end the person's sign-in."""

import threading
import time

from bench import parts
from bench.processes import Failure
from bench.signin import apps
from bench.signin.instance import Instance
from bench.wire import WELCOME

SECONDS = 54
# At first both run, then each alone, then both again.
ALONE = SECONDS / 6


def tests(bench):
    yield "two proxies on one store renew one sign-in", lambda: renew(bench)


def renew(bench):
    """With tokens that live a few seconds: no login fails, each renews alone too, and the server sees nothing odd."""
    one = Instance(bench, f'client_id = "{apps.REPLICAS}"', [(parts.JANE, None)])
    one.sign_in(apps.REPLICAS, parts.JANE)
    ports = [one.port, bench.servers.ground.ports.next()]
    configurations = [one.configuration, one.write("second.toml", ports[1])]
    proxies = [one.start("proxy", configuration) for configuration in configurations]
    logins = Logins(one, ports)
    with logins:
        time.sleep(2 * ALONE)
        for index in [0, 1]:
            with logins.without(index):
                one.end(proxies[index])
                before = refreshes(bench)
                time.sleep(ALONE)
                must_be_unharmed(bench)
                if (alone := refreshes(bench) - before) < 2:
                    raise Failure(f"the other proxy asked {alone} times in {ALONE} s")
                proxies[index] = one.start("proxy", configurations[index])
        time.sleep(2 * ALONE)
    for proxy in proxies:
        one.end(proxy)
    judge(bench, logins)


def refreshes(bench):
    return len(bench.servers.oidc.requests_of(apps.REPLICAS))


def judge(bench, logins):
    if logins.failures:
        raise Failure(f"{len(logins.failures)} of {logins.count} logins failed:\n" + "\n".join(logins.failures))
    must_be_unharmed(bench)
    # Two that did not know of each other would ask twice as often, were that possible.
    most = SECONDS / (apps.BRIEF_LIFE * 0.475) * 1.5
    if not logins.count > SECONDS or not SECONDS / apps.BRIEF_LIFE < refreshes(bench) < most:
        raise Failure(f"{logins.count} logins, {refreshes(bench)} token requests")


def must_be_unharmed(bench):
    errors = [request["error"] for request in bench.servers.oidc.requests_of(apps.REPLICAS) if request["error"]]
    revocations = bench.servers.oidc.revocations_of(apps.REPLICAS)
    if errors or revocations:
        raise Failure(f"{revocations} revocations, and the server refused: {errors}")


class Logins:
    """Logs in at all proxies, one after the other, until its `with` block ends."""

    def __init__(self, one, ports):
        self.one = one
        self.ports = ports
        self.left_out = None
        self.count = 0
        self.failures = []
        self.over = threading.Event()
        self.busy = threading.Lock()
        self.thread = threading.Thread(target=self.run)

    def __enter__(self):
        self.one.imap(parts.JANE)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()

    def run(self):
        while not self.over.wait(0.25):
            with self.busy:
                for index, port in enumerate(self.ports):
                    if index != self.left_out:
                        self.log_in(port)

    def log_in(self, port):
        self.count += 1
        try:
            answer = self.one.imap(parts.JANE, port)
        except (OSError, Failure) as failure:
            answer = repr(failure)
        if not answer.startswith(WELCOME["imap"]):
            self.failures.append(answer)

    def without(self, index):
        return LeftOut(self, index)


class LeftOut:
    """While it lasts, nobody logs in at this proxy."""

    def __init__(self, logins, index):
        self.logins = logins
        self.index = index

    def __enter__(self):
        with self.logins.busy:
            self.logins.left_out = self.index

    def __exit__(self, *_):
        self.logins.left_out = None
