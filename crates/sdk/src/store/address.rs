//! The address of a store, as it is given on a command line: `redis://…`, `postgres://…`, or a file.

use std::{borrow::Cow, fmt, path::PathBuf, str::FromStr};

use edgehold_core::SecretText;
use edgehold_store_postgres::SslMode;

/// Where a store is. Its `Debug` and `Display` show no password.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreAddress {
    /// `redis://user:password@host:port`
    Redis(ServerAddress),
    /// `postgres://user:password@host:port/database?sslmode=…&sslrootcert=…&sslcert=…&sslkey=…`
    Postgres(ServerAddress),
    /// A file, as `sqlite:PATH` or as its path.
    File(PathBuf),
}

/// A server, as whom, and what there. What is not given is empty, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerAddress {
    /// The user.
    pub username: String,
    /// The password.
    pub password: SecretText,
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: Option<u16>,
    /// What stands behind the slash: a database.
    pub path: String,
    /// What stands behind the question mark.
    pub(crate) tls: TlsParameters,
}

/// How a connection to PostgreSQL is encrypted, by libpq's names for it. Files are in PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TlsParameters {
    /// `sslmode`
    pub(crate) mode: Option<SslMode>,
    /// `sslrootcert`: who is trusted.
    pub(crate) authority: Option<PathBuf>,
    /// `sslcert` and `sslkey`: who we are.
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
}

/// A text that is no address of a store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no address of a store: {0}")]
pub struct InvalidAddress(Cow<'static, str>);

fn invalid(problem: impl Into<Cow<'static, str>>) -> InvalidAddress {
    InvalidAddress(problem.into())
}

impl FromStr for StoreAddress {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let Some((scheme, rest)) = text.split_once("://") else {
            let path = text.strip_prefix("sqlite:").unwrap_or(text);
            return match path {
                "" => Err(invalid("it is empty")),
                path => Ok(Self::File(path.into())),
            };
        };
        match scheme {
            "redis" => match rest.parse::<ServerAddress>()? {
                server if server.tls == TlsParameters::default() => Ok(Self::Redis(server)),
                _ => Err(invalid("parameters are for postgres:// alone")),
            },
            "postgres" | "postgresql" => Ok(Self::Postgres(rest.parse()?)),
            _ => Err(invalid(
                "it begins with neither redis:// nor postgres://, and a file is given by its path",
            )),
        }
    }
}

impl FromStr for ServerAddress {
    type Err = InvalidAddress;

    /// Reads what stands behind `://`. What it says of an error holds nothing that could be part of a password.
    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        // A password that is not encoded may hold a '?' or an '@': the login ends with the last one before any slash.
        let authority = text.split_once('/').map_or(text, |(authority, _)| authority);
        let (login, rest) = match authority.rfind('@') {
            Some(at) => (&text[..at], &text[at + 1..]),
            None => ("", text),
        };
        let (username, password) = login.split_once(':').unwrap_or((login, ""));
        let (place, parameters) = rest.split_once('?').unwrap_or((rest, ""));
        let (place, path) = place.split_once('/').unwrap_or((place, ""));
        // An IPv6 address has colons of its own.
        let (host, port) = match place.strip_prefix('[') {
            Some(rest) => rest
                .split_once(']')
                .map(|(host, rest)| (host, rest.strip_prefix(':')))
                .ok_or(invalid("a ']' is missing"))?,
            None => match place.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (place, None),
            },
        };
        if host.is_empty() {
            return Err(invalid("it names no host"));
        }
        let port = port
            .map(str::parse)
            .transpose()
            .map_err(|_| invalid("its port is no number below 65536"))?;
        Ok(Self {
            username: decoded(username)?,
            password: SecretText::new(decoded(password)?),
            host: host.to_owned(),
            port,
            path: decoded(path)?,
            tls: parameters.parse()?,
        })
    }
}

impl FromStr for TlsParameters {
    type Err = InvalidAddress;

    /// Reads what stands behind `?`. Of those with one name the last counts.
    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        if text.contains('@') {
            return Err(invalid(
                "there is an '@' behind a '?': in a password '/', '?' and '@' are written %2F, %3F and %40",
            ));
        }
        let mut mode = None;
        let (mut authority, mut certificate, mut key) = (None, None, None);
        for parameter in text.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter
                .split_once('=')
                .ok_or(invalid("a parameter behind the '?' has no '='"))?;
            let value = decoded(value)?;
            match name {
                "sslmode" => {
                    mode = Some(SslMode::from_name(&value).ok_or(invalid(
                        "its sslmode is none of disable, prefer, require, verify-ca and verify-full",
                    ))?);
                }
                "sslrootcert" => authority = Some(value.into()),
                "sslcert" => certificate = Some(value.into()),
                "sslkey" => key = Some(value.into()),
                name => {
                    return Err(invalid(format!(
                        "its parameter '{}' is not understood; sslmode, sslrootcert, sslcert and sslkey are",
                        name.escape_debug()
                    )));
                }
            }
        }
        let identity = match (certificate, key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => {
                return Err(invalid(
                    "it has one of sslcert and sslkey, and needs both or neither",
                ));
            }
        };
        Ok(Self {
            mode,
            authority,
            identity,
        })
    }
}

