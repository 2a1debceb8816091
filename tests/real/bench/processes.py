"""Starting, watching and ending processes; loopback ports; waiting with a bound.

Whatever is started here is ended here, by its own process id.
"""

import functools
import itertools
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REAL = Path(__file__).resolve().parent.parent
CERTS = REAL.parent.parent / "certs"


class Failure(Exception):
    """A test or a start that went wrong; its text is what a person reads."""


def wait_until(what, condition, seconds=20):
    """The first true answer of `condition`, or a Failure once the time is over."""
    end = time.monotonic() + seconds
    while not (answer := condition()):
        if time.monotonic() > end:
            raise Failure(f"waited {seconds} s for {what}")
        time.sleep(0.05)
    return answer


class Ports:
    """Ports that are free on both loopbacks, each handed out once.

    They are taken from below the range that the kernel uses for outgoing connections: one of those
    could otherwise sit on a port between the moment it is chosen here and the server's bind.
    """

    def __init__(self):
        for family, host in LOOPBACKS:
            if not is_free(family, host, 0):
                raise Failure(f"this machine has no {host}")
        self.candidates = random.sample(range(20000, 32000), 12000)

    def next(self):
        while self.candidates:
            port = self.candidates.pop()
            if all(is_free(family, host, port) for family, host in LOOPBACKS):
                return port
        raise Failure("no free port is left")


LOOPBACKS = [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]


def is_free(family, host, port):
    with socket.socket(family) as probe:
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def accepts(port, host="127.0.0.1"):
    try:
        socket.create_connection((host, port), 1).close()
    except OSError:
        return False
    return True


class Process:
    """One process with its output in files. `given` is what it reads, or PIPE for who writes that bit by bit."""

    def __init__(self, name, folder, argv, given=None, user=None, env=None):
        self.name = name
        self.out = folder / f"{name}.out"
        self.err = folder / f"{name}.err"
        feed = folder / f"{name}.in"
        feed.write_text(given if isinstance(given, str) else "")
        with feed.open() as stdin, self.out.open("ab") as stdout, self.err.open("ab") as stderr:
            self.popen = subprocess.Popen(
                [str(part) for part in argv],
                stdin=given if given == subprocess.PIPE else stdin, stdout=stdout, stderr=stderr, env={**os.environ, **(env or {})},
                **({"user": user[0], "group": user[1], "extra_groups": []} if user else {}),
            )

    def wait_for(self, what, condition, seconds=30):
        """As `wait_until`, but ends at once when the process does."""

        def alive_and_true():
            if self.popen.poll() is not None:
                raise Failure(f"{self.name} ended with status {self.popen.returncode}:\n{self.tail()}")
            return condition()

        return wait_until(f"{what} ({self.name})", alive_and_true, seconds)

    def tail(self, lines=30):
        text = self.err.read_text(errors="replace") + self.out.read_text(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def pause(self):
        """It takes connections and answers nothing, as a server in trouble does."""
        self.popen.send_signal(signal.SIGSTOP)

    def resume(self):
        self.popen.send_signal(signal.SIGCONT)

    def stop(self, seconds=15):
        """Asks, waits, then insists. Answers the exit status, None if it had to be killed."""
        if self.popen.poll() is not None:
            return self.popen.returncode
        self.popen.terminate()
        self.resume()
        try:
            return self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait(seconds)
            return None


class Ground:
    """The temporary folder, the ports and the running processes of one run."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="gatepost-real-"))
        self.folder.chmod(0o755)
        self.processes = []
        self.visits = itertools.count(1)
        self.keep = True

    def __enter__(self):
        return self

    @functools.cached_property
    def ports(self):
        return Ports()

    def __exit__(self, *_):
        for process in reversed(self.processes):
            process.stop()
        if self.keep:
            print(f"logs and configuration are kept in {self.folder}", file=sys.stderr)
        else:
            shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, name, argv, **more):
        process = Process(name, self.folder, argv, **more)
        self.processes.append(process)
        return process

    def subfolder(self, name, mode=0o755):
        made = self.folder / name
        made.mkdir(parents=True, exist_ok=True)
        made.chmod(mode)
        return made

    def visit_folder(self):
        """A new folder for one client."""
        return self.subfolder(f"clients/{next(self.visits):03}")


def run(argv, seconds=60, given=None, env=None, cwd=None):
    """Standard output of a command that must succeed; a Failure with all its output otherwise."""
    argv = [str(part) for part in argv]
    given = given.encode() if isinstance(given, str) else given
    try:
        done = subprocess.run(
            argv, input=given if given is not None else b"", capture_output=True, timeout=seconds,
            env={**os.environ, **(env or {})}, cwd=cwd,
        )
    except subprocess.TimeoutExpired as late:
        raise Failure(f"{argv[0]} took over {seconds} s\n{text(late.stdout)}{text(late.stderr)}") from None
    except FileNotFoundError:
        raise Failure(f"{argv[0]} is not installed") from None
    if done.returncode != 0:
        raise Failure(f"{argv[0]} ended with status {done.returncode}\n{text(done.stdout)}{text(done.stderr)}")
    return done.stdout


def text(octets):
    return (octets or b"").decode(errors="replace")
