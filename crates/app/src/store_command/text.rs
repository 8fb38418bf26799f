//! Texts for a terminal: ages, sizes, and outside text that must not move the cursor.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    time::Duration,
};

use edgehold::Timestamp;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Bytes of a payload that are looked at for one character of its preview.
const BYTES_PER_CHARACTER: usize = 4;

/// Says something that is not the answer.
pub(crate) fn tell(text: &str) {
    // Nowhere to say so when standard error is closed; the exit code says it as well.
    let _ = writeln!(io::stderr(), "edgehold: {text}");
}

/// An error and its causes, each once: some name their cause themselves.
pub(crate) fn with_causes(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// How long something took, in its largest unit: `45s`, `3m`, `5h`, `12d`.
pub(crate) fn age(duration: Duration) -> String {
    const UNITS: [(u64, &str); 3] = [(86_400, "d"), (3_600, "h"), (60, "m")];
    let seconds = duration.as_secs();
    UNITS.iter().find(|(unit, _)| seconds >= *unit).map_or_else(
        || format!("{seconds}s"),
        |(unit, name)| format!("{}{name}", seconds / unit),
    )
}

/// A moment in UTC: `2026-11-22T18:42:12.345Z`.
pub(crate) fn time(at: Timestamp) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(at.as_unix_millis()) * 1_000_000)
        .ok()
        .and_then(|at| at.format(&Rfc3339).ok())
        .unwrap_or_else(|| format!("{at} ms since 1970"))
}

/// The moment that a text of this form means, whatever its offset.
pub(crate) fn parse_time(text: &str) -> Option<Timestamp> {
    let millis = OffsetDateTime::parse(text, &Rfc3339).ok()?.unix_timestamp_nanos() / 1_000_000;
    i64::try_from(millis).ok().map(Timestamp::from_unix_millis)
}

/// A word as a shell takes it for one.
pub(crate) fn quoted(word: &str) -> String {
    let is_plain = |character: char| character.is_ascii_alphanumeric() || "-_=./:,@%+".contains(character);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

/// How large something is: `512B`, `1.4KiB`, `23MiB`.
pub(crate) fn size(bytes: usize) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes}B");
    }
    // In tenths of the unit, so that no number is rounded twice.
    let mut tenths = bytes as u128 * 10 / 1024;
    let mut unit = 0;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    match tenths {
        100.. => format!("{}{}", tenths / 10, UNITS[unit]),
        _ => format!("{}.{}{}", tenths / 10, tenths % 10, UNITS[unit]),
    }
}

/// Text with everything that a terminal would act on, or show as nothing, written as an escape.
pub(crate) fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '"' | '\'' | '\\' | '\t' => shown.push(character),
            _ => shown.extend(character.escape_debug()),
        }
    }
    shown
}

