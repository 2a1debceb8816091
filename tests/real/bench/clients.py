"""The table of real clients: how each is told where to log in, and what it is to do there.

A row is data: a command, perhaps a configuration file, and the words in which it differs between
a plain listener, STARTTLS and implicit TLS. A client that reads prints the message or leaves it
in $got; a client that sends gets the message as a file, on its standard input, or in words.
"""

import getpass
import os
import pty
import string
import subprocess
import sys
import threading
import urllib.parse
from dataclasses import dataclass, field

from bench.mail import BODY, Message
from bench.processes import REAL, Failure, run, text

SCRIPTS = REAL / "clients"
PLAIN, STARTTLS, IMPLICIT = "none", "starttls", "implicit"


@dataclass
class Client:
    name: str
    protocol: str
    command: list
    config: str = ""
    words: dict = field(default_factory=lambda: {PLAIN: {}, STARTTLS: {}, IMPLICIT: {}})
    given: str = ""         # standard input: a file of the visit's folder, or text
    terminal: bool = False  # the client insists on one
    dots: bool = True       # False: it does not double the dots that begin a line (RFC 5321 section 4.5.2)
    uploads: bool = False   # also leaves a message of the maildir $got/box in the mailbox


@dataclass
class Door:
    """A listener, and what opens it."""
    protocol: str
    tls: str
    port: int
    user: str
    password: str
    ca: object


def visit(client, door, servers, folder):
    """One client at one door: logs in, reads or sends, and what came through is compared."""
    seeded = servers.seeded[door.user]
    body = BODY if client.dots else [line for line in BODY if not line.startswith(".")]
    message = Message(door.user, "someone@fabrikam.test", body)
    got = prepare(folder, message)
    values = values_of(client, door, folder, message)
    (folder / "config").write_text(fill(client.config, values))
    (folder / "config").chmod(0o600)
    upload = Message("someone@fabrikam.test", door.user)
    if client.uploads:
        (got / "box" / "new" / f"1.{upload.mark}.bench").write_bytes(upload.octets("\n"))
    printed = execute(client, values, folder)
    if client.protocol == "smtp":
        servers.sent.must_have(message)
        return
    seeded.must_be_in(printed + b"".join(at.read_bytes() for at in got.rglob("*") if at.is_file()))
    if client.uploads:
        upload.must_be_in(servers.mailboxes.wait_for(door.user, upload.mark))


def prepare(folder, message):
    got = folder / "got"
    for part in ["cur", "new", "tmp"]:  # some clients want their maildir to be there
        (got / "box" / part).mkdir(parents=True)
    (folder / "message").write_bytes(message.octets("\n"))
    (folder / "message.crlf").write_bytes(message.octets())
    (folder / "body").write_text(message.body_text())
    return got


def values_of(client, door, folder, message):
    return {
        "host": "localhost", "port": door.port, "user": door.user, "password": door.password,
        "user_url": urllib.parse.quote(door.user, safe=""),
        "password_url": urllib.parse.quote(door.password, safe=""),
        "ca": door.ca, "tls": door.tls, "protocol": door.protocol,
        "folder": folder, "got": folder / "got", "config": folder / "config", "scripts": SCRIPTS,
        "python": sys.executable, "me": getpass.getuser(),
        "sender": message.sender, "recipient": message.recipient, "subject": message.subject,
        "body": message.body_text().rstrip("\n"),
        **client.words[door.tls],
    }


def fill(template, values):
    return string.Template(template).substitute(values)


def execute(client, values, folder):
    argv = [filled for part in client.command if (filled := fill(part, values)) != ""]
    # Each visit has its own home: no client finds another's state, or that of the machine's user.
    env = {"HOME": str(folder), "SSL_CERT_FILE": str(values["ca"]), "TERM": "xterm", "LC_ALL": "C.UTF-8",
           "MAILRC": "/dev/null", "XDG_CONFIG_HOME": str(folder), "XDG_CACHE_HOME": str(folder)}
    if client.terminal:
        return run_in_terminal(argv, env, folder)
    given = fill(client.given, values)
    source = folder / given
    given = source.read_bytes() if given and "\n" not in given and source.exists() else given
    return run(argv, given=given, env=env, cwd=folder)


