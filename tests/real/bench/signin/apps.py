"""The apps at the authorization server that people, devices and certificates sign in to, and the people.

Tests that count requests have an app of their own.
"""

import secrets

LOCALHOST = "http://localhost"  # with any port, as it is registered at Entra
FIXED = "http://127.0.0.1/callback"
ELSEWHERE = "https://client.invalid/back"

# By browser. "brief" tokens live so short that a minute sees many renewals.
BROWSER, FOREIGN, REPLICAS, WATCHED = "by-browser", "by-browser-foreign", "replicas", "watched"
BRIEF_LIFE = 4
SECRET = f"client-secret-{secrets.token_hex(8)}"

TYPED, INTERRUPTED, DENIED = "device-typed", "device-interrupted", "device-denied"

# One for each form of a key.
CERTIFIED = [f"certified-{number}" for number in range(1, 11)]
UNPROVEN, REPLACED = "certified-unproven", "certified-brief"

JOHN = "john@contoso.test"


def clients(keys, domain):
    """What the server is told of them."""
    people = {"grant": "refresh_token", "redirectUris": [LOCALHOST, FIXED, ELSEWHERE]}
    by_certificate = {"grant": "client_credentials", "domain": domain}
    return [
        {"id": BROWSER, **people},
        {"id": FOREIGN, **people},
        {"id": REPLICAS, **people, "life": BRIEF_LIFE},
        {"id": WATCHED, **people, "life": BRIEF_LIFE, "secret": SECRET},
        *({"id": name, "grant": "device_code"} for name in [TYPED, INTERRUPTED, DENIED]),
        *({"id": name, **by_certificate, "certificates": [keys.first.certificate()]} for name in [*CERTIFIED, UNPROVEN]),
        {"id": REPLACED, **by_certificate, "life": BRIEF_LIFE,
         "certificates": [keys.first.certificate(), keys.second.certificate()]},
    ]
