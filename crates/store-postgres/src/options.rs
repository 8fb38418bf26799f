//! Which server, as whom, and how it is spoken to.

use std::{fmt, path::PathBuf, time::Duration};

use edgehold_core::{SecretText, ServiceKey};
use edgehold_store::StoreError;
use sqlx::{
    ConnectOptions as _, Connection as _, PgConnection,
    postgres::{PgConnectOptions, PgSslMode},
};
use tokio::time::timeout;

use crate::error::{no_answer, store_error};

/// The longest name of a schema. PostgreSQL cuts a longer one off, and two services could become one.
const MAX_SCHEMA_BYTES: usize = 63;

/// Whether and how a connection is encrypted; the names are PostgreSQL's `sslmode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SslMode {
    /// `disable`: never.
    Disable,
    /// `prefer`: when the server offers it, whoever it is.
    #[default]
    Prefer,
    /// `require`: always, whoever the server is.
    Require,
    /// `verify-ca`: always, and somebody who is trusted has issued its certificate.
    VerifyCa,
    /// `verify-full`: always, and its certificate names this host.
    VerifyFull,
}

impl SslMode {
    const NAMES: [(Self, &'static str); 5] = [
        (Self::Disable, "disable"),
        (Self::Prefer, "prefer"),
        (Self::Require, "require"),
        (Self::VerifyCa, "verify-ca"),
        (Self::VerifyFull, "verify-full"),
    ];

    /// The mode with this name, whatever its case.
    pub fn from_name(name: &str) -> Option<Self> {
        let found = Self::NAMES
            .iter()
            .find(|(_, known)| known.eq_ignore_ascii_case(name));
        found.map(|(mode, _)| *mode)
    }
}

/// How a connection is encrypted.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// None: [`SslMode::VerifyFull`] with an authority of one's own, else [`SslMode::Prefer`].
    pub mode: Option<SslMode>,
    /// Certificates in PEM that are trusted beside those of the machine.
    pub authority: Option<SecretText>,
    /// Who we are: a certificate and its key in PEM.
    pub identity: Option<(SecretText, SecretText)>,
}

/// How a store is opened. Its `Debug` shows no secret.
#[derive(Clone)]
pub struct Options {
    /// Host name or address, or the folder of a Unix socket.
    pub host: String,
    /// Port; default 5432.
    pub port: u16,
    /// Database (`EDGEX_DBNAME`); default `edgex_db`, as EdgeX makes it. It has to exist.
    pub database: String,
    /// User.
    pub username: String,
    /// Its password; none is asked for when it is empty.
    pub password: SecretText,
    /// Encryption.
    pub tls: Tls,
    /// The service whose objects these are: the name of the schema, at most 63 bytes.
    pub service_key: ServiceKey,
    /// How long a connection, a statement and waiting for a lock may take (`Database.Timeout`); default 5 s.
    pub timeout: Duration,
    /// A file that only one process at a time has to itself, made when it is missing. A process that finds what an
    /// earlier one with this file had in hand takes that over at once; without it, seconds later.
    pub identity_file: Option<PathBuf>,
}

impl Options {
    /// This service's store on this host, with the defaults and no credentials.
    pub fn new(host: impl Into<String>, service_key: ServiceKey) -> Self {
        Self {
            host: host.into(),
            port: 5432,
            database: "edgex_db".to_owned(),
            username: String::new(),
            password: SecretText::new(""),
            tls: Tls::default(),
            service_key,
            timeout: Duration::from_secs(5),
            identity_file: None,
        }
    }

    /// The server and database in messages.
    pub(crate) fn server(&self) -> String {
        format!("PostgreSQL at {}:{}/{}", self.host, self.port, self.database)
    }

    pub(crate) fn check(&self) -> Result<(), StoreError> {
        let bytes = self.service_key.as_str().len();
        if bytes > MAX_SCHEMA_BYTES {
            return Err(StoreError::Configuration(format!(
                "the service key '{}' has {bytes} bytes, and a schema of PostgreSQL can have a name of at most \
                 {MAX_SCHEMA_BYTES}",
                self.service_key
            )));
        }
        Ok(())
    }

