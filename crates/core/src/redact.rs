//! What a name or an address gives away: which names stand for secrets, and addresses without those in their query.

/// What a name ends with that stands for a secret.
const SECRET_NAMES: [&str; 12] = [
    "password",
    "passwd",
    "pwd",
    "token",
    "secret",
    "apikey",
    "api_key",
    "api-key",
    "secretkey",
    "secret_key",
    "accesskey",
    "access_key",
];
/// Names of query parameters that stand for one as well.
const SECRET_QUERIES: [&str; 4] = ["key", "sig", "signature", "code"];

/// Whether a setting or a query parameter of this name looks like a secret, whatever its case.
pub fn names_a_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET_NAMES.iter().any(|end| name.ends_with(end))
}

/// The text with `mark` for the value of each query parameter in it that is a secret by its name.
pub fn without_secret_queries(text: &str, mark: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['?', '&']) {
        let (before, parameter) = rest.split_at(at + 1);
        shown.push_str(before);
        rest = parameter;
        let Some((name, value)) = parameter.split_once('=') else {
            continue;
        };
        let is_name = !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
        let is_secret = names_a_secret(name)
            || SECRET_QUERIES
                .iter()
                .any(|secret| name.eq_ignore_ascii_case(secret));
        if is_name && is_secret {
            let end = value.find(|c: char| matches!(c, '&' | '#' | ',' | '"' | '\'') || c.is_whitespace());
            shown.push_str(&format!("{name}={mark}"));
            rest = &value[end.unwrap_or(value.len())..];
        }
    }
    shown.push_str(rest);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_in_a_query_are_hidden_by_their_names() {
        for (text, expected) in [
            (
                "http://h/p?a=1&api_key=x%20y&Token=z#f",
                "http://h/p?a=1&api_key=*&Token=*#f",
            ),
            (
                "http://h/p?key=x, http://h/p?Code=y z",
                "http://h/p?key=*, http://h/p?Code=* z",
            ),
            ("http://h/p?keys=1&monkey=2", "http://h/p?keys=1&monkey=2"),
            ("a? b & c=d", "a? b & c=d"),
            ("a?token=", "a?token=*"),
            ("?", "?"),
        ] {
            assert_eq!(without_secret_queries(text, "*"), expected);
        }
    }
}
