# What the programs in this folder share. They source it, and are then in the root of the repository.
# shellcheck shell=bash

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
ROOT=$PWD
DIST=$ROOT/dist
# Everything on the way to an artifact: tools, build directories, clean places. Can be deleted at any time.
WORK=$ROOT/target/packaging
# The version has one source. tests/it/tidy/versions.rs compares all other places with it.
VERSION=$(sed -n '/^\[workspace.package\]/,/^$/s/^version = "\(.*\)"$/\1/p' Cargo.toml)
# The blocks of the page that the checks have asked for, see `block`. packaging/check compares them with those of the page.
ASKED=$WORK/asked
mkdir -p "$WORK"

step() {
    printf '\n== %s\n' "$1"
}

fail() {
    printf '%s: %s\n' "${0#"$ROOT"/}" "$1" >&2
    exit 1
}

# artifacts [NAME...]: prints the names of all artifacts, or those given, each on a line.
artifacts() {
    local name
    if (($# == 0)); then
        for name in packaging/*/build; do
            basename "$(dirname "$name")"
        done
        return
    fi
    for name; do
        [ -x "packaging/$name/build" ] || fail "there is no artifact $name; there are: $(artifacts | xargs)"
        echo "$name"
    done
}

# clean NAME: prints the path of an empty directory outside of the repository, so that nothing in a check can find
# the clone by accident. clean_up removes all of them.
CLEAN=$(mktemp -d "${TMPDIR:-/tmp}/ipc-packaging.XXXXXX")
clean() {
    mkdir -p "$CLEAN/$1"
    echo "$CLEAN/$1"
}

clean_up() {
    local pid
    # Functions that run in a subshell leave the processes that they started in a file.
    while read -r pid; do
        kill "$pid" 2>/dev/null || true
    done < <(cat "$CLEAN/started" 2>/dev/null)
    rm -rf "$CLEAN"
}
trap clean_up EXIT

# at_most WHAT FILE BYTES: fails if the file is larger, and prints its size.
at_most() {
    local size
    size=$(stat -c %s "$2")
    ((size <= $3)) || fail "$1 has $size bytes, more than the $3 that are allowed"
    printf '%s: %s bytes of at most %s\n' "$1" "$size" "$3"
}

# tool CRATE VERSION PROGRAM [FLAG...]: installs a program from a crate if it is not there yet, and prints its path.
tool() {
    local crate=$1 version=$2 program=$3
    shift 3
    if [ ! -x "$WORK/tools/bin/$program" ] || ! grep -q "^\"$crate $version " "$WORK/tools/.crates.toml"; then
        cargo install --quiet --locked --force --root "$WORK/tools" "$crate@$version" "$@" >&2
    fi
    echo "$WORK/tools/bin/$program"
}

# tarball_name KIND: prints the name of the tarball with that kind of program, see packaging/program.
tarball_name() {
    local library=gnu name=ipc-framework
    [[ $1 != static* ]] || library=musl
    [[ $1 != *-nats ]] || name=ipc-framework-nats
    echo "$name-$VERSION-$(uname -m)-linux-$library"
}

# free_port: prints a port that nothing listens on.
free_port() {
    python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# eventually COMMAND...: runs it until it succeeds, for at most 20 seconds.
eventually() {
    local _
    for _ in {1..100}; do
        if "$@" >/dev/null 2>&1; then return; fi
        sleep 0.2
    done
    "$@" >&2
}

# expect TEXT COMMAND...: fails if the command fails or prints something else, and shows what it printed.
expect() {
    local expected=$1 printed
    shift
    printed=$("$@" 2>&1) || fail "$* failed: $printed"
    [ "$printed" = "$expected" ] || fail "$* printed: $printed, instead of: $expected"
    printf '%s\n' "$printed"
}

# built KIND: prints the path of the program that packaging/program has built before, or builds it.
built() {
    [ -x "$WORK/$1/ipc" ] || packaging/program "$1" >/dev/null
    echo "$WORK/$1/ipc"
}

# serve: starts the program with its demonstration applications, prints its port, and ends it when the script ends.
serve() {
    local port program=${IPC_PROGRAM:-}
    port=$(free_port)
    [ -n "$program" ] || program=$(built portable)
    "$program" serve --demo --port "$port" >"$CLEAN/server.log" 2>&1 &
    echo $! >>"$CLEAN/started"
    eventually "$program" request echo 1 --app bench --port "$port"
    echo "$port"
}

# joins PROGRAM: lets two servers of it join over NATS, as docs/guide/several-servers.md shows.
joins() {
    tests/nats-server
    expect $'double 21: 42\n"from the second server"' env IPC="$1" NATS_SERVER="$ROOT/target/nats/nats-server" \
        NATS_PORT="$(free_port)" FIRST_PORT="$(free_port)" SECOND_PORT="$(free_port)" examples/two-servers.sh
}

# block HEADING LANGUAGE: prints the first code block of a language below a heading of docs/packages.md, so that what
# people read there is what the checks run. The mark `packaged` keeps the tests of the other pages away from it. The
# port 8888 becomes $IPC_PORT, because another server may have it.
block() {
    local text
    text=$(awk -v heading="$1" -v fence="\`\`\`$2" -v asked="$ASKED" '
        /^#+ / && !copying { inside = $0; sub(/^#+ /, "", inside) }
        copying && /^```$/ { exit }
        copying { print }
        inside == heading && index($0 " ", fence " ") == 1 { copying = 1; print FILENAME ":" NR >>asked }
    ' docs/packages.md)
    [ -n "$text" ] || fail "docs/packages.md has no block of $2 under \"$1\""
    printf '%s\n' "${text//8888/${IPC_PORT:-8888}}"
}
