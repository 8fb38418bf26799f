//! What of a setting may be shown: everything but secrets.

use edgehold_core::redact::{names_a_secret, without_secret_queries};

use crate::schema::{self, INSECURE_SECRETS, Kind};

/// Stands for what is not shown.
pub const REDACTED: &str = "<redacted>";

/// The text of a setting as it may appear in a log line or an answer.
///
/// Hidden are values of secrets, whatever looks like one by its name, the values of headers, and the passwords and keys of
/// a URL.
pub fn shown(path: &str, text: &str) -> String {
    if is_secret(path) {
        return REDACTED.to_owned();
    }
    let name = last_segment(path);
    if name == "httprequestheaders" {
        return without_values(text);
    }
    let is_address = ["host", "address", "url"].iter().any(|end| name.ends_with(end));
    match is_address && !text.contains("://") {
        true => in_authority(text).unwrap_or_else(|| text.to_owned()),
        false => without_passwords(text),
    }
}

pub(crate) fn is_secret(path: &str) -> bool {
    // Also what is misplaced below the secrets: it may be a password in the wrong spot.
    if let Some(rest) = path.strip_prefix(INSECURE_SECRETS) {
        let mut below_entry = rest.split('/').skip(1);
        return !(below_entry.next() == Some("SecretName") && below_entry.next().is_none());
    }
    names_a_secret(&last_segment(path))
        || schema::find(path).is_some_and(|setting| setting.kind == Kind::Secret)
}

fn last_segment(path: &str) -> String {
    path.rsplit('/').next().unwrap_or(path).to_ascii_lowercase()
}

/// A JSON object with its values hidden; any other text is hidden whole.
fn without_values(text: &str) -> String {
    if text.trim().is_empty() {
        return text.to_owned();
    }
    match serde_json::from_str::<serde_json::Map<_, _>>(text) {
        Ok(mut map) => {
            map.values_mut().for_each(|value| *value = REDACTED.into());
            serde_json::Value::from(map).to_string()
        }
        Err(_) => REDACTED.to_owned(),
    }
}

/// Hides in a text the password of each `scheme://user:password@host`, also of one that is not written as it should be,
/// and the value of each query parameter that is a secret by its name.
pub fn without_passwords(text: &str) -> String {
    without_secret_queries(&without_userinfo(text), REDACTED)
}

fn without_userinfo(text: &str) -> String {
    let Some((before, rest)) = text.split_once("://") else {
        return text.to_owned();
    };
    let end = rest
        .find(|c: char| matches!(c, '/' | '?' | '#' | ',') || c.is_whitespace())
        .unwrap_or(rest.len());
    // A password may hold what ends an authority, though it should be encoded. A port does not look like one.
    let looks_cut = |authority: &str| {
        let after_name = authority.split_once(':').map(|(_, after)| after);
        !authority.starts_with('[')
            && after_name.is_some_and(|after| !after.is_empty() && !after.bytes().all(|b| b.is_ascii_digit()))
    };
    let authority = match &rest[..end] {
        whole if whole.contains('@') || !looks_cut(whole) => whole,
        _ => {
            let word = rest.split(char::is_whitespace).next().unwrap_or_default();
            let word = word.split("://").next().unwrap_or_default();
            match word.rfind('@') {
                Some(at) => &word[..=at],
                None => &rest[..end],
            }
        }
    };
    let after = &rest[authority.len()..];
    let authority = in_authority(authority).unwrap_or_else(|| authority.to_owned());
    format!("{before}://{authority}{}", without_userinfo(after))
}

/// `user:<redacted>@host` of `user:password@host`; none of anything else.
fn in_authority(authority: &str) -> Option<String> {
    let (user, host) = authority.rsplit_once('@')?;
    let (name, _) = user.split_once(':')?;
    Some(format!("{name}:{REDACTED}@{host}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden_and_their_names_are_not() {
        assert_eq!(
            shown("Writable/InsecureSecrets/DB/SecretData/password", "x"),
            REDACTED
        );
        assert_eq!(
            shown("Writable/InsecureSecrets/DB/SecretName", "redisdb"),
            "redisdb"
        );
        assert_eq!(shown("Writable/InsecureSecrets/DB/password", "x"), REDACTED);
        assert_eq!(shown("Writable/InsecureSecrets/DB", "x"), REDACTED);
        assert_eq!(shown("Writable/InsecureSecrets/DB/SecretName/x", "x"), REDACTED);
        assert_eq!(shown("MessageBus/Optional/Password", "x"), REDACTED);
        assert_eq!(shown("ApplicationSettings/MailPassword", "x"), REDACTED);
        assert_eq!(shown("ApplicationSettings/ApiToken", "x"), REDACTED);
        assert_eq!(shown("Writable/LogLevel", "INFO"), "INFO");
        assert_eq!(shown("MessageBus/SecretName", "redisdb"), "redisdb");
    }

    #[test]
    fn credentials_before_a_bare_host_and_values_of_headers_are_hidden() {
        assert_eq!(shown("Clients/core-data/Host", "a:b@h"), "a:<redacted>@h");
        assert_eq!(shown("Clients/core-data/Host", "h"), "h");
        let headers = "Writable/Pipeline/Functions/HTTPExport/Parameters/httprequestheaders";
        assert_eq!(shown(headers, ""), "");
        assert_eq!(
            shown(headers, r#"{"X-Own":"secret"}"#),
            r#"{"X-Own":"<redacted>"}"#
        );
        assert_eq!(shown(headers, "X-Own: secret"), REDACTED);
    }

    #[test]
    fn passwords_in_urls_are_hidden() {
        for (text, expected) in [
            ("http://a:b@h:1/p?x=1", "http://a:<redacted>@h:1/p?x=1"),
            (
                "http://h/p?to=mailto://a:b@c",
                "http://h/p?to=mailto://a:<redacted>@c",
            ),
            (
                "tcp://a:b@h,tcp://c:d@i",
                "tcp://a:<redacted>@h,tcp://c:<redacted>@i",
            ),
            ("http://a:b@c@h", "http://a:<redacted>@h"),
            ("http://a@h:1", "http://a@h:1"),
            ("http://h:1/x@y:z", "http://h:1/x@y:z"),
            // Not written as it should be.
            ("http://a:b/c@h/p", "http://a:<redacted>@h/p"),
            (
                "tcp://a:b,c@h,tcp://c:d@i",
                "tcp://a:<redacted>@h,tcp://c:<redacted>@i",
            ),
            ("http://[::1]:80/a@b", "http://[::1]:80/a@b"),
            (
                "http://h/p?a=1&api_key=x%20y&Token=z#f",
                "http://h/p?a=1&api_key=<redacted>&Token=<redacted>#f",
            ),
            ("plain", "plain"),
            ("://", "://"),
        ] {
            assert_eq!(
                shown("Writable/Pipeline/Functions/X/Parameters/Url", text),
                expected
            );
        }
    }
}
