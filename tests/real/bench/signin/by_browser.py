"""Sign-ins by a real browser: authorization code with PKCE, from the printed URL to mail."""

import stat
import urllib.parse

from bench import parts
from bench.processes import Failure, wait_until
from bench.signin import apps
from bench.signin.instance import Instance, fetch, must_say
from bench.wire import WELCOME, must_begin

APP = f'client_id = "{apps.BROWSER}"'


def tests(bench):
    yield "browser: from the printed URL to mail", lambda: to_mail(bench)
    yield "browser: gatepost opens it", lambda: opens_browser(bench)
    for address in ["127.0.0.1", "::1"]:
        yield f"browser: localhost is {address}", lambda a=address: localhost_is(bench, a)
    yield "browser: a redirect_uri of its own", lambda: fixed_redirect(bench)
    yield "browser: cancel changes nothing", lambda: cancel(bench)
    yield "browser: two people at once, the second is done first", lambda: two_people(bench)
    yield "browser: somebody else signs in", lambda: somebody_else(bench)
    yield "browser: no refresh token, no sign-in", lambda: no_refresh_token(bench)
    yield "browser: its last address is pasted, redirect_uri elsewhere", lambda: pasted(bench, apps.ELSEWHERE)
    yield "browser: its last address is pasted, browser on another machine", lambda: pasted(bench, None)
    yield "browser: its last address is pasted, port taken", lambda: port_taken(bench)


def jane(bench, more=""):
    return Instance(bench, f"{APP}\n{more}", [(parts.JANE, None)])


def sign_in(browser, url, mailbox):
    """Signs in and agrees, as a person does."""
    browser.open(url)
    browser.type("#mailbox", mailbox)
    browser.click("#sign-in")
    browser.click("#accept")


def last_page(browser, *words, at=apps.LOCALHOST):
    """Waits for the page on which all ends, and for these words on it."""
    browser.wait_for_url(at)
    browser.must_show(*words)


def to_mail(bench):
    """One sign-in opens the person's own mailbox and a shared one; the page says so, and what to do next."""
    one = Instance(bench, APP, [(parts.JANE, None), (parts.TEAM, parts.JANE)])
    one.must_be("sign_in_needed", parts.JANE, parts.TEAM)
    login = one.login(parts.TEAM)
    url, = login.lines()
    must_ask_well(url)
    with bench.browsers.start() as browser:
        browser.open(url)
        if (hint := browser.value("#mailbox")) != parts.JANE:
            raise Failure(f"the person is not named to the provider, but {hint!r}")
        sign_in(browser, url, parts.JANE)
        last_page(browser, f"Signed in: {parts.JANE}", "gatepost can now open", parts.TEAM,
                  f"gatepost password add {parts.JANE}", "gatepost run", "close this window")
        must_say(browser.title(), "Signed in")
    must_say(login.must_end(0), f"{parts.JANE} (app lab) is signed in: {parts.JANE}, {parts.TEAM}")
    one.must_be("ready", parts.JANE, parts.TEAM)
    with one.running():
        for mailbox in [parts.JANE, parts.TEAM]:
            must_begin(one.imap(mailbox), WELCOME["imap"])


def must_ask_well(url):
    """RFC 6749 section 4.1.1, RFC 7636 section 4.3: random parts of 256 bits, a challenge that is a digest."""
    query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(url).query))
    if query["response_type"] != "code" or query["code_challenge_method"] != "S256":
        raise Failure(f"the URL is {url}")
    if min(len(query["state"]), len(query["code_challenge"])) < 43:
        raise Failure(f"state or challenge are short: {url}")


def opens_browser(bench):
    """The command that the environment names as a browser gets the URL that is printed."""
    one = jane(bench)
    opened = one.folder / "opened"
    command = one.folder / "browser"
    command.write_text(f'#!/bin/sh\nprintf "%s" "$1" > "{opened}.new" && mv "{opened}.new" "{opened}"\n')
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    login = one.login(parts.JANE, env={"BROWSER": str(command)})
    url, = login.lines()
    wait_until("the browser to be started", opened.exists, 5)
    if opened.read_text() != url:
        raise Failure(f"the browser got {opened.read_text()!r}, not {url!r}")
    login.kill()
    login = one.login(parts.JANE, "--no-browser", env={"BROWSER": str(command)})
    opened.unlink()
    login.lines()
    with bench.browsers.start() as browser:
        sign_in(browser, login.lines()[0], parts.JANE)
        last_page(browser, "Signed in")
    login.must_end(0)
    if opened.exists():
        raise Failure("a browser was opened in spite of --no-browser")


def localhost_is(bench, address):
    one = jane(bench)
    login = one.login(parts.JANE)
    with bench.browsers.start(f"[{address}]" if ":" in address else address) as browser:
        sign_in(browser, login.lines()[0], parts.JANE)
        last_page(browser, "Signed in")
        if (servers := set(browser.servers_of(apps.LOCALHOST))) != {address}:
            raise Failure(f"the last page came from {servers}")
    login.must_end(0)
    one.must_be("ready", parts.JANE)


