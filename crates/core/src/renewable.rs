//! What is made of secrets or files, and may be another the next time it is needed.

use std::{error::Error, sync::Arc};

use crate::BoxFuture;

/// Why a value is not to be had now.
pub type RenewError = Box<dyn Error + Send + Sync>;

/// A value that whoever needs it asks for before each use, and keeps no longer: a secret that was renewed counts from
/// then on.
pub trait Renewable<T>: Send + Sync {
    /// The value as it is now: the same `Arc` as before as long as nothing has changed. Cancel-safe.
    ///
    /// # Errors
    /// What it is made of is not there, or makes no such value. Asked again later it may be there.
    fn current(&self) -> BoxFuture<'_, Result<Arc<T>, RenewError>>;
}

/// One that never changes.
#[derive(Debug)]
pub struct Fixed<T>(Arc<T>);

impl<T> Fixed<T> {
    /// Always this value.
    pub fn new(value: T) -> Self {
        Self(Arc::new(value))
    }
}

impl<T: Send + Sync> Renewable<T> for Fixed<T> {
    fn current(&self) -> BoxFuture<'_, Result<Arc<T>, RenewError>> {
        Box::pin(std::future::ready(Ok(self.0.clone())))
    }
}
