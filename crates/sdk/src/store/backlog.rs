//! What the original left of a service, wherever it lies.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use edgehold_bus_redis as redis;
use edgehold_config::configuration::Database;
use edgehold_core::{Fixed, SecretError, SecretProvider, SecretText, ServiceKey, Timestamp};
use edgehold_store::StoreError;
use edgehold_store_postgres as store_postgres;

use super::{
    address::{ServerAddress, StoreAddress},
    postgres,
};

/// Redis' own port.
const REDIS_PORT: u16 = 6379;

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
                let options = postgres_at(server, &place);
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
        if !server.password.expose().is_empty() {
            settings.access = Arc::new(Fixed::new(redis::Access {
                tls: None,
                credentials: Some(redis::Credentials {
                    username: server.username.clone(),
                    password: server.password.clone(),
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
                        created: Some(left.created),
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

/// The options of a server that is given by its address; what is not given is as the settings have it.
pub(crate) fn postgres_at(server: &ServerAddress, place: &Place<'_>) -> store_postgres::Options {
    let defaults = store_postgres::Options::new(server.host.clone(), place.service_key.clone());
    store_postgres::Options {
        port: server.port.unwrap_or(defaults.port),
        database: match server.path.as_str() {
            "" => place.db_name.to_owned(),
            name => name.to_owned(),
        },
        username: server.username.clone(),
        password: server.password.clone(),
        timeout: place.database.timeout,
        ..defaults
    }
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
        redis::ConnectionError::Refused(_) => StoreError::Configuration(reason),
        _ => StoreError::Unavailable { reason, source: None },
    }
}
