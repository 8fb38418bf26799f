//! Asking a rule about data.

use std::cmp::Ordering;

use serde_json::Value as Json;

use super::{
    rule::{Operator, Rule},
    value::{List, Number, Value},
};

/// How much one evaluation may do: each operator and each item of a list is one step, as are 16 bytes of a text that is
/// looked at. Some hundredths of a second.
pub(super) const MAX_STEPS: usize = 1_000_000;

const BYTES_PER_STEP: usize = 16;

/// Why a rule has no result.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum EvaluateError {
    #[error("it takes more than {MAX_STEPS} steps")]
    TooManySteps,
    #[error("what it builds nests too deep")]
    TooDeep,
    #[error("'{operator}' takes no {kind}")]
    Operand {
        operator: &'static str,
        kind: &'static str,
    },
}

type Result<T> = std::result::Result<T, EvaluateError>;

/// What the rule says about the data.
///
/// # Errors
/// [`EvaluateError`].
pub(super) fn evaluate<'a>(rule: &'a Rule, data: &'a Json) -> Result<Value<'a>> {
    let scope = Scope {
        around: None,
        here: Here::Data(Value::from_json(data)),
    };
    Evaluation { steps: MAX_STEPS }.value(rule, &scope)
}

/// What names mean at one place of a rule: inside of operators on lists the item, and around it what was there before.
struct Scope<'s, 'a> {
    around: Option<&'s Scope<'s, 'a>>,
    here: Here<'a>,
}

enum Here<'a> {
    Data(Value<'a>),
    /// Inside of `reduce`.
    Accumulation {
        current: Value<'a>,
        accumulator: Value<'a>,
    },
}

impl<'a> Scope<'_, 'a> {
    fn inside(&self, item: Value<'a>) -> Scope<'_, 'a> {
        Scope {
            around: Some(self),
            here: Here::Data(item),
        }
    }

    /// The value at `path`; null is as good as none. Looked for here first, then around.
    fn find(&self, path: &str) -> Option<Value<'a>> {
        let mut scope = self;
        loop {
            let found = match &scope.here {
                Here::Data(data) => lookup(data.clone(), path),
                Here::Accumulation { current, accumulator } => {
                    let (name, rest) = path.split_once('.').unwrap_or((path, ""));
                    match name {
                        "current" => lookup(current.clone(), rest),
                        "accumulator" => lookup(accumulator.clone(), rest),
                        _ => None,
                    }
                }
            };
            match (found, scope.around) {
                (Some(found), _) => return Some(found),
                (None, Some(around)) => scope = around,
                (None, None) => return None,
            }
        }
    }

    /// What the empty path stands for.
    fn whole(&self) -> Value<'a> {
        match &self.here {
            Here::Data(data) => data.clone(),
            Here::Accumulation { .. } => Value::Null,
        }
    }
}

/// Names of properties and numbers of items, with dots between them.
fn lookup<'a>(mut value: Value<'a>, path: &str) -> Option<Value<'a>> {
    for part in path.split('.').filter(|part| !part.is_empty()) {
        value = match &value {
            Value::Object(object) => object.get(part)?,
            Value::List(list) => list.get(part.parse().ok()?)?,
            _ => return None,
        };
    }
    (!matches!(value, Value::Null)).then_some(value)
}

struct Evaluation {
    steps: usize,
}

impl Evaluation {
    fn pay(&mut self, steps: usize) -> Result<()> {
        self.steps = self.steps.checked_sub(steps).ok_or(EvaluateError::TooManySteps)?;
        Ok(())
    }

