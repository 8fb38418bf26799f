//! What a rule computes with. Values of the data and literals of the rule are borrowed; only what is computed is owned, and
//! shared, so that a copy costs nothing.

use std::{borrow::Cow, cmp::Ordering, rc::Rc};

use serde_json::{Map, Value as Json};

/// How deep what a rule builds may nest. It is taken apart by recursion when it is dropped.
pub(super) const MAX_DEPTH: usize = 200;

#[derive(Clone, Debug)]
pub(super) enum Value<'a> {
    Null,
    Bool(bool),
    Number(Number),
    Text(Text<'a>),
    List(List<'a>),
    Object(Object<'a>),
}

#[derive(Clone, Debug)]
pub(super) enum Text<'a> {
    Borrowed(&'a str),
    Shared(Rc<str>),
}

#[derive(Clone, Debug)]
pub(super) enum List<'a> {
    Borrowed(&'a [Json]),
    Shared { items: Rc<[Value<'a>]>, depth: usize },
}

#[derive(Clone, Debug)]
pub(super) enum Object<'a> {
    Borrowed(&'a Map<String, Json>),
    /// Another object with one property set.
    Set(Rc<SetProperty<'a>>),
}

#[derive(Debug)]
pub(super) struct SetProperty<'a> {
    pub(super) object: Object<'a>,
    pub(super) name: Rc<str>,
    pub(super) value: Value<'a>,
    pub(super) depth: usize,
}

/// Integers stay exact as long as no fraction comes in.
#[derive(Clone, Copy, Debug)]
pub(super) enum Number {
    Integer(i128),
    Float(f64),
}

impl Number {
    pub(super) const NAN: Self = Self::Float(f64::NAN);

    pub(super) fn as_f64(self) -> f64 {
        match self {
            Self::Integer(integer) => integer as f64,
            Self::Float(float) => float,
        }
    }

    /// None when one of them is no number.
    pub(super) fn compare(self, other: Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Integer(a), Self::Integer(b)) => Some(a.cmp(&b)),
            (a, b) => a.as_f64().partial_cmp(&b.as_f64()),
        }
    }

    /// Text that is no number gives what is no number; a blank one is 0.
    fn parse(text: &str) -> Self {
        let text = text.trim();
        if text.is_empty() {
            return Self::Integer(0);
        }
        match (text.parse(), text.parse()) {
            (Ok(integer), _) => Self::Integer(integer),
            (Err(_), Ok(float)) => Self::Float(float),
            (Err(_), Err(_)) => Self::NAN,
        }
    }

    /// The nearest integer towards zero that fits; 0 for what is no number.
    pub(super) fn truncated(self) -> i64 {
        match self {
            Self::Integer(integer) => {
                i64::try_from(integer).unwrap_or(if integer < 0 { i64::MIN } else { i64::MAX })
            }
            #[expect(
                clippy::cast_possible_truncation,
                reason = "a float is brought to the nearest integer, which is what is wanted"
            )]
            Self::Float(float) => float as i64,
        }
    }

    pub(super) fn to_text(self) -> String {
        match self {
            Self::Integer(integer) => integer.to_string(),
            Self::Float(float) => float.to_string(),
        }
    }
}

impl Text<'_> {
    pub(super) fn as_str(&self) -> &str {
        match self {
            Self::Borrowed(text) => text,
            Self::Shared(text) => text,
        }
    }
}

impl<'a> List<'a> {
    /// None when it would nest too deep.
    pub(super) fn shared(items: Vec<Value<'a>>) -> Option<Self> {
        let depth = 1 + items.iter().map(Value::depth).max().unwrap_or(0);
        (depth <= MAX_DEPTH).then(|| Self::Shared {
            items: items.into(),
            depth,
        })
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Borrowed(items) => items.len(),
            Self::Shared { items, .. } => items.len(),
        }
    }

    pub(super) fn get(&self, index: usize) -> Option<Value<'a>> {
        match self {
            Self::Borrowed(items) => items.get(index).map(Value::from_json),
            Self::Shared { items, .. } => items.get(index).cloned(),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Value<'a>> + '_ {
        (0..self.len()).map_while(|index| self.get(index))
    }
}

