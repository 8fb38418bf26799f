//! A rule as it is read: operators known by name, everything else a literal.

use serde::Deserialize;
use serde_json::Value as Json;

/// What a rule is made of.
#[derive(Debug)]
pub(super) enum Rule {
    /// A value that stands for itself. An object with more than one key, or none, is one.
    Literal(Json),
    /// A list, some of whose items are to be evaluated.
    List(Vec<Rule>),
    /// An operator and its operands; a single operand need not stand in a list.
    Operation(Operator, Vec<Rule>),
}

macro_rules! operators {
    ($($name:literal => $operator:ident,)*) => {
        /// What a rule can do.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Operator {
            $($operator,)*
        }

        impl Operator {
            /// Every operator with its name; some have two.
            pub(super) const NAMES: &[(&str, Self)] = &[$(($name, Self::$operator),)*];
        }
    };
}

operators! {
    "==" => Equal,
    "===" => SameTypeAndEqual,
    "!=" => NotEqual,
    "!==" => NotSameTypeOrNotEqual,
    ">" => More,
    ">=" => MoreOrEqual,
    "<" => Less,
    "<=" => LessOrEqual,
    "!" => Not,
    "!!" => Truth,
    "and" => And,
    "or" => Or,
    "if" => If,
    "?:" => IfElse,
    "var" => Var,
    "missing" => Missing,
    "missing_some" => MissingSome,
    "in" => In,
    "in_sorted" => InSorted,
    "contains_all" => ContainsAll,
    "contains_any" => ContainsAny,
    "contains_none" => ContainsNone,
    "cat" => Cat,
    "substr" => Substr,
    "merge" => Merge,
    "+" => Add,
    "-" => Subtract,
    "*" => Multiply,
    "/" => Divide,
    "%" => Remainder,
    "abs" => Abs,
    "max" => Max,
    "min" => Min,
    "map" => Map,
    "filter" => Filter,
    "reduce" => Reduce,
    "all" => All,
    "some" => Some,
    "none" => None,
    "set" => Set,
}

/// Why a text is no rule.
#[derive(Debug, thiserror::Error)]
pub(super) enum InvalidRule {
    #[error("it is no JSON: {0}")]
    Json(serde_json::Error),
    #[error("'{0}' is not an operator")]
    UnknownOperator(String),
}

impl Rule {
    /// Reads the first JSON value of `text`.
    ///
    /// # Errors
    /// [`InvalidRule`]; also for operators that evaluation might never come to.
    pub(super) fn parse(text: &str) -> Result<Self, InvalidRule> {
        let mut reader = serde_json::Deserializer::from_str(text);
        let json = Json::deserialize(&mut reader).map_err(InvalidRule::Json)?;
        Self::from_json(json)
    }

    /// Recurses no deeper than the JSON that was read.
    pub(super) fn from_json(json: Json) -> Result<Self, InvalidRule> {
        Ok(match json {
            Json::Object(object) if object.len() == 1 => {
                let (name, operands) = object.into_iter().next().expect("it has one entry");
                let operator = Operator::NAMES.iter().find(|(known, _)| *known == name);
                let Option::Some((_, operator)) = operator else {
                    return Err(InvalidRule::UnknownOperator(name));
                };
                let operands = match operands {
                    Json::Array(operands) => operands,
                    single => vec![single],
                };
                Self::Operation(*operator, Self::all_from_json(operands)?)
            }
            Json::Array(items) => {
                let items = Self::all_from_json(items)?;
                if items.iter().all(|item| matches!(item, Self::Literal(_))) {
                    let literal = |item| match item {
                        Self::Literal(json) => json,
                        _ => Json::Null,
                    };
                    Self::Literal(items.into_iter().map(literal).collect())
                } else {
                    Self::List(items)
                }
            }
            literal => Self::Literal(literal),
        })
    }

    fn all_from_json(items: Vec<Json>) -> Result<Vec<Self>, InvalidRule> {
        items.into_iter().map(Self::from_json).collect()
    }

    /// What kind of value the rule is whatever the data, if that is neither a boolean nor null.
    pub(super) fn never_a_boolean(&self) -> Option<&'static str> {
        match self {
            Self::Literal(Json::Bool(_) | Json::Null) | Self::Operation(..) => Option::None,
            Self::Literal(Json::Number(_)) => Option::Some("a number"),
            Self::Literal(Json::String(_)) => Option::Some("a text"),
            Self::Literal(Json::Object(_)) => Option::Some("an object without an operator as its only key"),
            Self::Literal(Json::Array(_)) | Self::List(_) => Option::Some("a list"),
        }
    }
}
