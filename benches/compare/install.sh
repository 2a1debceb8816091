#!/usr/bin/env bash
# Installs what the comparison needs: the other proxies by their Debian packages, and email-oauth2-proxy and matplotlib
# in a Python environment of their own under the build folder.
#
# What is there already is left alone. Without root, or elsewhere than on Debian, what is missing is named, and that is
# a failure. The last line of standard output is the environment's Python.
set -euo pipefail
cd "$(dirname "$0")"
build=${1:?usage: install.sh BUILD-FOLDER}
. ../../tests/real/packages.sh

# package | what shows that it is there, whoever installed it
parts='
dovecot-imapd | test -x /usr/lib/dovecot/imap-login
haproxy       | PATH=$PATH:/usr/sbin command -v haproxy
stunnel4      | command -v stunnel || command -v stunnel4
python3-venv  | python3 -c "import ensurepip"
'

main() {
  install_missing
  [ -x "$build/python" ] && [ -x "$build/python/bin/python" ] || python3 -m venv "$build/python" >&2
  if ! cmp -s requirements.txt "$build/python/installed.txt"; then
    "$build/python/bin/pip" install -q --disable-pip-version-check -r requirements.txt >&2 ||
      fail "pip could not install requirements.txt"
    cp requirements.txt "$build/python/installed.txt"
  fi
  echo "$build/python/bin/python"
}

fail() {
  echo "compare: $*" >&2
  exit 1
}

main
