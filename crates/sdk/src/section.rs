//! Configuration sections of a developer's own: from texts by path to a type.
//!
//! Owns how a section is read: every leaf is a text, as in a configuration provider, and the type it is read into says what
//! the text means. Booleans and numbers are read as Go reads them, lists are comma lists or list elements by number. Keys
//! must match their field's name exactly; keys no field has are left alone.
//! (EdgeX: `LoadCustomConfig`, `ListenForCustomConfigChanges`.)

mod follow;

use std::{collections::BTreeMap, fmt, marker::PhantomData, sync::Arc};

use edgehold_config::Layer;
use edgehold_core::parse_go_bool;
use serde::{
    de::{
        DeserializeOwned, Deserializer, Error as _, IntoDeserializer, Visitor,
        value::{MapDeserializer, SeqDeserializer, StringDeserializer},
    },
    forward_to_deserialize_any,
};
use tokio::sync::watch;

pub(crate) use follow::follow;

/// A section that is not what its type asks for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SectionError(String);

impl serde::de::Error for SectionError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

/// A section of one's own, followed while the service runs.
#[derive(Clone, Debug)]
pub struct SectionWatch<T> {
    name: Arc<str>,
    layer: watch::Receiver<Layer>,
    of: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> SectionWatch<T> {
    pub(crate) fn new(name: &str, layer: watch::Receiver<Layer>) -> Self {
        Self {
            name: name.into(),
            layer,
            of: PhantomData,
        }
    }

    /// The section as it is now.
    ///
    /// # Errors
    /// [`SectionError`] when it is not a `T` now; what was read before stays good to use.
    pub fn current(&self) -> Result<T, SectionError> {
        read(&self.name, &self.layer.borrow())
    }

    /// Whether the section has changed since it was last waited for.
    pub fn has_changed(&self) -> bool {
        self.layer.has_changed().unwrap_or(false)
    }

    /// Returns once the section has changed since it was last waited for. Cancel-safe.
    ///
    /// # Errors
    /// As [`SectionWatch::current`]. When the service has ended it never returns.
    pub async fn changed(&mut self) -> Result<T, SectionError> {
        if self.layer.changed().await.is_err() {
            return std::future::pending().await;
        }
        read(&self.name, &self.layer.borrow_and_update())
    }
}

/// Reads a section.
pub(crate) fn read<T: DeserializeOwned>(name: &str, layer: &Layer) -> Result<T, SectionError> {
    let mut root = Node::default();
    for (path, text) in layer.iter() {
        let folder = path.split('/').fold(&mut root, |node, level| {
            node.below.entry(level.to_owned()).or_default()
        });
        folder.text = Some(text.to_owned());
    }
    T::deserialize(Reader {
        path: name.to_owned(),
        node: root,
    })
}

/// A leaf with its text, or a folder.
#[derive(Debug, Default)]
struct Node {
    text: Option<String>,
    below: BTreeMap<String, Node>,
}

struct Reader {
    path: String,
    node: Node,
}

impl Reader {
    fn text(&self) -> Result<&str, SectionError> {
        let text = self.node.text.as_deref().map(str::trim);
        text.ok_or_else(|| SectionError(format!("{} is a folder, not a value", self.path)))
    }

    fn parse<T>(&self, what: &str, read: impl FnOnce(&str) -> Option<T>) -> Result<T, SectionError> {
        let text = self.text()?;
        read(text).ok_or_else(|| {
            let shown = edgehold_config::shown(&self.path, text);
            SectionError(format!("{} = '{shown}' is not {what}", self.path))
        })
    }

    fn below(self) -> impl Iterator<Item = (String, Self)> {
        let Self { path, node } = self;
        node.below.into_iter().map(move |(name, node)| {
            let path = format!("{path}/{name}");
            (name, Self { path, node })
        })
    }
}

macro_rules! numbers {
    ($($method:ident $visit:ident $what:literal),+) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SectionError> {
            let number = self.parse($what, |text| text.parse().ok())?;
            visitor.$visit(number)
        }
    )+};
}

