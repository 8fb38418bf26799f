//! From settings to pipelines. Each pipeline with its functions is one unit: one that cannot be built keeps its last
//! good form, and one whose settings did not change keeps its function instances with whatever they hold.

use std::{collections::BTreeMap, sync::Arc};

use edgehold_config::configuration::PipelineSettings;
use edgehold_core::{
    FunctionRegistry, Parameters, Pipeline, PipelineId, PipelineSet, PipelineStep, TargetType, Timestamp,
    TopicFilter,
};

/// A pipeline that could not be built as configured. Its last good form, if there is one, stays in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PipelineRejection {
    /// The configuration key to look at.
    pub key: String,
    /// The id of the pipeline; empty when the reason is that there is none at all.
    pub pipeline_id: String,
    /// What is wrong.
    pub reason: String,
}

/// What a pipeline is built from: equal definitions need not be built again.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Definition {
    topics: Vec<TopicFilter>,
    functions: Vec<(String, BTreeMap<String, String>)>,
}

/// One pipeline as the settings ask for it.
struct Wanted<'a> {
    key: String,
    id: &'a str,
    /// `None` means every topic.
    topics: Option<&'a [String]>,
    execution_order: &'a [String],
}

/// Builds pipelines and remembers the last good ones.
pub struct Pipelines {
    registry: FunctionRegistry,
    topic_prefix: Option<String>,
    target_type: Option<TargetType>,
    fixed: Vec<Arc<Pipeline>>,
    built: BTreeMap<PipelineId, (Definition, Arc<Pipeline>)>,
    set: Arc<PipelineSet>,
}

impl Pipelines {
    /// A builder that knows these functions. `topic_prefix` is put before every topic of a pipeline where the trigger
    /// does so with its own (`edgex` for the message bus, none for external MQTT).
    pub fn new(registry: FunctionRegistry, topic_prefix: Option<String>) -> Self {
        Self {
            registry,
            topic_prefix,
            target_type: None,
            fixed: Vec::new(),
            built: BTreeMap::new(),
            set: Arc::default(),
        }
    }

    /// Adds a pipeline made in code; settings never change it.
    pub fn add_fixed(&mut self, pipeline: Pipeline) {
        self.fixed.push(Arc::new(pipeline));
    }

    /// Puts these in the place of all pipelines made in code. Those of the settings stay.
    pub fn replace_fixed(&mut self, fixed: Vec<Pipeline>, settings: &PipelineSettings, now: Timestamp) {
        self.fixed = fixed.into_iter().map(Arc::new).collect();
        self.install(self.built.clone(), settings, now);
    }

    /// Decodes payloads into this, whatever the settings say.
    pub fn set_target_type(&mut self, target_type: TargetType) {
        self.target_type = Some(target_type);
    }

    /// The functions pipelines can name.
    pub fn registry(&self) -> &FunctionRegistry {
        &self.registry
    }

    /// What is put before the topics of pipelines.
    pub fn topic_prefix(&self) -> Option<&str> {
        self.topic_prefix.as_deref()
    }

    /// Whether the settings have a pipeline with this id.
    pub fn is_configured(&self, id: &PipelineId) -> bool {
        self.built.contains_key(id)
    }

    /// The pipelines as they are now.
    pub fn set(&self) -> Arc<PipelineSet> {
        self.set.clone()
    }

    /// Brings the pipelines to what the settings ask for, as far as it can be built, and says what cannot.
    pub fn apply(&mut self, settings: &PipelineSettings, now: Timestamp) -> Vec<PipelineRejection> {
        let wanted = wanted(settings);
        if wanted.is_empty() && self.fixed.is_empty() {
            return vec![PipelineRejection {
                key: "Writable/Pipeline/ExecutionOrder".to_owned(),
                pipeline_id: String::new(),
                reason: "there is no pipeline: ExecutionOrder is empty and there are no PerTopicPipelines"
                    .to_owned(),
            }];
        }
        let mut rejections = Vec::new();
        let mut next = BTreeMap::new();
        for wanted in wanted {
            let rejection = |reason| PipelineRejection {
                key: wanted.key.clone(),
                pipeline_id: wanted.id.to_owned(),
                reason,
            };
            let id = match PipelineId::try_new(wanted.id) {
                Ok(id) => id,
                Err(error) => {
                    rejections.push(rejection(error.to_string()));
                    continue;
                }
            };
            if next.contains_key(&id) || self.fixed.iter().any(|pipeline| *pipeline.id() == id) {
                rejections.push(rejection(format!("another pipeline has the id '{id}' as well")));
                continue;
            }
            let last_good = self.built.get(&id);
            let result = self
                .definition(&wanted, settings)
                .and_then(|definition| match last_good {
                    Some((last, pipeline)) if *last == definition => Ok((definition, pipeline.clone())),
                    _ => self
                        .build(&id, &definition)
                        .map(|pipeline| (definition, Arc::new(pipeline))),
                });
            match (result, last_good) {
                (Ok(built), _) => {
                    next.insert(id, built);
                }
                (Err(reason), last_good) => {
                    if let Some(last_good) = last_good {
                        next.insert(id, last_good.clone());
                    }
                    rejections.push(rejection(reason));
                }
            }
        }
        self.install(next, settings, now);
        rejections
    }

