#!/usr/bin/env bash
# deb-test.sh FOLDER ETCDCTL: installs the Debian package that dist.sh has left in FOLDER, lets systemd judge
# its unit, starts the unit's command as its user, and removes the package again. The machine stays as it is:
# all of it happens in a copy of its root that only this script sees. It needs root, and a Debian.
set -euo pipefail

fail() {
    echo "deb-test.sh: $1" >&2
    exit 1
}

if [[ ${1:-} != --inside ]]; then
    [[ $# == 2 ]] || fail "usage: deb-test.sh FOLDER ETCDCTL"
    if [[ $(id -u) != 0 ]] || ! command -v dpkg >/dev/null || ! command -v systemd-analyze >/dev/null; then
        echo "skipped: the package is installed by root, on a Debian with systemd's tools"
        exit
    fi
    package=$(realpath "$1"/jetway_*_"$(dpkg --print-architecture)".deb)
    [[ -e $package ]] || fail "no package for this machine in $1: make dist"
    etcdctl=$(realpath "$2")
    work=$(mktemp -d)
    trap 'rmdir "$work"' EXIT
    unshare --mount --pid --fork --kill-child=KILL "$(realpath "$0")" --inside "$work" "$package" "$etcdctl"
    exit
fi

work=$2 package=$3 etcdctl=$4
mount -t tmpfs tmpfs "$work"
mkdir "$work"/{changed,work,root}
mount -t overlay overlay -o "lowerdir=/,upperdir=$work/changed,workdir=$work/work" "$work/root"
root=$work/root
mount -t proc proc "$root/proc"
install "$package" "$root/root/jetway.deb"
install "$etcdctl" "$root/usr/local/bin/etcdctl"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')

chroot "$root" bash -euo pipefail -s "$port" <<'INSIDE'
port=$1 unit=/lib/systemd/system/jetway.service
dpkg --install /root/jetway.deb >/root/log 2>&1 || { cat /root/log; exit 1; }
getent passwd jetway >/dev/null || { echo "the package has made no user"; exit 1; }
systemd-analyze verify "$unit"

# The unit's own command, variables and user; systemd would make the folder.
sed -i "s/127.0.0.1:2379/127.0.0.1:$port/g" /etc/default/jetway
value() { sed -n "s/^$1=//p" "$unit"; }
install -d -m 700 -o "$(value User)" "/var/lib/$(value StateDirectory)"
set -a
. "$(value EnvironmentFile | tr -d -)"
set +a
setpriv --reuid "$(value User)" --regid "$(value User)" --clear-groups $(value ExecStart) >/root/log 2>&1 &
server=$!
export ETCDCTL_ENDPOINTS=http://127.0.0.1:$port
for ((i = 0; i < 300; i++)); do
    etcdctl --command-timeout 2s put kept yes >/dev/null 2>&1 && break
    kill -0 "$server" 2>/dev/null || break
    sleep 0.1
done
[[ $(etcdctl get kept --print-value-only) == yes ]] || { cat /root/log; exit 1; }
kill -TERM "$server"
wait "$server" || { echo "it did not end cleanly"; cat /root/log; exit 1; }

dpkg --purge jetway >/root/log 2>&1 || { cat /root/log; exit 1; }
[[ ! -e /usr/bin/jetway && ! -e $unit ]] || { echo "the package leaves files behind"; exit 1; }
INSIDE
echo "$(basename "$package"): installed, started as its unit does, removed"