impl<'de> Deserializer<'de> for Reader {
    type Error = SectionError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SectionError> {
        match self.node.text {
            Some(text) => visitor.visit_string(text),
            None => self.deserialize_map(visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SectionError> {
        visitor.visit_bool(self.parse("a boolean", parse_go_bool)?)
    }

    numbers!(
        deserialize_i8 visit_i8 "a whole number from -128 to 127",
        deserialize_i16 visit_i16 "a whole number of 16 bits",
        deserialize_i32 visit_i32 "a whole number of 32 bits",
        deserialize_i64 visit_i64 "a whole number of 64 bits",
        deserialize_u8 visit_u8 "a whole number from 0 to 255",
        deserialize_u16 visit_u16 "a whole number from 0 to 65535",
        deserialize_u32 visit_u32 "a whole number of 32 bits, not negative",
        deserialize_u64 visit_u64 "a whole number of 64 bits, not negative",
        deserialize_f32 visit_f32 "a number",
        deserialize_f64 visit_f64 "a number"
    );

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SectionError> {
        match self.node.text.as_deref() {
            Some("") => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SectionError> {
        if self.node.text.is_some_and(|text| !text.is_empty()) {
            return Err(SectionError(format!("{} is a value, not a folder", self.path)));
        }
        let node = Node {
            text: None,
            below: self.node.below,
        };
        let reader = Self {
            path: self.path,
            node,
        };
        visitor.visit_map(MapDeserializer::new(reader.below()))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, SectionError> {
        self.deserialize_map(visitor)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SectionError> {
        if let Some(text) = &self.node.text {
            let item = |text: &str| Self {
                path: self.path.clone(),
                node: Node {
                    text: Some(text.to_owned()),
                    below: BTreeMap::new(),
                },
            };
            let items = text.split(',').map(str::trim).filter(|text| !text.is_empty());
            return visitor.visit_seq(SeqDeserializer::new(items.map(item)));
        }
        let mut items: Vec<_> = self.below().collect();
        // `10` comes after `9`.
        items.sort_by_key(|(name, _)| name.parse::<u64>().unwrap_or(u64::MAX));
        visitor.visit_seq(SeqDeserializer::new(items.into_iter().map(|(_, item)| item)))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, SectionError> {
        let text = self.text()?.to_owned();
        let variant: StringDeserializer<SectionError> = text.into_deserializer();
        variant
            .deserialize_enum(name, variants, visitor)
            .map_err(|error| SectionError::custom(format!("{}: {error}", self.path)))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, SectionError> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        i128 u128 char str string bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

impl IntoDeserializer<'_, SectionError> for Reader {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "PascalCase")]
    struct Custom {
        name: String,
        limit: u16,
        #[serde(default)]
        ratio: Option<f64>,
        on: bool,
        topics: Vec<String>,
        host: Host,
        kind: Kind,
        tags: BTreeMap<String, String>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "PascalCase")]
    struct Host {
        port: i32,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    enum Kind {
        Fast,
    }

    const GOOD: [(&str, &str); 10] = [
        ("Name", "8080"),
        ("Limit", "8080"),
        ("Ratio", ""),
        ("On", "T"),
        ("Topics", "a, b,"),
        ("Host/Port", "-1"),
        ("Kind", "Fast"),
        ("Tags/a", "1"),
        ("Tags/b", "x"),
        ("Unknown", "left alone"),
    ];

    #[test]
    fn a_section_is_read_as_its_type_asks() {
        let layer: Layer = GOOD.into_iter().collect();
        let custom: Custom = read("Custom", &layer).unwrap();
        let tags = [("a", "1"), ("b", "x")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        let expected = Custom {
            name: "8080".to_owned(),
            limit: 8080,
            ratio: None,
            on: true,
            topics: vec!["a".to_owned(), "b".to_owned()],
            host: Host { port: -1 },
            kind: Kind::Fast,
            tags: tags.into(),
        };
        assert_eq!(custom, expected);
    }

    #[test]
    fn list_elements_come_in_the_order_of_their_numbers() {
        let layer: Layer = (0..11).map(|n| (n.to_string(), n.to_string())).collect();
        let numbers: Vec<u8> = read("L", &layer).unwrap();
        assert_eq!(numbers, (0..11).collect::<Vec<_>>());
    }

    #[test]
    fn what_does_not_fit_is_named_with_its_path() {
        for (path, text, reason) in [
            ("Limit", "many", "Custom/Limit = 'many' is not a whole number"),
            ("On", "maybe", "Custom/On = 'maybe' is not a boolean"),
            ("Host/Port", "", "Custom/Host/Port = '' is not a whole number"),
            ("Kind", "Slow", "Custom/Kind: unknown variant `Slow`"),
            ("Host", "here", "Custom/Host is a value, not a folder"),
        ] {
            let layer: Layer = GOOD
                .into_iter()
                .filter(|(known, _)| *known != path)
                .chain([(path, text)])
                .collect();
            let error = read::<Custom>("Custom", &layer).unwrap_err().to_string();
            assert!(error.starts_with(reason), "{error}");
        }
        let error = read::<Custom>("Custom", &Layer::default()).unwrap_err();
        assert!(error.to_string().contains("missing field `Name`"), "{error}");
    }
}