    /// Recurses no deeper than the rule.
    fn value<'a>(&mut self, rule: &'a Rule, scope: &Scope<'_, 'a>) -> Result<Value<'a>> {
        self.pay(1)?;
        match rule {
            Rule::Literal(json) => Ok(Value::from_json(json)),
            Rule::List(items) => {
                let items = self.values(items, scope)?;
                self.list(items)
            }
            Rule::Operation(operator, operands) => self.operation(*operator, operands, scope),
        }
    }

    fn values<'a>(&mut self, rules: &'a [Rule], scope: &Scope<'_, 'a>) -> Result<Vec<Value<'a>>> {
        rules.iter().map(|rule| self.value(rule, scope)).collect()
    }

    fn list<'a>(&mut self, items: Vec<Value<'a>>) -> Result<Value<'a>> {
        self.pay(items.len())?;
        List::shared(items).map(Value::List).ok_or(EvaluateError::TooDeep)
    }

    fn operation<'a>(
        &mut self,
        operator: Operator,
        operands: &'a [Rule],
        scope: &Scope<'_, 'a>,
    ) -> Result<Value<'a>> {
        match operator {
            Operator::And => self.first_or_last(operands, scope, false),
            Operator::Or => self.first_or_last(operands, scope, true),
            Operator::If | Operator::IfElse => self.condition(operands, scope),
            Operator::Map
            | Operator::Filter
            | Operator::Reduce
            | Operator::All
            | Operator::Some
            | Operator::None => self.over_a_list(operator, operands, scope),
            strict => {
                let operands = self.values(operands, scope)?;
                self.strict(strict, &operands, scope)
            }
        }
    }

    /// The first operand of this truth, else the last one.
    fn first_or_last<'a>(
        &mut self,
        operands: &'a [Rule],
        scope: &Scope<'_, 'a>,
        truth: bool,
    ) -> Result<Value<'a>> {
        let mut last = Value::Null;
        for operand in operands {
            last = self.value(operand, scope)?;
            if last.is_true() == truth {
                break;
            }
        }
        Ok(last)
    }

    /// Pairs of condition and value, and perhaps a value for all other cases.
    fn condition<'a>(&mut self, operands: &'a [Rule], scope: &Scope<'_, 'a>) -> Result<Value<'a>> {
        for pair in operands.chunks(2) {
            let [condition, value] = pair else {
                return self.value(&pair[0], scope);
            };
            if self.value(condition, scope)?.is_true() {
                return self.value(value, scope);
            }
        }
        Ok(Value::Null)
    }

    fn over_a_list<'a>(
        &mut self,
        operator: Operator,
        operands: &'a [Rule],
        scope: &Scope<'_, 'a>,
    ) -> Result<Value<'a>> {
        let items = match operands.first() {
            Some(subject) => self.value(subject, scope)?,
            None => Value::Null,
        };
        // What is no list is an empty one.
        let items = match items {
            Value::List(list) => list,
            _ => List::Borrowed(&[]),
        };
        let body = operands.get(1);
        let mut kept = Vec::new();
        let mut accumulator = match (operator, operands.get(2)) {
            (Operator::Reduce, Some(initial)) => self.value(initial, scope)?,
            _ => Value::Null,
        };
        for item in items.iter() {
            self.pay(1)?;
            if operator == Operator::Reduce {
                let inside = Scope {
                    around: Some(scope),
                    here: Here::Accumulation {
                        current: item,
                        accumulator,
                    },
                };
                accumulator = match body {
                    Some(body) => self.value(body, &inside)?,
                    None => Value::Null,
                };
                continue;
            }
            let result = match body {
                Some(body) => self.value(body, &scope.inside(item.clone()))?,
                None => Value::Null,
            };
            match (operator, result.is_true()) {
                (Operator::Map, _) => kept.push(result),
                (Operator::Filter, true) => kept.push(item),
                (Operator::All, false) | (Operator::None, true) => return Ok(Value::Bool(false)),
                (Operator::Some, true) => return Ok(Value::Bool(true)),
                _ => {}
            }
        }
        match operator {
            Operator::Map | Operator::Filter => self.list(kept),
            Operator::Reduce => Ok(accumulator),
            Operator::All => Ok(Value::Bool(items.len() > 0)),
            operator => Ok(Value::Bool(operator == Operator::None)),
        }
    }

    /// The operators that look at all their operands.
    fn strict<'a>(
        &mut self,
        operator: Operator,
        operands: &[Value<'a>],
        scope: &Scope<'_, 'a>,
    ) -> Result<Value<'a>> {
        self.pay(operands.iter().map(text_steps).sum())?;
        let first = || operands.first().cloned().unwrap_or(Value::Null);
        let numbers = || operands.iter().map(Value::to_term);
        Ok(match operator {
            Operator::Equal => Value::Bool(pair(operands, Value::equals)),
            Operator::NotEqual => Value::Bool(!pair(operands, Value::equals)),
            Operator::SameTypeAndEqual => Value::Bool(pair(operands, same_type_and_equal)),
            Operator::NotSameTypeOrNotEqual => Value::Bool(!pair(operands, same_type_and_equal)),
            Operator::More => in_order(operands, more),
            Operator::MoreOrEqual => in_order(operands, |a, b| more(a, b) || a.equals(b)),
            Operator::Less => in_order(operands, |a, b| more(b, a)),
            Operator::LessOrEqual => in_order(operands, |a, b| more(b, a) || a.equals(b)),
            Operator::Not => Value::Bool(!first().is_true()),
            Operator::Truth => Value::Bool(first().is_true()),
            Operator::Var => match operands.first() {
                None | Some(Value::Null) => scope.whole(),
                Some(path) => match path.to_text().as_deref() {
                    None => Value::Null,
                    Some("") => scope.whole(),
                    Some(path) => {
                        let found = scope.find(path);
                        found.unwrap_or_else(|| operands.get(1).cloned().unwrap_or(Value::Null))
                    }
                },
            },
            Operator::Missing => {
                let names = match first() {
                    Value::List(list) => list.iter().collect(),
                    _ => operands.to_vec(),
                };
                let missing = self.missing(names, scope)?;
                self.list(missing)?
            }
            Operator::MissingSome => {
                let names: Vec<_> = match operands.get(1) {
                    Some(Value::List(list)) => list.iter().collect(),
                    _ => Vec::new(),
                };
                let all = names.len();
                let missing = self.missing(names, scope)?;
                let found = Value::integer(i64::try_from(all - missing.len()).unwrap_or(i64::MAX));
                let enough = found.compare(&first()).is_some_and(Ordering::is_ge);
                self.list(if enough { Vec::new() } else { missing })?
            }
            Operator::In | Operator::InSorted => {
                let within = operands.get(1).cloned().unwrap_or(Value::Null);
                Value::Bool(self.is_in(&first(), &within)?)
            }
            Operator::ContainsAll | Operator::ContainsAny | Operator::ContainsNone => {
                self.contains(operator, &first(), operands.get(1))?
            }
            Operator::Cat => Self::concatenated(operands)?,
            Operator::Substr => Self::substring(&first(), &operands[1.min(operands.len())..])?,
            Operator::Merge => {
                let mut merged = Vec::new();
                for operand in operands {
                    match operand {
                        Value::List(list) => {
                            self.pay(list.len())?;
                            merged.extend(list.iter());
                        }
                        other => merged.push(other.clone()),
                    }
                }
                self.list(merged)?
            }
            Operator::Add => Value::Number(numbers().fold(Number::Integer(0), |a, b| {
                arithmetic(a, b, i128::checked_add, |a, b| a + b)
            })),
            Operator::Multiply => Value::Number(numbers().fold(Number::Integer(1), |a, b| {
                arithmetic(a, b, i128::checked_mul, |a, b| a * b)
            })),
            Operator::Subtract => Value::Number(match operands {
                [only] => arithmetic(Number::Integer(0), only.to_term(), i128::checked_sub, |a, b| {
                    a - b
                }),
                _ => reduced(numbers(), |a, b| {
                    arithmetic(a, b, i128::checked_sub, |a, b| a - b)
                }),
            }),
            Operator::Divide => Value::Number(reduced(numbers(), |a, b| {
                arithmetic(a, b, exact_quotient, |a, b| a / b)
            })),
            Operator::Remainder => Value::Number(match operands {
                [a, b, ..] => arithmetic(a.to_term(), b.to_term(), i128::checked_rem, |a, b| a % b),
                _ => Number::NAN,
            }),
            Operator::Abs => Value::Number(match first().to_term() {
                Number::Integer(integer) => Number::Integer(integer.saturating_abs()),
                Number::Float(float) => Number::Float(float.abs()),
            }),
            Operator::Max => extreme(operands, Ordering::Greater),
            Operator::Min => extreme(operands, Ordering::Less),
            Operator::Set => match operands {
                [Value::Object(object), name, value, ..] => {
                    let name = text_of("set", name)?;
                    let object = object.clone().set(&name, value.clone());
                    Value::Object(object.ok_or(EvaluateError::TooDeep)?)
                }
                _ => first(),
            },
            Operator::And
            | Operator::Or
            | Operator::If
            | Operator::IfElse
            | Operator::Map
            | Operator::Filter
            | Operator::Reduce
            | Operator::All
            | Operator::Some
            | Operator::None => Value::Null,
        })
    }

    /// Those of the names that nothing is found under.
    fn missing<'a>(&mut self, names: Vec<Value<'a>>, scope: &Scope<'_, 'a>) -> Result<Vec<Value<'a>>> {
        self.pay(names.iter().map(|name| 1 + text_steps(name)).sum())?;
        let is_missing = |name: &Value<'a>| match name.to_text() {
            Some(path) => scope.find(&path).is_none(),
            None => true,
        };
        Ok(names.into_iter().filter(is_missing).collect())
    }

    /// In a text: as a part of it. In a list: as an item, or within an item that is a list of two ends.
    fn is_in(&mut self, value: &Value<'_>, within: &Value<'_>) -> Result<bool> {
        match within {
            Value::Text(text) => Ok(match value {
                Value::Null => false,
                value => value.to_text().is_some_and(|part| text.as_str().contains(&*part)),
            }),
            Value::List(list) => {
                for item in list.iter() {
                    self.pay(1 + text_steps(&item))?;
                    let found = match &item {
                        Value::List(range) => in_range(value, range),
                        // A reading's value is a text: a number is looked for by its value, as in EdgeX.
                        item if matches!(value, Value::Number(_)) => item.equals(value),
                        item => item.same_type(value) && item.equals(value),
                    };
                    if found {
                        return Ok(!matches!(value, Value::Null));
                    }
                }
                Ok(false)
            }
            _ => Ok(false),
        }
    }

    fn contains<'a>(
        &mut self,
        operator: Operator,
        list: &Value<'a>,
        wanted: Option<&Value<'a>>,
    ) -> Result<Value<'a>> {
        let (Value::List(_), Some(Value::List(wanted))) = (list, wanted) else {
            return Ok(Value::Bool(operator == Operator::ContainsNone));
        };
        let mut found = 0;
        for item in wanted.iter() {
            found += usize::from(self.is_in(&item, list)?);
        }
        Ok(Value::Bool(match operator {
            Operator::ContainsAll => found == wanted.len(),
            Operator::ContainsAny => found > 0,
            _ => found == 0,
        }))
    }

    fn concatenated<'a>(operands: &[Value<'a>]) -> Result<Value<'a>> {
        if let [Value::Text(only)] = operands {
            return Ok(Value::Text(only.clone()));
        }
        let mut whole = String::new();
        for operand in operands {
            let part = text_of("cat", operand)?;
            whole.push_str(&part);
        }
        Ok(Value::text(&whole))
    }

    /// From a character, counted from the end when negative, so many, or without so many at the end when negative.
    fn substring<'a>(text: &Value<'a>, places: &[Value<'a>]) -> Result<Value<'a>> {
        let text = text_of("substr", text)?;
        let length = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
        let place = |place: &Value<'_>| place.to_number().truncated();
        let from = places.first().map_or(0, place);
        let from = if from < 0 {
            length.saturating_add(from)
        } else {
            from
        };
        let from = from.clamp(0, length);
        let to = match places.get(1).map(place) {
            None => length,
            Some(count) if count < 0 => length.saturating_add(count),
            Some(count) => from.saturating_add(count),
        };
        let count = usize::try_from(to.clamp(from, length) - from).unwrap_or(0);
        let from = usize::try_from(from).unwrap_or(0);
        let part: String = text.chars().skip(from).take(count).collect();
        Ok(Value::text(&part))
    }
}

