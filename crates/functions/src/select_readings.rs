//! `SelectReadings`: the readings somebody wants, under the names they want.

use std::sync::Arc;

use edgehold_contracts::Event;
use edgehold_core::{
    BuiltFunction, Context, Data, Flow, FunctionError, InvalidFunction, Parameters, Transform,
};

use crate::input;

/// `SelectReadings`, whose `Resources` is a list `Name,Name:NewName`: readings of these resources stay, in their order,
/// some under a new name. `KeepOthers` (false) keeps all others as they are. `DeviceName`, `ProfileName` and `SourceName`,
/// when not blank, are new names of the event and its readings, with `{placeholders}`.
pub(crate) fn build(parameters: &Parameters) -> Result<BuiltFunction, InvalidFunction> {
    let mut resources: Vec<(String, String)> = Vec::new();
    for item in parameters.required_list("Resources")? {
        let (name, new_name) = item.split_once(':').unwrap_or((item, item));
        let (name, new_name) = (name.trim(), new_name.trim());
        if name.is_empty() || new_name.is_empty() || new_name.contains(':') {
            return Err(parameters.invalid(
                "Resources",
                format!("'{item}', which is not of the form 'Name' or 'Name:NewName'"),
            ));
        }
        if resources.iter().any(|(known, _)| known == name) {
            return Err(parameters.invalid("Resources", format!("'{item}', which names '{name}' again")));
        }
        resources.push((name.to_owned(), new_name.to_owned()));
    }
    let keep_others = parameters.bool("KeepOthers", false)?;
    if resources.is_empty() && !keep_others {
        return Err(parameters.invalid("Resources", "empty, which leaves no reading without 'KeepOthers'"));
    }
    let new_name = |name: &str| Some(parameters.text(name).to_owned()).filter(|name| !name.is_empty());
    Ok(BuiltFunction::new(SelectReadings {
        resources,
        keep_others,
        device_name: new_name("DeviceName"),
        profile_name: new_name("ProfileName"),
        source_name: new_name("SourceName"),
    }))
}

/// Ends the pipeline of an event that has no reading left. New names are those of the context too.
struct SelectReadings {
    /// Names and new names.
    resources: Vec<(String, String)>,
    keep_others: bool,
    device_name: Option<String>,
    profile_name: Option<String>,
    source_name: Option<String>,
}

impl Transform for SelectReadings {
    fn apply(&self, ctx: &mut Context, data: Data) -> Result<Flow, FunctionError> {
        let event = input::event("SelectReadings", ctx, data)?;
        let wanted = |name: &str| self.resources.iter().find(|(known, _)| known == name);
        let passing: Vec<bool> = event
            .readings
            .iter()
            .map(|reading| self.keep_others || wanted(&reading.resource_name).is_some())
            .collect();
        let Flow::Continue(Data::Event(mut event)) = input::with_readings(event, &passing) else {
            return Ok(Flow::Stop);
        };
        // All of them before any is set: each may name the others' old values.
        let resolved = |name: &Option<String>| {
            name.as_deref()
                .map(|name| ctx.apply_values(name))
                .transpose()
                .map_err(|e| {
                    FunctionError::permanent(format!(
                        "SelectReadings in pipeline '{}' has no name to give",
                        ctx.pipeline_id()
                    ))
                    .with_source(e)
                })
        };
        let device_name = resolved(&self.device_name)?;
        let profile_name = resolved(&self.profile_name)?;
        let source_name = resolved(&self.source_name)?;

        let renames = |name: &str| wanted(name).is_some_and(|(name, new_name)| name != new_name);
        if event
            .readings
            .iter()
            .any(|reading| renames(&reading.resource_name))
        {
            for reading in &mut Arc::make_mut(&mut event).readings {
                if let Some((_, new_name)) = wanted(&reading.resource_name) {
                    new_name.clone_into(&mut reading.resource_name);
                }
            }
        }
        if let Some(name) = device_name {
            let event: &mut Event = Arc::make_mut(&mut event);
            for reading in &mut event.readings {
                name.clone_into(&mut reading.device_name);
            }
            name.clone_into(&mut event.device_name);
            ctx.add_value(Context::DEVICE_NAME, name);
        }
        if let Some(name) = profile_name {
            let event: &mut Event = Arc::make_mut(&mut event);
            for reading in &mut event.readings {
                name.clone_into(&mut reading.profile_name);
            }
            name.clone_into(&mut event.profile_name);
            ctx.add_value(Context::PROFILE_NAME, name);
        }
        if let Some(name) = source_name {
            name.clone_into(&mut Arc::make_mut(&mut event).source_name);
            ctx.add_value(Context::SOURCE_NAME, name);
        }
        Ok(Flow::Continue(Data::Event(event)))
    }
}

