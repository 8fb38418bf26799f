//! Built-in functions that only compute.
//!
//! Owns the functions that filter, change or note data on its way to an export. Does not own batches (they wait),
//! exports (they send) or encryption (it asks for a secret): those need a runtime.
//!
//! | function | parameters | input → output |
//! | --- | --- | --- |
//! | `FilterByProfileName`, `FilterByDeviceName`, `FilterBySourceName` | `ProfileNames`, `DeviceNames`, `SourceNames`: comma list of regular expressions; `FilterOut` | event → event, or the end |
//! | `FilterByResourceName` | `ResourceNames`; `FilterOut` | event → event with some of its readings, or the end |
//! | `Transform` | `Type`: `json`, `xml` | event → text |
//! | `AddTags` | `Tags`: `key:value,key:value` | event → event |
//! | `Compress` | `Algorithm`: `gzip`, `zlib` | anything → base64 bytes |
//! | `SetResponseData` | `ResponseContentType` | anything → the same |
//!
//! Invariants: nothing in here waits, reads a clock or draws a random number. Events are shared and copied only to
//! change them, so what one pipeline does no other sees. Source of the behaviour: app-functions-sdk-go
//! `pkg/transforms` (contract: messages-and-functions §6.1, §6.2).

mod compress;
mod filter;
mod input;
mod name_patterns;
mod response;
mod tags;
#[cfg(test)]
mod tests;
mod transform;
mod xml;

use edgehold_core::FunctionRegistry;

/// Adds every function of this crate under the name EdgeX gives it.
pub fn register(registry: &mut FunctionRegistry) {
    registry.register("FilterByProfileName", filter::by_profile_name);
    registry.register("FilterByDeviceName", filter::by_device_name);
    registry.register("FilterBySourceName", filter::by_source_name);
    registry.register("FilterByResourceName", filter::by_resource_name);
    registry.register("Transform", transform::build);
    registry.register("AddTags", tags::build);
    registry.register("Compress", compress::build);
    registry.register("SetResponseData", response::build);
}
