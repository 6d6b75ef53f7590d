#!/usr/bin/env bash
# maturin 1.16.0: every file of a source distribution has the same date in 2006, whatever it contains. Cargo decides by
# dates which files have changed, so that two distributions that are unpacked to the same place one after another, and
# built into a target directory that stays, give the program of the first one: the second is "Finished" without a
# compilation.
#
# This meets whoever tests an sdist again and again with CARGO_TARGET_DIR set to save time: a change of the sources is
# not tested, or does not link with a dependency that was rebuilt. A new target directory for each distribution helps.
#
# Seen with maturin 1.16.0, cargo 1.95.0, CPython 3.11.7. Output: "dates: 2006", "first build: one", "second build: one",
# "source of the second: two", "second build, new target directory: two".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check maturin==1.16.0
mkdir -p project/src
cat > project/Cargo.toml <<'TOML'
[package]
name = "says"
version = "0.1.0"
edition = "2021"
TOML
cat > project/pyproject.toml <<'TOML'
[build-system]
requires = ["maturin==1.16.0"]
build-backend = "maturin"

[project]
name = "says"
version = "0.1.0"

[tool.maturin]
bindings = "bin"
TOML
# Packs a program that prints a word of three letters, and unpacks the distribution to the place of the former one.
distribution() {
    printf 'fn main() {\n    println!("%s");\n}\n' "$1" > project/src/main.rs
    rm -rf sdist says-0.1.0
    (cd project && cargo generate-lockfile --quiet && ../venv/bin/maturin sdist --out ../sdist >/dev/null 2>&1)
    tar xf sdist/says-0.1.0.tar.gz
}
run() {
    CARGO_TARGET_DIR=$folder/$1 cargo run --quiet --manifest-path says-0.1.0/Cargo.toml
}
found=$(
    distribution one
    echo "dates: $(date -u -r says-0.1.0/src/main.rs +%Y)"
    echo "first build: $(run target)"
    distribution two
    echo "second build: $(run target)"
    echo "source of the second: $(sed -n 's/.*println!("\(.*\)").*/\1/p' says-0.1.0/src/main.rs)"
    echo "second build, new target directory: $(run other)"
)
echo "$found"
expected='dates: 2006
first build: one
second build: one
source of the second: two
second build, new target directory: two'
[ "$found" = "$expected" ]