#[cfg(test)]
mod tests {
    use edgehold_contracts::Generation;

    use super::*;
    use crate::tests::{Given, apply, build, context, event, function};

    fn selected(parameters: Given, ctx: &mut Context) -> Option<Arc<Event>> {
        match apply(
            &*function("SelectReadings", parameters),
            ctx,
            Data::Event(event()),
        ) {
            Ok(Flow::Continue(Data::Event(event))) => Some(event),
            Ok(Flow::Stop) => None,
            other => panic!("{other:?}"),
        }
    }

    fn resources(parameters: Given) -> Vec<String> {
        let event = selected(parameters, &mut context(Generation::V3));
        let readings = event.map(|event| event.readings.clone()).unwrap_or_default();
        readings
            .into_iter()
            .map(|reading| reading.resource_name)
            .collect()
    }

    #[test]
    fn named_readings_stay_in_their_order_some_under_a_new_name() {
        for (parameters, expected) in [
            (
                &[("Resources", "Pressure : p, Temperature:t")][..],
                &["t", "p"][..],
            ),
            (&[("Resources", "Pressure")], &["Pressure"]),
            (
                &[("Resources", "Pressure:p"), ("KeepOthers", "true")],
                &["Temperature", "p"],
            ),
            // Two change their names with each other.
            (
                &[("Resources", "Pressure:Temperature,Temperature:Pressure")],
                &["Pressure", "Temperature"],
            ),
            (&[("Resources", "press")], &[]),
        ] {
            assert_eq!(resources(parameters), expected, "{parameters:?}");
        }
    }

    #[test]
    fn new_names_are_those_of_event_readings_and_context() {
        let mut ctx = context(Generation::V4);
        for (key, value) in [
            ("devicename", "pump-1"),
            ("profilename", "pump"),
            ("sourcename", "All"),
        ] {
            ctx.add_value(key, value);
        }
        let event = selected(
            &[
                ("Resources", ""),
                ("KeepOthers", "true"),
                ("DeviceName", "plant-1/{profilename}/{devicename}"),
                ("ProfileName", "p-{devicename}"),
                ("SourceName", "{sourceName}2"),
            ],
            &mut ctx,
        )
        .unwrap();
        assert_eq!(
            (&*event.device_name, &*event.profile_name, &*event.source_name),
            ("plant-1/pump/pump-1", "p-pump-1", "All2")
        );
        assert!(event.readings.iter().all(|reading| {
            reading.device_name == event.device_name && reading.profile_name == event.profile_name
        }));
        assert_eq!(ctx.value("devicename"), Some("plant-1/pump/pump-1"));
        assert_eq!(ctx.value("sourcename"), Some("All2"));
        assert_eq!(event.tags.len(), 1);
    }

    #[test]
    fn a_name_that_nobody_knows_fails_for_good_and_names_nothing() {
        let mut ctx = context(Generation::V4);
        let select = function(
            "SelectReadings",
            &[("Resources", "Pressure"), ("DeviceName", "{nope}")],
        );
        let error = apply(&*select, &mut ctx, Data::Event(event())).unwrap_err();
        assert!(error.chain().contains("'{nope}'"), "{}", error.chain());
        assert_eq!(ctx.value("devicename"), None);
    }

    #[test]
    fn what_cannot_be_selected_is_refused_by_name() {
        for (resources, problem) in [
            ("a:", "'a:', which is not of the form"),
            ("a:b:c", "'a:b:c', which is not of the form"),
            ("a,a:b", "'a:b', which names 'a' again"),
            ("", "empty, which leaves no reading"),
        ] {
            let refusal = build("SelectReadings", &[("Resources", resources)])
                .unwrap_err()
                .to_string();
            assert!(
                refusal.contains("'Resources' is ") && refusal.contains(problem),
                "{refusal}"
            );
        }
    }
}
