//! Untyped values from either codec as `serde_json::Value`.
//!
//! What JSON cannot hold is written as Go would write it to JSON: byte strings become base64, map keys text, and floats that are no
//! numbers their name.
//!
//! Both codecs bound how deep they read, each in its own way and both at little more than 120 levels. So that what one of them
//! reads the other reads too, wherever in a message it stands, a value of its own is bounded below that.

use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::{base64, number};

/// Arrays and objects inside each other.
const MAX_DEPTH: u8 = 100;

/// Deserializes any value of either codec; integers stay exact.
pub(crate) struct AnyValue(pub(crate) Value);

impl Default for AnyValue {
    fn default() -> Self {
        Self(Value::Null)
    }
}

impl<'de> Deserialize<'de> for AnyValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        AnyVisitor { depth: MAX_DEPTH }
            .deserialize(deserializer)
            .map(AnyValue)
    }
}

/// Reads a value of at most this depth.
#[derive(Clone, Copy)]
struct AnyVisitor {
    depth: u8,
}

impl AnyVisitor {
    fn inside<E: Error>(self) -> Result<Self, E> {
        let depth = self.depth.checked_sub(1);
        depth
            .map(|depth| Self { depth })
            .ok_or_else(|| E::custom(format!("nested deeper than {MAX_DEPTH} levels")))
    }
}

impl<'de> DeserializeSeed<'de> for AnyVisitor {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for AnyVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or_else(|| Value::String(number::general(value)), Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_bytes<E>(self, value: &[u8]) -> Result<Value, E> {
        Ok(Value::String(base64::encode(value)))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let inside = self.inside()?;
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(inside)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let inside = self.inside()?;
        let mut object = Map::new();
        while let Some((key, value)) = map.next_entry_seed(inside, inside)? {
            let key = match key {
                Value::String(text) => text,
                Value::Array(_) | Value::Object(_) => {
                    return Err(A::Error::custom("a map key is an array or a map"));
                }
                scalar => scalar.to_string(),
            };
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}
