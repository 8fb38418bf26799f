//! The address of a store, as it is given on a command line: `redis://…`, `postgres://…`, or a file.

use std::{fmt, path::PathBuf, str::FromStr};

use edgehold_core::SecretText;

/// Where a store is. Its `Debug` and `Display` show no password.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreAddress {
    /// `redis://user:password@host:port`
    Redis(ServerAddress),
    /// `postgres://user:password@host:port/database`
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
}

/// A text that is no address of a store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no address of a store: {0}")]
pub struct InvalidAddress(&'static str);

impl FromStr for StoreAddress {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let Some((scheme, rest)) = text.split_once("://") else {
            let path = text.strip_prefix("sqlite:").unwrap_or(text);
            return match path {
                "" => Err(InvalidAddress("it is empty")),
                path => Ok(Self::File(path.into())),
            };
        };
        match scheme {
            "redis" => Ok(Self::Redis(rest.parse()?)),
            "postgres" | "postgresql" => Ok(Self::Postgres(rest.parse()?)),
            _ => Err(InvalidAddress(
                "it begins with neither redis:// nor postgres://, and a file is given by its path",
            )),
        }
    }
}

impl FromStr for ServerAddress {
    type Err = InvalidAddress;

    /// Reads what stands behind `://`.
    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let (authority, path) = text.split_once('/').unwrap_or((text, ""));
        if path.contains('?') {
            return Err(InvalidAddress("options behind a '?' are not understood"));
        }
        let (login, place) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (username, password) = login.split_once(':').unwrap_or((login, ""));
        // An IPv6 address has colons of its own.
        let (host, port) = match place.strip_prefix('[') {
            Some(rest) => rest
                .split_once(']')
                .map(|(host, rest)| (host, rest.strip_prefix(':')))
                .ok_or(InvalidAddress("a ']' is missing"))?,
            None => match place.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (place, None),
            },
        };
        if host.is_empty() {
            return Err(InvalidAddress("it names no host"));
        }
        let port = port
            .map(str::parse)
            .transpose()
            .map_err(|_| InvalidAddress("its port is no number below 65536"))?;
        Ok(Self {
            username: decoded(username)?,
            password: SecretText::new(decoded(password)?),
            host: host.to_owned(),
            port,
            path: decoded(path)?,
        })
    }
}

/// Text with `%40` for `@` and so on.
fn decoded(text: &str) -> Result<String, InvalidAddress> {
    let invalid = InvalidAddress("a '%' is followed by something else than the digits of a character");
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
    fn what_is_no_address_is_refused_without_repeating_it() {
        for text in [
            "",
            "sqlite:",
            "mysql://me:secret@host",
            "redis://me:secret@",
            "redis://me:secret@host:many",
            "redis://me:%zz@host",
            "redis://[::1",
            "postgres://me:secret@host/db?sslmode=require",
        ] {
            let error = text.parse::<StoreAddress>().expect_err(text).to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
