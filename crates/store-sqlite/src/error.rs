//! What SQLite says, in the words of the caller.

use edgehold_store::StoreError;

/// Result codes of SQLite, without the bits that extend them.
const READ_ONLY: i32 = 8;
const IO: i32 = 10;
const CORRUPT: i32 = 11;
const FULL: i32 = 13;
const CANNOT_OPEN: i32 = 14;
const NOT_A_DATABASE: i32 = 26;

/// Maps a failure on this file.
pub(crate) fn store_error(file: &str, error: sqlx::Error) -> StoreError {
    if matches!(error, sqlx::Error::PoolClosed) {
        return StoreError::Closed;
    }
    let reason = match primary_code(&error) {
        Some(FULL) => {
            return StoreError::Full {
                reason: format!("there is no room for {file}"),
            };
        }
        Some(NOT_A_DATABASE) => {
            return StoreError::Configuration(format!(
                "{file} is not an SQLite database; move it away or choose another file"
            ));
        }
        // A file that was open when the kernel took its file system away from writers fails in any of these ways.
        Some(READ_ONLY | IO | CANNOT_OPEN) if is_on_read_only_file_system(file) => {
            format!("{file} cannot be written: its file system has become read-only (see the kernel's log)")
        }
        Some(READ_ONLY) => format!("{file} cannot be written"),
        Some(IO) => format!("reading or writing {file} failed"),
        Some(CORRUPT) => {
            format!("{file} is damaged; move it and its -wal away, and put a backup in its place or nothing")
        }
        Some(CANNOT_OPEN) => format!("{file} cannot be opened"),
        _ => format!("the database {file} failed"),
    };
    StoreError::unavailable(reason, error)
}

/// Looks at the disk: only when something has failed.
fn is_on_read_only_file_system(file: &str) -> bool {
    let opened = std::fs::OpenOptions::new().append(true).open(file);
    opened.is_err_and(|error| error.kind() == std::io::ErrorKind::ReadOnlyFilesystem)
}

/// The code without the bits that extend it.
fn primary_code(error: &sqlx::Error) -> Option<i32> {
    let code: i32 = error.as_database_error()?.code()?.parse().ok()?;
    Some(code & 0xff)
}

/// Whether a row was refused because its id is there already: the failure that leaves the connection as it was.
pub(crate) fn is_refusal(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .is_some_and(sqlx::error::DatabaseError::is_unique_violation)
}

/// Whether the disk is full.
pub(crate) fn is_full(error: &sqlx::Error) -> bool {
    primary_code(error) == Some(FULL)
}
