"""Dovecot as the upstream: IMAP, POP3 and submission, XOAUTH2 only.

It runs without privileges from a generated configuration, in the foreground, in its own folder.
"""

import grp
import os
import pwd
import shutil

from bench.processes import CERTS, accepts

PROTOCOLS = ["imap", "pop3", "smtp"]

# Three kinds of token open a mailbox, each by a claim of its own (see oidc/server.js). In the last,
# user name and claim are both cut down to their domain: app-only tokens open all of its mailboxes.
PASSDBS = [("email", "%Lu"), ("shared", "%Lu"), ("domain", "%Ld")]


def unprivileged():
    """Dovecot refuses to read mail as root, so there it is run as nobody."""
    if os.geteuid() != 0:
        return None
    nobody = pwd.getpwnam("nobody")
    return nobody.pw_uid, nobody.pw_gid


class Dovecot:
    def __init__(self, ground, mailboxes, sink_port, issuer, key):
        self.ground = ground
        self.folder = ground.subfolder("dovecot")
        self.mailboxes = mailboxes
        self.ports = {(protocol, tls): ground.ports.next()
                      for protocol in PROTOCOLS for tls in ["starttls", "implicit"]}
        self.process = None
        self.write(sink_port, issuer, key)

    def write(self, sink_port, issuer, key):
        key_id, public_key = key
        at = self.folder / "keys" / "default" / "RS256"
        at.mkdir(parents=True)
        (at / key_id).write_text(public_key)
        for name in ["localhost.pem", "localhost.key"]:
            shutil.copy(CERTS / name, self.folder / name)
        for number, (claim, form) in enumerate(PASSDBS):
            (self.folder / f"oauth2-{number}.conf").write_text(OAUTH2.format(
                keys=self.folder / "keys", claim=claim, form=form, issuer=issuer))
        self.configuration().write_text(self.main_file(sink_port))
        if owner := self.mailboxes.owner:
            for path in [self.folder, *self.folder.rglob("*")]:
                os.chown(path, *owner)

    def configuration(self):
        return self.folder / "dovecot.conf"

    def main_file(self, sink_port):
        me = pwd.getpwuid(self.mailboxes.owner[0] if self.mailboxes.owner else os.geteuid())
        group = me.pw_gid
        return MAIN.format(
            folder=self.folder, user=me.pw_name, group=grp_name(group), mail=self.mailboxes.root,
            sink_port=sink_port,
            passdbs="\n".join(f"passdb {{\n  driver = oauth2\n  mechanisms = xoauth2\n"
                              f"  args = {self.folder}/oauth2-{number}.conf\n}}"
                              for number in range(len(PASSDBS))),
            **{f"{protocol}_{tls}": port for (protocol, tls), port in self.ports.items()},
        )

    def start(self):
        self.process = self.ground.start(
            "dovecot", ["/usr/sbin/dovecot", "-F", "-c", self.configuration()], user=self.mailboxes.owner)
        self.process.wait_for("its ports", lambda: all(accepts(port) for port in self.ports.values()))

    def stop(self):
        self.process.stop()

    def log(self):
        at = self.folder / "dovecot.log"
        return at.read_text(errors="replace") if at.exists() else ""


def grp_name(gid):
    return grp.getgrgid(gid).gr_name


OAUTH2 = """\
introspection_mode = local
local_validation_key_dict = fs:posix:prefix={keys}/
issuers = {issuer}
scope = mail
username_attribute = {claim}
username_format = {form}
"""

MAIN = """\
base_dir = {folder}/run
state_dir = {folder}/state
log_path = {folder}/dovecot.log
auth_verbose = yes

protocols = imap pop3 submission
listen = 127.0.0.1, ::1
hostname = mail.contoso.test

# One user for everything: no part needs a privilege, and no part may change its root.
default_internal_user = {user}
default_internal_group = {group}
default_login_user = {user}
service anvil {{
  chroot =
  # Many tests fail a login on purpose, and must not slow down the others.
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service imap-login {{
  chroot =
  inet_listener imap {{
    port = {imap_starttls}
  }}
  inet_listener imaps {{
    port = {imap_implicit}
    ssl = yes
  }}
}}
service pop3-login {{
  chroot =
  inet_listener pop3 {{
    port = {pop3_starttls}
  }}
  inet_listener pop3s {{
    port = {pop3_implicit}
    ssl = yes
  }}
}}
service submission-login {{
  chroot =
  inet_listener submission {{
    port = {smtp_starttls}
  }}
  inet_listener submissions {{
    port = {smtp_implicit}
    ssl = yes
  }}
}}
service stats {{
  chroot =
}}

ssl = required
ssl_cert = <{folder}/localhost.pem
ssl_key = <{folder}/localhost.key

auth_mechanisms = xoauth2
auth_failure_delay = 0
{passdbs}
userdb {{
  driver = static
  args = uid={user} gid={group} home={mail}/%Lu
}}

first_valid_uid = 1
mail_location = maildir:~/
mail_max_userip_connections = 200
mail_plugins = zlib
protocol imap {{
  mail_plugins = zlib imap_zlib
}}
namespace inbox {{
  inbox = yes
  separator = /
}}

submission_relay_host = 127.0.0.1
submission_relay_port = {sink_port}
submission_relay_ssl = no
submission_max_mail_size = 50M
"""
