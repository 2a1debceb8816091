"""A real browser: Debian's Chromium, driven by its chromedriver over plain WebDriver (W3C)."""

import json
import os
import time
import urllib.error
import urllib.request

from bench.processes import Failure, accepts, wait_until

# The name that WebDriver gives an element's reference.
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
PATIENCE = 30  # for a page to come and an element to be there, on a busy machine

FLAGS = ["--headless=new", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage", "--no-first-run",
         "--no-proxy-server", "--disable-background-networking", "--disable-component-update", "--disable-sync"]


class Browsers:
    """Starts browsers, each with an empty profile."""

    def __init__(self, ground):
        self.ground = ground
        self.port = ground.ports.next()
        self.process = ground.start("chromedriver", ["/usr/bin/chromedriver", f"--port={self.port}"])
        self.process.wait_for("its port", lambda: accepts(self.port))

    def start(self, localhost="127.0.0.1"):
        """A browser for which `localhost` is this address, and which finds nobody else but the provider."""
        rules = f"MAP localhost {localhost}, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE ::1"
        profile = self.ground.visit_folder()
        flags = [*FLAGS, f"--host-resolver-rules={rules}", f"--user-data-dir={profile}"]
        if os.geteuid() == 0:
            flags.append("--no-sandbox")  # Chromium's sandbox refuses root
        return Browser(f"http://127.0.0.1:{self.port}", flags)


class Browser:
    """One browser with one page; ends with its `with` block."""

    def __init__(self, driver, flags):
        wanted = {"browserName": "chrome", "goog:loggingPrefs": {"performance": "ALL"},
                  "goog:chromeOptions": {"binary": "/usr/bin/chromium", "args": flags},
                  "timeouts": {"implicit": PATIENCE * 1000, "pageLoad": PATIENCE * 1000}}
        began = command("POST", f"{driver}/session", {"capabilities": {"alwaysMatch": wanted}})
        self.session = f"{driver}/session/{began['sessionId']}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        command("DELETE", self.session)

    def open(self, url):
        self.post("url", {"url": url})

    def url(self):
        return command("GET", f"{self.session}/url")

    def must_show(self, *words):
        """Waits until a person can read all of this on the page, wherever its lines break."""
        end = time.monotonic() + PATIENCE
        while missing := [word for word in words if word not in self.text()]:
            if time.monotonic() > end:
                raise Failure(f"the page at {self.url()} does not show {missing}:\n{self.text()}")
            time.sleep(0.1)

    def text(self):
        try:
            return " ".join(command("GET", f"{self.element('body')}/text").split())
        except Failure:  # the page went away while it was read
            return ""

    def title(self):
        return command("GET", f"{self.session}/title")

    def value(self, selector):
        return command("GET", f"{self.element(selector)}/property/value")

    def type(self, selector, text):
        field = self.element(selector)
        command("POST", f"{field}/clear", {})
        command("POST", f"{field}/value", {"text": text})

    def click(self, selector):
        command("POST", f"{self.element(selector)}/click", {})

    def element(self, selector):
        found = self.post("element", {"using": "css selector", "value": selector})
        return f"{self.session}/element/{found[ELEMENT]}"

    def wait_for_url(self, start):
        return wait_until(f"the browser to be at {start}…", lambda: (at := self.url()).startswith(start) and at, PATIENCE)

    def servers_of(self, start):
        """The addresses of those who answered for URLs that begin so."""
        for entry in self.post("se/log", {"type": "performance"}):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.responseReceived":
                response = message["params"]["response"]
                if response["url"].startswith(start):
                    yield response["remoteIPAddress"].strip("[]")

    def post(self, what, body):
        return command("POST", f"{self.session}/{what}", body)


def command(method, url, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=4 * PATIENCE) as answer:
            return json.load(answer)["value"]
    except urllib.error.HTTPError as refused:
        error = json.load(refused)["value"]
        raise Failure(f"the browser: {error['error']}: {error['message']}") from None
