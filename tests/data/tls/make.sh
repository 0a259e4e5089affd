#!/bin/sh
# The certificates of the TLS tests, good for a hundred years: an authority, a server's and a client's
# signed by it, a second server's, and a client's of an authority that nobody trusts.
set -eu
cd "$(dirname "$0")"
authority() { # name
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 36500 -subj "/CN=test $1" \
        -keyout "$1.key" -out "$1.pem" 2>/dev/null
}
signed() { # name authority usage
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$1" \
        -keyout "$1.key" -out "$1.csr" 2>/dev/null
    printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=%s\n' "$3" > extensions
    openssl x509 -req -in "$1.csr" -CA "$2.pem" -CAkey "$2.key" -CAcreateserial -days 36500 \
        -extfile extensions -out "$1.pem" 2>/dev/null
    rm -f "$1.csr" extensions "$2.srl"
}
authority ca
authority stranger
signed server ca serverAuth
signed renewed ca serverAuth
signed client ca clientAuth
signed intruder stranger clientAuth
rm -f ca.key stranger.key
