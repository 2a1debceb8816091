#!/usr/bin/env python3
"""Makes fuzz/seeds/ anew: from the dialogues of tests/, from the examples of docs/, and from what stands here.

A seed is three octets of choices, which src/case.rs and the module of the target explain, then the peer's octets.
"""
import base64
import pathlib
import re
import shutil

ROOT = pathlib.Path(__file__).resolve().parent.parent
SEEDS = ROOT / "fuzz" / "seeds"
# A seed of 70 KB would make each run slow, and says nothing more than one of 13.
LONGEST = 16_000


def main():
    shutil.rmtree(SEEDS, ignore_errors=True)
    for path in sorted((ROOT / "tests/dialogues").glob("*.txt")):
        dialogues(path)
    for target, inputs in BY_HAND.items():
        for number, (flags, wire) in enumerate(inputs):
            write(target, f"by-hand-{number:02}", flags, wire)
    for path in [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]:
        for number, block in enumerate(re.findall(r"```toml\n(.*?)```", path.read_text(), re.S)):
            plain(SEEDS / "config" / f"{path.stem.lower()}-{number:02}", block.encode())


def dialogues(path):
    head, *rest = re.split(r"^=== ", path.read_text(), flags=re.M)
    common = settings(head)
    for number, dialogue in enumerate(rest):
        lines = dialogue.splitlines()[1:]
        here = common | settings("\n".join(line for line in lines if not re.match(r"[CS-]", line)))
        role = here.get("role", "frontend")
        peer = "S" if role == "upstream" else "C"
        wire = b""
        for line in lines:
            if line.startswith(f"{peer}:"):
                wire += octets(line[2:].removeprefix(" ")) + b"\r\n"
            elif line.startswith(f"{peer}-"):
                wire += octets(line[2:].removeprefix(" "))
            elif line == "-- tls":
                wire += b"<TLS>"
        target = {"receiver": "smtp_receiver"}.get(role, f"{role}_{here['protocol']}")
        write(target, f"{path.stem}-{number:02}", choices(role, here, lines), wire)
        if role == "receiver":
            # A client's mail may also pass through; its commands are the same.
            for mode in (0, 4):
                write("smtp_watch", f"{path.stem}-{number:02}-{mode}", mode, wire)
            content = re.findall(rb"DATA\r\n(.*?)\r\n\.\r\n", wire, re.S)
            for part, octets_ in enumerate(content):
                write("smtp_content", f"{path.stem}-{number:02}-{part}", part % 2, octets_)


def choices(role, here, lines):
    """The flags of src/frontend.rs, src/upstream.rs and src/smtp_receiver.rs."""
    tls = here.get("tls", "none")
    if role == "receiver":
        return (here.get("bare_lf") == "accept") | 4
    if role == "upstream":
        ask, learn = here.get("capabilities") == "ask", here.get("goal") == "learn"
        return (tls == "starttls") | learn << 1 | ask << 2 | 128
    refused = min(3, sum(line.startswith("-- refuse") for line in lines))
    mode = {"none": 0, "starttls": 1, "implicit": 2}[tls]
    return mode | (here.get("device") == "open") << 2 | refused << 4 | 128


def settings(text):
    pairs = (line.split(":", 1) for line in text.splitlines() if re.match(r"[a-z_]+:", line))
    return {name: value.strip() for name, value in pairs}


def octets(text):
    """The escapes of tests/parsers/dialogues.rs."""

    def one(match):
        run, encoding, inner, escape = match.group(1, 2, 3, 4)
        if run:
            count, what = run.split("*", 1)
            return (octets(what) * int(count)).decode("latin-1")
        if encoding is not None:
            encoded = base64.b64encode(octets(inner))
            return (encoded if encoding == "" else encoded.rstrip(b"=")).decode()
        if escape.startswith("x"):
            return chr(int(escape[1:], 16))
        return {"r": "\r", "n": "\n", "t": "\t", "0": "\0", "\\": "\\"}[escape]

    form = r"<(\d+\*[^>]*)>|<b64(-?):([^>]*)>|\\(x[0-9a-f]{2}|[rnt0\\])"
    return re.sub(form, one, text.encode().decode("latin-1")).encode("latin-1")


def write(target, name, flags, wire):
    if len(wire) <= LONGEST:
        plain(SEEDS / target / name, bytes([int(flags), 0x12, len(wire) & 255]) + wire)


def plain(path, wire):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(wire)