    /// How each connection is made. It finds our tables by their plain names, and nothing else.
    pub(crate) fn connect_options(&self) -> PgConnectOptions {
        let mode = match (self.tls.mode, &self.tls.authority) {
            (Some(SslMode::Disable), _) => PgSslMode::Disable,
            (Some(SslMode::Prefer), _) | (None, None) => PgSslMode::Prefer,
            (Some(SslMode::Require), _) => PgSslMode::Require,
            (Some(SslMode::VerifyCa), _) => PgSslMode::VerifyCa,
            (Some(SslMode::VerifyFull), _) | (None, Some(_)) => PgSslMode::VerifyFull,
        };
        let mut options = PgConnectOptions::new_without_pgpass()
            .host(&self.host)
            .port(self.port)
            .database(&self.database)
            .username(&self.username)
            .ssl_mode(mode)
            .application_name(&format!("edgehold {}", self.service_key))
            .options([
                ("search_path", quoted(self.service_key.as_str())),
                ("statement_timeout", millis(self.timeout)),
                ("lock_timeout", millis(self.timeout)),
                ("idle_in_transaction_session_timeout", millis(self.timeout)),
                // What is answered as kept is on the disk, whatever the server's default.
                ("synchronous_commit", "on".to_owned()),
                // Every statement goes through an index, in its order. The planner knows nothing of tables that grow from
                // nothing to a million rows and back within minutes: it would read all of them for as long as a plan
                // lives, or read and sort all that waits for each page. With compilation it would take the price that
                // it is told for a reason to compile.
                ("enable_seqscan", "off".to_owned()),
                ("enable_bitmapscan", "off".to_owned()),
                ("enable_sort", "off".to_owned()),
                // One plan for a statement, whatever its parameters: it is not made again for each page.
                ("plan_cache_mode", "force_generic_plan".to_owned()),
                ("jit", "off".to_owned()),
                ("client_min_messages", "warning".to_owned()),
            ])
            .disable_statement_logging();
        if !self.password.expose().is_empty() {
            options = options.password(self.password.expose());
        }
        if let Some(authority) = &self.tls.authority {
            options = options.ssl_root_cert_from_pem(authority.expose().as_bytes().to_vec());
        }
        if let Some((certificate, key)) = &self.tls.identity {
            options = options
                .ssl_client_cert_from_pem(certificate.expose())
                .ssl_client_key_from_pem(key.expose());
        }
        options
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("server", &self.server())
            .field("service_key", &self.service_key)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// Makes a connection, within a time.
pub(crate) async fn connect(
    server: &str,
    options: &PgConnectOptions,
    limit: Duration,
) -> Result<PgConnection, StoreError> {
    match timeout(limit, PgConnection::connect_with(options)).await {
        Ok(connected) => connected.map_err(|error| store_error(server, error)),
        Err(_) => Err(no_answer(server, limit)),
    }
}

/// A name as SQL takes it, whatever is in it.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn millis(time: Duration) -> String {
    time.as_millis().max(1).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_shown() {
        let options = Options {
            username: "me".to_owned(),
            password: SecretText::new("hunter2"),
            ..Options::new("localhost", ServiceKey::try_new("app").unwrap())
        };
        let shown = format!("{options:?} {:?}", options.tls);
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(shown.contains("PostgreSQL at localhost:5432/edgex_db"), "{shown}");
    }

    #[test]
    fn a_name_that_would_be_cut_off_is_refused() {
        let of = |bytes| Options::new("localhost", ServiceKey::try_new(&"k".repeat(bytes)).unwrap());
        assert!(of(63).check().is_ok());
        let error = of(64).check().unwrap_err().to_string();
        assert!(error.contains("64 bytes"), "{error}");
    }

    #[test]
    fn an_authority_of_ones_own_is_asked_for_the_host() {
        let mut options = Options::new("localhost", ServiceKey::try_new("app").unwrap());
        let mode = |options: &Options| options.connect_options().get_ssl_mode() as u8;
        assert_eq!(mode(&options), PgSslMode::Prefer as u8);
        options.tls.authority = Some(SecretText::new("pem"));
        assert_eq!(mode(&options), PgSslMode::VerifyFull as u8);
        options.tls.mode = SslMode::from_name("Verify-CA");
        assert_eq!(mode(&options), PgSslMode::VerifyCa as u8);
    }
}
