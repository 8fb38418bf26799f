//! What a failing app function says to whoever called it.

use std::{error::Error, fmt, time::Duration};

/// The one question a caller asks of an error: is it worth trying the same thing again?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// The same attempt may succeed later: connection refused, timeout, 5xx, a secret that is not there yet.
    Transient,
    /// The same attempt cannot succeed: a placeholder without a value, an impossible option, a wrong input type.
    Permanent,
    /// Nothing was tried: the destination may not be visited now. Not a failed attempt, and not counted as one.
    NotAttempted,
}

/// Whom a failure says something about. Only failures that are the destination's fault count against it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Nobody knows.
    #[default]
    Unknown,
    /// The destination: no connection, no answer in time, or one that says it cannot serve anybody now.
    Destination,
    /// What was sent: the destination answered, and declined it.
    Request,
}

/// The failure of one app function for one piece of data.
#[derive(Debug)]
pub struct FunctionError {
    class: ErrorClass,
    message: String,
    fault: Fault,
    retry_after: Option<Duration>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl FunctionError {
    /// A failure after which the same attempt may succeed later.
    pub fn transient(message: impl Into<String>) -> Self {
        Self::new(ErrorClass::Transient, message)
    }

    /// A failure after which the same attempt cannot succeed.
    pub fn permanent(message: impl Into<String>) -> Self {
        Self::new(ErrorClass::Permanent, message)
    }

    /// Nothing was tried.
    pub fn not_attempted(message: impl Into<String>) -> Self {
        Self::new(ErrorClass::NotAttempted, message)
    }

    /// A failure of the given class.
    pub fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        Self {
            class,
            message: message.into(),
            fault: Fault::Unknown,
            retry_after: None,
            source: None,
        }
    }

    /// Keeps the error below this one for the log.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Says whose fault it is.
    #[must_use]
    pub fn with_fault(mut self, fault: Fault) -> Self {
        self.fault = fault;
        self
    }

    /// The destination asked to be left alone for this long (HTTP `Retry-After`); when nothing was tried: how long that
    /// will be so.
    #[must_use]
    pub fn with_retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }

    /// Whether trying again can help.
    pub fn class(&self) -> ErrorClass {
        self.class
    }

    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        self.fault
    }

    /// How long the destination asked to be left alone, if it did; when nothing was tried: how long that will be so.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// This error and everything below it on one line, for a log line or a stored row.
    pub fn chain(&self) -> String {
        let mut text = self.message.clone();
        let mut next = self.source();
        while let Some(error) = next {
            text.push_str(": ");
            text.push_str(&error.to_string());
            next = error.source();
        }
        text
    }
}

impl fmt::Display for FunctionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for FunctionError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source
            .as_deref()
            .map(|source| source as &(dyn Error + 'static))
    }
}
