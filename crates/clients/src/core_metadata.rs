//! Core Metadata, as far as an application service asks it anything.

use std::{fmt, time::Duration};

use edgehold_config::Client;
use reqwest::Url;
use serde::Deserialize;

use crate::http::{self, CallError};

/// What `GET /api/v3/version` answers; the keys that matter here.
#[derive(Deserialize)]
struct Version {
    version: String,
}

/// Core Metadata at its configured address. Shown as that address: `http://localhost:59881`.
#[derive(Clone)]
pub struct CoreMetadata {
    base: Url,
}

impl CoreMetadata {
    /// Takes the address from `Clients/core-metadata`; an empty protocol is `http`. Connects to nothing yet.
    ///
    /// # Errors
    /// [`CallError::Address`].
    pub fn new(client: &Client) -> Result<Self, CallError> {
        let base = http::base("core-metadata", client)?;
        Ok(Self { base })
    }

    /// The release it is of, for example `3.1.0`. The whole call ends within `limit`. Cancel-safe.
    ///
    /// # Errors
    /// Every [`CallError`].
    pub async fn version(&self, limit: Duration) -> Result<String, CallError> {
        let mut url = self.base.clone();
        url.set_path("api/v3/version");
        let body = http::get(&url, None, limit).await?;
        let answer: Version = serde_json::from_slice(&body).map_err(|error| CallError::NotUnderstood {
            reason: error.to_string(),
        })?;
        Ok(answer.version)
    }
}

impl fmt::Debug for CoreMetadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CoreMetadata({self})")
    }
}

impl fmt::Display for CoreMetadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&http::shown(&self.base))
    }
}
