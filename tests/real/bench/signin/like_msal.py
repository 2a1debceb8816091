"""What gatepost sends to a token endpoint, beside what Microsoft's own library sends for the same.

A server on loopback records gatepost; an HTTP client of ours records msal, which so reaches no network. Each
field of msal's must be in gatepost's request with the same value, or stand in LEFT_OUT with its reason; each
field of gatepost's alone must stand in ADDED.
"""

import base64
import json
import re
import threading
import time
import urllib.parse
import uuid
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msal

from bench import parts
from bench.processes import Failure
from bench.signin import apps
from bench.signin.instance import SECRET_VARIABLE, Instance, fetch
from bench.signin.keys import PASSPHRASE

# msal would have the browser send a form; gatepost takes the redirect that Entra sends without being asked.
warnings.filterwarnings("ignore", message="response_mode='form_post'")

LEFT_OUT = {
    "client_info": "asks for an account's id, by which msal's cache knows it; here the configuration names accounts",
    "nonce": "ties an ID token to the browser's session; gatepost asks for no ID token",
    "scope openid": "asks for an ID token, which nobody here would read",
    "scope profile": "asks for more in the ID token",
    "x-anchormailbox": "leads to the nearest data centre; login_hint names the same person",
    "code, as device_code": "the name that device_code had in Entra's first version",
    "header x-client-sku": "statistics of msal",
    "header x-client-ver": "statistics of msal",
    "header x-client-os": "statistics of msal",
    "header x-client-current-telemetry": "statistics of msal",
    "header x-client-last-telemetry": "statistics of msal",
    "header x-ms-lib-capability": "tells that msal heeds Retry-After; Entra behaves the same without",
}
ADDED = {
    "header accept": "RFC 9110 section 12.5.1; msal leaves it out for a device's code",
    "header return-client-request-id": "has Entra answer with the id, as its support asks for it",
    "assertion's nbf": "RFC 7519 section 4.1.5; Entra's documentation lists it among the claims",
}
# What a transport adds by itself, and nothing that a server looks at.
TRANSPORT = {"host", "content-length", "content-type", "connection", "user-agent", "accept-encoding"}

SCOPE = "https://outlook.office.com/IMAP.AccessAsUser.All"
APP_SCOPE = "https://outlook.office365.com/.default"
AUTHORITY = "https://login.microsoftonline.com/contoso"
ASSERTION_LIFE = 600


def tests(bench):
    yield "like msal: authorization request and code", lambda: code(bench)
    yield "like msal: refresh", lambda: refresh(bench)
    yield "like msal: client secret", lambda: client_secret(bench)
    yield "like msal: certificate", lambda: certificate(bench)
    yield "like msal: federated token", lambda: federated_token(bench)
    yield "like msal: device code", lambda: device_code(bench)


# --- what is compared

def code(bench):
    with Recorder() as server:
        login = instance(bench, server).login(parts.JANE)
        url, = login.lines()
        asked = fields_of(urllib.parse.urlsplit(url).query)
        query = urllib.parse.urlencode({"code": "the-code", "state": asked["state"]})
        if (answer := fetch(f"{asked['redirect_uri']}/?{query}"))[0] != 200:
            raise Failure(f"the redirect is answered with {answer}")
        login.must_end(0)
        redeemed, = server.requests
    client, library = public()
    flow = client.initiate_auth_code_flow([SCOPE], redirect_uri=asked["redirect_uri"], login_hint=parts.JANE)
    wanted = fields_of(urllib.parse.urlsplit(flow["auth_uri"]).query)
    compare("authorization request", plain(wanted), plain(asked))
    client.acquire_token_by_auth_code_flow(flow, {"code": "the-code", "state": flow["state"]})
    compare("code", plain(*library.requests[-1]), plain(*redeemed))


def refresh(bench):
    with Recorder() as server:
        instance(bench, server).command("login", parts.JANE, "--refresh-token-stdin", given="the-token\n")
        sent, = server.requests
    client, library = public()
    client.acquire_token_by_refresh_token("the-token", [SCOPE])
    compare("refresh", plain(*library.requests[-1]), plain(*sent))


def client_secret(bench):
    app_only(bench, f'client_secret = {{ env = "{SECRET_VARIABLE}" }}', apps.SECRET)


def certificate(bench):
    pfx = bench.servers.keys.first.pkcs12("msal.pfx")
    note = bench.servers.ground.subfolder("keys") / "msal.passphrase"
    note.write_text(PASSPHRASE)
    app_only(bench, f'client_certificate = {{ pkcs12 = "{pfx}", passphrase = {{ file = "{note}" }} }}',
             {"private_key_pfx_path": str(pfx), "passphrase": PASSPHRASE})


def federated_token(bench):
    token = bench.servers.ground.subfolder("keys") / "federated"
    token.write_text("the.federated.token\n")
    app_only(bench, f'federated_token = {{ file = "{token}" }}', {"client_assertion": "the.federated.token"})


def app_only(bench, credential, for_msal):
    with Recorder() as server:
        instance(bench, server, f'{credential}\ngrant = "client_credentials"').command("login", parts.JANE)
        sent, = server.requests
    library = Library()
    client = msal.ConfidentialClientApplication(
        "the-client", authority=AUTHORITY, instance_discovery=False, http_client=library, client_credential=for_msal)
    client.acquire_token_for_client([APP_SCOPE])
    compare("client credentials", plain(*library.requests[-1]), plain(*sent))


def device_code(bench):
    with Recorder() as server:
        instance(bench, server).command("login", parts.JANE, "--device-code")
        asked, polled = server.requests
    client, library = public()
    client.acquire_token_by_device_flow(client.initiate_device_flow([SCOPE]))
    wanted, polls = library.requests
    compare("device authorization request", plain(*wanted), plain(*asked))
    compare("device code", plain(*polls), plain(*polled))