MIME = b"""From: scan@x.local\r
To: "Jane, D" <jane@contoso.com>, Staff: a@x.com, b@x.com;\r
Cc: =?utf-8?q?B=C3=BCro?= <b@contoso.com>\r
Subject: scan\r
MIME-Version: 1.0\r
Content-Type: multipart/mixed; boundary="=_ b"\r
\r
preamble\r
--=_ b\r
Content-Type: multipart/related; boundary=in\r
\r
--in\r
Content-Type: text/html; charset=utf-8\r
Content-Transfer-Encoding: quoted-printable\r
\r
<p>=C3=BC=\r
<img src=3D"cid:1"></p>\r
--in\r
Content-Type: image/png; name="../logo.png"\r
Content-ID: <1>\r
Content-Transfer-Encoding: base64\r
\r
iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ\r
--in--\r
--=_ b\r
Content-Type: application/pdf; name*=utf-8''Rechnung%20%C3%BC.pdf\r
Content-Disposition: attachment; filename="a\\\\b.pdf"\r
Content-Transfer-Encoding: base64\r
\r
JVBERi0xLjQKJeLjz9MKMSAwIG9iago8PC9UeXBlL0NhdGFsb2c+PgplbmRvYmoK\r
JVBERi0xLjQKJeLjz9MKMSAwIG9iago8PC9UeXBlL0NhdGFsb2c+PgplbmRvYmo=\r
--=_ b--\r
epilogue\r
"""

FOOT = (
    b'{"version":1,"mailbox":"scan@contoso.com","device":"printer","peer":"192.168.1.7","arrived":1800000000000,'
    b'"envelope":{"sender":"a@b","parameters":["RET=FULL"],"recipients":[{"address":"c@d","parameters":[]}]},'
    b'"size":%d,"bounce":false,"mends":["Date was missing"]}'
)

V2 = b"\r\n\r\n\0\r\nQUIT\n"

