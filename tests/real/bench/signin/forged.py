"""Redirects that nobody asked for, as anything on this machine and any web page can send them."""

import html
import urllib.parse

from bench import parts
from bench.processes import Failure
from bench.signin import apps
from bench.signin.by_browser import last_page, sign_in
from bench.signin.instance import Instance, fetch, must_say

MARKUP = '"><script>document.title=1</script><img src=x onerror=alert(1)>'


def tests(bench):
    yield "forged: a wrong, a missing, a doubled state", lambda: wrong_state(bench)
    yield "forged: an answer of another issuer", lambda: foreign_issuer(bench)
    yield "forged: markup in error_description is text", lambda: markup(bench)


def begin(bench, client=apps.BROWSER):
    """A sign-in that waits; its address on this machine and its state."""
    one = Instance(bench, f'client_id = "{client}"', [(parts.JANE, None)])
    login = one.login(parts.JANE)
    query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(login.lines()[0]).query))
    return one, login, query["redirect_uri"], query["state"]


def redirected(address, method="GET", **query):
    return fetch(f"{address}/?{urllib.parse.urlencode(query)}", method)


def refused(answer):
    status, page = answer
    if status != 400 or "Not signed in" not in page:
        raise Failure(f"answered with {status}\n{page}")
    return page


def wrong_state(bench):
    """Each is refused, none of them ends the sign-in that waits, and it can still be done."""
    one, login, address, state = begin(bench)
    for query in [{"code": "x", "state": "forged"}, {"code": "x"}, {"code": "x", "state": ""},
                  {"error": "access_denied", "state": "forged"}, {"error": "access_denied"}]:
        refused(redirected(address, **query))
    refused(fetch(f"{address}/?code=x&state={state}&state={state}"))
    # Neither a form of another page nor a look at what is there uses the state up.
    for method in ["POST", "HEAD", "PUT", "OPTIONS"]:
        if (status := redirected(address, method, code="x", state=state)[0]) != 404:
            raise Failure(f"{method} is answered with {status}")
    login.must_wait()
    one.must_be("sign_in_needed", parts.JANE)
    with bench.browsers.start() as browser:
        sign_in(browser, login.lines()[0], parts.JANE)
        last_page(browser, "Signed in")
    login.must_end(0)


def foreign_issuer(bench):
    """RFC 9207: the code of another server goes nowhere, also not to the token endpoint."""
    one, login, address, state = begin(bench, apps.FOREIGN)
    page = refused(redirected(address, code="x", state=state, iss="https://evil.example"))
    must_say(page, "https://evil.example")
    must_say(login.must_end(1), "another server")
    one.must_be("sign_in_needed", parts.JANE)
    if requests := bench.servers.oidc.requests_of(apps.FOREIGN):
        raise Failure(f"the token endpoint was asked: {requests}")


def markup(bench):
    one, login, address, state = begin(bench)
    page = refused(redirected(address, error=MARKUP, error_description=MARKUP, state=state))
    must_say(html.unescape(page), f"{MARKUP}: {MARKUP}")
    if "<script" in page or "<img" in page:
        raise Failure(f"the markup is in the page\n{page}")
    login.must_end(1)
    one.must_be("sign_in_needed", parts.JANE)