def run_in_terminal(argv, env, folder, seconds=60):
    """For clients that want to draw: what they draw is kept only for the failure's text."""
    ours, theirs = pty.openpty()
    client = subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder,
                              env={**os.environ, **env}, start_new_session=True)
    os.close(theirs)
    drawn = bytearray()
    reader = threading.Thread(target=drain, args=(ours, drawn), daemon=True)
    reader.start()
    try:
        client.wait(seconds)
    except subprocess.TimeoutExpired:
        raise Failure(f"{argv[0]} took over {seconds} s\n{text(bytes(drawn))}") from None
    finally:
        client.kill()
        client.wait()
        reader.join(5)
        os.close(ours)
    if client.returncode != 0:
        raise Failure(f"{argv[0]} ended with status {client.returncode}\n{text(bytes(drawn))}")
    return b""


def drain(terminal, drawn):
    while True:
        try:
            drawn += os.read(terminal, 4096)
        except OSError:  # the client has closed its side
            return


def differing(name, plain, starttls, implicit):
    """The values of one word on the three kinds of listener; None where the client cannot do it."""
    by_tls = {PLAIN: plain, STARTTLS: starttls, IMPLICIT: implicit}
    return {tls: {name: value} for tls, value in by_tls.items() if value is not None}


def combined(*words):
    """Several words at once, on the listeners that all of them know."""
    known = set.intersection(*(set(word) for word in words))
    return {tls: {key: value for word in words for key, value in word[tls].items()} for tls in known}


# --- curl ------------------------------------------------------------------------------------------

def curl(name, protocol, *options):
    secure = {"imap": "imaps", "pop3": "pop3s", "smtp": "smtps"}[protocol]
    path = {"imap": "INBOX;MAILINDEX=1", "pop3": "1", "smtp": "bench.test"}[protocol]
    send = ["--mail-from", "$sender", "--mail-rcpt", "$recipient", "--upload-file", "message.crlf"]
    return Client(
        name, protocol,
        ["curl", "-sS", "--max-time", "50", "--cacert", "$ca", "--user", "$user:$password", "$need_tls",
         f"$scheme://$host:$port/{path}", *options, *(send if protocol == "smtp" else [])],
        words=combined(differing("scheme", protocol, protocol, secure),
                       differing("need_tls", "", "--ssl-reqd", "")))


CURL = [curl("curl", protocol) for protocol in ["imap", "pop3", "smtp"]] + [
    curl("curl PLAIN at once", protocol, "--sasl-ir", "--login-options", "AUTH=PLAIN")
    for protocol in ["imap", "pop3", "smtp"]] + [
    curl("curl AUTH LOGIN", protocol, "--login-options", "AUTH=LOGIN")
    for protocol in ["imap", "pop3", "smtp"]]

# --- libraries, each behind a small script of its language -----------------------------------------

def library(name, protocol, *command, words=None):
    row = Client(name, protocol,
                 [*command, "$protocol", "$tls", "$port", "$user", "$password", "$ca", "$sender", "$recipient"],
                 given="message.crlf" if protocol == "smtp" else "")
    if words:
        row.words = words
    return row


def python(name, protocol, library_name):
    return library(name, protocol, "$python", "$scripts/library.py", library_name)


def node(name, protocol, library_name, *mechanism, words=None):
    return library(name, protocol, "node", "$scripts/library.mjs", library_name, *mechanism, words=words)


JAVAMAIL = "/usr/share/java/javax.mail.jar:/usr/share/java/javax.activation.jar"
NO_STARTTLS = differing("start", "", None, "")