# Targets that no dialogue speaks to.
BY_HAND = {
    "challenge": [
        (flags, wire)
        for flags in (8, 9, 10, 0, 1, 2)
        for wire in (
            b'{"status":"400","schemes":"Bearer","scope":"https://outlook.office.com/"}\0g2 NO AUTHENTICATE failed.\r\n',
            b'{"status":"401"}\0-ERR [AUTH] Authentication failure: unknown user name or bad password.\r\n',
            b'{"status":"400"}\0535 5.7.3 Authentication unsuccessful [X.PROD.OUTLOOK.COM]\r\n',
            b"\0g2 OK [CAPABILITY IMAP4rev1 IDLE] AUTHENTICATE completed.\r\n* BYE\r\n",
        )
    ],
    "claims": [
        (1, b'{"aud":"https://outlook.office.com","scp":"IMAP.AccessAsUser.All SMTP.Send","exp":1800000000,"tid":"t","upn":"j@x.com"}'),
        (1, b'{"aud":["a","b"],"roles":["IMAP.AccessAsApp"],"azp":"app","oid":"o","exp":-1}'),
        (0, b"eyJhbGciOiJub25lIn0.eyJhdWQiOiJ4IiwiZXhwIjoxfQ.c2ln"),
        (0, b"ya29.opaque"),
    ],
    "graph_answer": [
        (2, b'{"error":{"code":"ErrorAccessDenied","message":"Access is denied.","innerError":{"request-id":"7a"}}}'),
        (1, b'{"error":{"code":"ErrorInvalidRecipients","message":"At least one\\r\\nrecipient is not valid."}}'),
        (8, b'{"error":{"code":"ApplicationThrottled","message":"Slow down"}}'),
        (9, b"<html>gateway</html>"),
    ],
    "graph_recipients": [(flags, MIME) for flags in range(4)]
    + [(0, b"Bcc: \xff@x.com, d@x.com\r\n\r\n"), (2, b" x: a@x.com\r\n"), (0, b"To: undisclosed-recipients:;\r\nBcc:\r\nX: y\r\n\r\n"), (2, b"bCC : d@x.com,\r\n e@x.com\r\n\r\n")],
    "header": [(flags, MIME) for flags in range(12)]
    + [
        (flags, wire)
        for flags in (0, 1, 2)
        for wire in (
            b"From jane@x Thu Jan  1 1970\nFrom: Scanner scan@x.com\nSender: y@z.local\nBcc: a@b\n\n",
            b"hello\nthere: it is\nFrom: \"Floor 3, \\\"A\\\"\" <a@x.com> (new), b@x.com\n",
            b"From:\n =?iso-8859-1?q?B=FCro?=\n\t<Scan@Contoso.com>\nDate: x\nMessage-ID: <a@b>\n\n",
            b"FROM: <@a.b,@c.d:a@x.com\nFROM: Staff: a@x.de;\nMessage-ID:\n\n",
            b"Received: from x\n\tby y\nReply-To: a@b\nFrom : scan@[IPv6:fe80::1]\nResent-Bcc: x\n",
        )
    ],
    "mime": [(0, MIME), (1, MIME.replace(b"multipart/mixed", b"multipart/signed"))]
    + [
        (0, b"Content-Type: application/pdf\r\nContent-Transfer-Encoding: base64\r\n\r\n" + b"JVBERi0xLjQK\r\n" * 20),
        (0, b"Content-Type: multipart/digest; boundary=\"--=:\"\r\n\r\n----=:\r\n\r\nSubject: a\r\n\r\nb\r\n----=:--\r\n"),
    ],
    "proxy_header": [
        (flags, wire)
        for flags in (0, 1)
        for wire in (
            b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 143\r\na NOOP\r\n",
            b"PROXY TCP6 2001:db8::1 2001:db8::2 1 993\r\n",
            b"PROXY UNKNOWN ffff::1 x\r\n",
            V2 + b"\x20\x00\0\0EHLO x\r\n",
            V2 + b"\x21\x11\0\x0c\xc0\0\2\1\xc6\x33\x64\1\xdc\4\0\x8fEHLO x\r\n",
            V2 + b"\x21\x21\0\x27" + b"\xfd" + bytes(31) + b"\1\2\0\x8f\4\0\0",
            V2 + b"\x21\x11\0\x13\xc0\0\2\1\xc6\x33\x64\1\xdc\4\0\x8f\3\0\4\0\0\0\0",
        )
    ],
    "redirect": [
        (0, b"code=0.AX&state=abc&session_state=1&iss=https%3A%2F%2Flogin.microsoftonline.com%2Ft%2Fv2.0"),
        (0, b"error=access_denied&error_description=AADSTS65004%3A+declined.+Trace+ID%3A+1&state=abc"),
        (0, b"state=a&state=b&code=1"),
    ],
    "sasl": [
        (flags, wire)
        for flags in range(16)
        for wire in (
            b"\0jane@contoso.com\0pass word",
            b"jane\0Jane\0pw",
            b"jane\np\xc3\xa4ss",
            b"AGphbmUAcHc=",
            b"amFuZQ\ncHc= ",
            b"*",
            b"=\n=",
            b"\0ja\x01ne\0pw",
        )
    ],
    "smtp_content": [
        (flags, wire)
        for flags in range(16)
        for wire in (b".\r\n..\r\na\n.\nb\r.\r\r\n\r\n.", b"\n.\r\nMAIL FROM:<evil@x>\r\n\r.\r\n", b"words\r\n\r\n..\r\n")
    ],
    "smtp_submission": [
        (flags, wire)
        for flags in (0x10, 0x21, 0x22, 0x33, 0x3F, 0xB1, 0x70)
        for wire in (
            b"250 2.1.0 ok\r\n250 2.1.5 ok\r\n354 go on\r\n250 2.0.0 OK <x@y>\r\n",
            b"250-one\r\n250 two\r\n250 ok\r\n550 5.1.1 nobody\r\n250 ok\r\n354 x\r\n250 2.6.0 queued\r\n",
            b"250 ok\r\n250 ok\r\n250 ok\r\n554 5.2.0 SubmissionQuotaExceededException\r\n250 reset\r\n",
            b"432 4.3.2 Concurrent connections limit exceeded\r\n503 x\r\n503 x\r\n503 x\r\n",
            b"421 4.4.2 Suggested Backoff Time: 1500 milliseconds\r\n",
            b"535 5.7.139 SmtpClientAuthentication is disabled for the Tenant.\r\n",
        )
    ],
    "smtp_watch": [
        (2, b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nx\r\n.\r\n\x00250 ok\r\n250-x\r\n250 ok\r\n354 x\r\n554 no\r\n"),
        (4, b"MAIL FROM:<a@b> SIZE=9\r\nRCPT TO:<c@good.example>\r\nBDAT 3\r\nabcBDAT 3 LAST\r\ndefQUIT\r\n"),
        (12, b"QUIT\r\nBDAT\r\n"),
        (12, b"MAIL FROM:<a@b>\r\nRCPT TO:<c@good.example>\r\nBDAT 1 LAST\r\nxBDAT\r\n"),
        (5, b"MAIL FROM:<a@b>\r\nRCPT TO:<c@good.example>\r\nDATA\r\nx\n.\nRCPT TO:<x@evil.com>\r\n.\r\n"),
    ],
    "spool_entry": [
        (1, b"Subject: x\r\n\r\n\0" + FOOT % 14),
        (1, b"\0" + FOOT % 0),
        (0, b'{"attempts":3,"next_try":1,"last_error":"x","done":["a@b"],"refused":[["c@d","550 no"]],"renewed":null}'),
    ],
    "token_response": [
        (0, b'\n{"token_type":"Bearer","expires_in":4799,"ext_expires_in":4799,"refresh_in":2399,"access_token":"eyJ0","refresh_token":"0.A"}'),
        (0, b'\n{"access_token":"a","expires_in":"5","refresh_in":1e300}'),
        (2, b'\n{"error":"invalid_grant","error_description":"AADSTS50173: revoked.\\r\\nTrace ID: 77","error_codes":[50173],"trace_id":"77"}'),
        (14, b"17\n{}"),
        (14, b"Wed, 21 Oct 2026 07:28:00 GMT\n<html>busy</html>"),
        (2, b'\n{"error":"authorization_pending"}'),
        (3, b'\n{"error":"temporarily_unavailable","error_codes":[90033]}'),
        (0, b'\n{"device_code":"d","user_code":"ABC","verification_url":"https://x/device","expires_in":900,"interval":5}'),
        (0, b'\n["a","r",3600,60]'),
    ],
}

main()
