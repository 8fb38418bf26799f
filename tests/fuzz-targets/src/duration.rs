//! Go durations: what is read is what a plain reading of Go's grammar says, and what is printed is read back.

use edgehold_config::duration::{GoDuration, parse_go_duration};

/// The units of Go's `time.ParseDuration` in nanoseconds.
const UNITS: [(&str, u128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// The text of a duration, and the first eight bytes as one.
pub fn duration(data: &[u8]) {
    if let Some(bytes) = data.first_chunk() {
        is_read_back(GoDuration::from_nanos(i64::from_le_bytes(*bytes)));
    }
    let Ok(text) = str::from_utf8(data) else {
        return;
    };
    let parsed = parse_go_duration(text);
    match (&parsed, model(text)) {
        (Ok(duration), Some(model)) => {
            let off = (i128::from(duration.as_nanos()) - model.nanos).unsigned_abs();
            assert!(off <= model.fractions, "{text:?} is {model:?}, not {duration:?}");
        }
        (Err(_), None) => {}
        (Err(_), Some(model)) => assert!(!model.surely_fits(), "{text:?} is {model:?}"),
        (Ok(duration), None) => panic!("{text:?} is no duration, not {duration:?}"),
    }
    if let Ok(duration) = parsed {
        is_read_back(duration);
    }
}

fn is_read_back(duration: GoDuration) {
    let text = duration.to_string();
    assert_eq!(parse_go_duration(&text), Ok(duration), "{text}");
    assert_eq!(duration.to_std().is_none(), duration.as_nanos() < 0);
}

/// A duration in exact arithmetic.
#[derive(Debug)]
struct Model {
    nanos: i128,
    /// How many numbers have a fraction. Go reads each in floating point, which may be a nanosecond off.
    fractions: u128,
}

impl Model {
    fn surely_fits(&self) -> bool {
        let slack = i128::try_from(self.fractions).unwrap_or(i128::MAX);
        self.nanos.saturating_sub(slack) >= i128::from(i64::MIN)
            && self.nanos.saturating_add(slack) <= i128::from(i64::MAX)
    }
}

/// `[+-]? ( 0 | ( ( digits | digits . digits? | . digits ) unit )+ )`
fn model(text: &str) -> Option<Model> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let mut model = Model {
        nanos: 0,
        fractions: 0,
    };
    if rest == "0" {
        return Some(model);
    }
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| c != '.' && !c.is_ascii_digit())?;
        let (number, after) = rest.split_at(number_end);
        let unit_end = after.find(|c: char| c == '.' || c.is_ascii_digit());
        let (unit, after) = after.split_at(unit_end.unwrap_or(after.len()));
        let (_, nanos) = UNITS.iter().find(|(name, _)| *name == unit)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || number.bytes().all(|byte| byte == b'.') {
            return None;
        }
        let scaled = digits(whole)?
            .saturating_mul(*nanos)
            .saturating_add(part(fraction, *nanos)?);
        model.nanos = model
            .nanos
            .saturating_add(i128::try_from(scaled).unwrap_or(i128::MAX));
        model.fractions += u128::from(!fraction.is_empty());
        rest = after;
    }
    model.nanos *= sign;
    Some(model)
}

/// More digits than a `u128` holds are as good as its largest.
fn digits(text: &str) -> Option<u128> {
    let significant = text.trim_start_matches('0');
    if significant.is_empty() {
        return Some(0);
    }
    Some(significant.parse().unwrap_or(u128::MAX))
}

/// `0.<text>` of a unit. The twenty-first digit is far below a nanosecond even of an hour.
fn part(text: &str, unit: u128) -> Option<u128> {
    let text = text.get(..20).unwrap_or(text);
    let scale = 10_u128.pow(u32::try_from(text.len()).ok()?);
    Some(digits(text)? * unit / scale)
}
