"""Client certificates and their keys, as OpenSSL writes them."""

import base64
import functools

from bench.processes import run

PASSPHRASE = 'a "passphrase" with blanks'


class Keys:
    """The certificates that the authorization server knows, and one that it does not."""

    def __init__(self, ground):
        self.folder = ground.subfolder("keys", 0o700)
        self.first, self.second, self.unknown = (Pair(self.folder, name) for name in ["first", "second", "unknown"])


class Pair:
    """A self-signed certificate and its RSA key."""

    def __init__(self, folder, name):
        self.folder = folder
        self.name = name
        self.crt = folder / f"{name}.crt"
        self.key = folder / f"{name}.key"
        run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "90", "-subj", f"/CN={name}",
             "-keyout", self.key, "-out", self.crt])

    def certificate(self):
        return self.crt.read_text()

    @functools.cached_property
    def thumbprint(self):
        """OpenSSL's fingerprint in the form of RFC 7515 section 4.1.8."""
        printed = run(["openssl", "x509", "-in", self.crt, "-noout", "-fingerprint", "-sha256"]).decode()
        octets = bytes.fromhex(printed.strip().partition("=")[2].replace(":", ""))
        return base64.urlsafe_b64encode(octets).decode().rstrip("=")

    # --- other forms of the key

    def pkcs1(self):
        return self.written("pkcs1", ["rsa", "-in", self.key, "-traditional"])

    def encrypted(self, name, *options):
        return self.written(name, ["pkcs8", "-topk8", "-in", self.key, "-passout", f"pass:{PASSPHRASE}", *options])

    def pkcs12(self, name, *options):
        return self.written(name, ["pkcs12", "-export", "-in", self.crt, "-inkey", self.key,
                                   "-passout", f"pass:{PASSPHRASE}", *options])

    def together(self):
        """Key and certificate in one PEM file, the key first, as some tools write it."""
        made = self.folder / f"{self.name}.together"
        made.write_text(self.key.read_text() + self.certificate())
        return made

    def written(self, form, arguments):
        made = self.folder / f"{self.name}.{form}"
        run(["openssl", *arguments, "-out", made])
        return made
