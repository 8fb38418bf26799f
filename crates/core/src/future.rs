//! The one alias through which every trait in the workspace is async and still object-safe.

use std::{future::Future, pin::Pin};

/// A boxed future that may move between threads: what an async method of a trait object returns.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
