#!/usr/bin/env bash
# Installs what the comparison needs: the other proxies by their Debian packages, and email-oauth2-proxy and matplotlib
# in a Python environment of their own under the build folder.
#
# What is there already is left alone. Without root, or elsewhere than on Debian, what is missing is named, and that is
# a failure. The last line of standard output is the environment's Python.
set -euo pipefail
cd "$(dirname "$0")"
build=${1:?usage: install.sh BUILD-FOLDER}

# package | what shows that it is there, whoever installed it
parts='
dovecot-imapd | test -x /usr/lib/dovecot/imap-login
haproxy       | PATH=$PATH:/usr/sbin command -v haproxy
stunnel4      | command -v stunnel || command -v stunnel4
python3-venv  | python3 -c "import ensurepip"
'

main() {
  local missing
  missing=$(missing_packages)
  if [ -n "$missing" ]; then
    install_packages "$missing"
    missing=$(missing_packages)
    [ -z "$missing" ] || fail "still missing after the installation:" $missing
  fi
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

missing_packages() {
  local package probe
  while IFS='|' read -r package probe; do
    [ -z "${package// }" ] || bash -c "$probe" >/dev/null 2>&1 </dev/null || echo "${package// }"
  done <<<"$parts"
}

install_packages() {
  command -v apt-get >/dev/null || fail "this is not Debian; install by hand what is called there:" $1
  [ "$(id -u)" = 0 ] || fail "not root; install these packages first:" $1
  keep_services_down
  { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $1; } >&2 ||
    fail "apt-get could not install:" $1
}

# Debian starts a server once it is installed. The comparison starts its own; this machine's ports stay free.
keep_services_down() {
  local policy=/usr/sbin/policy-rc.d
  [ ! -e "$policy" ] || return 0
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
  trap 'rm -f /usr/sbin/policy-rc.d' EXIT
}

main
