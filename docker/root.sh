#!/usr/bin/env bash
# root.sh JETWAY FOLDER: lays out the file system of the image: the one static file of `make dist`, and a
# plain user. The Dockerfile and the test of the image call it alike.
set -euo pipefail

[[ $# == 2 ]] || { echo "usage: root.sh JETWAY FOLDER" >&2; exit 1; }
jetway=$1 root=$2

mkdir -p "$root"/{etc/ssl/certs,tmp,usr/local/bin,var/lib/jetway}
install -m 755 "$jetway" "$root/usr/local/bin/jetway"
# A manifest that starts etcd by name starts jetway when only the image is exchanged.
ln -sf jetway "$root/usr/local/bin/etcd"

# To verify a NATS server that has a public certificate.
if [[ -e /etc/ssl/certs/ca-certificates.crt ]]; then
    install -m 644 /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
fi
echo 'jetway:x:65532:65532:jetway:/var/lib/jetway:/sbin/nologin' >"$root/etc/passwd"
echo 'jetway:x:65532:' >"$root/etc/group"
chmod 1777 "$root/tmp"
chmod 700 "$root/var/lib/jetway"
chown 65532:65532 "$root/var/lib/jetway"
