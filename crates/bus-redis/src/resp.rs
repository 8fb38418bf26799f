//! The Redis protocol, second version (RESP2): commands out, values in.
//!
//! Owns the bytes. Reads values as they arrive, in whatever pieces, without reading anything twice; a string over the
//! limit is passed over while it arrives and never held.

use bytes::{Buf as _, Bytes, BytesMut};

/// The longest line: everything but strings.
const MAX_LINE_BYTES: usize = 64 * 1024;

/// How deep arrays may lie in each other. Pub/sub needs one.
const MAX_DEPTH: usize = 8;

/// What a server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// `+OK`
    Simple(String),
    /// `-ERR …`
    Error(String),
    /// `:1`
    Integer(i64),
    /// A string; none for null.
    Bulk(Option<Bytes>),
    /// A string of so many bytes, over the limit and dropped.
    TooLarge(usize),
    /// Values; none for null.
    Array(Option<Vec<Value>>),
}

impl Value {
    /// What the server says is wrong, if it does.
    pub(crate) fn as_error(&self) -> Option<&str> {
        match self {
            Self::Error(text) => Some(text),
            _ => None,
        }
    }
}

/// Bytes that are not Redis' protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server does not speak the Redis protocol")]
pub(crate) struct NotResp;

/// Appends a command with its arguments.
pub(crate) fn write_command(arguments: &[&[u8]], out: &mut Vec<u8>) {
    let length = |kind: u8, length: usize, out: &mut Vec<u8>| {
        out.push(kind);
        out.extend_from_slice(length.to_string().as_bytes());
        out.extend_from_slice(b"\r\n");
    };
    length(b'*', arguments.len(), out);
    for argument in arguments {
        length(b'$', argument.len(), out);
        out.extend_from_slice(argument);
        out.extend_from_slice(b"\r\n");
    }
}

/// Makes values of what arrives.
#[derive(Debug)]
pub(crate) struct Decoder {
    limit: usize,
    /// Arrays that are not full yet, the innermost last, each with how many values it still lacks.
    open: Vec<(Vec<Value>, usize)>,
    string: Option<PendingString>,
}

/// A string whose length is known.
#[derive(Clone, Copy, Debug)]
enum PendingString {
    /// To be held: its length.
    Held(usize),
    /// To be passed over: its length, and how many bytes of it and its line end are still to come.
    PassedOver(usize, usize),
}

/// What one line says.
enum Line {
    Whole(Value),
    /// An array of so many values follows.
    Opens(usize),
    /// A string of so many bytes follows.
    String(usize),
}

impl Decoder {
    /// Strings of more than `limit` bytes are passed over.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            open: Vec::new(),
            string: None,
        }
    }

    /// Takes the next value off the front of `input`; none when it has not arrived whole.
    pub(crate) fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Value>, NotResp> {
        loop {
            let Some(value) = self.next_part(input)? else {
                return Ok(None);
            };
            if let Some(value) = self.place(value) {
                return Ok(Some(value));
            }
        }
    }

    /// The next value that holds no others.
    fn next_part(&mut self, input: &mut BytesMut) -> Result<Option<Value>, NotResp> {
        loop {
            match self.string {
                Some(PendingString::Held(length)) => {
                    if input.len() < length + 2 {
                        return Ok(None);
                    }
                    let content = input.split_to(length).freeze();
                    if !input.starts_with(b"\r\n") {
                        return Err(NotResp);
                    }
                    input.advance(2);
                    self.string = None;
                    return Ok(Some(Value::Bulk(Some(content))));
                }
                Some(PendingString::PassedOver(length, left)) => {
                    let arrived = left.min(input.len());
                    input.advance(arrived);
                    if arrived < left {
                        self.string = Some(PendingString::PassedOver(length, left - arrived));
                        return Ok(None);
                    }
                    self.string = None;
                    return Ok(Some(Value::TooLarge(length)));
                }
                None => match line(input)? {
                    None => return Ok(None),
                    Some(Line::Whole(value)) => return Ok(Some(value)),
                    Some(Line::Opens(0)) => return Ok(Some(Value::Array(Some(Vec::new())))),
                    Some(Line::Opens(_)) if self.open.len() == MAX_DEPTH => return Err(NotResp),
                    Some(Line::Opens(count)) => self.open.push((Vec::new(), count)),
                    Some(Line::String(length)) if length > self.limit => {
                        let whole = length.checked_add(2).ok_or(NotResp)?;
                        self.string = Some(PendingString::PassedOver(length, whole));
                    }
                    Some(Line::String(length)) => self.string = Some(PendingString::Held(length)),
                },
            }
        }
    }

    /// Puts a value where it belongs; gives it back, or the array that it filled, when that is nowhere else.
    fn place(&mut self, mut value: Value) -> Option<Value> {
        while let Some((values, lacking)) = self.open.last_mut() {
            values.push(value);
            *lacking -= 1;
            if *lacking > 0 {
                return None;
            }
            value = Value::Array(self.open.pop().map(|(values, _)| values));
        }
        Some(value)
    }
}