def fixed_redirect(bench):
    """As it is registered, with this port and path; other paths are nobody's."""
    address = f"http://127.0.0.1:{bench.servers.ground.ports.next()}"
    one = jane(bench, f'redirect_uri = "{address}/callback"')
    login = one.login(parts.JANE)
    url, = login.lines()
    for path in ["/", "/callback", "/callback/?code=1&state=2", "/other?code=1&state=2"]:
        if (answer := fetch(address + path))[0] != 404:
            raise Failure(f"{path} is answered with {answer}")
    with bench.browsers.start() as browser:
        sign_in(browser, url, parts.JANE)
        last_page(browser, "Signed in", at=f"{address}/callback?")
    login.must_end(0)


def cancel(bench):
    """The person says no: the page tells why, with the provider's words as text, and the former sign-in goes on."""
    one = jane(bench)
    one.sign_in(apps.BROWSER, parts.JANE)
    former = one.status(parts.JANE)
    login = one.login(parts.JANE)
    with bench.browsers.start() as browser:
        browser.open(login.lines()[0])
        browser.click("#cancel")
        last_page(browser, "Not signed in", "access_denied: the person <b>pressed</b> cancel",
                  "Nothing was changed", "gatepost login")
    must_say(login.must_end(1), "not signed in, nothing was changed", "access_denied")
    if (now := one.status(parts.JANE)) != former:
        raise Failure(f"the status was {former}, now it is {now}")
    with one.running():
        must_begin(one.imap(parts.JANE), WELCOME["imap"])


def two_people(bench):
    """Both come back to one listener, each in a browser of their own; a state that is done counts no more."""
    one = Instance(bench, APP, [(parts.JANE, None), (apps.JOHN, None)])
    login = one.login(parts.JANE, apps.JOHN)
    hers, his = login.lines(2)
    with bench.browsers.start() as janes, bench.browsers.start() as johns:
        sign_in(johns, his, apps.JOHN)
        last_page(johns, f"Signed in: {apps.JOHN}")
        one.must_be("ready", apps.JOHN)
        one.must_be("sign_in_needed", parts.JANE)
        login.must_wait()
        again(johns.url())
        sign_in(janes, hers, parts.JANE)
        last_page(janes, f"Signed in: {parts.JANE}")
    said = login.must_end(0)
    for person in [parts.JANE, apps.JOHN]:
        must_say(said, f"{person} (app lab) is signed in")
    if bench.servers.oidc.revocations_of(apps.BROWSER):
        raise Failure("a code or token was sent to the server twice")
    one.must_be("ready", parts.JANE, apps.JOHN)
    with one.running():
        for person in [parts.JANE, apps.JOHN]:
            must_begin(one.imap(person), WELCOME["imap"])


def again(url):
    status, page = fetch(url)
    if status != 400 or "no sign-in that is under way" not in page:
        raise Failure(f"the same address again is answered with {status}\n{page}")


def somebody_else(bench):
    """The browser was still signed in as another person: page and terminal say so."""
    one = jane(bench)
    login = one.login(parts.JANE)
    with bench.browsers.start() as browser:
        sign_in(browser, login.lines()[0], apps.JOHN)
        last_page(browser, f"signed in as {apps.JOHN}", "sign in again")
    must_say(login.must_end(0), "warning", apps.JOHN)


def no_refresh_token(bench):
    """Without offline_access all would end with the first token: said at once, nothing is stored."""
    one = jane(bench, 'scopes = ["mail"]')
    login = one.login(parts.JANE)
    with bench.browsers.start() as browser:
        sign_in(browser, login.lines()[0], parts.JANE)
        last_page(browser, "Not signed in", "no refresh token", "offline_access")
    must_say(login.must_end(1), "offline_access")
    one.must_be("sign_in_needed", parts.JANE)


def pasted(bench, redirect_uri):
    """The browser ends where nobody answers; a person copies its address, after some mistakes."""
    one = jane(bench, f'redirect_uri = "{redirect_uri}"' if redirect_uri else "")
    login = one.login(parts.JANE, "--no-browser")
    with bench.browsers.start("~NOTFOUND") as browser:
        sign_in(browser, login.lines()[0], parts.JANE)
        address = browser.wait_for_url(redirect_uri or apps.LOCALHOST)
    paste(login, address, login.lines()[0])
    one.must_be("ready", parts.JANE)


def paste(login, address, url):
    login.paste(url)
    wait_until("words about a wrong address", lambda: "not the address of the last page" in login.said(), 5)
    login.paste(address.replace("state=", "state=x"))
    wait_until("words about a wrong state", lambda: "no sign-in that is under way" in login.said(), 5)
    login.must_wait()
    login.paste(f"  {address}  ")
    must_say(login.must_end(0), "is signed in")


def port_taken(bench):
    """Another sign-in has the port that is registered: it does not take this one's answer, which can be pasted."""
    address = f"http://127.0.0.1:{bench.servers.ground.ports.next()}/callback"
    first, second = (jane(bench, f'redirect_uri = "{address}"') for _ in range(2))
    one = first.login(parts.JANE)
    one.lines()
    two = second.login(parts.JANE)
    url, = two.lines()
    must_say(two.said(), "nothing can listen at redirect_uri")
    with bench.browsers.start() as browser:
        sign_in(browser, url, parts.JANE)
        last_page(browser, "Not signed in", at=address)
        at = browser.url()
    paste(two, at, url)
    second.must_be("ready", parts.JANE)
    one.must_wait()
    first.must_be("sign_in_needed", parts.JANE)