/// What it costs to look at a text.
fn text_steps(value: &Value<'_>) -> usize {
    match value {
        Value::Text(text) => text.as_str().len() / BYTES_PER_STEP,
        _ => 0,
    }
}

fn text_of<'v>(operator: &'static str, value: &'v Value<'_>) -> Result<std::borrow::Cow<'v, str>> {
    let kind = value.kind();
    let kind = kind.split_once(' ').map_or(kind, |(_, kind)| kind);
    value.to_text().ok_or(EvaluateError::Operand { operator, kind })
}

fn pair<'a>(operands: &[Value<'a>], holds: impl Fn(&Value<'a>, &Value<'a>) -> bool) -> bool {
    matches!(operands, [a, b, ..] if holds(a, b))
}

fn same_type_and_equal<'a>(a: &Value<'a>, b: &Value<'a>) -> bool {
    a.same_type(b) && a.equals(b)
}

fn more<'a>(a: &Value<'a>, b: &Value<'a>) -> bool {
    a.compare(b) == Some(Ordering::Greater)
}

/// Whether the first two operands, or three, are each in this order to the next.
fn in_order<'a>(operands: &[Value<'a>], ordered: impl Fn(&Value<'a>, &Value<'a>) -> bool) -> Value<'a> {
    Value::Bool(match operands {
        [a, b, c] => ordered(a, b) && ordered(b, c),
        [a, b, ..] => ordered(a, b),
        _ => false,
    })
}

