#!/usr/bin/env bash
# Makes certificates for trying out TLS: an authority of their own, one for the router (or nginx) and one for a client.
#
#   scripts/test-certificates.sh [FOLDER [NAME...]]
#
# FOLDER (certificates) gets ca.pem, server.pem, server.key, client.pem and client.key. NAME: host names and addresses that
# the server is reached by (localhost 127.0.0.1 ::1). The authority's own key is thrown away: nothing more can be signed by it.

set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

case ${1:-} in -h | --help) sed -n '2,/^$/s/^# \{0,1\}//p' "$0" && exit 0 ;; esac
have openssl || die "openssl is needed"
folder=${1:-certificates}
[ $# -eq 0 ] || shift
[ $# -gt 0 ] || set -- localhost 127.0.0.1 ::1
umask 077
mkdir -p "$folder"
ca_key=$(mktemp)
trap 'rm -f "$ca_key" "$folder"/*.csr "$folder"/*.ext' EXIT

names=""
for name in "$@"; do
    case $name in
        *[!A-Za-z0-9.:*-]*) die "no host name or address: $name" ;;
        *:* | *[0-9].[0-9]*) names="$names,IP:$name" ;;
        *) names="$names,DNS:$name" ;;
    esac
done

new_key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1" 2>/dev/null; }

# Signs FOLDER/NAME.pem for a new key FOLDER/NAME.key.
sign() { # NAME SUBJECT EXTENSIONS
    new_key "$folder/$1.key"
    openssl req -new -key "$folder/$1.key" -subj "$2" -out "$folder/$1.csr"
    printf '%s\n' "$3" >"$folder/$1.ext"
    openssl x509 -req -in "$folder/$1.csr" -CA "$folder/ca.pem" -CAkey "$ca_key" -set_serial "0x$(openssl rand -hex 16)" \
        -days 30 -sha256 -extfile "$folder/$1.ext" -out "$folder/$1.pem" 2>/dev/null
}

new_key "$ca_key"
openssl req -x509 -new -key "$ca_key" -subj "/CN=mcp-router test authority" -days 30 -sha256 -out "$folder/ca.pem"
sign server "/CN=mcp-router" "subjectAltName=${names#,}
extendedKeyUsage=serverAuth"
sign client "/CN=alice" "extendedKeyUsage=clientAuth"
say "$folder: ca.pem, server.pem, server.key, client.pem, client.key, for 30 days"
