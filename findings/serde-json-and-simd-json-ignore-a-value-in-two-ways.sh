#!/usr/bin/env bash
# serde_json 1.0.154 and simd-json 0.19.0: what a visitor is given for a value that is ignored.
#
# A deserializer that wraps another one, to see what is inside of a value, passes `deserialize_ignored_any` on with a visitor
# of its own. simd-json shows that visitor the object as a map. serde_json skips the object and calls `visit_unit`, whose
# default is an error: "invalid type: unit value". So a wrapper that works with the one fails with the other, and only at
# members for which the type has no field.
#
# Seen with serde_json 1.0.154, simd-json 0.19.0, serde 1.0.229, rustc 1.95. Output: "simd-json: a map, serde_json: unit".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
mkdir src
cat > Cargo.toml <<'TOML'
[package]
name = "ignored"
version = "0.0.0"
edition = "2021"

[dependencies]
serde = "=1.0.229"
serde_json = "=1.0.154"
simd-json = "=0.19.0"
TOML
cat > src/main.rs <<'RUST'
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

struct Shown;

impl<'de> Visitor<'de> for Shown {
    type Value = &'static str;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("anything")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok("a map")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok("unit")
    }
}

fn main() {
    let mut text = br#"{"a":1}"#.to_vec();
    let mut json = serde_json::Deserializer::from_slice(br#"{"a":1}"#);
    let json = (&mut json).deserialize_ignored_any(Shown).unwrap();
    let mut simd = simd_json::Deserializer::from_slice(&mut text).unwrap();
    let simd = (&mut simd).deserialize_ignored_any(Shown).unwrap();
    println!("simd-json: {simd}, serde_json: {json}");
}
RUST
output=$(cargo run --quiet)
echo "$output"
[ "$output" = 'simd-json: a map, serde_json: unit' ]
