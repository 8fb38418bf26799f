//! EdgeX metrics over the message bus (contract: configuration.md §7).
//!
//! Owns what counts and measures ([`Counter`], [`Gauge`], [`FloatGauge`], [`Timer`], [`Histogram`]), what a service counts
//! of itself ([`ServiceMetrics`], which whoever runs and sends tells through [`edgehold_core::Observer`]), the metrics of a
//! developer's own ([`MetricsManager`]), the [`Reporter`] that publishes what is switched on, and the text that Prometheus
//! reads ([`exposition`]). Does not own the message
//! bus, nor numbers that are kept elsewhere: these come from a [`Source`].
//!
//! Invariants: counting never waits for anything but a short lock, and never allocates for a name that is known; reporting
//! holds no message back and keeps none.

mod instrument;
pub mod names;
mod prometheus;
mod registry;
mod reporter;
mod reservoir;
mod secrets;
mod selection;
mod series;
mod service;

pub use instrument::{Counter, FloatGauge, Gauge, Histogram, Timer};
pub use prometheus::exposition;
pub use registry::{Instrument, MetricsManager, RegisterError};
pub use reporter::{Reporter, Source};
pub use reservoir::Summary;
pub use secrets::MeteredSecrets;
pub use selection::Selection;
pub use series::{Reading, Series};
pub use service::{CurrentMetrics, ServiceMetrics};
