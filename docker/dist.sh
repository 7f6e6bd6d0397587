#!/usr/bin/env bash
# dist.sh FOLDER MACHINE…: one static file of jetway for each machine (x86_64, aarch64), which carries its
# nats-server, in FOLDER: with the debug information apart, a Debian package, lists of all that is in it
# (SBOM) and the digests. Cargo builds below $CARGO_TARGET_DIR; what the build needs is fetched below $PEERS.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tests/peers/lib.sh

(($# >= 2)) || fail "usage: dist.sh FOLDER MACHINE…"
mkdir -p "$1"
dist=$(realpath "$1")
shift
target=$(realpath "${CARGO_TARGET_DIR:-target}")
version=$(sed -n '/^\[package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
# Dates in the package are those of the commit, so that the same commit gives the same package.
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || echo 0)
export SOURCE_DATE_EPOCH

find_go fetch || fail "no Go to build nats-server with: install Go 1.$go_minor or newer"
for tool in cargo rustc dpkg-deb; do
    command -v "$tool" >/dev/null || fail "no $tool here" \
        "cargo and rustc: install Rust with rustup" "dpkg-deb: it is part of Debian (package dpkg)"
done
if ! cmp -s docker/zig-requirements.txt "$PEERS/zig/requirements.txt"; then
    wheel "$PEERS/zig" docker/zig-requirements.txt ||
        fail "could not fetch zig from PyPI: install Python 3 with pip (Debian: apt-get install python3-pip)"
    cp docker/zig-requirements.txt "$PEERS/zig/requirements.txt"
fi
export CARGO_ZIGBUILD_ZIG_PATH=$PEERS/zig/ziglang/zig

# Rust's own copy of llvm-objcopy reads programs for every machine.
objcopy() {
    local sysroot host
    sysroot=$(rustc --print sysroot) host=$(rustc -vV | sed -n 's/^host: //p')
    LD_LIBRARY_PATH=$sysroot/lib "$sysroot/lib/rustlib/$host/bin/rust-objcopy" "$@"
}

# sbom_of_crates TRIPLE OUTPUT
sbom_of_crates() {
    local tool=$PEERS/cargo-cyclonedx/bin/cargo-cyclonedx
    # Not optimized: it runs for a second, and its build would take minutes.
    [[ -x $tool ]] || cargo install --debug --quiet --locked --root "$PEERS/cargo-cyclonedx" cargo-cyclonedx@0.5.9
    # It writes beside each Cargo.toml of the workspace.
    "$tool" cyclonedx --format json --spec-version 1.5 --target "$1" --no-build-deps --override-filename jetway-sbom
    mv jetway-sbom.json "$2"
    rm -f tests/support/jetway-sbom.json
    python3 docker/sbom.py "$2" "$1"
}

# sbom_of_modules PROGRAM OUTPUT
sbom_of_modules() {
    local tool=$PEERS/cyclonedx-gomod/cyclonedx-gomod
    [[ -x $tool ]] || GOBIN=$PEERS/cyclonedx-gomod GOTOOLCHAIN=local GOFLAGS= \
        "$go" install github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.9.0
    "$tool" bin -json -output "$2" "$1"
}

# package FILE DEBIAN-ARCHITECTURE
package() {
    local root=$target/dist-package
    rm -rf "$root"
    install -D -m 755 "$1" "$root/usr/bin/jetway"
    install -D -m 644 docker/debian/jetway.service "$root/lib/systemd/system/jetway.service"
    install -D -m 644 docker/debian/sysusers.conf "$root/usr/lib/sysusers.d/jetway.conf"
    # Endpoints with passwords may be in it.
    install -D -m 640 docker/debian/default "$root/etc/default/jetway"
    for page in README.md CHANGELOG.md docker/OPERATING.md src/cli/FLAGS.md; do
        install -D -m 644 "$page" "$root/usr/share/doc/jetway/$(basename "$page")"
    done
    install -D -m 644 LICENSE "$root/usr/share/doc/jetway/copyright"
    mkdir "$root/DEBIAN"
    install -m 755 docker/debian/{postinst,prerm,postrm} "$root/DEBIAN"
    echo /etc/default/jetway >"$root/DEBIAN/conffiles"
    cat >"$root/DEBIAN/control" <<CONTROL
Package: jetway
Version: $version
Architecture: $2
Maintainer: The authors of jetway <jetway@localhost>
Installed-Size: $(du -sk --exclude=DEBIAN "$root" | cut -f1)
Depends: systemd
Section: database
Priority: optional
Description: etcd v3 server over NATS JetStream
 jetway serves the etcd v3 API and keeps its data in a NATS JetStream bucket.
 This one file carries the nats-server that it runs.
CONTROL
    dpkg-deb --root-owner-group --build "$root" "$dist/jetway_${version}_$2.deb" >/dev/null
    rm -rf "$root"
}

for machine in "$@"; do
    case $machine in
    x86_64) arch=amd64 ;;
    aarch64) arch=arm64 ;;
    *) fail "no build for machine $machine: x86_64 or aarch64" ;;
    esac
    triple=$machine-unknown-linux-musl
    [[ -d $(rustc --print sysroot)/lib/rustlib/$triple ]] || rustup target add "$triple" ||
        fail "no Rust library for $triple: rustup target add $triple"
    nats=$target/dist-nats/$arch/nats-server
    mkdir -p "$(dirname "$nats")"
    echo "dist: nats-server for $arch"
    GOOS=linux GOARCH=$arch go_build "$nats" tests/peers/nats github.com/nats-io/nats-server/v2 -ldflags '-s -w'
    echo "dist: jetway for $arch"
    PATH=$PEERS/zig/bin:$PATH JETWAY_EMBED_NATS_SERVER=$nats CARGO_TARGET_DIR=$target \
        cargo zigbuild --release --locked --target "$triple"
    file=$dist/jetway-$version-linux-$arch
    built=$target/$triple/release/jetway
    objcopy --only-keep-debug "$built" "$file.debug"
    # The names stay, for the backtrace of a panic.
    objcopy --strip-debug --add-gnu-debuglink="$file.debug" "$built" "$file"
    chmod 755 "$file"
    echo "dist: package and lists for $arch"
    package "$file" "$arch"
    sbom_of_crates "$triple" "$file.crates.cdx.json"
    sbom_of_modules "$nats" "$file.nats-server.cdx.json"
done

cd "$dist"
sha256sum jetway[-_]* >SHA256SUMS
stat --printf '%10s  %n\n' -- * | numfmt --to=iec --padding=7
