//! Files beside a payload, and attachments that are shown and saved.

use std::fs;

use serde_json::{Value, json};

use super::{Demo, Live};
use crate::cli::assert_fails;
use crate::scratch::Scratch;

#[test]
fn files_go_beside_a_payload_and_come_back_into_a_directory() {
    let (demo, scratch) = (Demo::start(), Scratch::new("attaching"));
    let path = |name: &str| scratch.0.join(name).display().to_string();
    let image: Vec<u8> = (0..24).collect();
    fs::write(path("image"), &image).unwrap();
    let out = path("out");
    let attach = format!("/image=@{}", path("image"));
    let tensor = format!("/list/1=@{}:f32:2,3", path("image"));
    let payload = r#"{"list": [null, null], "image": null}"#;
    let echo =
        ["request", "echo", payload, "--app", "bench", "--attach", &attach, "--attach", &tensor];
    let shown: Value = serde_json::from_str(&demo.prints(&echo)).unwrap();
    let expected = json!({"list": [null, "<f32 [2,3], 24 bytes>"], "image": "<24 bytes>"});
    assert_eq!(shown, expected);
    let saved = demo.prints(&[&echo[..], &["--save", &out]].concat());
    let saved: Value = serde_json::from_str(&saved).unwrap();
    let [first, second] = ["0000-list-1.f32", "0001-image.bin"].map(|it| format!("{out}/{it}"));
    assert_eq!(saved["list"][1], format!("<f32 [2,3], 24 bytes in {first}>"));
    assert_eq!(saved["image"], format!("<24 bytes in {second}>"));
    for file in [first, second] {
        assert_eq!(fs::read(file).unwrap(), image);
    }

    let subscribe = ["subscribe", "news", "--json", "-n", "1", "--save", &out, "--app", "bench"];
    let live = Live::start(demo.command(&subscribe));
    demo.prints(&["publish", "news", "null", "--app", "bench", "--attach", &attach[6..]]);
    let (code, told, _) = live.end();
    let message: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(message["payload"], format!("<24 bytes in {out}/0000.bin>"), "{message}");
    assert_eq!(code, Some(0));

    let worker = ["worker", "size", "--app", "bench", "--", "cat"];
    let worker = Live::start(demo.command(&worker));
    let sized =
        ["request", "size", "[null]", "--app", "bench", "--attach", &format!("/0{}", &attach[6..])];
    let answer: Value = serde_json::from_str(&demo.prints(&sized)).unwrap();
    assert_eq!(answer[0]["$base64"].as_str().unwrap().len(), 32);
    worker.signal("INT");
    assert_eq!(worker.end().0, Some(0));

    for (argument, why) in [
        ("/image", "there is no `=@` before a file"),
        ("/image=@/does/not/exist", "cannot read /does/not/exist"),
        (&*format!("/nowhere=@{}", path("image")), "have the payload hold null"),
        (&*format!("/image=@{}:f32:5", path("image")), "correct them"),
    ] {
        let command = demo.command(&["request", "echo", payload, "--attach", argument]);
        assert_fails(command, 2, why);
    }
}
