"""The authorization server, and what the tests ask of it."""

import json
import urllib.error
import urllib.parse
import urllib.request

from bench.processes import REAL, Failure


class TokenServer:
    def __init__(self, ground, clients, people):
        setup = json.dumps({"clients": clients, "people": people})
        self.clients = {client["id"]: client for client in clients}
        self.process = ground.start("oidc", ["node", REAL / "oidc" / "server.js"], given=setup)
        line = self.process.wait_for("its ports", lambda: self.process.out.read_text().endswith("\n")
                                     and self.process.out.read_text())
        ports = json.loads(line)
        self.issuer = f"http://127.0.0.1:{ports['tokens']}"
        self.token_url = f"{self.issuer}/token"
        self.tests = f"http://127.0.0.1:{ports['tests']}"
        self.key = (ports["key"], ask(f"{self.tests}/public-key"))

    def mint_refresh_token(self, client, mailbox):
        """A refresh token as a sign-in would have brought it."""
        return ask(f"{self.tests}/refresh-token", json.dumps({"client": client, "mailbox": mailbox}))

    def issued(self):
        return json.loads(ask(f"{self.tests}/issued"))

    def requests_of(self, client):
        return [request for request in self.issued()["requests"] if request["client"] == client]

    def revocations_of(self, client):
        """How often the server has ended a whole sign-in, since a refresh token or code came twice."""
        return sum(revoked["client"] == client for revoked in self.issued()["revoked"])

    def revoke(self, client, mailbox):
        """Ends a person's sign-in, as an administrator does."""
        ask(f"{self.tests}/revoke", json.dumps({"client": client, "mailbox": mailbox}))

    def secrets(self):
        """All tokens that were ever given out."""
        return self.issued()["secrets"]

    def app_token(self, client, scope="mail"):
        return self.grant(grant_type="client_credentials", client_id=client,
                          client_secret=self.clients[client]["secret"], scope=scope)["access_token"]

    def refresh(self, client, refresh_token):
        return self.grant(grant_type="refresh_token", client_id=client,
                          refresh_token=refresh_token, scope="mail offline_access")

    def grant(self, **form):
        return json.loads(ask(self.token_url, urllib.parse.urlencode(form)))


def ask(url, body=None):
    try:
        with urllib.request.urlopen(url, data=body.encode() if body else None, timeout=15) as answer:
            return answer.read().decode()
    except urllib.error.HTTPError as refused:
        raise Failure(f"{url} answered {refused.code}: {refused.read().decode(errors='replace')}") from None
