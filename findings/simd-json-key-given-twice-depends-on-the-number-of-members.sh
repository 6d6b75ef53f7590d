#!/usr/bin/env bash
# simd-json 0.19.0: which value a look-up finds for a key that is given twice depends on how many members the object has.
#
# An object with at most 32 members is kept as a list, in which the key stands twice and a look-up finds the first value.
# A larger one becomes a hash map, in which the last value has replaced the first. serde_json always finds the last. A
# document may so be read in two ways, by the same library too, once a member is added to it.
#
# Seen with simd-json 0.19.0, rustc 1.95. Output: "32 members: first value, 33 members: last value".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
mkdir src
cat > Cargo.toml <<'TOML'
[package]
name = "twice"
version = "0.0.0"
edition = "2021"

[dependencies]
simd-json = "=0.19.0"
TOML
cat > src/main.rs <<'RUST'
fn found(members: usize) -> &'static str {
    let others: String = (2..members).map(|n| format!("\"{n}\":0,")).collect();
    let mut text = format!("{{{others}\"k\":1,\"k\":2}}").into_bytes();
    let value = simd_json::to_owned_value(&mut text).unwrap();
    if value["k"] == 1 { "first" } else { "last" }
}

fn main() {
    println!("32 members: {} value, 33 members: {} value", found(32), found(33));
}
RUST
output=$(cargo run --quiet)
echo "$output"
[ "$output" = '32 members: first value, 33 members: last value' ]
