//! What the original left of a service, wherever it lies.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use bytes::Bytes;
use edgehold_bus_redis as redis;
use edgehold_config::configuration::Database;
use edgehold_core::{Fixed, SecretError, SecretProvider, SecretText, ServiceKey, Timestamp};
use edgehold_store::StoreError;
use edgehold_store_postgres as store_postgres;

use super::{
    address::{ServerAddress, StoreAddress, TlsParameters},
    postgres,
};

/// Redis' own port.
const REDIS_PORT: u16 = 6379;
/// Where Redis' and PostgreSQL's own programs look for a password.
const REDIS_PASSWORD: &str = "REDISCLI_AUTH";
const POSTGRES_PASSWORD: &str = "PGPASSWORD";

/// One object that the original left.
pub(crate) struct LeftBehind {
    /// Its key there.
    pub(crate) key: Bytes,
    /// When it was stored, where that is known.
    pub(crate) created: Option<Timestamp>,
    /// What it is; none when there is a key and nothing behind it.
    pub(crate) json: Option<Bytes>,
}

/// Where the original is asked for.
pub(crate) struct Place<'a> {
    pub(crate) service_key: &'a ServiceKey,
    pub(crate) database: &'a Database,
    pub(crate) db_name: &'a str,
    pub(crate) secrets: &'a dyn SecretProvider,
    /// Where a password may be that an address leaves out.
    pub(crate) environment: &'a BTreeMap<String, String>,
}

/// What the original left of one service.
pub(crate) struct Backlog {
    place: String,
    source: Source,
}

enum Source {
    Redis(redis::Backlog),
    Postgres(store_postgres::Backlog),
    /// The database is there, and nothing of the original in it.
    Nothing,
}

impl Backlog {
    /// The backlog at an address, or where the settings say that the original has it.
    ///
    /// # Errors
    /// [`StoreError::Configuration`] when there can be none, [`StoreError::Unavailable`].
    pub(crate) async fn open(place: Place<'_>, from: Option<&StoreAddress>) -> Result<Self, StoreError> {
        match from {
            Some(StoreAddress::Redis(server)) => Self::redis_at(&place, server).await,
            Some(StoreAddress::Postgres(server)) => {
                let options = postgres_at(server, &place).await?;
                Self::postgres(&options).await
            }
            Some(StoreAddress::File(path)) => Err(no_original(path)),
            None => match place.database.kind.to_lowercase().as_str() {
                "redisdb" => Self::redis(&place).await,
                "postgres" => {
                    let options =
                        postgres::options(place.database, place.db_name, place.service_key, place.secrets)
                            .await?;
                    Self::postgres(&options).await
                }
                kind => Err(StoreError::Configuration(format!(
                    "Database/Type is '{kind}', where the original keeps nothing: say where it did, with \
                     --from redis://host:6379 or --from postgres://user:password@host:5432"
                ))),
            },
        }
    }

    async fn postgres(options: &store_postgres::Options) -> Result<Self, StoreError> {
        let place = format!(
            "PostgreSQL at {}:{}/{}, schema \"{}\"",
            options.host, options.port, options.database, options.service_key
        );
        let source = match store_postgres::Backlog::open(options).await? {
            Some(backlog) => Source::Postgres(backlog),
            None => Source::Nothing,
        };
        Ok(Self { place, source })
    }

    /// Where `Database` says; the password is in the secret named as its type, if there is one.
    async fn redis(place: &Place<'_>) -> Result<Self, StoreError> {
        let database = place.database;
        let password = match place.secrets.secret(&database.kind).await {
            Ok(mut secret) => secret.remove("password").unwrap_or_default(),
            Err(SecretError::Unavailable { reason }) => {
                return Err(StoreError::Unavailable {
                    reason: format!("no credentials: {reason}"),
                    source: None,
                });
            }
            Err(_) => SecretText::default(),
        };
        let host = match database.host.as_str() {
            "" => "localhost",
            host => host,
        };
        let server = ServerAddress {
            username: String::new(),
            password,
            host: host.to_owned(),
            port: Some(database.port).filter(|port| *port != 0),
            path: String::new(),
            tls: TlsParameters::default(),
        };
        Self::redis_at(place, &server).await
    }