fn in_range(value: &Value<'_>, range: &List<'_>) -> bool {
    let (Some(low), Some(high)) = (range.get(0), range.get(1)) else {
        return false;
    };
    let not_null = !matches!(value, Value::Null);
    not_null
        && low.compare(value).is_some_and(Ordering::is_le)
        && value.compare(&high).is_some_and(Ordering::is_le)
}

fn arithmetic(
    a: Number,
    b: Number,
    exact: impl Fn(i128, i128) -> Option<i128>,
    float: impl Fn(f64, f64) -> f64,
) -> Number {
    if let (Number::Integer(a), Number::Integer(b)) = (a, b)
        && let Some(result) = exact(a, b)
    {
        return Number::Integer(result);
    }
    Number::Float(float(a.as_f64(), b.as_f64()))
}

fn exact_quotient(a: i128, b: i128) -> Option<i128> {
    (a.checked_rem(b)? == 0).then(|| a.checked_div(b))?
}

fn reduced(mut numbers: impl Iterator<Item = Number>, step: impl Fn(Number, Number) -> Number) -> Number {
    match numbers.next() {
        Some(first) => numbers.fold(first, step),
        None => Number::Integer(0),
    }
}

/// The number that is the most in this order; null when there is none.
fn extreme<'a>(operands: &[Value<'a>], order: Ordering) -> Value<'a> {
    let mut numbers = operands.iter().map(Value::to_term);
    let Some(first) = numbers.next() else {
        return Value::Null;
    };
    Value::Number(numbers.fold(first, |best, number| {
        if number.compare(best) == Some(order) || number.as_f64().is_nan() {
            number
        } else {
            best
        }
    }))
}
