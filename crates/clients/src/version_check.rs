//! Whether the stack around this service is of the EdgeX generation that the service speaks.
//!
//! ```text
//!            same, or a build without a release number
//! at_start ────────────────────────────────────────────▶ settled
//!    ├──── another major ──▶ VersionMismatch: the start fails
//!    └──── no answer ──▶ run: asks again, ever more rarely ──▶ settled, or an error in the log
//! ```
//!
//! Only an answer can fail a start. Once data flows, a service that ended itself would lose more than one that is loud.

use std::time::Duration;

use edgehold_contracts::Generation;
use edgehold_core::{ExponentialBackoff, ShutdownSignal};

use crate::{CoreMetadata, http::CallError};

/// How long a start waits for the answer.
const START_LIMIT: Duration = Duration::from_secs(2);
/// How long a later call may take.
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// The pauses in the background.
const BACKOFF: ExponentialBackoff =
    ExponentialBackoff::new(Duration::from_secs(5), Duration::from_secs(10 * 60));

/// Core Metadata is of another EdgeX generation than this service.
#[derive(Debug, thiserror::Error)]
#[error(
    "core-metadata at {address} is EdgeX {version}, but this service speaks EdgeX {ours}: choose the generation with \
     EDGEHOLD_GENERATION=3 or 4, or skip this check with -s"
)]
pub struct VersionMismatch {
    /// Where it was asked.
    pub address: String,
    /// What it answered.
    pub version: String,
    /// Our major version.
    pub ours: u8,
}

/// Compares the major version of Core Metadata with ours.
#[derive(Debug)]
pub struct VersionCheck {
    core_metadata: CoreMetadata,
    generation: Generation,
    settled: bool,
}

/// What a version says beside ours.
#[derive(Debug, PartialEq, Eq)]
enum Comparison {
    Same,
    Different,
    /// A build that carries no release number.
    NoRelease,
}

impl VersionCheck {
    /// A check that has asked nothing yet.
    pub fn new(core_metadata: CoreMetadata, generation: Generation) -> Self {
        Self {
            core_metadata,
            generation,
            settled: false,
        }
    }

    /// Asks once, for two seconds at most. Without an answer it warns, and [`VersionCheck::run`] goes on asking.
    ///
    /// # Errors
    /// [`VersionMismatch`] when the answer is another major version.
    pub async fn at_start(&mut self) -> Result<(), VersionMismatch> {
        match self.ask(START_LIMIT).await {
            Ok(verdict) => {
                self.settled = true;
                verdict
            }
            Err(error) => {
                tracing::warn!(
                    "the version of core-metadata at {} is not known yet, asking again in the background (-s skips this): \
                     {error}",
                    self.core_metadata
                );
                Ok(())
            }
        }
    }

    /// Asks until there is an answer, then waits for the end. A mismatch found here is an error in the log: the service
    /// goes on, because it has data in hand.
    pub async fn run(self, mut shutdown: ShutdownSignal) {
        if self.settled {
            return shutdown.recv().await;
        }
        tokio::select! {
            () = shutdown.recv() => {}
            () = self.keep_asking() => shutdown.recv().await,
        }
    }

    async fn keep_asking(&self) {
        let mut backoff = BACKOFF;
        loop {
            tokio::time::sleep(backoff.next_pause()).await;
            match self.ask(CALL_LIMIT).await {
                Ok(Ok(())) => return,
                Ok(Err(mismatch)) => return tracing::error!("{mismatch}; the service goes on as it is"),
                Err(error) => tracing::debug!(
                    "the version of core-metadata at {} is still not known: {error}",
                    self.core_metadata
                ),
            }
        }
    }

    async fn ask(&self, limit: Duration) -> Result<Result<(), VersionMismatch>, CallError> {
        let version = self.core_metadata.version(limit).await?;
        let verdict = match compare(&version, self.generation)? {
            Comparison::Different => Err(VersionMismatch {
                address: self.core_metadata.to_string(),
                version,
                ours: self.generation.major(),
            }),
            Comparison::Same => {
                tracing::info!("core-metadata is EdgeX {version}: the versions fit");
                Ok(())
            }
            Comparison::NoRelease => {
                tracing::info!("core-metadata is a build without a release number ({version}): not compared");
                Ok(())
            }
        };
        Ok(verdict)
    }
}

fn compare(version: &str, generation: Generation) -> Result<Comparison, CallError> {
    if matches!(version, "0.0.0" | "master") {
        return Ok(Comparison::NoRelease);
    }
    let major = version.strip_prefix('v').unwrap_or(version).split('.').next();
    match major.and_then(|major| major.parse::<u8>().ok()) {
        Some(major) if major == generation.major() => Ok(Comparison::Same),
        Some(_) => Ok(Comparison::Different),
        None => Err(CallError::NotUnderstood {
            reason: format!("'{version}' is not a version"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_major_version_counts() {
        for (version, expected) in [
            ("3.1.0", Comparison::Same),
            ("v3.2", Comparison::Same),
            ("3.2.0-dev.7", Comparison::Same),
            ("4.0.1", Comparison::Different),
            ("2.3.0", Comparison::Different),
            ("30.1.0", Comparison::Different),
            ("0.0.0", Comparison::NoRelease),
            ("master", Comparison::NoRelease),
        ] {
            assert_eq!(compare(version, Generation::V3).unwrap(), expected, "{version}");
        }
        for no_version in ["", "latest", "x.1"] {
            assert!(compare(no_version, Generation::V3).is_err(), "{no_version}");
        }
    }
}
