//! Built-in functions that only compute.
//!
//! Owns the functions that filter, change, wrap, encrypt, batch or note data on its way to an export. Does not own the
//! waiting of batches or exports (they send): those need a runtime.
//!
//! | function | parameters | input → output |
//! | --- | --- | --- |
//! | `FilterByProfileName`, `FilterByDeviceName`, `FilterBySourceName` | `ProfileNames`, `DeviceNames`, `SourceNames`: comma list of regular expressions; `FilterOut` | event → event, or the end |
//! | `FilterByResourceName` | `ResourceNames`; `FilterOut` | event → event with some of its readings, or the end |
//! | `Transform` | `Type`: `json`, `xml` | event → text |
//! | `AddTags` | `Tags`: `key:value,key:value` | event → event |
//! | `WrapIntoEvent` | `ProfileName`, `DeviceName`, `ResourceName`; `ValueType`: any but `ObjectArray`; `MediaType` for `Binary` | anything of that type → request to add an event |
//! | `Compress` | `Algorithm`: `gzip`, `zlib` | anything → base64 bytes |
//! | `Encrypt` | `Algorithm`: `aes256`; `SecretName`, `SecretValueKey` | anything → base64 bytes |
//! | `Batch` | `Mode`: `bycount`, `bytime`, `bytimecount`; `BatchThreshold`, `TimeInterval`; `IsEventData`, `MergeOnSend` | anything → a list of byte strings, their concatenation, or a list of events |
//! | `SetResponseData` | `ResponseContentType` | anything → the same |
//! | `JSONLogic` | `Rule`: a JsonLogic rule | anything with a JSON form → the same, or the end |
//! | `ToLineProtocol` | `Tags`: `key:value,key:value` | metric → text |
//!
//! And beyond EdgeX:
//!
//! | function | parameters | input → output |
//! | --- | --- | --- |
//! | `FilterByDeadband` | `Band`: number; `BandType`: `absolute`, `percent`; `MaxSilence`: duration; `ResourceNames`; `FilterOut` | event → event with the readings that changed by more than the band since they last passed, or the end |
//! | `RateLimit` | `Limit`: number; `Interval`: duration; `Per`: `device`, `resource`, `pipeline` | event (for `pipeline` anything) → the same, with fewer readings, or the end |
//! | `SelectReadings` | `Resources`: `Name,Name:NewName`; `KeepOthers`; `DeviceName`, `ProfileName`, `SourceName` | event → event with the readings named, under new names, or the end |
//!
//! `FilterByDeadband` and `RateLimit` remember what passed as long as the definition of their pipeline stays the same,
//! whatever else is reloaded, in bounded memory; a changed pipeline and a start begin anew, so that the next reading passes.
//! Both see messages in the order their runs begin, which `Ordering: device` makes that of receipt.
//!
//! What `WrapIntoEvent` makes is a request, not an event: functions that work on events refuse it, as in EdgeX.
//!
//! Invariants: nothing in here reads a clock or draws a random number, these come in as [`Sources`]; nothing waits but
//! `Encrypt`, for its secret. Events are shared and copied only to change them, so what one pipeline does no other
//! sees. Source of the behaviour: app-functions-sdk-go `pkg/transforms` (contract: messages-and-functions §6.1 to §6.3).

mod batch;
mod compress;
mod deadband;
mod encrypt;
mod filter;
mod input;
mod interval;
mod json_logic;
mod line_protocol;
mod name_patterns;
mod rate_limit;
mod recent;
mod response;
mod select_readings;
mod simple_value;
mod sources;
mod tags;
#[cfg(test)]
mod tests;
mod transform;
mod wrap_into_event;
mod xml;

use edgehold_core::{FunctionRegistry, Parameters};

pub use sources::Sources;
pub use tags::add_tags;

/// Adds every function of this crate under the name EdgeX gives it. Those that need ids, the time or randomness take
/// them from `sources`.
pub fn register(registry: &mut FunctionRegistry, sources: Sources) {
    registry.register("FilterByProfileName", filter::by_profile_name);
    registry.register("FilterByDeviceName", filter::by_device_name);
    registry.register("FilterBySourceName", filter::by_source_name);
    registry.register("FilterByResourceName", filter::by_resource_name);
    registry.register("Transform", transform::build);
    registry.register("AddTags", tags::build);
    registry.register("WrapIntoEvent", move |parameters: &Parameters| {
        wrap_into_event::build(parameters, sources)
    });
    registry.register("Compress", compress::build);
    registry.register("Encrypt", move |parameters: &Parameters| {
        encrypt::build(parameters, sources)
    });
    registry.register("Batch", batch::build);
    registry.register("SetResponseData", response::build);
    registry.register("FilterByDeadband", move |parameters: &Parameters| {
        deadband::build(parameters, sources)
    });
    registry.register("RateLimit", move |parameters: &Parameters| {
        rate_limit::build(parameters, sources)
    });
    registry.register("SelectReadings", select_readings::build);
    registry.register("JSONLogic", json_logic::build);
    registry.register("ToLineProtocol", line_protocol::build);
}
