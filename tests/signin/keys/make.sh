#!/usr/bin/env bash
# Makes the client certificates that the sign-in tests use, in each form in which people have them.
#
# OpenSSL writes them, so that gatepost is not judged by the crates that it reads them with. What it makes is
# committed: the tests need no openssl, and the keys are public with it.
set -euo pipefail
cd "$(dirname "$0")"

passphrase=pass:opens-it

# certificate NAME OPTION...: NAME.key in PKCS#8 and NAME.pem
certificate() {
  local name=$1
  shift
  openssl genpkey "$@" -out "$name.key"
  openssl req -x509 -new -key "$name.key" -subj "/CN=gatepost test $name" -days 27000 -out "$name.pem"
}

# app: the app's. other: another app's. curve: of a kind that gatepost does not sign with.
certificate app -algorithm RSA -pkeyopt rsa_keygen_bits:2048
certificate other -algorithm RSA -pkeyopt rsa_keygen_bits:2048
certificate curve -algorithm EC -pkeyopt ec_paramgen_curve:P-256

openssl pkey -in app.key -traditional -out app-pkcs1.key
openssl pkcs8 -topk8 -in app.key -passout "$passphrase" -out app-encrypted.key
openssl pkcs8 -topk8 -in app.key -passout "$passphrase" -scrypt -out app-scrypt.key
openssl pkey -in app.key -traditional -aes-128-cbc -passout "$passphrase" -out app-old.key
cat app.pem app.key >app-both.pem

# As today's OpenSSL and Windows write it, and as Windows did before 2019 (3DES, SHA-1).
export_app=(openssl pkcs12 -export -in app.pem -inkey app.key -name gatepost)
"${export_app[@]}" -passout "$passphrase" -out app.p12
"${export_app[@]}" -passout pass: -out app-open.p12
"${export_app[@]}" -passout "$passphrase" -legacy -certpbe PBE-SHA1-3DES -keypbe PBE-SHA1-3DES -macalg sha1 -out app-old.p12

chmod 644 ./*.key ./*.p12
