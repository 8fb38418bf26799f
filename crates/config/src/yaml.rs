//! YAML text to a [`Layer`], the way EdgeX seeds a file into its configuration provider.
//!
//! Scalars become text on the way, whole numbers of up to 64 bits exactly: `no`, `010` and 12345678901234567890 stay
//! what they are. Duplicate keys and runaway aliases are refused.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::options::NonFiniteFloatPolicy;

use crate::{Layer, schema};

/// Text that is not one YAML document of the expected shape.
#[derive(Debug, thiserror::Error)]
#[error("line {line}, column {column}: {problem}")]
pub struct InvalidYaml {
    /// Line, from 1; 0 when it is not known.
    pub line: u64,
    /// Column, from 1; 0 when it is not known.
    pub column: u64,
    problem: String,
}

/// Reads a private configuration file.
///
/// Maps become path segments, list elements segments `0`, `1`, …, null becomes empty text, empty lists `[]`. Empty maps
/// become nothing, except below a configured function, where `Parameters: {}` has to keep the function in being.
///
/// # Errors
/// [`InvalidYaml`].
pub fn parse(text: &str) -> Result<Layer, InvalidYaml> {
    let options = serde_saphyr::options! {
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        non_finite_float_policy: NonFiniteFloatPolicy::AsString,
        with_snippet: false,
    };
    let mut layer = Layer::default();
    serde_saphyr::with_deserializer_from_str_with_options(text, options, |document| {
        Node {
            path: "",
            layer: &mut layer,
        }
        .deserialize(document)
    })
    .map_err(|error| {
        let location = error.location();
        InvalidYaml {
            line: location.map_or(0, |at| at.line()),
            column: location.map_or(0, |at| at.column()),
            problem: problem(&error),
        }
    })?;
    Ok(layer)
}

/// The parser's message without the position it repeats.
fn problem(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    let text = text.split(" at line ").next().unwrap_or(&text);
    text.strip_prefix("error: ").unwrap_or(text).to_owned()
}

/// A place in the document: whatever is read from it goes into the layer, below `path`.
struct Node<'a> {
    path: &'a str,
    layer: &'a mut Layer,
}

impl Node<'_> {
    fn leaf(self, text: impl Into<String>) {
        if !self.path.is_empty() {
            self.layer.insert(self.path, text);
        }
    }

    fn child(&mut self, segment: &str) -> String {
        if self.path.is_empty() {
            segment.to_owned()
        } else {
            format!("{}/{segment}", self.path)
        }
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.path.is_empty() {
            "a map of settings"
        } else {
            "a setting"
        })
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.leaf("");
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.leaf(value.to_string());
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.leaf(value.to_string());
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.leaf(value.to_string());
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        // Rust prints the shortest decimal that reads back, without an exponent: what EdgeX seeds.
        self.leaf(value.to_string());
        Ok(())
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<(), E> {
        if self.path.is_empty() {
            return Err(E::custom("the document is a single text, not a map of settings"));
        }
        self.leaf(value);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut elements: A) -> Result<(), A::Error> {
        let mut index = 0_usize;
        loop {
            let path = self.child(&index.to_string());
            if elements
                .next_element_seed(Node {
                    path: &path,
                    layer: self.layer,
                })?
                .is_none()
            {
                break;
            }
            index += 1;
        }
        if index == 0 {
            self.leaf("[]");
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut entries: A) -> Result<(), A::Error> {
        let mut empty = true;
        while let Some(Key(key)) = entries.next_key()? {
            empty = false;
            let path = self.child(&key);
            entries.next_value_seed(Node {
                path: &path,
                layer: self.layer,
            })?;
        }
        if empty && schema::function_of(self.path).is_some() {
            self.leaf("");
        }
        Ok(())
    }
}

/// A map key as text, whatever YAML takes it for.
struct Key(String);

impl<'de> serde::Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut layer = Layer::default();
        Node {
            path: "key",
            layer: &mut layer,
        }
        .deserialize(deserializer)?;
        match layer.get("key") {
            Some(text) => Ok(Self(text.to_owned())),
            None => Err(serde::de::Error::custom("a key is a list or a map")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(yaml: &str, leaves: &[(&str, &str)]) {
        assert_eq!(parse(yaml).unwrap(), leaves.iter().copied().collect(), "{yaml}");
    }

    #[test]
    fn scalars_become_the_text_edgex_seeds() {
        check("a: 1883", &[("a", "1883")]);
        check("a: -5", &[("a", "-5")]);
        check("a: true", &[("a", "true")]);
        check("a: 0.5", &[("a", "0.5")]);
        check("a: 1e21", &[("a", "1000000000000000000000")]);
        check("a: 0x10", &[("a", "16")]);
        check("a:", &[("a", "")]);
        check("a: ~", &[("a", "")]);
        check("a: ''", &[("a", "")]);
        check("a: [x, 2]", &[("a/0", "x"), ("a/1", "2")]);
        check("a: []", &[("a", "[]")]);
        check("a: {}", &[]);
        check("", &[]);
    }

    #[test]
    fn nothing_is_read_into_a_plain_word_or_a_long_number() {
        for word in [
            "no",
            "on",
            "off",
            "y",
            "010",
            "00",
            "1_000",
            "12345678901234567890",
        ] {
            check(&format!("a: {word}"), &[("a", word)]);
        }
    }

    #[test]
    fn keys_are_text_whatever_they_look_like() {
        check("1: {true: x, no: y}", &[("1/true", "x"), ("1/no", "y")]);
    }

    #[test]
    fn a_function_without_parameters_stays() {
        let base = "Writable/Pipeline/Functions/ToLineProtocol";
        check(
            "Writable: {Pipeline: {Functions: {ToLineProtocol: {}}}}",
            &[(base, "")],
        );
        check(
            "Writable: {Pipeline: {Functions: {ToLineProtocol: {Parameters: {}}}}}",
            &[(&format!("{base}/Parameters"), "")],
        );
    }

    #[test]
    fn anchors_and_merge_keys_work() {
        check(
            "x: &x {a: 1}\ny:\n  <<: *x\n  b: 2",
            &[("x/a", "1"), ("y/a", "1"), ("y/b", "2")],
        );
    }

    #[test]
    fn a_mistake_is_told_with_its_place() {
        let duplicate = parse("Writable:\n  LogLevel: INFO\n  LogLevel: DEBUG\n").unwrap_err();
        assert_eq!((duplicate.line, duplicate.column), (3, 3), "{duplicate}");
        assert!(
            duplicate.to_string().to_lowercase().contains("duplicate"),
            "{duplicate}"
        );
        let indentation = parse("a:\n  b: 1\n c: 2\n").unwrap_err();
        assert_eq!(indentation.line, 3, "{indentation}");
        assert!(parse("just a text").is_err());
        assert!(parse("a: 1\n---\nb: 2").is_err());
    }
}
