//! Filters: events by the name of their profile, device or source, and readings by the name of their resource.

use std::sync::Arc;

use edgehold_contracts::{API_VERSION, Event, Generation, Tags};
use edgehold_core::{
    BuiltFunction, Context, Data, Flow, FunctionError, InvalidFunction, Parameters, Transform,
};

use crate::{input, name_patterns::NamePatterns};

/// `FilterByProfileName`.
pub(crate) fn by_profile_name(parameters: &Parameters) -> Result<BuiltFunction, InvalidFunction> {
    event_filter(parameters, "FilterByProfileName", "ProfileNames", |event| {
        &event.profile_name
    })
}

/// `FilterByDeviceName`.
pub(crate) fn by_device_name(parameters: &Parameters) -> Result<BuiltFunction, InvalidFunction> {
    event_filter(parameters, "FilterByDeviceName", "DeviceNames", |event| {
        &event.device_name
    })
}

/// `FilterBySourceName`.
pub(crate) fn by_source_name(parameters: &Parameters) -> Result<BuiltFunction, InvalidFunction> {
    event_filter(parameters, "FilterBySourceName", "SourceNames", |event| {
        &event.source_name
    })
}

/// `FilterByResourceName`.
pub(crate) fn by_resource_name(parameters: &Parameters) -> Result<BuiltFunction, InvalidFunction> {
    let patterns = NamePatterns::from_parameters(parameters, "ResourceNames")?;
    Ok(BuiltFunction::new(ResourceFilter { patterns }))
}

fn event_filter(
    parameters: &Parameters,
    function: &'static str,
    names: &str,
    name_of: fn(&Event) -> &str,
) -> Result<BuiltFunction, InvalidFunction> {
    let patterns = NamePatterns::from_parameters(parameters, names)?;
    Ok(BuiltFunction::new(EventFilter {
        function,
        patterns,
        name_of,
    }))
}

/// Lets an event pass as it is, or ends its pipeline.
struct EventFilter {
    function: &'static str,
    patterns: NamePatterns,
    name_of: fn(&Event) -> &str,
}

impl Transform for EventFilter {
    fn apply(&self, ctx: &mut Context, data: Data) -> Result<Flow, FunctionError> {
        let event = input::event(self.function, ctx, data)?;
        Ok(if self.patterns.lets_pass((self.name_of)(&event)) {
            Flow::Continue(Data::Event(event))
        } else {
            Flow::Stop
        })
    }
}

/// Leaves the readings that pass, in order, and ends the pipeline of an event that has none left.
///
/// A filtered event is made anew, without unknown keys and in generation 3 without tags; an empty list of names
/// filters nothing and changes nothing.
struct ResourceFilter {
    patterns: NamePatterns,
}

impl Transform for ResourceFilter {
    fn apply(&self, ctx: &mut Context, data: Data) -> Result<Flow, FunctionError> {
        let mut event = input::event("FilterByResourceName", ctx, data)?;
        if self.patterns.is_empty() {
            return Ok(Flow::Continue(Data::Event(event)));
        }
        let passing: Vec<bool> = event
            .readings
            .iter()
            .map(|reading| self.patterns.lets_pass(&reading.resource_name))
            .collect();
        if !passing.contains(&true) {
            return Ok(Flow::Stop);
        }
        let drops_tags = ctx.generation() == Generation::V3 && !event.tags.is_empty();
        let changes = passing.contains(&false)
            || drops_tags
            || !event.extensions.is_empty()
            || event.api_version != API_VERSION;
        if changes {
            let tags = if drops_tags {
                Tags::new()
            } else {
                event.tags.clone()
            };
            let readings = event.readings.iter().zip(passing).filter(|(_, passes)| *passes);
            event = Arc::new(Event {
                api_version: API_VERSION.to_owned(),
                id: event.id.clone(),
                device_name: event.device_name.clone(),
                profile_name: event.profile_name.clone(),
                source_name: event.source_name.clone(),
                origin: event.origin,
                readings: readings.map(|(reading, _)| reading.clone()).collect(),
                tags,
                ..Event::default()
            });
        }
        Ok(Flow::Continue(Data::Event(event)))
    }
}
