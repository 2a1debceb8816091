"""Sign-ins: by a browser, by device code, by certificate, and what keeps them alive or ends them."""