impl<'a> Object<'a> {
    /// With the property set. None when too many have been set.
    pub(super) fn set(self, name: &str, value: Value<'a>) -> Option<Self> {
        let depth = 1 + self.depth().max(value.depth());
        (depth <= MAX_DEPTH).then(|| {
            Self::Set(Rc::new(SetProperty {
                object: self,
                name: name.into(),
                value,
                depth,
            }))
        })
    }

    pub(super) fn get(&self, name: &str) -> Option<Value<'a>> {
        let mut object = self;
        loop {
            match object {
                Self::Borrowed(map) => return map.get(name).map(Value::from_json),
                Self::Set(set) if *set.name == *name => return Some(set.value.clone()),
                Self::Set(set) => object = &set.object,
            }
        }
    }

    fn depth(&self) -> usize {
        match self {
            Self::Borrowed(_) => 0,
            Self::Set(set) => set.depth,
        }
    }
}

impl<'a> Value<'a> {
    pub(super) fn from_json(json: &'a Json) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Bool(value) => Self::Bool(*value),
            Json::Number(number) => Self::Number(match (number.as_i64(), number.as_u64()) {
                (Some(integer), _) => Number::Integer(integer.into()),
                (None, Some(integer)) => Number::Integer(integer.into()),
                (None, None) => Number::Float(number.as_f64().unwrap_or(f64::NAN)),
            }),
            Json::String(text) => Self::Text(Text::Borrowed(text)),
            Json::Array(items) => Self::List(List::Borrowed(items)),
            Json::Object(object) => Self::Object(Object::Borrowed(object)),
        }
    }

    pub(super) fn text(text: &str) -> Self {
        Self::Text(Text::Shared(text.into()))
    }

    pub(super) fn integer(integer: impl Into<i128>) -> Self {
        Self::Number(Number::Integer(integer.into()))
    }

    /// False are null, `false`, 0, what is no number, and whatever is empty.
    pub(super) fn is_true(&self) -> bool {
        match self {
            Self::Null => false,
            Self::Bool(value) => *value,
            Self::Number(Number::Integer(integer)) => *integer != 0,
            Self::Number(Number::Float(float)) => *float != 0.0 && !float.is_nan(),
            Self::Text(text) => !text.as_str().is_empty(),
            Self::List(list) => list.len() > 0,
            Self::Object(Object::Borrowed(object)) => !object.is_empty(),
            Self::Object(Object::Set(_)) => true,
        }
    }

    pub(super) fn to_number(&self) -> Number {
        match self {
            Self::Null => Number::Integer(0),
            Self::Bool(value) => Number::Integer((*value).into()),
            Self::Number(number) => *number,
            Self::Text(text) => Number::parse(text.as_str()),
            Self::List(_) | Self::Object(_) => Number::NAN,
        }
    }

    /// The number to compute with: as [`Value::to_number`], but text that is no number counts as 0, as in EdgeX.
    pub(super) fn to_term(&self) -> Number {
        match (self, self.to_number()) {
            (Self::Text(_), number) if number.as_f64().is_nan() => Number::Integer(0),
            (_, number) => number,
        }
    }

    /// The text of a text, number or boolean; null has the empty one, lists and objects none.
    pub(super) fn to_text(&self) -> Option<Cow<'_, str>> {
        Some(match self {
            Self::Null => "".into(),
            Self::Bool(value) => value.to_string().into(),
            Self::Number(number) => number.to_text().into(),
            Self::Text(text) => text.as_str().into(),
            Self::List(_) | Self::Object(_) => return None,
        })
    }

    /// Texts as such, else as numbers. Null equals null alone; lists and objects equal nothing.
    pub(super) fn equals(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Null, _) | (_, Self::Null) => false,
            (Self::Text(a), Self::Text(b)) => a.as_str() == b.as_str(),
            (a, b) => a.to_number().compare(b.to_number()) == Some(Ordering::Equal),
        }
    }

    /// Texts by their characters, everything else as numbers. None when one is no number.
    pub(super) fn compare(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Text(a), Self::Text(b)) => Some(a.as_str().cmp(b.as_str())),
            (a, b) => a.to_number().compare(b.to_number()),
        }
    }

    pub(super) fn same_type(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }

    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Object(_) => "an object",
        }
    }

    fn depth(&self) -> usize {
        match self {
            Self::List(List::Shared { depth, .. }) => *depth,
            Self::Object(object) => object.depth(),
            _ => 0,
        }
    }
}
