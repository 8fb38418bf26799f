//! What is wrong now: named problems, for `/readyz` and whoever watches it.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Whoever meets a problem says so again and again while it lasts; what nobody has met for this long is over.
const LASTS: Duration = Duration::from_secs(30);

/// The problems of a service. Shared by everyone who can meet one.
#[derive(Debug, Default)]
pub struct Health {
    problems: Mutex<BTreeMap<&'static str, (Instant, String)>>,
}

impl Health {
    /// What cannot be stored now, because the store is full or away.
    pub const STORE: &'static str = "store";

    /// Something is wrong with `what`: why, in words for an operator.
    pub fn problem(&self, what: &'static str, why: impl Into<String>) {
        let met = (Instant::now(), why.into());
        self.problems
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(what, met);
    }

    /// `what` works again.
    pub fn works(&self, what: &'static str) {
        self.problems
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(what);
    }

    /// What is wrong now, by name; empty when all is well.
    pub fn all(&self) -> BTreeMap<&'static str, String> {
        let problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        problems
            .iter()
            .filter(|(_, (met, _))| met.elapsed() < LASTS)
            .map(|(what, (_, why))| (*what, why.clone()))
            .collect()
    }
}
