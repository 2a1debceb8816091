"""Python's mail libraries: library.py NAME PROTOCOL TLS PORT USER PASSWORD CA SENDER RECIPIENT.

What reads prints message 1 of the inbox; what sends takes the message from standard input.
"""

import asyncio
import base64
import imaplib
import poplib
import smtplib
import ssl
import sys

NAME, PROTOCOL, TLS, PORT, USER, PASSWORD, CA, SENDER, RECIPIENT = sys.argv[1:]
PORT = int(PORT)
CONTEXT = ssl.create_default_context(cafile=CA)
SECONDS = 30


def main():
    read = {
        "imaplib-login": lambda: imap(lambda server: server.login(USER, PASSWORD)),
        "imaplib-plain": lambda: imap(lambda server: server.authenticate("PLAIN", plain_response)),
        "imaplib-auth-login": lambda: imap(lambda server: server.authenticate("LOGIN", prompted())),
        "imapclient": imapclient,
        "aioimaplib": lambda: asyncio.run(aioimaplib_fetch()),
        "poplib-user": lambda: pop3(pop3_user),
        "poplib-plain": lambda: pop3(pop3_plain),
        "poplib-auth-login": lambda: pop3(pop3_login),
    }
    send = {
        "smtplib": lambda message: smtp(message, lambda server: server.login(USER, PASSWORD)),
        "smtplib-login": lambda message: smtp(message, smtp_login),
        "smtplib-two-lines": lambda message: smtp(
            message, lambda server: server.login(USER, PASSWORD, initial_response_ok=False)),
        "aiosmtplib": lambda message: asyncio.run(aiosmtplib_send(message)),
    }
    if NAME in read:
        sys.stdout.buffer.write(read[NAME]())
    else:
        send[NAME](sys.stdin.buffer.read())


def plain_response(_challenge):
    return f"\0{USER}\0{PASSWORD}".encode()


def prompted():
    """Answers AUTHENTICATE LOGIN, whose prompts clients compare word for word."""
    answers = {b"Username:": USER, b"Password:": PASSWORD}
    return lambda prompt: answers[prompt].encode()


def imap(login):
    if TLS == "implicit":
        server = imaplib.IMAP4_SSL("localhost", PORT, ssl_context=CONTEXT, timeout=SECONDS)
    else:
        server = imaplib.IMAP4("localhost", PORT, timeout=SECONDS)
    if TLS == "starttls":
        server.starttls(CONTEXT)
    login(server)
    server.select("INBOX", readonly=True)
    message = server.fetch("1", "(BODY.PEEK[])")[1][0][1]
    server.logout()
    return message


def imapclient():
    import imapclient as library
    server = library.IMAPClient("localhost", PORT, ssl=TLS == "implicit", ssl_context=CONTEXT, timeout=SECONDS)
    if TLS == "starttls":
        server.starttls(CONTEXT)
    server.login(USER, PASSWORD)
    server.select_folder("INBOX", readonly=True)
    message = server.fetch([1], ["BODY.PEEK[]"])[1][b"BODY[]"]
    server.logout()
    return message


async def aioimaplib_fetch():
    import aioimaplib as library
    if TLS == "implicit":
        server = library.IMAP4_SSL("localhost", PORT, timeout=SECONDS, ssl_context=CONTEXT)
    else:
        server = library.IMAP4("localhost", PORT, timeout=SECONDS)
    await server.wait_hello_from_server()
    answer = await server.login(USER, PASSWORD)
    if answer.result != "OK":
        raise SystemExit(f"LOGIN: {answer}")
    await server.select("INBOX")
    fetched = await server.fetch("1", "(BODY.PEEK[])")
    await server.logout()
    return bytes(fetched.lines[1])


def pop3(login):
    if TLS == "implicit":
        server = poplib.POP3_SSL("localhost", PORT, context=CONTEXT, timeout=SECONDS)
    else:
        server = poplib.POP3("localhost", PORT, timeout=SECONDS)
    if TLS == "starttls":
        server.stls(CONTEXT)
    login(server)
    message = b"\n".join(server.retr(1)[1])
    server.quit()
    return message


def pop3_user(server):
    server.user(USER)
    server.pass_(PASSWORD)


def pop3_plain(server):
    server._shortcmd("AUTH PLAIN")
    server._shortcmd(encode(plain_response(None)))


def pop3_login(server):
    answer = prompted()
    prompt = server._shortcmd("AUTH LOGIN")
    for _ in range(2):
        prompt = server._shortcmd(encode(answer(base64.b64decode(prompt.split()[1]))))
    if not prompt.startswith(b"+OK"):
        raise SystemExit(f"AUTH LOGIN: {prompt}")


def encode(octets):
    return base64.b64encode(octets).decode()


def smtp(message, login):
    if TLS == "implicit":
        server = smtplib.SMTP_SSL("localhost", PORT, context=CONTEXT, timeout=SECONDS)
    else:
        server = smtplib.SMTP("localhost", PORT, timeout=SECONDS)
    if TLS == "starttls":
        server.starttls(context=CONTEXT)
    login(server)
    server.sendmail(SENDER, [RECIPIENT], message)
    server.quit()


def smtp_login(server):
    server.user, server.password = USER, PASSWORD
    server.ehlo()
    server.auth("LOGIN", server.auth_login, initial_response_ok=False)


async def aiosmtplib_send(message):
    import aiosmtplib as library
    await library.send(
        message, sender=SENDER, recipients=[RECIPIENT], hostname="localhost", port=PORT, timeout=SECONDS,
        username=USER, password=PASSWORD, tls_context=CONTEXT,
        use_tls=TLS == "implicit", start_tls=TLS == "starttls")


main()
