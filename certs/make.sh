#!/usr/bin/env bash
# Makes the certificates that the tests use: an authority and leaves, good and bad ones.
#
# What it makes is committed, so the tests need no openssl. The leaves' keys are public with it, and
# nothing outside the tests may trust this authority; its own key is thrown away, so each run makes
# a new one. The dates are fixed: one leaf has expired for good, the others never do.
set -euo pipefail
cd "$(dirname "$0")"

since=20200101000000Z
until=20991231235959Z
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat >"$work/openssl.cnf" <<END
[ca]
default_ca = test
[test]
new_certs_dir = $work
database = $work/index
rand_serial = yes
default_md = sha256
policy = any
copy_extensions = none
unique_subject = no
[any]
commonName = supplied
[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical, CA:true
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[leaf]
basicConstraints = critical, CA:false
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = \${ENV::NAMES}
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
END
: >"$work/index"

# key_and_request FILE COMMON-NAME
key_and_request() {
  openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1.key"
  openssl req -new -config "$work/openssl.cnf" -key "$1.key" -subj "/CN=$2" -out "$work/$1.csr"
}

# sign FILE EXTENSIONS FROM TO [OPTION...]: NAMES holds the leaf's subjectAltName
sign() {
  local file=$1 extensions=$2 from=$3 to=$4
  shift 4
  openssl ca -batch -notext -config "$work/openssl.cnf" -extensions "$extensions" \
    -startdate "$from" -enddate "$to" -in "$work/$file.csr" -out "$file.pem" "$@" 2>"$work/log" ||
    { cat "$work/log" >&2; exit 1; }
}

localhost=DNS:localhost,IP:127.0.0.1,IP:::1
export NAMES=$localhost

key_and_request ca "gatepost test authority"
mv ca.key "$work/ca.key"
sign ca authority "$since" "$until" -selfsign -keyfile "$work/ca.key"

by_ca=(-cert ca.pem -keyfile "$work/ca.key")

key_and_request localhost localhost
sign localhost leaf "$since" "$until" "${by_ca[@]}"

key_and_request wrong-name mail.elsewhere.test
NAMES=DNS:mail.elsewhere.test sign wrong-name leaf "$since" "$until" "${by_ca[@]}"

key_and_request expired localhost
sign expired leaf "$since" 20210101000000Z "${by_ca[@]}"

key_and_request self-signed localhost
sign self-signed leaf "$since" "$until" -selfsign -keyfile self-signed.key

chmod 644 ./*.key
