//! Settings as YAML: a tree that reads back as what it shows, with where each leaf comes from behind it.

use std::fmt::Write as _;

use edgehold::ShownSetting;
use serde_json::Value;

/// The settings, which are sorted by path, as YAML.
pub(super) fn tree(settings: &[&ShownSetting], origin: bool) -> String {
    let mut text = String::new();
    let mut open: Vec<&str> = Vec::new();
    for setting in settings {
        let segments: Vec<&str> = setting.path.split('/').collect();
        let (name, folders) = segments.split_last().expect("a path has a segment");
        let shared = open
            .iter()
            .zip(folders)
            .take_while(|(one, other)| one == other)
            .count();
        open.truncate(shared);
        for folder in &folders[shared..] {
            let _ = writeln!(text, "{}{}:", indent(open.len()), plain_or_quoted(folder));
            open.push(folder);
        }
        let line = format!(
            "{}{}: {}",
            indent(open.len()),
            plain_or_quoted(name),
            scalar(&setting.json)
        );
        let _ = match origin {
            true => writeln!(text, "{line}  # {}", setting.origin),
            false => writeln!(text, "{line}"),
        };
    }
    text
}

fn indent(depth: usize) -> String {
    "  ".repeat(depth)
}

fn scalar(json: &Value) -> String {
    match json {
        Value::String(text) => plain_or_quoted(text),
        other => other.to_string(),
    }
}

/// A text as it is where YAML takes it for nothing else, else in double quotes, which JSON's are.
fn plain_or_quoted(text: &str) -> String {
    const TAKEN: [&str; 9] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let is_word = text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_-./:".contains(c))
        && !text.ends_with(':')
        && !TAKEN.contains(&text.to_ascii_lowercase().as_str());
    let is_duration = text.starts_with(|first: char| first.is_ascii_digit())
        && text.ends_with(['s', 'm', 'h'])
        && text.chars().all(|c| c.is_ascii_digit() || "nµumsh.".contains(c));
    match is_word || is_duration {
        true => text.to_owned(),
        false => Value::from(text).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_yaml_takes_for_something_else_is_quoted() {
        for plain in [
            "INFO",
            "http://localhost:80/x",
            "30s",
            "1h30m",
            "edgex-messagebus",
            "A.b_c",
        ] {
            assert_eq!(plain_or_quoted(plain), plain);
        }
        for quoted in [
            "",
            "true",
            "No",
            "1",
            "1e3",
            "0x1",
            "a b",
            "# a",
            "- a",
            "{a",
            "a:",
            "a: b",
            "*a",
            "<redacted>",
            "~",
        ] {
            assert_eq!(plain_or_quoted(quoted), format!("\"{quoted}\""));
        }
        assert_eq!(plain_or_quoted("a\"\n"), r#""a\"\n""#);
    }
}
