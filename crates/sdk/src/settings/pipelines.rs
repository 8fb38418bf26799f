//! What is wrong with functions and pipelines: each function is built by itself, so that what is wrong with it is told
//! where it stands, then the pipelines as a service builds them.

use std::collections::BTreeSet;

use edgehold_config::{
    Effective, Layers, Origin, configuration::PipelineSettings, environment::Environment,
    schema::similar_name, without_passwords,
};
use edgehold_core::{FunctionRegistry, InvalidFunction, Parameters, PipelineId, parse_go_bool};
use edgehold_runtime::{Pipelines, now};

use super::{
    SettingsView,
    check::{Finding, FindingSeverity},
    origin::Part,
};
use crate::trigger;

const PIPELINE: &str = "Writable/Pipeline";
const ORDER: &str = "Writable/Pipeline/ExecutionOrder";

/// The functions that the pipelines of some settings name, with the key that names them.
fn named(settings: &PipelineSettings) -> Vec<(String, &str)> {
    let default = settings.execution_order.iter();
    let default = default.map(|name| (ORDER.to_owned(), name.as_str()));
    let per_topic = settings.per_topic.iter().flat_map(|(entry, pipeline)| {
        let key = format!("{PIPELINE}/PerTopicPipelines/{entry}/ExecutionOrder");
        pipeline
            .execution_order
            .iter()
            .map(move |name| (key.clone(), name.as_str()))
    });
    default.chain(per_topic).collect()
}

impl SettingsView {
    /// Says what is wrong with functions and pipelines, and answers the ids of the pipelines that can be built.
    pub(super) fn check_pipelines(
        &self,
        layers: &Layers,
        effective: &Effective,
        environment: &Environment,
        findings: &mut Vec<Finding>,
    ) -> Vec<String> {
        let configuration = &effective.configuration;
        let settings = &configuration.writable.pipeline;
        let check = FunctionCheck {
            view: self,
            layers,
            effective,
            environment,
            registry: &self.requirements.functions,
        };
        let named = named(settings);
        let used: BTreeSet<&str> = named.iter().map(|(_, name)| *name).collect();
        // What is told of functions need not be told again of the pipelines they are in.
        let mut told = Vec::new();
        for (key, name) in &named {
            if !settings.functions.contains_key(*name) {
                let meant = similar_name(name, settings.functions.keys().map(String::as_str));
                let reason = format!("function '{name}' is not configured under Writable/Pipeline/Functions");
                findings.push(
                    check
                        .finding(FindingSeverity::Error, key, Part::Value, &reason)
                        .meant(meant.map(str::to_owned)),
                );
                told.push(reason);
            }
        }
        for name in settings.functions.keys() {
            let severity = match used.contains(name.as_str()) {
                true => FindingSeverity::Error,
                false => FindingSeverity::Warning,
            };
            if let Some(problem) = check.function(name, &settings.functions[name], severity, findings) {
                told.push(problem);
            }
        }
        let idle: Vec<&str> = settings
            .functions
            .keys()
            .map(String::as_str)
            .filter(|name| !used.contains(name))
            .collect();
        if !idle.is_empty() {
            let key = format!("{PIPELINE}/Functions");
            let origin = self.origin_of(Part::Key, Origin::Private, &key, environment);
            let message = format!("in no ExecutionOrder, so never called: {}", idle.join(", "));
            findings.push(Finding::new(FindingSeverity::Note, origin, message).of_key(&key));
        }
        check.persistence(&named, findings);
        check.placeholders(&named, findings);
        self.check_ids(settings, &check, findings);

        let mut pipelines = Pipelines::new(
            self.requirements.functions.clone(),
            trigger::topic_prefix(configuration),
        );
        for pipeline in &self.requirements.pipelines {
            pipelines.add_fixed(pipeline.clone());
        }
        for rejection in pipelines.apply(settings, now()).rejections {
            if told.contains(&rejection.reason) || rejection.reason.starts_with("another pipeline has the id")
            {
                continue;
            }
            let reason = without_passwords(&rejection.reason);
            let message = match rejection.pipeline_id.as_str() {
                "" => reason,
                id => format!("the pipeline '{id}' cannot be built: {reason}"),
            };
            findings.push(check.finding(FindingSeverity::Error, &rejection.key, Part::Key, &message));
        }
        let set = pipelines.set();
        set.pipelines
            .iter()
            .map(|pipeline| pipeline.id().to_string())
            .collect()
    }
}

impl SettingsView {
    /// Two pipelines with the same id; told also of those that cannot be built.
    fn check_ids(&self, settings: &PipelineSettings, check: &FunctionCheck<'_>, findings: &mut Vec<Finding>) {
        let fixed = self.requirements.pipelines.iter();
        let mut taken: BTreeSet<&str> = fixed.map(|pipeline| pipeline.id().as_str()).collect();
        let default =
            (!settings.execution_order.is_empty()).then_some((PipelineId::DEFAULT, ORDER.to_owned()));
        let per_topic = settings.per_topic.iter();
        let per_topic = per_topic.map(|(entry, pipeline)| {
            (
                pipeline.id.as_str(),
                format!("{PIPELINE}/PerTopicPipelines/{entry}/Id"),
            )
        });
        for (id, key) in default.into_iter().chain(per_topic) {
            if !taken.insert(id) {
                let message = format!("another pipeline has the id '{id}' as well");
                findings.push(check.finding(FindingSeverity::Error, &key, Part::Value, &message));
            }
        }
    }
}

struct FunctionCheck<'a> {
    view: &'a SettingsView,
    layers: &'a Layers,
    effective: &'a Effective,
    environment: &'a Environment,
    registry: &'a FunctionRegistry,
}

