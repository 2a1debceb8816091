"""Sign-ins by device code: gatepost shows a code, a person types it in a browser that is elsewhere."""

from bench import parts
from bench.processes import Failure, wait_until
from bench.signin import apps
from bench.signin.instance import Instance, must_say
from bench.wire import WELCOME, must_begin

INTERVAL = 5  # seconds between two questions when the server names none, as here (RFC 8628 section 3.2)


def tests(bench):
    yield "device code: typed in a browser", lambda: typed(bench)
    yield "device code: a wait that was killed goes on with the same code", lambda: interrupted(bench)
    yield "device code: the person says no", lambda: denied(bench)


def begin(bench, client, grant="authorization_code"):
    one = Instance(bench, f'client_id = "{client}"\ngrant = "{grant}"', [(parts.JANE, None)])
    return one, one.login(parts.JANE, "--device-code")


def type_code(browser, bench, code):
    browser.open(f"{bench.servers.oidc.issuer}/device")
    browser.type("[name=user_code]", code)
    browser.click("button[type=submit]")
    browser.must_show(code)


def confirm(browser):
    browser.click("button[autofocus]")
    browser.type("#mailbox", parts.JANE)
    browser.click("#sign-in")
    browser.click("#accept")
    browser.must_show("Sign-in Success")


def typed(bench):
    """Asks no oftener than it may, and ends when the person is done."""
    one, login = begin(bench, apps.TYPED)
    code, = login.lines()
    must_say(login.said(), f"{bench.servers.oidc.issuer}/device", "type this code", f"user_code={code}")
    with bench.browsers.start() as browser:
        type_code(browser, bench, code)
        wait_until("two questions", lambda: len(polls(bench)) > 1, 3 * INTERVAL)
        login.must_wait()
        confirm(browser)
    must_say(login.must_end(0), f"{parts.JANE} (app lab) is signed in")
    must_be_patient(polls(bench))
    one.must_be("ready", parts.JANE)
    with one.running():
        must_begin(one.imap(parts.JANE), WELCOME["imap"])


def polls(bench):
    """When the device asked whether the code was typed, in seconds."""
    return [request["at"] / 1000 for request in bench.servers.oidc.requests_of(apps.TYPED)]


def must_be_patient(asked):
    gaps = [after - before for before, after in zip(asked, asked[1:])]
    if not gaps or min(gaps) < INTERVAL - 0.1 or max(gaps) > INTERVAL + 2:
        raise Failure(f"the pauses between the questions are {gaps} s, not {INTERVAL}")


def interrupted(bench):
    """The code that the person has on a note, and has perhaps typed meanwhile, stays the code."""
    one, login = begin(bench, apps.INTERRUPTED, "device_code")
    code, = login.lines()
    login.kill()
    with bench.browsers.start() as browser:
        type_code(browser, bench, code)
        confirm(browser)
    login = one.login(parts.JANE)  # the app's grant says that it is by device code
    if login.lines() != [code]:
        raise Failure(f"the code was {code}, now it is {login.lines()}")
    must_say(login.said(), "again")
    login.must_end(0)
    one.must_be("ready", parts.JANE)
    login = one.login(parts.JANE)
    if login.lines() == [code]:
        raise Failure("a code that is used up is shown again")
    login.kill()


def denied(bench):
    one, login = begin(bench, apps.DENIED)
    with bench.browsers.start() as browser:
        type_code(browser, bench, *login.lines())
        browser.click("button[name=abort]")
        browser.must_show("interrupted")
    must_say(login.must_end(1), "access_denied", "nothing was changed")
    one.must_be("sign_in_needed", parts.JANE)