# --- comparing

def compare(what, msal_sends, gatepost_sends):
    wrong = [name for name in sorted({*msal_sends, *gatepost_sends})
             if not explained(name, msal_sends.get(name), gatepost_sends.get(name))]
    if wrong:
        rows = [f"{name:36} {str(msal_sends.get(name)):.70}\n{'':36} {str(gatepost_sends.get(name)):.70}"
                for name in sorted({*msal_sends, *gatepost_sends})]
        raise Failure(f"{what}: {', '.join(wrong)}\nfield, what msal sends, what gatepost sends:\n" + "\n".join(rows))


def explained(name, of_msal, of_gatepost):
    if of_gatepost is None:
        return name in LEFT_OUT
    if of_msal is None:
        return name in ADDED
    return of_msal == of_gatepost


def plain(form, headers=None, token_url=None):
    """A request as names and values that can be compared: what is random or of the moment by its kind."""
    found = {f"header {name}": value for name, value in lower(headers or {}).items() if name not in TRANSPORT}
    for name, value in lower(form).items():
        if name == "scope":
            found.update({f"scope {scope}": True for scope in value.split()})
        elif name == "client_assertion" and value.count(".") == 2 and value != "the.federated.token":
            found.update(assertion(value, token_url))
        elif name == "code" and "device_code" in form:
            found["code, as device_code"] = value
        else:
            found[name] = value
    return {name: KINDS[name](value) if name in KINDS else value for name, value in found.items()}


def lower(pairs):
    return {name.lower(): str(value) for name, value in pairs.items() if value is not None}


def assertion(jwt, token_url):
    header, claims = (json.loads(base64.urlsafe_b64decode(part + "==")) for part in jwt.split(".")[:2])
    now = time.time()
    if not now - 60 < claims["iat"] <= now:
        raise Failure(f"the assertion is of {claims['iat']}, now is {now}")
    claims["aud"] = "the token endpoint" if claims["aud"] == token_url else claims["aud"]
    claims["exp"] = f"{claims['exp'] - claims['iat']:.0f} s from iat"
    claims["iat"] = "now"
    if thumbprint := header.get("x5t#S256"):  # msal pads it, against RFC 7515 section 2
        header["x5t#S256"] = thumbprint.rstrip("=")
    return {f"assertion's {name}": value for name, value in {**header, **claims}.items()}


def random_enough(text):
    """RFC 7636 section 4.1 for the verifier; a state may be shorter in msal, never here."""
    return "random" if re.fullmatch(r"[A-Za-z0-9._~-]{22,128}", text) else text


def is_uuid(text):
    return "a UUID" if str(uuid.UUID(text)) == text else text


KINDS = {"state": random_enough, "code_verifier": random_enough, "code_challenge": random_enough,
         "header client-request-id": is_uuid, "assertion's jti": is_uuid}


# --- recording gatepost

def instance(bench, server, app=""):
    provider = f"""\
[provider.lab]
authorize_url = "{server.url}/authorize"
token_url     = "{server.url}/token"
device_url    = "{server.url}/device"
imap          = "localhost:{bench.servers.port('imap', 'implicit')}"
scopes        = ["{SCOPE}", "offline_access"]
app_scopes    = ["{APP_SCOPE}"]"""
    return Instance(bench, f'client_id = "the-client"\n{app}', [(parts.JANE, None)], provider=provider)


TOKEN = {"token_type": "Bearer", "access_token": "an-access-token", "refresh_token": "the-next", "expires_in": 3600}
DEVICE = {"device_code": "the-device", "user_code": "ABCD", "verification_uri": "http://127.0.0.1/", "expires_in": 900,
          "interval": 1}


class Recorder:
    """A token endpoint that says yes to everything. `requests` are form, headers and URL."""

    def __init__(self):
        self.requests = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def handler(self):
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"])).decode()
                recorder.requests.append((fields_of(body), dict(self.headers), recorder.url + self.path))
                answer = json.dumps(DEVICE if self.path == "/device" else TOKEN).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_):
                pass

        return Handler


def fields_of(form):
    """A name that stands twice would be taken for either (RFC 6749 section 3.1)."""
    pairs = urllib.parse.parse_qsl(form, keep_blank_values=True, strict_parsing=True)
    if len(dict(pairs)) != len(pairs):
        raise Failure(f"a field stands twice: {[name for name, _ in pairs]}")
    return dict(pairs)


# --- recording msal

def public():
    library = Library()
    return msal.PublicClientApplication("the-client", authority=AUTHORITY, instance_discovery=False,
                                        http_client=library), library


class Library:
    """An HTTP client for msal: answers by itself what Entra would."""

    def __init__(self):
        self.requests = []

    def get(self, url, **_):
        endpoints = {"authorization_endpoint": "authorize", "token_endpoint": "token",
                     "device_authorization_endpoint": "devicecode"}
        return Answered({**{name: f"{AUTHORITY}/oauth2/v2.0/{path}" for name, path in endpoints.items()},
                         "issuer": f"{AUTHORITY}/v2.0"})

    def post(self, url, params=None, data=None, headers=None, **_):
        assert not params, params
        self.requests.append((text_of(data), headers, url))
        return Answered(DEVICE if url.endswith("devicecode") else TOKEN)

    def close(self):
        pass


def text_of(data):
    return {name: value.decode() if isinstance(value, bytes) else value
            for name, value in data.items() if value is not None}


class Answered:
    status_code = 200
    headers = {}

    def __init__(self, body):
        self.text = json.dumps(body)

    def raise_for_status(self):
        pass
