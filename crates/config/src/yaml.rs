//! YAML text to a [`Layer`], the way EdgeX seeds a file into its configuration provider, and where each leaf stands.
//!
//! Scalars become text on the way, whole numbers of up to 64 bits exactly: `no`, `010` and 12345678901234567890 stay
//! what they are. Duplicate keys and runaway aliases are refused.

use std::{collections::BTreeMap, fmt};

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, Spanned, options::NonFiniteFloatPolicy};

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

impl InvalidYaml {
    /// What is wrong, without the place.
    pub fn problem(&self) -> &str {
        &self.problem
    }
}

/// A place in a file. Ordered as one reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Line, from 1.
    pub line: u64,
    /// Column, from 1.
    pub column: u64,
}

/// Where keys and their values stand in a file, by path. An element of a list has no key: its value counts as one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places(BTreeMap<String, (Place, Place)>);

impl Places {
    /// Where the key of a path stands, or of the nearest folder above that has one.
    pub fn key(&self, path: &str) -> Option<Place> {
        let mut path = path;
        loop {
            if let Some((key, _)) = self.0.get(path) {
                return Some(*key);
            }
            path = path.rsplit_once('/')?.0;
        }
    }

    /// Where the value of a path stands, or else its key or that of the nearest folder above.
    pub fn value(&self, path: &str) -> Option<Place> {
        self.0
            .get(path)
            .map_or_else(|| self.key(path), |(_, value)| Some(*value))
    }
}

/// What a file says, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Document {
    /// Its leaves.
    pub layer: Layer,
    /// Where they stand.
    pub places: Places,
}

/// Reads a configuration file.
///
/// Maps become path segments, list elements segments `0`, `1`, …, null becomes empty text, empty lists `[]`. Empty maps
/// become nothing, except below a configured function, where `Parameters: {}` has to keep the function in being.
///
/// A key that contains `/` is a path, `Writable/LogLevel: DEBUG`: that is what it becomes in a provider, so that a file means the
/// same with and without one. (Without a provider EdgeX keeps such a key whole.)
///
/// # Errors
/// [`InvalidYaml`], also when a setting is there twice by two ways of writing its path.
pub fn read(text: &str) -> Result<Document, InvalidYaml> {
    let options = serde_saphyr::options! {
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        non_finite_float_policy: NonFiniteFloatPolicy::AsString,
        with_snippet: false,
    };
    let root: Root = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let location = error.location();
        InvalidYaml {
            line: location.map_or(0, |at| at.line()),
            column: location.map_or(0, |at| at.column()),
            problem: problem(&error),
        }
    })?;
    let mut document = Document::default();
    document.add("", root.0)?;
    Ok(document)
}

/// The leaves of a configuration file: [`read`] without the places.
///
/// # Errors
/// [`InvalidYaml`].
pub fn parse(text: &str) -> Result<Layer, InvalidYaml> {
    read(text).map(|document| document.layer)
}

/// The parser's message without the position it repeats.
fn problem(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    let text = text.split(" at line ").next().unwrap_or(&text);
    text.strip_prefix("error: ").unwrap_or(text).to_owned()
}

impl Document {
    /// What stands below a folder, by its path below it; none when the folder is not there.
    pub(crate) fn below(&self, folder: &str) -> Option<Self> {
        fn rest<'a>(path: &'a str, folder: &str) -> Option<&'a str> {
            path.strip_prefix(folder)?.strip_prefix('/')
        }
        self.places.0.get(folder)?;
        let leaves = self.layer.iter();
        let places = self.places.0.iter();
        Some(Self {
            layer: leaves
                .filter_map(|(path, text)| Some((rest(path, folder)?, text)))
                .collect(),
            places: Places(
                places
                    .filter_map(|(path, places)| Some((rest(path, folder)?.to_owned(), *places)))
                    .collect(),
            ),
        })
    }

    fn add(&mut self, path: &str, node: Node) -> Result<(), InvalidYaml> {
        match node {
            Node::Scalar(text) if !path.is_empty() => self.layer.insert(path, text),
            Node::Scalar(_) => {}
            Node::List(elements) if elements.is_empty() => self.add(path, Node::Scalar("[]".to_owned()))?,
            Node::List(elements) => {
                for (index, element) in elements.into_iter().enumerate() {
                    let place = place_of(&element);
                    self.child(path, &index.to_string(), (place, place), element.value)?;
                }
            }
            Node::Map(entries) => {
                if entries.is_empty() && schema::function_of(path).is_some() {
                    self.layer.insert(path, "");
                }
                for (key, value) in entries {
                    let places = (place_of(&key), place_of(&value));
                    self.child(path, &key.value.0, places, value.value)?;
                }
            }
        }
        Ok(())
    }

    fn child(
        &mut self,
        path: &str,
        segment: &str,
        places: (Place, Place),
        node: Node,
    ) -> Result<(), InvalidYaml> {
        let path = if path.is_empty() {
            segment.to_owned()
        } else {
            format!("{path}/{segment}")
        };
        if self.layer.get(&path).is_some() {
            return Err(InvalidYaml {
                line: places.0.line,
                column: places.0.column,
                problem: format!("the setting {path} is there twice"),
            });
        }
        self.add(&path, node)?;
        self.places.0.insert(path, places);
        Ok(())
    }
}

