//! Functions that send: `HTTPExport` and `MQTTExport`, with time limits, error classes and shared connections.
//!
//! Owns everything between the data a pipeline hands over and the answer of a destination. Does not own what happens to
//! data that could not be sent: an export says which bytes to keep ([`Context::set_retry_data`]), where they were to go
//! ([`Context::approach`]), whether trying again can help ([`ErrorClass`]) and whose fault it was ([`Fault`]); letting
//! it pass, storing, waiting and trying again belong to the runtime.
//!
//! Invariants: the only crate that names an HTTP client for export. Nothing in here spawns: a request lives and ends
//! with the future of the function that makes it, so a pipeline that is dropped sends nothing more; MQTT connections live
//! in [`mqtt::ConnectionRunner::run`]. Every wait ends.
//! No credentials appear in an error, a log line or a destination.
//!
//! [`Context::set_retry_data`]: edgehold_core::Context::set_retry_data
//! [`Context::approach`]: edgehold_core::Context::approach
//! [`ErrorClass`]: edgehold_core::ErrorClass
//! [`Fault`]: edgehold_core::Fault

mod duration;
mod formatter;
pub mod http;
pub mod mqtt;

use edgehold_core::FunctionRegistry;

pub use formatter::Formatter;

/// Adds every function of this crate under the name EdgeX gives it: `HTTPExport`, and `MQTTExport`, which publishes over
/// these connections.
pub fn register(registry: &mut FunctionRegistry, connections: mqtt::Connections) {
    registry.register("HTTPExport", http::HttpExportFactory::new());
    registry.register("MQTTExport", mqtt::MqttExportFactory::new(connections));
}
