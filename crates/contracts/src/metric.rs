//! Metrics: what services report about themselves on `<base>/telemetry/<service-key>/<metric-name>`.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::ser::{Serialize, Serializer};
use serde_json::{Number, Value};

use crate::cbor;
use crate::codec::{self, DecodeError, Key, Keys, or_default};
use crate::content_type::ContentType;
use crate::generation::API_VERSION;
use crate::json::{self, Sorted};
use crate::value::AnyValue;

/// A metric. Go: `dtos.Metric`. Keys `apiVersion, name, fields?, tags?, timestamp`.
#[derive(Debug, Clone, PartialEq, Default, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Metric {
    /// `apiVersion`, `"v3"`.
    pub api_version: String,
    /// `name` as in the configuration, such as `HttpExportErrors`.
    pub name: String,
    /// `fields`, omitted when empty: `counter-count`; `gauge-value`; `gaugeFloat64-value`; `timer-` and `histogram-` with `count`,
    /// `min`, `max`, `mean`, `stddev`, `variance`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<MetricField>,
    /// `tags`, omitted when empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<MetricTag>,
    /// `timestamp`: nanoseconds since 1970.
    pub timestamp: i64,
}

/// One number of a metric.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct MetricField {
    /// `name`.
    pub name: String,
    /// `value`.
    pub value: MetricValue,
}

/// One tag of a metric.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct MetricTag {
    /// `name`.
    pub name: String,
    /// `value`.
    pub value: String,
}

/// The value of a metric field. It remembers how it came, because the line protocol of the original tells the two apart.
#[derive(Debug, Clone, PartialEq)]
pub enum MetricValue {
    /// A number from JSON, or a float: to the original always a float64 (`100000`, `1.234567e+06`), though integers are kept exact.
    Number(Number),
    /// A negative integer from CBOR (`-5i`).
    Signed(i64),
    /// Any other integer from CBOR (`5u`).
    Unsigned(u64),
    /// Anything else: text, boolean, null, or what does not belong here.
    Other(Value),
}

impl Metric {
    /// A metric of the current API version; `timestamp` is in nanoseconds since 1970.
    pub fn new(
        name: impl Into<String>,
        fields: Vec<MetricField>,
        tags: Vec<MetricTag>,
        timestamp: i64,
    ) -> Self {
        Self {
            api_version: API_VERSION.to_owned(),
            name: name.into(),
            fields,
            tags,
            timestamp,
        }
    }

    /// Reads a metric; like the original without any rules, so any object is one.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn decode(bytes: &[u8], content_type: ContentType) -> Result<Self, DecodeError> {
        codec::decode(bytes, content_type).map(|Wire(metric)| metric)
    }

    /// The metric as JSON, keys in Go's order.
    pub fn to_json(&self) -> Vec<u8> {
        json::to_vec(self).expect("a metric is text, integers and JSON values, which all have a JSON form")
    }

    /// The metric as CBOR.
    pub fn to_cbor(&self) -> Vec<u8> {
        cbor::to_vec(self).expect("a metric is text, integers and JSON values, which all have a CBOR form")
    }
}

impl MetricField {
    /// A field holding an integer, as reporters send counters.
    pub fn integer(name: impl Into<String>, value: i64) -> Self {
        Self {
            name: name.into(),
            value: MetricValue::Number(value.into()),
        }
    }

    /// A field holding a float; what is no number becomes 0, as JSON has no text for it.
    pub fn float(name: impl Into<String>, value: f64) -> Self {
        Self {
            name: name.into(),
            value: MetricValue::Number(Number::from_f64(value).unwrap_or_else(|| 0.into())),
        }
    }
}

impl MetricTag {
    /// A tag.
    pub fn new(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            value: value.into(),
        }
    }
}

impl Serialize for MetricValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(number) => number.serialize(serializer),
            Self::Signed(integer) => serializer.serialize_i64(*integer),
            Self::Unsigned(integer) => serializer.serialize_u64(*integer),
            Self::Other(value) => Sorted(value).serialize(serializer),
        }
    }
}

/// Keeps the serde form private; keys match in any case.
struct Wire<T>(T);

#[derive(Clone, Copy)]
enum MetricKey {
    ApiVersion,
    Name,
    Fields,
    Tags,
    Timestamp,
    Value,
}

impl Keys for MetricKey {
    const KEYS: &'static [(&'static str, Self)] = &[
        ("apiVersion", Self::ApiVersion),
        ("name", Self::Name),
        ("fields", Self::Fields),
        ("tags", Self::Tags),
        ("timestamp", Self::Timestamp),
        ("value", Self::Value),
    ];
}