    fn install(
        &mut self,
        next: BTreeMap<PipelineId, (Definition, Arc<Pipeline>)>,
        settings: &PipelineSettings,
        now: Timestamp,
    ) {
        let pipelines: Vec<_> = self
            .fixed
            .iter()
            .cloned()
            .chain(next.values().map(|(_, pipeline)| pipeline.clone()))
            .collect();
        let versions = |pipelines: &[Arc<Pipeline>]| -> Vec<_> {
            pipelines
                .iter()
                .map(|pipeline| (pipeline.id().clone(), pipeline.version().clone()))
                .collect()
        };
        let changed = versions(&pipelines) != versions(&self.set.pipelines);
        self.built = next;
        self.set = Arc::new(PipelineSet {
            pipelines,
            target_type: self.target_type.unwrap_or(settings.target_type),
            changed_at: if changed { now } else { self.set.changed_at },
        });
    }

    fn definition(&self, wanted: &Wanted<'_>, settings: &PipelineSettings) -> Result<Definition, String> {
        if wanted.execution_order.is_empty() {
            return Err("its ExecutionOrder is empty".to_owned());
        }
        let topics = match wanted.topics {
            None => vec![TopicFilter::all()],
            Some([]) => return Err("it has no topics".to_owned()),
            Some(topics) => topics
                .iter()
                .map(|topic| match &self.topic_prefix {
                    Some(prefix) => TopicFilter::try_new(&format!("{prefix}/{topic}")),
                    None => TopicFilter::try_new(topic),
                })
                .collect::<Result<_, _>>()
                .map_err(|error| error.to_string())?,
        };
        let functions = wanted
            .execution_order
            .iter()
            .map(|name| match settings.functions.get(name) {
                Some(parameters) => Ok((name.clone(), parameters.clone())),
                None => Err(format!(
                    "function '{name}' is not configured under Writable/Pipeline/Functions"
                )),
            })
            .collect::<Result<_, _>>()?;
        Ok(Definition { topics, functions })
    }

    fn build(&self, id: &PipelineId, definition: &Definition) -> Result<Pipeline, String> {
        let steps = definition
            .functions
            .iter()
            .map(|(name, parameters)| {
                let (built_in, factory) = self.registry.resolve(name)?;
                let built = factory.build(&Parameters::new(name, parameters))?;
                Ok(PipelineStep {
                    name: name.clone(),
                    built_in: built_in.to_owned(),
                    variant: built.variant,
                    function: built.function,
                })
            })
            .collect::<Result<_, edgehold_core::InvalidFunction>>()
            .map_err(|error| error.to_string())?;
        Ok(Pipeline::new(id.clone(), definition.topics.clone(), steps))
    }
}

fn wanted(settings: &PipelineSettings) -> Vec<Wanted<'_>> {
    let default = (!settings.execution_order.is_empty()).then(|| Wanted {
        key: "Writable/Pipeline/ExecutionOrder".to_owned(),
        id: PipelineId::DEFAULT,
        topics: None,
        execution_order: &settings.execution_order,
    });
    let per_topic = settings.per_topic.iter().map(|(name, pipeline)| Wanted {
        key: format!("Writable/Pipeline/PerTopicPipelines/{name}"),
        id: &pipeline.id,
        topics: Some(&pipeline.topics),
        execution_order: &pipeline.execution_order,
    });
    default.into_iter().chain(per_topic).collect()
}

#[cfg(test)]
mod tests;
