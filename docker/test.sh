#!/usr/bin/env bash
# test.sh JETWAY ETCDCTL: builds the image's last stage from the file that is there, with buildah and without
# a registry, starts it twice on one data folder, and uses it with etcdctl. `--install` as the first argument
# lets it install buildah where there is none; else it prints that and does nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ ${1:-} == --install ]]; then
    shift
    command -v buildah >/dev/null || apt-get install --yes --no-install-recommends buildah
fi
if ! command -v buildah >/dev/null; then
    echo "skipped: no buildah here (Debian: apt-get install buildah, or make docker INSTALL=--install)"
    exit
fi
[[ $# == 2 ]] || { echo "usage: docker/test.sh [--install] JETWAY ETCDCTL" >&2; exit 1; }
jetway=$(realpath "$1") etcdctl=$(realpath "$2")

work=$(mktemp -d)
# A store of its own, so that nothing is left on the machine and none of its images is needed.
buildah() {
    command buildah --root "$work/storage" --runroot "$work/run" --storage-driver vfs "$@"
}
server=
finish() {
    [[ -z $server ]] || kill -KILL "$server" 2>/dev/null || true
    buildah rm --all >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap finish EXIT

docker/root.sh "$jetway" "$work/build/image"
# The first stage is what was just laid out; its own instructions need a registry.
buildah bud --quiet --isolation chroot --build-context "build=$work/build" --target jetway \
    --file docker/Dockerfile --tag jetway-test . >/dev/null
container=$(buildah from jetway-test)
size=$(du -sm "$work/build/image" | cut -f1)

mkdir "$work/data"
chown 65532:65532 "$work/data"
chmod 700 "$work/data"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
url=http://127.0.0.1:$port

# The pid of the container's jetway, known by its data folder's port in the command line.
pid() { pgrep --full --newest "^/usr/local/bin/jetway .*$url" || true; }

fail() {
    echo "docker/test.sh: $1; its log:" >&2
    tail -n 40 "$work/log" >&2
    exit 1
}

start() {
    # By chroot the network is the machine's, so it listens on loopback only.
    buildah run --isolation chroot --volume "$work/data:/var/lib/jetway" "$container" -- \
        /usr/local/bin/jetway --data-dir=/var/lib/jetway --listen-client-urls="$url" --advertise-client-urls="$url" \
        >>"$work/log" 2>&1 &
    run=$!
    for ((i = 0; i < 300; i++)); do
        if "$etcdctl" --endpoints "$url" --command-timeout 1s get health >/dev/null 2>&1; then
            server=$(pid)
            return
        fi
        kill -0 "$run" 2>/dev/null || fail "jetway ended in the container"
        sleep 0.1
    done
    fail "jetway is not ready in the container after 30 s"
}

stop() {
    kill -TERM "$server"
    wait "$run" || fail "jetway did not end cleanly in the container"
    server=
}

start
uids=$(awk '/^Uid:/ { print $2, $3, $4, $5 }' "/proc/$server/status")
[[ $uids == "65532 65532 65532 65532" ]] || fail "jetway runs as user $uids"
[[ $(pgrep --count --parent "$server" nats-server) == 1 ]] || fail "jetway has no nats-server in the container"
"$etcdctl" --endpoints "$url" put kept yes >/dev/null
stop
start
[[ $("$etcdctl" --endpoints "$url" get kept --print-value-only) == yes ]] || fail "a key is gone after a new start"
stop
echo "image of $size MB: built, started twice as user 65532, kept its data"
echo "1 passed, 0 failed"
