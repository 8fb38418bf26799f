//! What of a setting may be shown: everything but secrets.

use crate::schema::{self, INSECURE_SECRETS, Kind};

/// Stands for what is not shown.
pub const REDACTED: &str = "<redacted>";

/// The text of a setting as it may appear in a log line or an answer.
///
/// Hidden are values of secrets, whatever looks like one by its name, and the password of a URL.
pub fn shown(path: &str, text: &str) -> String {
    if is_secret(path) {
        REDACTED.to_owned()
    } else {
        without_passwords(text)
    }
}

pub(crate) fn is_secret(path: &str) -> bool {
    // Also what is misplaced below the secrets: it may be a password in the wrong spot.
    if let Some(rest) = path.strip_prefix(INSECURE_SECRETS) {
        let mut below_entry = rest.split('/').skip(1);
        return !(below_entry.next() == Some("SecretName") && below_entry.next().is_none());
    }
    let name = path.rsplit('/').next().unwrap_or(path).to_ascii_lowercase();
    name.ends_with("password") || schema::find(path).is_some_and(|setting| setting.kind == Kind::Secret)
}

/// Hides the password in each `scheme://user:password@host` of a text.
pub fn without_passwords(text: &str) -> String {
    let Some((before, rest)) = text.split_once("://") else {
        return text.to_owned();
    };
    let end = rest
        .find(|c: char| matches!(c, '/' | '?' | '#' | ',') || c.is_whitespace())
        .unwrap_or(rest.len());
    let (authority, after) = rest.split_at(end);
    let authority = match authority.rsplit_once('@') {
        Some((user, host)) => match user.split_once(':') {
            Some((name, _)) => format!("{name}:{REDACTED}@{host}"),
            None => authority.to_owned(),
        },
        None => authority.to_owned(),
    };
    format!("{before}://{authority}{}", without_passwords(after))
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
        assert_eq!(shown("Writable/LogLevel", "INFO"), "INFO");
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
