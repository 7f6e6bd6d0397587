#!/usr/bin/env bash
# dist-test.sh FOLDER ETCDCTL: starts each file that dist.sh has left in FOLDER in an empty root: no library,
# no nats-server, no /tmp, nothing but the file, /proc and a folder for the data, on which no program may run.
# Then once more where no program may run from memory. It needs no root, but a kernel that lets it have
# namespaces. A file for another machine than this one needs qemu-user-static and Linux 6.7.
set -euo pipefail

fail() {
    echo "dist-test.sh: $1" >&2
    [[ ! -e ${work:-}/log ]] || { echo "its log:" && tail -n 40 "$work/log"; } >&2
    exit 1
}

if [[ ${1:-} != --inside ]]; then
    [[ $# == 2 ]] || fail "usage: dist-test.sh FOLDER ETCDCTL"
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    # Processes, mounts and formats of programs of its own: all of it goes when this one ends.
    unshare --user --map-root-user --mount --pid --fork --mount-proc --kill-child=KILL \
        "$0" --inside "$work" "$(realpath "$1")" "$(realpath "$2")"
    exit
fi

work=$2 dist=$3 etcdctl=$4
files=()
for file in "$dist"/jetway-*-linux-*; do
    [[ $(basename "$file") == *-linux-@(amd64|arm64) ]] && files+=("$file")
done
((${#files[@]})) || fail "no file of jetway in $dist: make dist"
(cd "$dist" && sha256sum --quiet --check SHA256SUMS) || fail "a file is not the one that was built"

declare -A machine=([amd64]=x86_64 [arm64]=aarch64)
root=$work/root

# Lets the kernel run programs for another machine by qemu, nats-server too, which jetway starts.
emulate() {
    # A line as the kernel wants it, with the flag F: the emulator need not be in the root.
    local format=/usr/lib/binfmt.d/qemu-$1.conf
    [[ -e $format ]] || fail "no qemu for $1 here: install it (Debian: apt-get install qemu-user-static)"
    mount -t binfmt_misc none /proc/sys/fs/binfmt_misc || fail "this kernel is older than Linux 6.7"
    cat "$format" >/proc/sys/fs/binfmt_misc/register
}

start() {
    : >"$work/log"
    env -i "$(command -v chroot)" "$root" /etcd --listen-client-urls="$url" --advertise-client-urls="$url" \
        --listen-peer-urls="http://127.0.0.1:$(port)" --data-dir=/data >>"$work/log" 2>&1 &
    server=$!
    for ((i = 0; i < 1200; i++)); do
        "$etcdctl" --endpoints "$url" --command-timeout 2s get health >/dev/null 2>&1 && return
        kill -0 "$server" 2>/dev/null || fail "jetway ended"
        sleep 0.1
    done
    fail "jetway does not serve after 120 s"
}

port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

stop() {
    kill -TERM "$server"
    wait "$server" || fail "jetway did not end cleanly"
}

# serves OPTIONS: starts it twice on one folder, which is mounted with these options.
serves() {
    url=http://127.0.0.1:$(port)
    mount -t tmpfs -o "mode=0700,$1" tmpfs "$root/data"
    start
    grep -q 'nats-server is ready.*carried, SHA-256' "$work/log" || fail "it does not run the nats-server that it carries"
    "$etcdctl" --endpoints "$url" put kept yes >/dev/null
    stop
    start
    [[ $("$etcdctl" --endpoints "$url" get kept --print-value-only) == yes ]] || fail "a key is gone after a new start"
    stop
    umount "$root/data"
    ((++passed))
}

passed=0
for kind in memory file; do
    # From here on the kernel refuses to run what lies in memory.
    [[ $kind == memory ]] || echo 2 >/proc/sys/vm/memfd_noexec
    for file in "${files[@]}"; do
        arch=${file##*-}
        if [[ $kind == memory && ${machine[$arch]} != "$(uname -m)" ]]; then
            emulate "${machine[$arch]}"
        fi
        mkdir -p "$root"/{proc,data}
        mount --rbind /proc "$root/proc"
        install "$file" "$root/jetway"
        ln -s jetway "$root/etcd"
        if [[ $kind == memory ]]; then
            chroot "$root" /jetway --version | sed "s/^/$arch: /"
            serves noexec
        else
            serves exec
            grep -q 'does not let the carried nats-server run from memory' "$work/log" || fail "it still ran from memory"
        fi
        umount --recursive "$root/proc"
        rm -rf "$root"
        echo "$arch: started twice in an empty root, nats-server from $kind"
    done
done
echo "$passed passed, 0 failed"
