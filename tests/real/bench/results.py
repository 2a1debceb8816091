"""Counting and printing: one line per test, and the client's output where one failed."""

import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

from bench.processes import Failure


class Results:
    def __init__(self, only=None):
        self.only = only
        self.passed = 0
        self.failed = 0
        self.lock = threading.Lock()

    def run(self, name, test, always=False):
        """Runs one test; true if it passed or was not asked for. `always`: others build on it."""
        if self.only and not always and not self.only.search(name):
            return True
        began = time.monotonic()
        try:
            test()
        except Failure as failure:
            return self.count(name, began, str(failure))
        except Exception:  # whatever a client library raises is a failed test, not the end of the run
            return self.count(name, began, "unexpected\n" + traceback.format_exc(limit=-4))
        return self.count(name, began, None)

    def run_all(self, tests, threads):
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda named: self.run(*named), tests))

    def count(self, name, began, why):
        spent = f"({time.monotonic() - began:.1f} s)"
        with self.lock:
            if why is None:
                self.passed += 1
                print(f"ok {name} {spent}", flush=True)
                return True
            self.failed += 1
            first, _, rest = why.partition("\n")
            print(f"FAILED {name}: {first} {spent}", flush=True)
            for line in rest.splitlines()[:60]:
                print(f"    {line}", flush=True)
            return False

    def summary(self):
        return f"{self.passed} passed, {self.failed} failed"