LIBRARIES = [
    python("Python imaplib LOGIN", "imap", "imaplib-login"),
    python("Python imaplib AUTHENTICATE PLAIN", "imap", "imaplib-plain"),
    python("Python imaplib AUTHENTICATE LOGIN", "imap", "imaplib-auth-login"),
    python("Python IMAPClient", "imap", "imapclient"),
    library("Python aioimaplib", "imap", "$python", "$scripts/library.py", "aioimaplib", words=NO_STARTTLS),
    python("Python poplib USER", "pop3", "poplib-user"),
    python("Python poplib AUTH PLAIN", "pop3", "poplib-plain"),
    python("Python poplib AUTH LOGIN", "pop3", "poplib-auth-login"),
    python("Python smtplib", "smtp", "smtplib"),
    python("Python smtplib AUTH LOGIN", "smtp", "smtplib-login"),
    python("Python smtplib without initial response", "smtp", "smtplib-two-lines"),
    python("Python aiosmtplib", "smtp", "aiosmtplib"),
    library("Perl Mail::IMAPClient", "imap", "perl", "$scripts/library.pl", "Mail::IMAPClient"),
    library("Perl Net::IMAP::Simple", "imap", "perl", "$scripts/library.pl", "Net::IMAP::Simple", words=NO_STARTTLS),
    library("Perl Net::POP3", "pop3", "perl", "$scripts/library.pl", "Net::POP3"),
    library("Perl Mail::POP3Client", "pop3", "perl", "$scripts/library.pl", "Mail::POP3Client", words=NO_STARTTLS),
    library("Perl Net::SMTP", "smtp", "perl", "$scripts/library.pl", "Net::SMTP"),
    library("Ruby net-imap LOGIN", "imap", "ruby", "$scripts/library.rb", "login"),
    library("Ruby net-imap AUTHENTICATE PLAIN", "imap", "ruby", "$scripts/library.rb", "plain"),
    library("Ruby net-pop", "pop3", "ruby", "$scripts/library.rb", "user", words=NO_STARTTLS),
    library("Ruby net-smtp PLAIN", "smtp", "ruby", "$scripts/library.rb", "plain"),
    library("Ruby net-smtp LOGIN", "smtp", "ruby", "$scripts/library.rb", "login"),
    # Behind STARTTLS PHP's imap speaks TLS 1.0 alone, which nobody offers any more.
    library("PHP imap", "imap", "php", "$scripts/library.php", words=NO_STARTTLS),
    library("PHP imap", "pop3", "php", "$scripts/library.php", words=NO_STARTTLS),
    node("Node imapflow", "imap", "imapflow"),
    node("Node imap", "imap", "imap"),
    node("Node node-pop3", "pop3", "node-pop3", words=NO_STARTTLS),
    node("Node nodemailer", "smtp", "nodemailer"),
    node("Node nodemailer LOGIN", "smtp", "nodemailer", "LOGIN"),
    *[library("JavaMail", protocol, "java", "-XX:TieredStopAtLevel=1", "-cp", JAVAMAIL, "$scripts/Library.java") for protocol in ["imap", "pop3", "smtp"]],
    *[Client(f"PHPMailer {mechanism}", "smtp", [
        "php", "$scripts/phpmailer.php", mechanism, "smtp", "$tls", "$port", "$user", "$password", "$ca", "$sender",
        "$recipient", "$subject"], given="body") for mechanism in ["default", "LOGIN", "PLAIN"]],
]

# --- programs that fetch ---------------------------------------------------------------------------

MBSYNC = """\
IMAPAccount gatepost
Host $host
Port $port
User $user
Pass "$password"
SSLType $ssl
CertificateFile $ca
AuthMechs $mechanism

IMAPStore far
Account gatepost

MaildirStore near
Inbox $got/box
Path $got/

Channel all
Far :far:
Near :near:
Sync All
Create Near
SyncState *
"""

FETCHMAIL = """\
poll $host service $port protocol $fetch_protocol
  user "$user" password "$password" is root here
  $ssl sslcertck sslcertfile "$ca"
  keep fetchall
  mda "cat >> $got/mail"
"""

GETMAIL = """\
[retriever]
type = Simple$retriever
server = $host
port = $port
username = $user
password = $password
$more
[destination]
type = MDA_external
path = /usr/bin/tee
arguments = ("-a", "$got/mail")
allow_root_commands = true
[options]
delete = false
"""

OFFLINEIMAP = """\
[general]
accounts = gatepost
metadata = $folder/state
[Account gatepost]
localrepository = near
remoterepository = far
[Repository near]
type = Maildir
localfolders = $got
[Repository far]
type = IMAP
readonly = yes
remotehost = $host
remoteport = $port
remoteuser = $user
remotepass = $password
auth_mechanisms = $mechanism
ssl = $ssl
starttls = $starttls
sslcacertfile = $ca
"""

MPOP = """\
account default
host $host
port $port
user $user
password $password
auth $mechanism
tls $ssl
tls_starttls $starttls
tls_trust_file $ca
keep on
delivery maildir $got/box
"""

FDM = """\
set lock-file "$folder/lock"
set no-received
set default-user "$me"
action "keep" maildir "$got/box"
account "gatepost" $account server "$host" port $port user "$user" pass "$password" $options
match all action "keep"
"""

IMAPFILTER = """\
options.timeout = 30
options.starttls = $starttls
account = IMAP { server = '$host', port = $port, username = '$user', password = '$password'$ssl }
print(account.INBOX[1]:fetch_message())
"""

