//! A configuration file behind an http(s) address.
//!
//! EdgeX's form: the address may name a secret, `?edgexSecretName=<name>`, which becomes a request header.

use std::{fmt, time::Duration};

use edgehold_core::Secret;
use reqwest::{
    Url,
    header::{HeaderName, HeaderValue},
};

use crate::http::{self, CallError};

/// The query parameter that names a secret.
const SECRET_NAME: &str = "edgexSecretName";

/// Why a configuration file behind an address cannot be had. Addresses are shown without credentials and query.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// What is given is not an address. It is not repeated: it might hold a password.
    #[error("the address of a configuration file is not a URI: {reason}")]
    InvalidUri {
        /// What is wrong with it.
        reason: String,
    },
    /// The secret that the address names makes no request header.
    #[error(
        "secret '{name}' makes no request header for a configuration file: {problem}; it needs the keys type = httpheader, \
         headername and headercontents"
    )]
    InvalidSecret {
        /// The name of the secret.
        name: String,
        /// What is wrong with it, without its values.
        problem: &'static str,
    },
    /// The server did not give the file.
    #[error("configuration file {uri} cannot be fetched")]
    Call {
        /// The address, as [`FileUri`] shows it.
        uri: String,
        /// What happened.
        source: CallError,
    },
}

/// Where a configuration file is. Shown without user, password and query, all of which may hold credentials.
#[derive(Clone)]
pub struct FileUri(Url);

impl FileUri {
    /// Reads an address.
    ///
    /// # Errors
    /// [`FetchError::InvalidUri`].
    pub fn parse(uri: &str) -> Result<Self, FetchError> {
        let url = Url::parse(uri).map_err(|error| FetchError::InvalidUri {
            reason: error.to_string(),
        })?;
        match url.scheme() {
            "http" | "https" => Ok(Self(url)),
            _ => Err(FetchError::InvalidUri {
                reason: "it is neither http nor https".to_owned(),
            }),
        }
    }

    /// The secret that is to become a request header; none when the address names none.
    pub fn secret_name(&self) -> Option<String> {
        let name = self.0.query_pairs().find(|(name, _)| name == SECRET_NAME)?.1;
        (!name.is_empty()).then(|| name.into_owned())
    }

    /// Fetches the file. Redirects are followed; `limit` is for the whole of it. User and password of the address are
    /// sent as Basic authentication, the query as it is. Cancel-safe.
    ///
    /// # Errors
    /// [`FetchError::Call`]: among others for a status of 300 or above, and for a file that is not UTF-8.
    pub async fn fetch(&self, header: Option<RequestHeader>, limit: Duration) -> Result<String, FetchError> {
        let body = http::get(&self.0, header.map(|header| (header.name, header.value)), limit).await;
        let text = body.and_then(|bytes| {
            String::from_utf8(bytes).map_err(|error| CallError::NotUnderstood {
                reason: error.to_string(),
            })
        });
        text.map_err(|source| FetchError::Call {
            uri: self.to_string(),
            source,
        })
    }
}

impl fmt::Display for FileUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.0.host_str().unwrap_or_default();
        write!(f, "{}://{host}", self.0.scheme())?;
        if let Some(port) = self.0.port() {
            write!(f, ":{port}")?;
        }
        f.write_str(self.0.path())
    }
}

impl fmt::Debug for FileUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileUri({self})")
    }
}

/// A request header whose value is secret.
#[derive(Clone)]
pub struct RequestHeader {
    name: HeaderName,
    value: HeaderValue,
}

impl RequestHeader {
    /// The header that a secret describes: keys `type` = `httpheader`, `headername`, `headercontents`. `name` is the name
    /// of the secret, for errors.
    ///
    /// # Errors
    /// [`FetchError::InvalidSecret`].
    pub fn from_secret(name: &str, secret: &Secret) -> Result<Self, FetchError> {
        let wrong = |problem| FetchError::InvalidSecret {
            name: name.to_owned(),
            problem,
        };
        let value = |key: &str| secret.get(key).map_or("", |value| value.expose());
        if value("type") != "httpheader" {
            return Err(wrong("its type is another one"));
        }
        let header = value("headername")
            .parse()
            .map_err(|_| wrong("headername is no name of a header"))?;
        let contents = value("headercontents");
        if contents.is_empty() {
            return Err(wrong("headercontents is empty"));
        }
        let mut contents = HeaderValue::from_str(contents)
            .map_err(|_| wrong("headercontents holds characters that no header can have"))?;
        contents.set_sensitive(true);
        Ok(Self {
            name: header,
            value: contents,
        })
    }
}

impl fmt::Debug for RequestHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestHeader({})", self.name)
    }
}

#[cfg(test)]
mod tests {
    use edgehold_core::SecretText;

    use super::*;

    #[test]
    fn an_address_is_shown_without_what_may_be_secret() {
        for (uri, shown) in [
            (
                "http://u:p@h:1/a/c.yaml?token=x&edgexSecretName=s",
                "http://h:1/a/c.yaml",
            ),
            ("HTTPS://h/c.yaml#f", "https://h/c.yaml"),
            ("http://[::1]:8080/c", "http://[::1]:8080/c"),
        ] {
            let parsed = FileUri::parse(uri).unwrap();
            assert_eq!(parsed.to_string(), shown);
            assert_eq!(format!("{parsed:?}"), format!("FileUri({shown})"));
        }
        for wrong in ["http://", "http://u:p@", "ftp://h/c", "c.yaml", "http://h:99999/"] {
            assert!(
                matches!(FileUri::parse(wrong), Err(FetchError::InvalidUri { .. })),
                "{wrong}"
            );
        }
    }

    #[test]
    fn an_address_may_name_a_secret() {
        for (uri, name) in [
            ("http://h/c?edgexSecretName=files", Some("files")),
            ("http://h/c?a=1&edgexSecretName=my%20files", Some("my files")),
            ("http://h/c?edgexSecretName=", None),
            ("http://h/c?edgexsecretname=x", None),
            ("http://h/c", None),
        ] {
            assert_eq!(
                FileUri::parse(uri).unwrap().secret_name().as_deref(),
                name,
                "{uri}"
            );
        }
    }

    #[test]
    fn a_secret_that_makes_no_header_is_named_without_its_values() {
        let secret = |kind: &str, name: &str, contents: &str| -> Secret {
            [("type", kind), ("headername", name), ("headercontents", contents)]
                .map(|(key, value)| (key.to_owned(), SecretText::new(value)))
                .into()
        };
        assert!(RequestHeader::from_secret("s", &secret("httpheader", "X-Key", "v-1")).is_ok());
        for wrong in [
            secret("other", "X-Key", "v-1"),
            secret("httpheader", "", "v-1"),
            secret("httpheader", "X Key", "v-1"),
            secret("httpheader", "X-Key", ""),
            secret("httpheader", "X-Key", "v-1\n"),
            Secret::new(),
        ] {
            let error = RequestHeader::from_secret("s", &wrong).unwrap_err();
            let text = error.to_string();
            assert!(text.contains("secret 's'") && !text.contains("v-1"), "{text}");
        }
    }
}
