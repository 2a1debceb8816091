"""The listeners' TLS as a scanner sees it: sslscan finds nothing that it marks."""

import subprocess
import xml.etree.ElementTree as ElementTree

from bench.gatepost import PROTOCOLS
from bench.processes import Failure, run

PORTS = [(protocol, tls) for protocol in PROTOCOLS for tls in ["implicit", "starttls"]]
VERSIONS = {("tls", "1.2"), ("tls", "1.3")}
# sslscan's words: those of TLS 1.3 are "acceptable", in 1.2 what is forward secret and AEAD is "strong".
STRENGTHS = {"TLSv1.2": "strong", "TLSv1.3": "acceptable"}
# It prints what it does not write into its report.
MARKED = ["does not support TLS Fallback SCSV", "unable to determine", "accepts all signature algorithms", "Insecure", "weak"]
SECONDS = 120


def tests(gatepost):
    for protocol, tls in PORTS:
        yield (f"sslscan, the self-made certificate: {protocol} {tls}",
               lambda p=protocol, t=tls: scan(gatepost, gatepost.port(p, t), p, t))
    for tls, port in gatepost.own_certificate_ports.items():
        yield f"sslscan, an RSA certificate of one's own: imap {tls}", lambda t=tls, p=port: scan(gatepost, p, "imap", t)


def scan(gatepost, port, protocol, tls):
    report = gatepost.ground.visit_folder() / "report.xml"
    starttls = [f"--starttls-{protocol}"] if tls == "starttls" else []
    argv = ["sslscan", "--no-colour", "--show-sigs", *starttls, f"--xml={report}", f"127.0.0.1:{port}"]
    done = subprocess.run(argv, capture_output=True, timeout=SECONDS)
    if done.returncode != 0:
        raise Failure(f"sslscan ended with {done.returncode}\n{done.stdout.decode()}{done.stderr.decode()}")
    wrong = list(findings(ElementTree.parse(report).find("ssltest")))
    wrong += [words for words in MARKED if words.lower() in done.stdout.decode().lower()]
    if wrong:
        raise Failure("; ".join(wrong) + "\n" + done.stdout.decode())
    openssl_agrees(port, protocol, tls)


def findings(test):
    """What is wrong, one line each. What is missing in the report is wrong as well."""
    enabled = {(one.get("type"), one.get("version")) for one in test.iter("protocol") if one.get("enabled") == "1"}
    if enabled != VERSIONS:
        yield f"it speaks {sorted(enabled)}"
    for cipher in test.iter("cipher"):
        if cipher.get("strength") != STRENGTHS.get(cipher.get("sslversion")) or int(cipher.get("bits")) < 128:
            yield f"cipher {cipher.attrib}"
    if {cipher.get("sslversion") for cipher in test.iter("cipher")} != {"TLSv1.2", "TLSv1.3"}:
        yield "not both versions have ciphers"
    for group in test.iter("group"):
        if int(group.get("bits")) < 112:
            yield f"group {group.attrib}"
    # Debian's OpenSSL has no compression, so that sslscan can't tell of it; rustls has none either.
    renegotiation = test.find("renegotiation")
    if renegotiation is None or renegotiation.get("supported") != "0":
        yield f"renegotiation: {None if renegotiation is None else renegotiation.attrib}"
    if any(one.get("supported") != "0" for one in test.iter("compression")):
        yield "compression"
    for one in test.iter("heartbleed"):
        if one.get("vulnerable") != "0":
            yield "heartbleed"
    for one in test.iter("connection-signature-algorithm"):
        if any(weak in one.get("name").lower() for weak in ["sha1", "md5", "sha224", "any"]):
            yield f"signature {one.attrib}"
    yield from of_certificate(test.find(".//certificate"))


def of_certificate(certificate):
    if certificate is None:
        yield "no certificate"
        return
    key = certificate.find("pk")
    # Of an elliptic curve it gives the strength.
    least = 2048 if key.get("type") == "RSA" else 128
    if key.get("error") != "false" or int(key.get("bits")) < least:
        yield f"key {key.attrib}"
    signature = certificate.findtext("signature-algorithm").lower()
    if "sha256" not in signature and "sha384" not in signature:
        yield f"signed with {signature}"
    if certificate.findtext("expired") != "false":
        yield "the certificate has ended"


def openssl_agrees(port, protocol, tls):
    """The same from a client's side: both versions come about, older ones and renegotiation don't."""
    starttls = ["-starttls", protocol] if tls == "starttls" else []
    for version in ["-tls1_2", "-tls1_3"]:
        run(["openssl", "s_client", "-brief", version, *starttls, "-connect", f"127.0.0.1:{port}"], given="")
    for version in ["-tls1", "-tls1_1"]:
        argv = ["openssl", "s_client", version, "-cipher", "ALL@SECLEVEL=0", *starttls, "-connect", f"127.0.0.1:{port}"]
        if subprocess.run(argv, input=b"", capture_output=True, timeout=SECONDS).returncode == 0:
            raise Failure(f"openssl {version} came about")
