//! Where a message goes, when a developer's code says so instead of placeholders.

use std::sync::Arc;

use edgehold_core::{Context, Data, FunctionError};

/// From the configured format, the context and the data to the URL or topic of one message. A failure is one of this
/// message, of the class it says. It must not block. (EdgeX: `StringValuesFormatter`.)
pub type Formatter = Arc<dyn Fn(&str, &Context, &Data) -> Result<String, FunctionError> + Send + Sync>;
