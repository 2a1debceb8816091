"""Apps that prove themselves by a certificate (private_key_jwt), with keys in all forms that OpenSSL writes."""

import os
import shutil
import subprocess

from bench import parts
from bench.processes import Failure, wait_until
from bench.signin import apps
from bench.signin.instance import Instance, must_say
from bench.signin.keys import PASSPHRASE
from bench.wire import WELCOME

LIFE = 600  # of an assertion, in seconds


def tests(bench):
    for client, (name, algorithm, files) in zip(apps.CERTIFIED, forms(bench.servers.keys.first), strict=True):
        yield f"certificate: {name}, {algorithm}", lambda c=client, a=algorithm, f=files: accepted(bench, c, a, f)
    yield "certificate: the server refuses another one", lambda: refused(bench)
    yield "certificate: a wrong passphrase is named", lambda: wrong_passphrase(bench)
    yield "certificate: replaced while gatepost runs", lambda: replaced(bench)


def forms(pair):
    """Name, algorithm, and a function that makes the files and answers how the configuration names them."""
    def pem(make, crt=pair.crt):
        return lambda: f'certificate = "{crt}", private_key = "{make()}"'

    def pkcs12(name, *options):
        return lambda: f'pkcs12 = "{pair.pkcs12(name, *options)}"'

    for algorithm in ["PS256", "RS256"]:
        yield "PKCS#8", algorithm, pem(lambda: pair.key)
        yield "PKCS#12", algorithm, pkcs12(f"{algorithm}.pfx")
    yield "PKCS#1", "PS256", pem(pair.pkcs1)
    yield "one file for both", "PS256", lambda: f'certificate = "{pair.together()}"'
    yield "encrypted PKCS#8 of AES-256-CBC", "PS256", pem(lambda: pair.encrypted("aes", "-v2", "aes-256-cbc"))
    yield "encrypted PKCS#8 of AES-128-CBC with PBKDF2-HMAC-SHA256", "PS256", pem(
        lambda: pair.encrypted("sha256", "-v2", "aes-128-cbc", "-v2prf", "hmacWithSHA256", "-iter", "100000"))
    yield "encrypted PKCS#8 with scrypt", "PS256", pem(lambda: pair.encrypted("scrypt", "-scrypt"))
    yield "PKCS#12 of OpenSSL's old kind", "PS256", pkcs12("legacy.pfx", "-legacy")


def by_certificate(bench, client, algorithm, files, passphrase=PASSPHRASE):
    one = Instance(bench, "", [(parts.SUPPORT, None)])
    note = one.folder / "passphrase"
    note.write_text(passphrase + "\n")
    one.sections[2] += (f'client_id = "{client}"\ngrant = "client_credentials"\nclient_certificate = {{ {files}, '
                        f'passphrase = {{ file = "{note}" }}, algorithm = "{algorithm}" }}')
    one.configuration = one.write("gatepost.toml", one.port)
    return one


def accepted(bench, client, algorithm, files):
    """The server takes it; header and claims are what RFC 7523 and Entra want."""
    one = by_certificate(bench, client, algorithm, files())
    one.command("login", parts.SUPPORT)
    one.must_be("ready", parts.SUPPORT)
    request, = bench.servers.oidc.requests_of(client)
    header, claims = request["assertion"]
    thumbprint = bench.servers.keys.first.thumbprint
    if header != {"alg": algorithm, "typ": "JWT", "x5t#S256": thumbprint}:
        raise Failure(f"the header is {header}, OpenSSL's fingerprint {thumbprint}")
    if {claims["iss"], claims["sub"]} != {client} or claims["aud"] != bench.servers.oidc.token_url:
        raise Failure(f"the claims are {claims}")
    if claims["exp"] - claims["nbf"] != LIFE or not claims["jti"]:
        raise Failure(f"the claims are {claims}")


def refused(bench):
    """Were this taken, the tests beside it would show nothing."""
    pair = bench.servers.keys.unknown
    one = by_certificate(bench, apps.UNPROVEN, "PS256", f'certificate = "{pair.crt}", private_key = "{pair.key}"')
    must_say(one.fails("login", parts.SUPPORT), "invalid_client", "not signed in")


def wrong_passphrase(bench):
    key = bench.servers.keys.second.encrypted("aes", "-v2", "aes-256-cbc")
    files = f'certificate = "{bench.servers.keys.second.crt}", private_key = "{key}"'
    one = by_certificate(bench, apps.UNPROVEN, "PS256", files, passphrase="another")
    must_say(one.fails("login", parts.SUPPORT), str(key), "passphrase does not open the key", "hint: check passphrase")
    checked = subprocess.run(["openssl", "pkey", "-noout", "-in", key, "-passin", "pass:another"],
                             capture_output=True, check=False)
    if checked.returncode == 0:
        raise Failure("OpenSSL opens it with that passphrase")


def replaced(bench):
    """No restart and no failed login: the next token request is signed with what is in the files then."""
    old, new = bench.servers.keys.first, bench.servers.keys.second
    folder = bench.servers.ground.subfolder("keys/live", 0o700)
    crt, key = folder / "app.crt", folder / "app.key"
    shutil.copy(old.crt, crt)
    shutil.copy(old.key, key)
    one = by_certificate(bench, apps.REPLACED, "PS256", f'certificate = "{crt}", private_key = "{key}"')

    def signed_with(pair):
        requests = bench.servers.oidc.requests_of(apps.REPLACED)
        return requests and requests[-1]["assertion"][0]["x5t#S256"] == pair.thumbprint

    with one.running():
        wait_until("a request signed with the first key", lambda: signed_with(old), 10)
        one.imap_soon(parts.SUPPORT, WELCOME["imap"])
        for pair_file, live in [(new.key, key), (new.crt, crt)]:
            shutil.copy(pair_file, f"{live}.new")
            os.replace(f"{live}.new", live)
        wait_until("a request signed with the second key", lambda: signed_with(new), 10)
        one.imap_soon(parts.SUPPORT, WELCOME["imap"])
    if errors := [request["error"] for request in bench.servers.oidc.requests_of(apps.REPLACED) if request["error"]]:
        raise Failure(f"the server refused: {errors}")
