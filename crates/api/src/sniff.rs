//! What a body is that nobody has named: what Go's `http.DetectContentType` says of its first bytes, for the kinds that
//! pipelines answer with.

/// How much of a body is looked at.
const LOOKED_AT_BYTES: usize = 512;

const PLAIN: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";

/// Signatures at the very beginning.
const BEGINNINGS: [(&[u8], &str); 12] = [
    (b"%PDF-", "application/pdf"),
    (b"%!PS-Adobe-", "application/postscript"),
    (b"\xfe\xff", "text/plain; charset=utf-16be"),
    (b"\xff\xfe", "text/plain; charset=utf-16le"),
    (b"\xef\xbb\xbf", PLAIN),
    (b"BM", "image/bmp"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x1f\x8b\x08", "application/x-gzip"),
    (b"PK\x03\x04", "application/zip"),
];

/// Tags that make a text HTML, in any case, after white space and before a space or `>`.
const HTML_TAGS: [&str; 16] = [
    "<!DOCTYPE HTML",
    "<HTML",
    "<HEAD",
    "<SCRIPT",
    "<IFRAME",
    "<H1",
    "<DIV",
    "<FONT",
    "<TABLE",
    "<A",
    "<STYLE",
    "<TITLE",
    "<B",
    "<BODY",
    "<BR",
    "<P",
];

/// The content type of a body; none for an empty one.
pub(crate) fn content_type_of(body: &[u8]) -> Option<&'static str> {
    if body.is_empty() {
        return None;
    }
    let seen = &body[..body.len().min(LOOKED_AT_BYTES)];
    let text = seen.trim_ascii_start();
    let is_html = HTML_TAGS.iter().any(|tag| {
        let beginning = text.get(..tag.len());
        beginning.is_some_and(|beginning| beginning.eq_ignore_ascii_case(tag.as_bytes()))
            && matches!(text.get(tag.len()), Some(b' ' | b'>'))
    });
    if is_html || text.starts_with(b"<!--") {
        return Some(HTML);
    }
    if text.starts_with(b"<?xml") {
        return Some("text/xml; charset=utf-8");
    }
    let beginning = BEGINNINGS.iter().find(|(bytes, _)| seen.starts_with(bytes));
    if let Some((_, content_type)) = beginning {
        return Some(content_type);
    }
    // Control characters that no text has.
    let is_binary = |byte: &u8| matches!(byte, 0x00..=0x08 | 0x0b | 0x0e..=0x1a | 0x1c..=0x1f);
    Some(match seen.iter().any(is_binary) {
        true => "application/octet-stream",
        false => PLAIN,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_named_as_go_names_them() {
        for (body, expected) in [
            (&b""[..], None),
            (b"{\"a\":1}", Some(PLAIN)),
            (b"<Event><Id>1</Id></Event>", Some(PLAIN)),
            (b" \n<?xml version=\"1.0\"?>", Some("text/xml; charset=utf-8")),
            (b"<html>", Some(HTML)),
            (b"<a href>", Some(HTML)),
            (b"<abc>", Some(PLAIN)),
            (b"\xa1\x61a\x01", Some("application/octet-stream")),
            (b"\x1f\x8b\x08\x00", Some("application/x-gzip")),
        ] {
            assert_eq!(content_type_of(body), expected, "{body:?}");
        }
    }
}