MUTT = """\
set folder = ""
set imap_user = "$user"
set imap_pass = "$password"
set imap_authenticators = "$mechanism"
set pop_user = "$user"
set pop_pass = "$password"
set pop_authenticators = "$mechanism"
set smtp_url = "$scheme://$user@$host:$port/"
set smtp_pass = "$password"
set smtp_authenticators = "$mechanism"
set from = "$sender"
set realname = ""
set use_envelope_from
set envelope_from_address = "$sender"
set ssl_starttls = $starttls
set ssl_force_tls = $ssl
set ssl_ca_certificates_file = "$ca"
set certificate_file = "$ca"
set record = ""
set copy = no
set confirmappend = no
set confirmcreate = no
set mbox_type = mbox
set sleep_time = 0
set quit = yes
"""

TLS_SWITCHES = combined(differing("ssl", "off", "on", "on"), differing("starttls", "off", "on", "off"))
YES_NO = combined(differing("ssl", "no", "yes", "yes"), differing("starttls", "no", "yes", "no"))


def mutt(name, protocol, mechanism):
    words = combined(YES_NO, differing("scheme", *{
        "imap": ["imap", "imap", "imaps"], "pop3": ["pop", "pop", "pops"], "smtp": ["smtp", "smtp", "smtps"],
    }[protocol]), differing("mechanism", *[mechanism] * 3))
    program = name.split()[0]
    if protocol == "smtp":
        return Client(name, protocol, [program, "-n", "-F", "$config", "-s", "$subject", "--", "$recipient"],
                      config=MUTT, words=words, given="body")
    save = "<first-entry><copy-message>$got/mail<enter><exit>"
    return Client(name, protocol, [program, "-n", "-F", "$config", "-R", "-f", "$scheme://$host:$port/",
                                   "-e", f"push '{save}'"], config=MUTT, words=words, terminal=True)


def mbsync(name, mechanism):
    return Client(name, "imap", ["mbsync", "-c", "$config", "all"], config=MBSYNC, uploads=True,
                  words=combined(differing("ssl", "None", "STARTTLS", "IMAPS"),
                                 differing("mechanism", *[mechanism] * 3)))


def fetchmail(protocol, fetch_protocol):
    # Without "ssl" and with a protocol version it asks for STARTTLS, and fails where there is none.
    return Client("fetchmail", protocol,
                  ["fetchmail", "--fetchmailrc", "$config", "--nodetach", "--pidfile", "$folder/pid", "--verbose"],
                  config=FETCHMAIL,
                  words=combined(differing("ssl", "sslproto ''", "sslproto 'TLS1.2+'", "ssl"),
                                 differing("fetch_protocol", *[fetch_protocol] * 3)))


def getmail(protocol, kind, more):
    return Client("getmail", protocol, ["getmail", "--rcfile", "config", "--getmaildir", "$folder"], config=GETMAIL,
                  words=combined(differing("retriever", f"{kind}Retriever", None, f"{kind}SSLRetriever"),
                                 differing("more", more, None, more)))