    async fn redis_at(place: &Place<'_>, server: &ServerAddress) -> Result<Self, StoreError> {
        if !["", "0"].contains(&server.path.as_str()) {
            return Err(StoreError::Configuration(
                "the original keeps everything in the database 0 of Redis".to_owned(),
            ));
        }
        let port = server.port.unwrap_or(REDIS_PORT);
        let mut settings = redis::ConnectionSettings::new(server.host.clone(), port);
        settings.client_name = format!("edgehold {}", place.service_key);
        settings.connect_timeout = place.database.timeout;
        let password = password_of(server, place, REDIS_PASSWORD).unwrap_or_default();
        if !password.expose().is_empty() {
            settings.access = Arc::new(Fixed::new(redis::Access {
                tls: None,
                credentials: Some(redis::Credentials {
                    username: server.username.clone(),
                    password,
                }),
            }));
        }
        let where_it_is = format!("Redis at {}:{port}", server.host);
        let opened = redis::Backlog::open(&settings, place.service_key.as_str()).await;
        let backlog = opened.map_err(|error| redis_error(&where_it_is, error))?;
        Ok(Self {
            place: where_it_is,
            source: Source::Redis(backlog),
        })
    }

    /// The server, for people.
    pub(crate) fn place(&self) -> &str {
        &self.place
    }

    /// How many there are.
    pub(crate) async fn count(&mut self) -> Result<u64, StoreError> {
        match &mut self.source {
            Source::Redis(backlog) => {
                let count = backlog.count().await;
                count.map_err(|error| redis_error(&self.place, error))
            }
            Source::Postgres(backlog) => backlog.count().await,
            Source::Nothing => Ok(0),
        }
    }

    /// The next ones; none at the end.
    pub(crate) async fn next_page(&mut self) -> Result<Vec<LeftBehind>, StoreError> {
        match &mut self.source {
            Source::Redis(backlog) => {
                let page = backlog.next_page().await;
                let page = page.map_err(|error| redis_error(&self.place, error))?;
                let left = page.into_iter().map(|left| LeftBehind {
                    key: left.id,
                    created: None,
                    json: left.json,
                });
                Ok(left.collect())
            }
            Source::Postgres(backlog) => loop {
                let page = backlog.next_page().await?;
                if page.is_empty() {
                    return Ok(Vec::new());
                }
                // A row that is gone is nobody's loss: it was removed by whoever delivered it.
                let left = page.into_iter().filter_map(|left| {
                    Some(LeftBehind {
                        key: left.id.to_string().into(),
                        created: left.created,
                        json: Some(left.json?.into()),
                    })
                });
                let left: Vec<_> = left.collect();
                if !left.is_empty() {
                    return Ok(left);
                }
            },
            Source::Nothing => Ok(Vec::new()),
        }
    }

    /// Removes what has been taken over.
    pub(crate) async fn remove(&mut self, keys: &[Bytes]) -> Result<(), StoreError> {
        match &mut self.source {
            Source::Redis(backlog) => {
                let removed = backlog.remove(keys).await;
                removed.map_err(|error| redis_error(&self.place, error))
            }
            Source::Postgres(backlog) => {
                let ids: Vec<_> = keys
                    .iter()
                    .filter_map(|key| std::str::from_utf8(key).ok()?.parse().ok())
                    .collect();
                backlog.remove(&ids).await
            }
            Source::Nothing => Ok(()),
        }
    }

    pub(crate) async fn close(self) {
        if let Source::Postgres(backlog) = self.source {
            backlog.close().await;
        }
    }
}

