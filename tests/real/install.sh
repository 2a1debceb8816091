#!/usr/bin/env bash
# Installs the servers and clients of the real tests: Debian packages, Python packages in an
# environment of their own under the build folder, and Node packages by their lock.
#
# What is there already is left alone, so a second run takes a second. Without root, or elsewhere
# than on Debian, nothing can be installed: what is missing is named, and that is a failure.
# The last line of standard output is the Python that runs the tests.
set -euo pipefail
cd "$(dirname "$0")"
build=${1:?usage: install.sh BUILD-FOLDER}
. ./packages.sh

# package | what shows that it is there, whoever installed it
parts='
dovecot-imapd           | test -x /usr/lib/dovecot/imap-login
dovecot-pop3d           | test -x /usr/lib/dovecot/pop3-login
dovecot-submissiond     | test -x /usr/lib/dovecot/submission-login
haproxy                 | PATH=$PATH:/usr/sbin command -v haproxy
curl                    | command -v curl
openssl                 | command -v openssl
systemd                 | command -v systemd-analyze systemd-socket-activate
sslscan                 | command -v sslscan
faketime                | command -v faketime
valgrind                | command -v valgrind
openssl-provider-legacy | openssl list -providers -provider legacy
chromium                | test -x /usr/bin/chromium
chromium-driver         | test -x /usr/bin/chromedriver
isync                   | command -v mbsync
libsasl2-modules        | ls /usr/lib/*/sasl2/libplain.so
msmtp                   | command -v msmtp
mpop                    | command -v mpop
swaks                   | command -v swaks
mutt                    | command -v mutt
neomutt                 | command -v neomutt
fetchmail               | command -v fetchmail
s-nail                  | command -v s-nail
getmail6                | command -v getmail
offlineimap3            | command -v offlineimap
fdm                     | command -v fdm
imapfilter              | command -v imapfilter
mailutils               | command -v mail.mailutils
esmtp                   | command -v esmtp
fail2ban                | command -v fail2ban-regex
sendemail               | command -v sendemail
libio-socket-ssl-perl   | perl -MIO::Socket::SSL -e 1
libauthen-sasl-perl     | perl -MAuthen::SASL -e 1
libmail-imapclient-perl | perl -MMail::IMAPClient -e 1
libnet-imap-simple-perl | perl -MNet::IMAP::Simple -e 1
libmail-pop3client-perl | perl -MMail::POP3Client -e 1
ruby                    | ruby -rnet/imap -rnet/pop -rnet/smtp -e 1
php-cli                 | command -v php
php-imap                | php -r "exit(function_exists(\"imap_open\") ? 0 : 1);"
libphp-phpmailer        | test -e /usr/share/php/libphp-phpmailer/autoload.php
default-jdk-headless    | command -v javac
libmail-java            | test -e /usr/share/java/javax.mail.jar
python3-venv            | python3 -c "import ensurepip"
'

main() {
  need_newer python3 3.11 "$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])' || echo 0)"
  need_newer node 20 "$(node --version | tr -d v || echo 0)"
  command -v npm >/dev/null || fail "npm is missing"
  install_missing
  python_packages
  node_packages
  echo "$build/venv/bin/python"
}

fail() {
  echo "real tests: $*" >&2
  exit 1
}

# need_newer COMMAND VERSION FOUND
need_newer() {
  [ "$(printf '%s\n' "$2" "$3" | sort -V | head -n 1)" = "$2" ] || fail "$1 $2 or newer is needed, found $3"
}

python_packages() {
  [ -x "$build/venv/bin/python" ] || python3 -m venv "$build/venv" >&2
  cmp -s requirements.txt "$build/venv/installed.txt" && return
  "$build/venv/bin/pip" install -q --disable-pip-version-check -r requirements.txt >&2 || fail "pip could not install requirements.txt"
  cp requirements.txt "$build/venv/installed.txt"
}

node_packages() {
  cmp -s package-lock.json node_modules/installed.json && return
  npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2 || fail "npm could not install package-lock.json"
  cp package-lock.json node_modules/installed.json
}

main
