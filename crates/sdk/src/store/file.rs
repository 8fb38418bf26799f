//! The files of a service in the data folder: the database, and the spool.

use std::path::{Path, PathBuf};

use edgehold_config::configuration::Database;
use edgehold_core::ServiceKey;

/// Whether a store of this type (in lower case) is a file in the data folder. `redisdb`, where EdgeX 3 keeps what waits, is:
/// nothing is kept in Redis (decision 0019).
pub(crate) fn is_file(kind: &str) -> bool {
    ["", "sqlite", "redisdb"].contains(&kind)
}

/// The file of the spool in front of a store that may be away.
pub(crate) fn spool_path(data_dir: &Path, service_key: &ServiceKey) -> PathBuf {
    data_dir.join(format!("{service_key}.spool.db"))
}

/// The database file of a service.
pub(crate) fn sqlite_path(database: &Database, data_dir: &Path, service_key: &ServiceKey) -> PathBuf {
    if database.name.is_empty() {
        data_dir.join(format!("{service_key}.db"))
    } else {
        // An absolute name stays as it is.
        data_dir.join(&database.name)
    }
}
