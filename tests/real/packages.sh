# For scripts that install Debian packages: what is there already is left alone, and what can't be had is named.
#
# Who reads this in has `parts`, a line of `package | what shows that it is there` each, and `fail WORDS...`, which ends it.

install_missing() {
  local missing
  missing=$(missing_packages)
  if [ -n "$missing" ]; then
    install_packages "$missing"
    missing=$(missing_packages)
    [ -z "$missing" ] || fail "still missing after the installation:" $missing
  fi
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

# Debian starts a server once it is installed. Ours are started by who needs them; this machine's ports stay free.
keep_services_down() {
  local policy=/usr/sbin/policy-rc.d
  [ ! -e "$policy" ] || return 0
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
  trap 'rm -f /usr/sbin/policy-rc.d' EXIT
}
