//! Every input of the corpus still holds.

use std::path::Path;

#[track_caller]
fn replay(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(name);
    let entries = folder.read_dir().expect("each target has a corpus");
    let paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    assert!(!paths.is_empty(), "the corpus of {name} is empty");

    let broken: Vec<_> = paths
        .iter()
        .filter(|path| {
            let input = std::fs::read(path).unwrap();
            std::panic::catch_unwind(|| target(&input)).is_err()
        })
        .collect();
    assert!(broken.is_empty(), "what broke is told above, for {broken:#?}");
}

#[test]
fn envelope() {
    replay("envelope", crate::envelope);
}

#[test]
fn event() {
    replay("event", crate::event);
}

#[test]
fn cbor() {
    replay("cbor", crate::cbor);
}

#[test]
fn yaml() {
    replay("yaml", crate::yaml);
}

#[test]
fn kv_tree() {
    replay("kv_tree", crate::kv_tree);
}

#[test]
fn duration() {
    replay("duration", crate::duration);
}

#[test]
fn json_logic() {
    replay("json_logic", crate::json_logic);
}

#[test]
fn line_protocol() {
    replay("line_protocol", crate::line_protocol);
}

#[test]
fn topic_filter() {
    replay("topic_filter", crate::topic_filter);
}