impl FunctionCheck<'_> {
    fn finding(&self, severity: FindingSeverity, key: &str, part: Part, message: &str) -> Finding {
        let leaves = self.effective.configuration.leaves();
        // Folders stand where the highest layer has something below them.
        let layer = leaves
            .get(key)
            .map(edgehold_config::Leaf::origin)
            .unwrap_or_else(|| {
                let folder = format!("{key}/");
                let below = leaves.iter().filter(|(path, _)| path.starts_with(&folder));
                below
                    .map(|(_, leaf)| leaf.origin())
                    .max()
                    .unwrap_or(Origin::Private)
            });
        let layer = match layer {
            Origin::Default => Origin::Private,
            layer => layer,
        };
        let origin = self.view.origin_of(part, layer, key, self.environment);
        Finding::new(severity, origin, message).of_key(key)
    }

    /// Builds a function; answers what is wrong with it.
    fn function(
        &self,
        name: &str,
        values: &std::collections::BTreeMap<String, String>,
        severity: FindingSeverity,
        findings: &mut Vec<Finding>,
    ) -> Option<String> {
        let folder = format!("{PIPELINE}/Functions/{name}");
        let (built_in, factory) = match self.registry.resolve(name) {
            Ok(resolved) => resolved,
            Err(error) => {
                let meant = similar_name(name, self.registry.names()).map(str::to_owned);
                let message = error.to_string();
                findings.push(self.finding(severity, &folder, Part::Key, &message).meant(meant));
                return Some(message);
            }
        };
        let parameters = Parameters::new(name, values);
        let built = factory.build(&parameters);
        let asked = parameters.asked();
        let is_asked = |parameter: &str| asked.iter().any(|asked| asked.eq_ignore_ascii_case(parameter));
        let strangers: Vec<&str> = values
            .keys()
            .map(String::as_str)
            .filter(|name| !is_asked(name))
            .collect();
        if let Err(error) = &built {
            let problem = error.to_string();
            // A value may be an address with a password.
            let message = without_passwords(&problem);
            let (key, part, meant) = match error {
                InvalidFunction::InvalidParameter { parameter, .. } => {
                    (self.parameter_key(&folder, parameter), Part::Value, None)
                }
                InvalidFunction::MissingParameter { parameter, .. } => {
                    let meant = similar_name(parameter, strangers.iter().copied());
                    let key = meant.map_or(folder.clone(), |meant| self.parameter_key(&folder, meant));
                    (key, Part::Key, meant.map(|_| parameter.clone()))
                }
                _ => (folder.clone(), Part::Key, None),
            };
            findings.push(self.finding(severity, &key, part, &message).meant(meant));
            return Some(problem);
        }
        for stranger in strangers {
            let free = asked
                .iter()
                .map(String::as_str)
                .filter(|asked| parameters.get(asked).is_none());
            let meant = similar_name(stranger, free).map(str::to_owned);
            let (severity, message) = match &meant {
                Some(_) => (
                    FindingSeverity::Warning,
                    format!("{built_in} does not know this parameter"),
                ),
                None => (
                    FindingSeverity::Note,
                    format!("{built_in} does not use this parameter as it is configured"),
                ),
            };
            let key = self.parameter_key(&folder, stranger);
            findings.push(self.finding(severity, &key, Part::Key, &message).meant(meant));
        }
        None
    }

    /// What is meant to be replaced before the service runs: `<put your URL here>`.
    fn placeholders(&self, named: &[(String, &str)], findings: &mut Vec<Finding>) {
        let functions = &self.effective.configuration.writable.pipeline.functions;
        let names: BTreeSet<&str> = named.iter().map(|(_, name)| *name).collect();
        for name in names {
            for (parameter, value) in functions.get(name).into_iter().flatten() {
                let value = value.trim();
                if value.starts_with('<') && value.ends_with('>') && value.contains(' ') {
                    let key = format!("{PIPELINE}/Functions/{name}/Parameters/{parameter}");
                    let message = format!("'{value}' is still to be filled in");
                    findings.push(self.finding(FindingSeverity::Warning, &key, Part::Value, &message));
                }
            }
        }
    }

    /// The key of a parameter as it was written.
    fn parameter_key(&self, folder: &str, parameter: &str) -> String {
        let folder = format!("{folder}/Parameters/");
        let written = self.layers.section(folder.trim_end_matches('/'));
        let name = written
            .iter()
            .map(|(name, _)| name)
            .find(|name| name.eq_ignore_ascii_case(parameter));
        format!("{folder}{}", name.unwrap_or(parameter))
    }

    /// Exports that are to keep what fails, in a service that does not.
    fn persistence(&self, named: &[(String, &str)], findings: &mut Vec<Finding>) {
        let writable = &self.effective.configuration.writable;
        if writable.store_and_forward.enabled {
            return;
        }
        let names: BTreeSet<&str> = named.iter().map(|(_, name)| *name).collect();
        for name in names {
            let Some(parameters) = writable.pipeline.functions.get(name) else {
                continue;
            };
            let asks = parameters.iter().find(|(parameter, value)| {
                parameter.eq_ignore_ascii_case("PersistOnError") && parse_go_bool(value.trim()) == Some(true)
            });
            if let Some((parameter, _)) = asks {
                let key = format!("{PIPELINE}/Functions/{name}/Parameters/{parameter}");
                let message = "it has no effect while Writable/StoreAndForward/Enabled is false: what cannot be sent is dropped";
                findings.push(self.finding(FindingSeverity::Warning, &key, Part::Key, message));
            }
        }
    }
}
