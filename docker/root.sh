#!/usr/bin/env bash
# root.sh JETWAY NATS-SERVER FOLDER: lays out the file system of the image: the two programs, what they load,
# and a plain user. The Dockerfile and the test of the image call it alike.
#
# jetway is the binary that the tests ran, linked dynamically, and its few libraries are copied beside it. A
# static one would be a second build, and with glibc it would still look for files of the machine to resolve a
# host name.
set -euo pipefail

[[ $# == 3 ]] || { echo "usage: root.sh JETWAY NATS-SERVER FOLDER" >&2; exit 1; }
jetway=$1 nats=$2 root=$3

mkdir -p "$root"/{etc/ssl/certs,tmp,usr/local/bin,var/lib/jetway}
install -m 755 "$jetway" "$root/usr/local/bin/jetway"
install -m 755 "$nats" "$root/usr/local/bin/nats-server"
# A manifest that starts etcd by name starts jetway when only the image is exchanged.
ln -sf jetway "$root/usr/local/bin/etcd"
# Line tables are most of the size. The names stay, for the backtrace of a panic.
if command -v strip >/dev/null; then
    strip --strip-debug "$root/usr/local/bin/jetway"
fi

for program in "$jetway" "$nats"; do
    # Lines are `name => path (address)` or `path (address)`, and none of these for a static program.
    for library in $(ldd "$program" 2>/dev/null | grep -oE '/[^ ]+ \(' | tr -d ' ('); do
        install -D -m 755 "$library" "$root$library"
    done
done

# To verify a NATS server that has a public certificate.
if [[ -e /etc/ssl/certs/ca-certificates.crt ]]; then
    install -m 644 /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
fi
echo 'jetway:x:65532:65532:jetway:/var/lib/jetway:/sbin/nologin' >"$root/etc/passwd"
echo 'jetway:x:65532:' >"$root/etc/group"
chmod 1777 "$root/tmp"
chmod 700 "$root/var/lib/jetway"
chown 65532:65532 "$root/var/lib/jetway"