/// Text with `%40` for `@` and so on.
fn decoded(text: &str) -> Result<String, InvalidAddress> {
    let invalid = invalid("a '%' is followed by something else than the digits of a character");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || {
            let digit = char::from(rest.next()?).to_digit(16)?;
            u8::try_from(digit).ok()
        };
        let (Some(high), Some(low)) = (digit(), digit()) else {
            return Err(invalid);
        };
        bytes.push(high << 4 | low);
    }
    String::from_utf8(bytes).map_err(|_| invalid)
}

impl fmt::Display for StoreAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Redis(server) => write!(f, "redis://{server}"),
            Self::Postgres(server) => write!(f, "postgres://{server}"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]", self.host)?,
            false => f.write_str(&self.host)?,
        }
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        match self.path.as_str() {
            "" => Ok(()),
            path => write!(f, "/{path}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_read_with_all_its_parts_and_shown_without_its_login() {
        let address: StoreAddress = "postgres://me:p%40ss%3Aw@db:5433/edgex_db".parse().unwrap();
        let StoreAddress::Postgres(server) = &address else {
            panic!("{address:?}");
        };
        assert_eq!(server.username, "me");
        assert_eq!(server.password.expose(), "p@ss:w");
        assert_eq!((server.host.as_str(), server.port), ("db", Some(5433)));
        assert_eq!(server.path, "edgex_db");
        assert_eq!(address.to_string(), "postgres://db:5433/edgex_db");
        assert!(!format!("{address:?}").contains("p@ss"));
    }

    #[test]
    fn what_is_not_given_is_left_open() {
        let redis: StoreAddress = "redis://:pw@[::1]".parse().unwrap();
        let StoreAddress::Redis(server) = &redis else {
            panic!("{redis:?}");
        };
        assert_eq!((server.host.as_str(), server.port), ("::1", None));
        assert_eq!((server.username.as_str(), server.password.expose()), ("", "pw"));
        assert_eq!(redis.to_string(), "redis://[::1]");
        for file in ["sqlite:/var/a.db", "/var/a.db"] {
            assert_eq!(file.parse(), Ok(StoreAddress::File("/var/a.db".into())));
        }
    }

    #[test]
    fn how_a_server_is_spoken_to_is_given_as_libpq_names_it() {
        let tls = |text: &str| match text.parse() {
            Ok(StoreAddress::Postgres(server)) => (server.host, server.path, server.tls),
            other => panic!("{text}: {other:?}"),
        };
        let all = "postgres://me:p?w@db/edgex_db?sslmode=verify-ca&sslrootcert=/etc/ca%20all.pem&&sslcert=c.pem&sslkey=k.pem";
        let wanted = TlsParameters {
            mode: Some(SslMode::VerifyCa),
            authority: Some("/etc/ca all.pem".into()),
            identity: Some(("c.pem".into(), "k.pem".into())),
        };
        assert_eq!(tls(all), ("db".to_owned(), "edgex_db".to_owned(), wanted));
        let without_database = tls("postgresql://db?sslrootcert=/etc/ca.pem&sslmode=disable&sslmode=Require");
        let wanted = TlsParameters {
            mode: Some(SslMode::Require),
            authority: Some("/etc/ca.pem".into()),
            identity: None,
        };
        assert_eq!(without_database, ("db".to_owned(), String::new(), wanted));
        assert_eq!(tls("postgres://db/?").2, TlsParameters::default());
        assert_eq!(
            all.parse::<StoreAddress>().unwrap().to_string(),
            "postgres://db/edgex_db"
        );
    }

    #[test]
    fn a_parameter_that_is_not_understood_is_named() {
        for (parameters, problem) in [
            (
                "sslmode=require&connect_timeout=5",
                "'connect_timeout' is not understood",
            ),
            ("password=secret", "'password' is not understood"),
            ("sslmode=allow", "its sslmode is none of disable, prefer"),
            ("sslcert=c.pem", "needs both or neither"),
            ("secret", "has no '='"),
        ] {
            let address = format!("postgres://me:secret@host/db?{parameters}");
            let error = address.parse::<StoreAddress>().expect_err(&address).to_string();
            assert!(error.contains(problem) && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_without_repeating_it() {
        for text in [
            "",
            "sqlite:",
            "mysql://me:secret@host",
            "redis://me:secret@",
            "redis://me:secret@host:many",
            "redis://me:%zz@host",
            "redis://[::1",
            "redis://me:secret@host?sslmode=require",
            "postgres://me:1?secret=x/y@host/db",
            "postgres://me:1/2?secret=x@host/db",
            "postgres://me:a/secret@host/db",
        ] {
            let error = text.parse::<StoreAddress>().expect_err(text).to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