/// Where it stands where it is used, which for what is merged in is the place of the merge.
fn place_of<T>(node: &Spanned<T>) -> Place {
    let at: Location = node.referenced;
    Place {
        line: at.line(),
        column: at.column(),
    }
}

/// The document: a map of settings, or nothing.
struct Root(Node);

impl<'de> Deserialize<'de> for Root {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader { is_root: true }).map(Self)
    }
}

/// A node of the document.
enum Node {
    /// As text.
    Scalar(String),
    List(Vec<Spanned<Node>>),
    Map(Vec<(Spanned<Key>, Spanned<Node>)>),
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader { is_root: false })
    }
}

struct Reader {
    is_root: bool,
}

impl<'de> Visitor<'de> for Reader {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_root {
            "a map of settings"
        } else {
            "a setting"
        })
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(String::new()))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Scalar(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Scalar(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Scalar(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        // Rust prints the shortest decimal that reads back, without an exponent: what EdgeX seeds.
        Ok(Node::Scalar(value.to_string()))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Node, E> {
        if self.is_root {
            return Err(E::custom("the document is a single text, not a map of settings"));
        }
        Ok(Node::Scalar(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(element) = elements.next_element()? {
            list.push(element);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Node::Map(map))
    }
}

/// A map key as text, whatever YAML takes it for.
struct Key(String);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Node::deserialize(deserializer)? {
            Node::Scalar(text) => Ok(Self(text)),
            Node::List(_) | Node::Map(_) => Err(serde::de::Error::custom("a key is a list or a map")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_and_value_has_its_place() {
        let document = read(concat!(
            "# a comment\n",
            "Writable:\n",
            "  LogLevel: 'INFO'\n",
            "  Pipeline: {Functions: {A: {}}}\n",
            "List:\n",
            "  - one\n",
            "Long: |\n",
            "  text\n",
            "Empty:\n",
        ))
        .unwrap();
        let place = |line, column| Some(Place { line, column });
        let places = &document.places;
        assert_eq!(places.key("Writable/LogLevel"), place(3, 3));
        assert_eq!(places.value("Writable/LogLevel"), place(3, 13));
        assert_eq!(places.key("Writable/Pipeline/Functions/A"), place(4, 26));
        assert_eq!(places.value("List/0"), place(6, 5));
        assert_eq!(places.key("Long"), place(7, 1));
        assert_eq!(places.key("Empty"), place(9, 1));
        // What is not there is looked for above.
        assert_eq!(places.value("Writable/Pipeline/ExecutionOrder"), place(4, 3));
        assert_eq!(places.value("Elsewhere/X"), None);
        let below = document.below("Writable").unwrap();
        assert_eq!(below.places.key("LogLevel"), place(3, 3));
        assert_eq!(below.layer.get("LogLevel"), Some("INFO"));
        assert_eq!(document.below("Writ"), None);
    }

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
    fn a_key_with_slashes_is_a_path_and_no_setting_is_there_twice() {
        check(
            "Writable/LogLevel: DEBUG\nWritable: {Telemetry: {Tags: {a/b: x}}}",
            &[
                ("Writable/LogLevel", "DEBUG"),
                ("Writable/Telemetry/Tags/a/b", "x"),
            ],
        );
        let twice = parse("Writable:\n  LogLevel: INFO\nWritable/LogLevel: DEBUG\n").unwrap_err();
        assert_eq!((twice.line, twice.column), (3, 1), "{twice}");
        assert!(
            twice.to_string().contains("Writable/LogLevel is there twice"),
            "{twice}"
        );
        // What is merged in is there once, in the form that wins.
        check(
            "x: &x {a: 1, c: 3}\ny:\n  <<: *x\n  a: 2",
            &[("x/a", "1"), ("x/c", "3"), ("y/a", "2"), ("y/c", "3")],
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
