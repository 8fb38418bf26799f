//! The value types of readings.

use std::fmt;
use std::str::FromStr;

macro_rules! value_types {
    ($($variant:ident),+ $(,)?) => {
        /// What kind of value a reading holds. Names in JSON are the variants' names.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[expect(missing_docs, reason = "the names are EdgeX's and say all there is")]
        pub enum ValueType { $($variant),+ }

        impl ValueType {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name in JSON and CBOR.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => stringify!($variant)),+ }
            }

            /// The type of exactly this name.
            pub(crate) fn exact(name: &str) -> Option<Self> {
                match name { $(stringify!($variant) => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

value_types! {
    Bool, String, Uint8, Uint16, Uint32, Uint64, Int8, Int16, Int32, Int64, Float32, Float64, Binary,
    BoolArray, StringArray, Uint8Array, Uint16Array, Uint32Array, Uint64Array,
    Int8Array, Int16Array, Int32Array, Int64Array, Float32Array, Float64Array, Object, ObjectArray,
}

/// No value type has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown value type {0:?}")]
pub struct UnknownValueType(
    /// The name.
    pub String,
);

impl ValueType {
    /// The type of this name, in any case. `ObjectArray` is new in generation 4.
    ///
    /// # Errors
    /// [`UnknownValueType`].
    pub fn parse(name: &str) -> Result<Self, UnknownValueType> {
        Self::exact(name)
            .or_else(|| {
                Self::ALL
                    .iter()
                    .copied()
                    .find(|known| known.as_str().eq_ignore_ascii_case(name))
            })
            .ok_or_else(|| UnknownValueType(name.to_owned()))
    }

    /// The type of one element, when this is an array of simple values.
    pub const fn element(self) -> Option<Self> {
        Some(match self {
            Self::BoolArray => Self::Bool,
            Self::StringArray => Self::String,
            Self::Uint8Array => Self::Uint8,
            Self::Uint16Array => Self::Uint16,
            Self::Uint32Array => Self::Uint32,
            Self::Uint64Array => Self::Uint64,
            Self::Int8Array => Self::Int8,
            Self::Int16Array => Self::Int16,
            Self::Int32Array => Self::Int32,
            Self::Int64Array => Self::Int64,
            Self::Float32Array => Self::Float32,
            Self::Float64Array => Self::Float64,
            _ => return None,
        })
    }

    /// Is it an integer or a float, or an array of them?
    pub const fn is_numeric(self) -> bool {
        let scalar = match self.element() {
            Some(element) => element,
            None => self,
        };
        !matches!(
            scalar,
            Self::Bool | Self::String | Self::Binary | Self::Object | Self::ObjectArray
        )
    }
}

impl FromStr for ValueType {
    type Err = UnknownValueType;

    fn from_str(name: &str) -> Result<Self, UnknownValueType> {
        Self::parse(name)
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