fn line(input: &mut BytesMut) -> Result<Option<Line>, NotResp> {
    let searched = &input[..input.len().min(MAX_LINE_BYTES)];
    let Some(end) = searched.windows(2).position(|pair| pair == b"\r\n") else {
        return if searched.len() == MAX_LINE_BYTES {
            Err(NotResp)
        } else {
            Ok(None)
        };
    };
    let line = input.split_to(end);
    input.advance(2);
    let (kind, rest) = line.split_first().ok_or(NotResp)?;
    let text = || String::from_utf8_lossy(rest).into_owned();
    let number = || {
        let text = std::str::from_utf8(rest).map_err(|_| NotResp)?;
        text.parse::<i64>().map_err(|_| NotResp)
    };
    let line = match kind {
        b'+' => Line::Whole(Value::Simple(text())),
        b'-' => Line::Whole(Value::Error(text())),
        b':' => Line::Whole(Value::Integer(number()?)),
        b'$' => match number()? {
            -1 => Line::Whole(Value::Bulk(None)),
            length => Line::String(usize::try_from(length).map_err(|_| NotResp)?),
        },
        b'*' => match number()? {
            -1 => Line::Whole(Value::Array(None)),
            count => Line::Opens(usize::try_from(count).map_err(|_| NotResp)?),
        },
        _ => return Err(NotResp),
    };
    Ok(Some(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &'static str) -> Value {
        Value::Bulk(Some(Bytes::from_static(text.as_bytes())))
    }

    /// What comes out when the text arrives in pieces of `step` bytes.
    fn decoded(text: &str, limit: usize, step: usize) -> Result<Vec<Value>, NotResp> {
        let mut decoder = Decoder::new(limit);
        let mut input = BytesMut::new();
        let mut values = Vec::new();
        for piece in text.as_bytes().chunks(step) {
            input.extend_from_slice(piece);
            while let Some(value) = decoder.decode(&mut input)? {
                values.push(value);
            }
        }
        assert!(input.is_empty(), "{input:?} is left");
        Ok(values)
    }

    #[test]
    fn values_are_the_same_in_whatever_pieces_they_arrive() {
        let text = "+OK\r\n*4\r\n$8\r\npmessage\r\n$1\r\n*\r\n$3\r\na.b\r\n$2\r\n\r\n\r\n:-7\r\n-ERR no\r\n$-1\r\n*-1\r\n*0\r\n\
                    *2\r\n*1\r\n:1\r\n$0\r\n\r\n";
        let wanted = vec![
            Value::Simple("OK".to_owned()),
            Value::Array(Some(vec![bulk("pmessage"), bulk("*"), bulk("a.b"), bulk("\r\n")])),
            Value::Integer(-7),
            Value::Error("ERR no".to_owned()),
            Value::Bulk(None),
            Value::Array(None),
            Value::Array(Some(Vec::new())),
            Value::Array(Some(vec![Value::Array(Some(vec![Value::Integer(1)])), bulk("")])),
        ];
        for step in [1, 2, 3, 7, text.len()] {
            assert_eq!(decoded(text, 100, step).unwrap(), wanted, "pieces of {step}");
        }
    }

    #[test]
    fn a_string_over_the_limit_is_passed_over_and_what_follows_is_whole() {
        let text = "*2\r\n$1\r\nx\r\n$11\r\nhello world\r\n+next\r\n";
        for step in [1, 5, text.len()] {
            let values = decoded(text, 10, step).unwrap();
            assert_eq!(
                values[0],
                Value::Array(Some(vec![bulk("x"), Value::TooLarge(11)]))
            );
            assert_eq!(values[1], Value::Simple("next".to_owned()));
        }
    }

    #[test]
    fn other_bytes_are_refused_instead_of_held() {
        let deep = "*1\r\n".repeat(MAX_DEPTH + 1);
        let long = "x".repeat(MAX_LINE_BYTES);
        for text in [
            "HTTP/1.1 400\r\n",
            "$-2\r\n",
            "*x\r\n",
            "$1\r\nab\r\n",
            "\r\n",
            deep.as_str(),
            long.as_str(),
        ] {
            let mut input = BytesMut::from(text);
            let mut decoder = Decoder::new(100);
            let end = loop {
                match decoder.decode(&mut input) {
                    Ok(Some(_)) => {}
                    other => break other,
                }
            };
            assert_eq!(end, Err(NotResp), "{text:.20}");
        }
    }
}