/// Text on one line of at most `width` characters, its beginning when it is longer.
pub(super) fn cell(text: &str, width: usize) -> String {
    let shown = visible(&one_line(text));
    if shown.chars().count() <= width {
        return shown;
    }
    shown.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// As [`cell`], but the end when it is longer: of a chain of errors the last one says the most.
pub(super) fn cell_end(text: &str, width: usize) -> String {
    let shown = visible(&one_line(text));
    let characters = shown.chars().count();
    if characters <= width {
        return shown;
    }
    ['…']
        .into_iter()
        .chain(shown.chars().skip(characters - width + 1))
        .collect()
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The beginning of a payload on one line, or what it is when it cannot be read.
pub(super) fn preview(payload: &[u8], width: usize) -> String {
    if payload.is_empty() {
        return "(empty)".to_owned();
    }
    // One character more than is shown, so that the cut is seen.
    let beginning = &payload[..payload.len().min((width + 1) * BYTES_PER_CHARACTER)];
    let text = match std::str::from_utf8(beginning) {
        Ok(text) => text,
        // The cut may go through a character.
        Err(error) if error.error_len().is_none() && beginning.len() < payload.len() => {
            std::str::from_utf8(&beginning[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return "(binary)".to_owned(),
    };
    match is_readable(text) {
        true => cell(text, width),
        false => "(binary)".to_owned(),
    }
}

/// The payload as text, when a reader could make something of it.
pub(super) fn readable(payload: &[u8]) -> Option<&str> {
    std::str::from_utf8(payload).ok().filter(|text| is_readable(text))
}

fn is_readable(text: &str) -> bool {
    !text
        .chars()
        .any(|character| character.is_control() && !character.is_whitespace())
}

/// The beginning of a text, at most so many bytes, and how many bytes that is.
pub(super) fn beginning(text: &str, max_bytes: usize) -> (String, usize) {
    let end = text.floor_char_boundary(max_bytes);
    (text[..end].to_owned(), end)
}

/// JSON with a line for each value, and how many bytes of it that is; none when the text is not JSON. Indenting ends
/// when it has made `max_bytes`. Only white space is added and removed: numbers and strings stay as they were sent,
/// which reading and writing them again would not promise.
pub(super) fn indented_json(text: &str, max_bytes: usize) -> Option<(String, usize)> {
    serde_json::from_str::<serde::de::IgnoredAny>(text).ok()?;
    let mut lines = String::new();
    let mut depth = 0;
    let mut in_string = false;
    let mut escaped = false;
    let mut rest = text.char_indices().peekable();
    while let Some((at, character)) = rest.next() {
        if lines.len() >= max_bytes {
            return Some((lines, at));
        }
        if in_string {
            lines.push(character);
            in_string = escaped || character != '"';
            escaped = !escaped && character == '\\';
            continue;
        }
        match character {
            ' ' | '\t' | '\n' | '\r' => {}
            '{' | '[' => {
                lines.push(character);
                while rest.next_if(|(_, next)| next.is_ascii_whitespace()).is_some() {}
                if let Some((_, end)) = rest.next_if(|(_, next)| matches!(next, '}' | ']')) {
                    lines.push(end);
                } else {
                    depth += 1;
                    new_line(&mut lines, depth);
                }
            }
            '}' | ']' => {
                depth -= 1;
                new_line(&mut lines, depth);
                lines.push(character);
            }
            ',' => {
                lines.push(character);
                new_line(&mut lines, depth);
            }
            ':' => lines += ": ",
            _ => {
                lines.push(character);
                in_string = character == '"';
            }
        }
    }
    Some((lines, text.len()))
}

fn new_line(lines: &mut String, depth: usize) {
    lines.push('\n');
    lines.extend(std::iter::repeat_n("  ", depth));
}

/// Sixteen bytes a line: where, in hexadecimal, and what of it is printable.
pub(super) fn hex_dump(bytes: &[u8]) -> String {
    let mut dump = String::new();
    for (line, chunk) in bytes.chunks(16).enumerate() {
        let hex: Vec<String> = chunk.iter().map(|byte| format!("{byte:02x}")).collect();
        let printable: String = chunk
            .iter()
            .map(|byte| match byte {
                b' '..=b'~' => char::from(*byte),
                _ => '.',
            })
            .collect();
        // Writing into a String cannot fail.
        let _ = writeln!(dump, "{:08x}  {:<47}  |{printable}|", line * 16, hex.join(" "));
    }
    dump
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_that_its_error_names_itself_is_told_once() {
        let error = anyhow::anyhow!("no route")
            .context("the server is away: no route")
            .context("cannot copy");
        assert_eq!(with_causes(&error), "cannot copy: the server is away: no route");
    }

    #[test]
    fn an_age_is_told_in_its_largest_unit() {
        for (seconds, expected) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (3 * 60 + 59, "3m"),
            (3_600, "1h"),
            (86_399, "23h"),
            (86_400 * 400, "400d"),
        ] {
            assert_eq!(age(Duration::from_secs(seconds)), expected);
        }
    }

    #[test]
    fn a_time_is_written_as_it_is_read() {
        let at = Timestamp::from_unix_millis(1_795_372_932_345);
        assert_eq!(time(at), "2026-11-22T18:42:12.345Z");
        assert_eq!(parse_time(&time(at)), Some(at));
        assert_eq!(parse_time("2026-11-22T19:42:12.345+01:00"), Some(at));
        assert_eq!(parse_time("yesterday"), None);
    }

    #[test]
    fn a_word_is_one_for_a_shell() {
        assert_eq!(quoted("-cd=./res"), "-cd=./res");
        assert_eq!(quoted("Pump 1's"), "'Pump 1'\\''s'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn a_size_has_two_figures_below_ten_of_its_unit() {
        for (bytes, expected) in [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1.0KiB"),
            (1434, "1.4KiB"),
            (10 * 1024, "10KiB"),
            (1024 * 1024 - 1, "1023KiB"),
            (1024 * 1024, "1.0MiB"),
            (64 << 20, "64MiB"),
        ] {
            assert_eq!(size(bytes), expected);
        }
    }

    #[test]
    fn nothing_a_terminal_would_act_on_gets_through() {
        assert_eq!(visible("a\u{1b}[31m\u{9b}2J\r\n"), "a\\u{1b}[31m\\u{9b}2J\\r\\n");
        assert_eq!(visible("right\u{202e}left"), "right\\u{202e}left");
        assert_eq!(visible("it's \"20 °C\" \\ 日本"), "it's \"20 °C\" \\ 日本");
    }

    #[test]
    fn a_cell_is_one_line_and_says_when_it_is_cut() {
        assert_eq!(cell("two\n  words", 20), "two words");
        assert_eq!(cell("exactly so", 10), "exactly so");
        assert_eq!(cell("longer than so", 10), "longer th…");
        assert_eq!(cell_end("exactly so", 10), "exactly so");
        assert_eq!(cell_end("longer than so", 10), "…r than so");
        assert_eq!(cell("\u{7}".repeat(100).as_str(), 10), "\\u{7}\\u{7…");
    }

    #[test]
    fn a_preview_says_what_cannot_be_read() {
        assert_eq!(preview(b"{\"a\": 1}", 20), "{\"a\": 1}");
        assert_eq!(preview(b"", 20), "(empty)");
        assert_eq!(preview(&[0x1f, 0x8b, 0x08, 0x00], 20), "(binary)");
        assert_eq!(preview(b"text\0with zeros", 20), "(binary)");
        assert_eq!(preview("é".as_bytes().split_at(1).0, 20), "(binary)");
    }

    #[test]
    fn a_preview_cut_through_a_character_is_still_text() {
        let long = "é".repeat(1_000);
        for skip in [0, 1] {
            let payload = format!("{}{long}", "x".repeat(skip));
            assert!(preview(payload.as_bytes(), 10).ends_with("ééé…"), "{skip}");
        }
    }

    #[test]
    fn json_is_indented_and_its_values_stay_as_they_were_sent() {
        let text = r#"{"a":1700000000000000001, "b" : [1.50,{}, [ ] ,"x,\":{y\\"],"c":{"d":null}}"#;
        let expected = r#"{
  "a": 1700000000000000001,
  "b": [
    1.50,
    {},
    [],
    "x,\":{y\\"
  ],
  "c": {
    "d": null
  }
}"#;
        assert_eq!(
            indented_json(text, 1 << 20),
            Some((expected.to_owned(), text.len()))
        );
        assert_eq!(indented_json("{\"a\":", 1 << 20), None);
        assert_eq!(indented_json("plain", 1 << 20), None);
    }

    #[test]
    fn indenting_ends_at_its_limit() {
        let text = format!("[{}1]", "1,".repeat(10_000));
        let (lines, bytes) = indented_json(&text, 1_000).unwrap();
        assert!((1_000..1_010).contains(&lines.len()), "{}", lines.len());
        assert!(bytes < text.len());
    }

    #[test]
    fn the_beginning_of_a_text_ends_between_characters() {
        assert_eq!(beginning("ééé", 3), ("é".to_owned(), 2));
        assert_eq!(beginning("abc", 10), ("abc".to_owned(), 3));
    }

    #[test]
    fn a_hex_dump_has_sixteen_bytes_a_line() {
        let dump = hex_dump(b"\xa1\x62id\0 seventeen bytes");
        assert_eq!(
            dump,
            "00000000  a1 62 69 64 00 20 73 65 76 65 6e 74 65 65 6e 20  |.bid. seventeen |\n\
             00000010  62 79 74 65 73                                   |bytes|\n"
        );
    }
}
