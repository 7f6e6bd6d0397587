#!/usr/bin/env bash
# clients.sh CLIENTS FOLDER: installs the etcd clients of a scripted language, pinned by hash, for the
# sessions in tests/clients. The language itself must be there.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

[[ $# == 2 ]] || fail "usage: clients.sh clients-node|clients-python FOLDER"
folder=$2
mkdir -p "$(dirname "$folder")"
rm -rf "$folder.part"

case $1 in
clients-node)
    command -v node >/dev/null && command -v npm >/dev/null ||
        fail "no Node here: install Node 18 or newer with npm (Debian: apt-get install nodejs npm) and try again"
    mkdir "$folder.part"
    cp "$here"/../clients/node/package*.json "$folder.part"
    (cd "$folder.part" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error) ||
        fail "npm could not install what tests/clients/node/package-lock.json names"
    ;;
clients-python)
    command -v python3 >/dev/null && python3 -m pip --version >/dev/null 2>&1 ||
        fail "no Python here: install Python 3.10 or newer with pip (Debian: apt-get install python3-pip) and try again"
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --no-compile \
        --only-binary :all: --require-hashes --target "$folder.part" \
        --requirement "$here/../clients/python/requirements.txt" ||
        fail "pip could not install what tests/clients/python/requirements.txt names"
    ;;
*) fail "unknown clients $1" ;;
esac

rm -rf "$folder"
mv "$folder.part" "$folder"
# `make` compares it with the files that it was made from, and those inside keep the times of their packages.
touch "$folder"