FETCHING = [
    mbsync("mbsync LOGIN", "LOGIN"),
    mbsync("mbsync PLAIN", "PLAIN"),
    fetchmail("imap", "imap"),
    fetchmail("pop3", "pop3"),
    getmail("imap", "IMAP", 'mailboxes = ("INBOX",)'),
    getmail("pop3", "POP3", ""),
    # Behind STARTTLS imaplib2 now and then sends nothing once TLS is on, and waits for ever: its reading thread
    # and the handshake share the socket.
    *[Client(f"offlineimap {mechanism}", "imap", ["offlineimap", "-o", "-c", "$config", "-u", "basic"], config=OFFLINEIMAP,
             words=combined(differing("ssl", "no", None, "yes"), differing("starttls", "no", None, "no"),
                            differing("mechanism", *[mechanism] * 3))) for mechanism in ["PLAIN", "LOGIN"]],
    *[Client(f"mpop {mechanism}", "pop3", ["mpop", "--file", "$config"], config=MPOP,
             words=combined(TLS_SWITCHES, differing("mechanism", *[mechanism] * 3))) for mechanism in ["user", "plain", "login"]],
    *[Client("fdm", protocol, ["fdm", "-f", "$config", "-k", "fetch"], config=FDM,
             words=combined(differing("account", protocol, protocol, f"{protocol}s"),
                            differing("options", "", "starttls", ""))) for protocol in ["imap", "pop3"]],
    Client("imapfilter", "imap", ["imapfilter", "-t", "$ca", "-c", "$config"], config=IMAPFILTER,
           words=combined(differing("starttls", "false", "true", "false"), differing("ssl", "", "", ", ssl = 'auto'"))),
    mutt("mutt", "imap", ""),
    mutt("mutt AUTHENTICATE LOGIN", "imap", "login"),
    mutt("mutt", "pop3", ""),
    mutt("neomutt", "imap", ""),
    mutt("neomutt", "pop3", ""),
    *[Client("s-nail", protocol, [
        "s-nail", "-:/", "-#", "-R", "-S", "v15-compat", "-S", "tls-ca-file=$ca", "-S", "tls-ca-no-defaults", "$start",
        "-f", "$scheme://$user_url:$password_url@$host:$port"], given="type 1\nexit\n",
        words=combined(differing("scheme", protocol, protocol, f"{protocol}s"),
                       differing("start", "", f"-S{protocol}-use-starttls", ""))) for protocol in ["imap", "pop3"]],
    *[Client("mailutils", protocol, ["movemail", "--preserve", "--config-verbose", "$scheme://$user_url:$password_url@$host:$port$option", "$got/mail"],
             words=combined(differing("scheme", scheme, scheme, f"{scheme}s"), differing("option", ";notls", "", "")))
      for protocol, scheme in [("imap", "imap"), ("pop3", "pop")]],
]

# --- programs that send ----------------------------------------------------------------------------

MSMTP = """\
account default
host $host
port $port
from $sender
user $user
password $password
auth $mechanism
tls $ssl
tls_starttls $starttls
tls_trust_file $ca
"""

ESMTP = """\
hostname = $host:$port
username = "$user"
password = "$password"
starttls = $starttls
"""


def swaks(mechanism):
    return Client(f"swaks {mechanism}", "smtp", [
        "swaks", "--server", "$host", "--port", "$port", "$start", "$verify", "--auth", mechanism, "--auth-user", "$user",
        "--auth-password", "$password", "--from", "$sender", "--to", "$recipient", "--data", "@message"],
        words=combined(differing("start", "", "--tls", "--tls-on-connect"), differing("verify", "", "--tls-verify", "--tls-verify")))


SENDING = [
    *[Client(f"msmtp {mechanism}", "smtp", ["msmtp", "--file", "$config", "--", "$recipient"], config=MSMTP, given="message",
             words=combined(TLS_SWITCHES, differing("mechanism", *[mechanism] * 3))) for mechanism in ["plain", "login"]],
    swaks("PLAIN"),
    swaks("LOGIN"),
    # Behind STARTTLS libesmtp now and then waits for ever, also when it talks to Dovecot itself.
    Client("esmtp", "smtp", ["esmtp", "-C", "$config", "-f", "$sender", "$recipient"], config=ESMTP, given="message",
           words=differing("starttls", "disabled", None, None)),
    mutt("mutt", "smtp", ""),
    mutt("neomutt", "smtp", ""),
    Client("s-nail", "smtp", [
        "s-nail", "-:/", "-#", "-S", "v15-compat", "-S", "tls-ca-file=$ca", "-S", "tls-ca-no-defaults", "$start",
        "-S", "mta=$scheme://$user_url:$password_url@$host:$port", "-S", "from=$sender", "-r", "$sender", "-s", "$subject", "$recipient"],
        given="body", words=combined(differing("scheme", "smtp", "smtp", "smtps"), differing("start", "", "-Ssmtp-use-starttls", ""))),
    Client("mailutils", "smtp", [
        "mail.mailutils", "-r", "$sender", "-s", "$subject",
        "--exec", "set sendmail=$scheme://$user_url:$password_url@$host:$port$option", "$recipient"],
        given="body", words=combined(differing("scheme", "smtp", "smtp", "smtps"), differing("option", ";notls", "", ""))),
    Client("sendEmail", "smtp", [
        "sendEmail", "-f", "$sender", "-t", "$recipient", "-u", "$subject", "-s", "$host:$port", "-xu", "$user",
        "-xp", "$password", "-o", "tls=$ssl", "-o", "message-file=body"],
        words=differing("ssl", "no", "yes", None), dots=False),
]

CLIENTS = CURL + LIBRARIES + FETCHING + SENDING
