#!/usr/bin/env bash
# protoc.sh OUTPUT: a protoc for the build of etcd-client, which only the tests and benchmarks need. The
# machine's own where there is one, else Debian's, unpacked below $PEERS and not installed.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

[[ $# == 1 ]] || fail "usage: protoc.sh OUTPUT"
output=$1
mkdir -p "$(dirname "$output")"

wrap() {
    printf '#!/bin/sh\n%sexec %s "$@"\n' "${2:-}" "$1" >"$output.part"
    chmod +x "$output.part"
    mv "$output.part" "$output"
}

# Of all in PATH, since `make` puts the folder of our own first: the wrapper must not call itself.
for own in $(type -ap protoc); do
    if ! [[ $own -ef $output ]]; then
        wrap "$own"
        exit
    fi
done

remedy="install protoc (Debian: apt-get install protobuf-compiler) and try again"
command -v apt-get >/dev/null || fail "no protoc here and no apt-get to fetch it with: $remedy"
if ! apt-cache show protobuf-compiler >/dev/null 2>&1; then
    ((EUID == 0)) || fail "no protoc here, and apt's lists are empty: $remedy"
    apt-get --quiet update
fi
unpacked=$PEERS/protoc
rm -rf "$unpacked"
mkdir -p "$unpacked"
(
    cd "$unpacked"
    # The compiler is a thin program over two libraries, whose names carry the version. The files that it
    # includes by itself are in a package of their own.
    apt-get --quiet --option APT::Sandbox::User=root download protobuf-compiler libprotobuf-dev \
        $(apt-cache depends --recurse protobuf-compiler | grep -E '^libproto(buf|c)[0-9]')
    for package in *.deb; do dpkg-deb --extract "$package" .; done
) || fail "could not fetch protoc from Debian: $remedy"
libraries=$(dirname "$(find "$unpacked" -name 'libprotoc.so*' -print -quit)")
wrap "$unpacked/usr/bin/protoc" "export LD_LIBRARY_PATH=$libraries"$'\n'
"$output" --version >/dev/null || fail "Debian's protoc does not run here: $remedy"
