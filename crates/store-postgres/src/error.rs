//! What PostgreSQL says, in the words of the caller.

use edgehold_store::StoreError;

/// The state codes that name a full disk or memory.
const DISK_FULL: &str = "53100";
/// Asked of a transaction that two instances cannot both have at once; the same again succeeds.
const DEADLOCK: &str = "40P01";
const NOT_SERIALIZABLE: &str = "40001";
/// Whoever asked may not do this.
const REFUSED: &str = "42501";

/// Maps a failure of the server with this name.
pub(crate) fn store_error(server: &str, error: sqlx::Error) -> StoreError {
    if matches!(error, sqlx::Error::PoolClosed) {
        return StoreError::Closed;
    }
    let reason = match code(&error).as_deref() {
        Some(DISK_FULL) => {
            return StoreError::Full {
                reason: format!("the disk of {server} is full"),
            };
        }
        Some("28P01" | "28000") => {
            format!(
                "{server} refuses these credentials: user and password are in the secret named as Database/Type, or in \
                 the address given"
            )
        }
        Some("3D000") => {
            format!(
                "{server} has no such database; create it, or name another one with EDGEX_DBNAME or in the address"
            )
        }
        Some(REFUSED) => format!(
            "{server} refuses what the store needs; grant this user CREATE on the database, or on the schema \
             of this service"
        ),
        Some("53300") => format!("{server} has no connection left"),
        Some("53200") => format!("{server} is out of memory"),
        Some("57014") => format!("{server} did not finish a statement within Database/Timeout"),
        Some("57P01" | "57P02" | "57P03") => format!("{server} is starting or stopping"),
        Some("25006") => format!("{server} is read-only, perhaps a standby"),
        Some(_) => format!("{server} refused a statement"),
        None => match &error {
            sqlx::Error::PoolTimedOut => format!("{server} gave no connection in time"),
            sqlx::Error::Tls(_) => format!("no TLS connection with {server}"),
            // So rustls says that it does not believe a certificate.
            sqlx::Error::Io(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                format!("no TLS connection with {server}")
            }
            _ => format!("no connection with {server}"),
        },
    };
    StoreError::unavailable(reason, error)
}

/// No answer within the time of a statement.
pub(crate) fn no_answer(server: &str, limit: std::time::Duration) -> StoreError {
    StoreError::Unavailable {
        reason: format!("{server} did not answer within {limit:?}"),
        source: None,
    }
}

fn code(error: &sqlx::Error) -> Option<String> {
    let code = error.as_database_error()?.code()?;
    Some(code.into_owned())
}

/// Whether the same transaction succeeds when it is simply tried again.
pub(crate) fn is_conflict(error: &sqlx::Error) -> bool {
    matches!(code(error).as_deref(), Some(DEADLOCK | NOT_SERIALIZABLE))
}

/// Whether this user may not do what was asked for.
pub(crate) fn is_refused(error: &sqlx::Error) -> bool {
    code(error).as_deref() == Some(REFUSED)
}

/// Whether the connection is of no use any more.
pub(crate) fn is_connection_lost(error: &sqlx::Error) -> bool {
    match code(error) {
        // Class 57P: the server has ended it, or is about to.
        Some(code) => code.starts_with("57P") || code.starts_with("08"),
        None => !matches!(
            error,
            sqlx::Error::RowNotFound | sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_)
        ),
    }
}

/// What this crate answers itself when a transaction cannot be written as it was asked for.
pub(crate) fn refusal() -> sqlx::Error {
    sqlx::Error::RowNotFound
}
