//! YAML files: reading never panics, what is read resolves, and quoted text stays what it is.

use edgehold_config::{Layer, Layers, file, yaml};

use crate::kv_tree::{can_be_shown, is_stable, resolves};

/// A private or a common configuration file.
pub fn yaml(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else {
        return;
    };
    let lines = text.lines().enumerate();
    survives_quoting(&lines.map(|(index, line)| (index.to_string(), line)).collect());
    let common = file::parse_common(text, "fuzzed.yaml");
    let private = match yaml::parse(text) {
        Ok(private) => private,
        Err(error) => {
            let _ = error.to_string();
            assert!(common.is_err(), "a common file is YAML");
            return;
        }
    };
    survives_quoting(&private);
    let mut layers = Layers::default();
    if let Ok(common) = common {
        layers.all_services = common.all_services.layer;
        layers.app_services = common.app_services.layer;
    }
    let below = resolves(&layers, None);
    layers.private = private;
    let whole = resolves(&layers, Some(&below));
    is_stable(&layers, &whole);
    can_be_shown(&whole);
}

/// JSON is YAML in which all text is quoted: a layer written so is read as it was, whatever its texts look like.
fn survives_quoting(layer: &Layer) {
    // What YAML does not allow as it is, JSON does not escape; and keys are read up to a length.
    let is_plain = |text: &str| text.len() <= 256 && text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    let plain: Layer = layer
        .iter()
        .filter(|(path, text)| is_plain(path) && is_plain(text))
        .collect();
    let quoted: serde_json::Map<String, serde_json::Value> = plain
        .iter()
        .map(|(path, text)| (path.to_owned(), text.into()))
        .collect();
    let written = serde_json::Value::Object(quoted).to_string();
    let read = yaml::parse(&written).expect("JSON is YAML");
    assert_eq!(read, plain, "{written}");
}