/// The password of an address, or the one in the environment.
fn password_of(server: &ServerAddress, place: &Place<'_>, variable: &str) -> Option<SecretText> {
    let given = Some(server.password.clone());
    let given = given.filter(|password| !password.expose().is_empty());
    given.or_else(|| place.environment.get(variable).map(SecretText::new))
}

/// The options of a server that is given by its address. A password that it leaves out is in the environment (`PGPASSWORD`)
/// or, as the user may be, in the secret of the PostgreSQL store; what else it leaves out is as the settings have it.
///
/// # Errors
/// [`StoreError::Configuration`]: there is no user, or a file that cannot be read.
pub(crate) async fn postgres_at(
    server: &ServerAddress,
    place: &Place<'_>,
) -> Result<store_postgres::Options, StoreError> {
    let mut username = server.username.clone();
    let mut password = password_of(server, place, POSTGRES_PASSWORD);
    if username.is_empty() || password.is_none() {
        let name = match place.database.kind.to_lowercase().as_str() {
            // As it is written there.
            "postgres" => &place.database.kind,
            _ => "postgres",
        };
        let mut secret = place.secrets.secret(name).await.unwrap_or_default();
        let user = secret.remove("username").unwrap_or_default();
        if username.is_empty() {
            user.expose().clone_into(&mut username);
        }
        // A password belongs to its user.
        if username == user.expose() {
            password = password.or_else(|| secret.remove("password"));
        }
    }
    if username.is_empty() {
        return Err(StoreError::Configuration(format!(
            "the address of the server {} names no user, and no secret 'postgres' does",
            server.host
        )));
    }
    let defaults = store_postgres::Options::new(server.host.clone(), place.service_key.clone());
    Ok(store_postgres::Options {
        port: server.port.unwrap_or(defaults.port),
        database: match server.path.as_str() {
            "" => place.db_name.to_owned(),
            name => name.to_owned(),
        },
        username,
        password: password.unwrap_or_default(),
        tls: read_tls(&server.tls)?,
        timeout: place.database.timeout,
        ..defaults
    })
}

fn read_tls(parameters: &TlsParameters) -> Result<store_postgres::Tls, StoreError> {
    let read = |name: &str, path: &Path| {
        std::fs::read_to_string(path)
            .map(SecretText::new)
            .map_err(|error| {
                StoreError::Configuration(format!("{name}: {} cannot be read: {error}", path.display()))
            })
    };
    let authority = parameters.authority.as_deref();
    let authority = authority.map(|path| read("sslrootcert", path)).transpose()?;
    let identity = parameters.identity.as_ref();
    let identity =
        identity.map(|(certificate, key)| Ok((read("sslcert", certificate)?, read("sslkey", key)?)));
    Ok(store_postgres::Tls {
        mode: match parameters.mode {
            // With an authority of one's own libpq looks who the server is, too.
            Some(store_postgres::SslMode::Require) if authority.is_some() => {
                Some(store_postgres::SslMode::VerifyCa)
            }
            mode => mode,
        },
        authority,
        identity: identity.transpose()?,
    })
}

fn no_original(path: &Path) -> StoreError {
    StoreError::Configuration(format!(
        "{} is a file, and the original keeps nothing in files; 'store copy' copies stores of ours",
        path.display()
    ))
}

fn redis_error(place: &str, error: redis::ConnectionError) -> StoreError {
    let reason = format!("{place}: {error}");
    match &error {
        redis::ConnectionError::Refused(_) => StoreError::Configuration(format!(
            "{reason} (a password is in the secret named as Database/Type, in the address of --from, or in {REDIS_PASSWORD})"
        )),
        _ => StoreError::Unavailable { reason, source: None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_of_redis_says_where_a_password_comes_from() {
        let refusal = redis::ConnectionError::Refused("NOAUTH Authentication required.".into());
        assert_eq!(
            redis_error("Redis at r:6379", refusal).to_string(),
            "Redis at r:6379: the server refuses: NOAUTH Authentication required. (a password is in the secret named as \
             Database/Type, in the address of --from, or in REDISCLI_AUTH)"
        );
    }
}