impl<'de> Deserialize<'de> for Wire<Metric> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MetricVisitor;

        impl<'de> Visitor<'de> for MetricVisitor {
            type Value = Metric;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a Metric")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Metric, A::Error> {
                let mut metric = Metric::default();
                while let Some(key) = map.next_key()? {
                    match key {
                        Key::Known(MetricKey::ApiVersion) => metric.api_version = or_default(&mut map)?,
                        Key::Known(MetricKey::Name) => metric.name = or_default(&mut map)?,
                        Key::Known(MetricKey::Timestamp) => metric.timestamp = or_default(&mut map)?,
                        Key::Known(MetricKey::Fields) => {
                            let fields: Vec<Wire<MetricField>> = or_default(&mut map)?;
                            metric.fields = fields.into_iter().map(|Wire(field)| field).collect();
                        }
                        Key::Known(MetricKey::Tags) => {
                            let tags: Vec<Wire<MetricTag>> = or_default(&mut map)?;
                            metric.tags = tags.into_iter().map(|Wire(tag)| tag).collect();
                        }
                        Key::Known(MetricKey::Value) | Key::Other(_) => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(metric)
            }
        }

        deserializer.deserialize_map(MetricVisitor).map(Wire)
    }
}

impl<'de> Deserialize<'de> for Wire<MetricField> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let from_json = deserializer.is_human_readable();
        let (name, AnyValue(value)) = deserializer.deserialize_map(PairVisitor(std::marker::PhantomData))?;
        let value = match value {
            Value::Number(number) if from_json => MetricValue::Number(number),
            Value::Number(number) => match (number.as_u64(), number.as_i64()) {
                (Some(integer), _) => MetricValue::Unsigned(integer),
                (None, Some(integer)) => MetricValue::Signed(integer),
                (None, None) => MetricValue::Number(number),
            },
            other => MetricValue::Other(other),
        };
        Ok(Self(MetricField { name, value }))
    }
}

impl<'de> Deserialize<'de> for Wire<MetricTag> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (name, value) = deserializer.deserialize_map(PairVisitor::<String>(std::marker::PhantomData))?;
        Ok(Self(MetricTag { name, value }))
    }
}

/// A map of `name` and `value`.
struct PairVisitor<V>(std::marker::PhantomData<V>);

impl<'de, V: Deserialize<'de> + Default> Visitor<'de> for PairVisitor<V> {
    type Value = (String, V);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with name and value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(String, V), A::Error> {
        let (mut name, mut value) = (String::new(), V::default());
        while let Some(key) = map.next_key()? {
            match key {
                Key::Known(MetricKey::Name) => name = or_default(&mut map)?,
                Key::Known(MetricKey::Value) => value = or_default(&mut map)?,
                Key::Known(_) | Key::Other(_) => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok((name, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_remember_their_codec() {
        let metric = Metric::new(
            "Test",
            vec![
                MetricField::integer("count", 7),
                MetricField::integer("below", -7),
                MetricField::float("mean", 1.5),
            ],
            vec![MetricTag::new("service", "app-<x>")],
            1_700_000_000_000_000_001,
        );
        assert_eq!(
            String::from_utf8(metric.to_json()).unwrap(),
            r#"{"apiVersion":"v3","name":"Test","fields":[{"name":"count","value":7},{"name":"below","value":-7},{"name":"mean","value":1.5}],"tags":[{"name":"service","value":"app-\u003cx\u003e"}],"timestamp":1700000000000000001}"#
        );
        assert_eq!(
            Metric::decode(&metric.to_json(), ContentType::Json),
            Ok(metric.clone())
        );
        let from_cbor = Metric::decode(&metric.to_cbor(), ContentType::Cbor).unwrap();
        let values: Vec<_> = from_cbor.fields.iter().map(|field| &field.value).collect();
        assert_eq!(
            values,
            [
                &MetricValue::Unsigned(7),
                &MetricValue::Signed(-7),
                &MetricValue::Number(Number::from_f64(1.5).unwrap())
            ]
        );
        assert_eq!(from_cbor.to_json(), metric.to_json());
    }

    #[test]
    fn any_object_is_a_metric_and_nothing_else() {
        assert_eq!(Metric::decode(b"{}", ContentType::Json), Ok(Metric::default()));
        let odd =
            br#"{"NAME":"n","fields":[{"value":"x","Name":"f"},{"value":true}],"tags":null,"extra":{}}"#;
        let metric = Metric::decode(odd, ContentType::Json).unwrap();
        assert_eq!(metric.name, "n");
        assert_eq!(metric.fields[0].name, "f");
        assert_eq!(metric.fields[0].value, MetricValue::Other("x".into()));
        assert!(matches!(
            Metric::decode(b"[]", ContentType::Json),
            Err(DecodeError::Shape(_))
        ));
        assert!(matches!(
            Metric::decode(b"", ContentType::Cbor),
            Err(DecodeError::Syntax(_))
        ));
    }
}
