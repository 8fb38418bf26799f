//! From settings to pipelines. Each pipeline with its functions is one unit: one that cannot be built keeps its last
//! good form, and one whose settings did not change keeps its function instances with whatever they hold.
//!
//! A unit is known by the entry it is configured under: the default pipeline by `ExecutionOrder`, every other by its name
//! below `PerTopicPipelines`. So an edit that breaks a pipeline's id ends it as little as one that breaks a function. Under a
//! new name an entry is the old one if it has the id of one that is gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use edgehold_config::{KeptPipelines, configuration::PipelineSettings};
use edgehold_core::{
    FunctionRegistry, Parameters, Pipeline, PipelineId, PipelineSet, PipelineStep, TargetType, Timestamp,
    TopicFilter,
};

const EXECUTION_ORDER: &str = "Writable/Pipeline/ExecutionOrder";

/// A pipeline that could not be built as configured. Its last good form, if there is one, stays in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PipelineRejection {
    /// The configuration key to look at.
    pub key: String,
    /// The id of the pipeline; empty when the reason is that there is none at all.
    pub pipeline_id: String,
    /// What is wrong.
    pub reason: String,
    /// Whether a last good form of it goes on.
    pub goes_on: bool,
}

/// What became of settings that were applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// What could not be built, by ascending key.
    pub rejections: Vec<PipelineRejection>,
    /// What goes on as it was therefore.
    pub kept: KeptPipelines,
}

/// What a pipeline is built from: equal definitions need not be built again.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Definition {
    topics: Vec<TopicFilter>,
    functions: Vec<(String, BTreeMap<String, String>)>,
}

/// Where a pipeline is configured: below `PerTopicPipelines` by this name, or none, by `ExecutionOrder`.
type Entry = Option<String>;

/// A pipeline of the settings that runs.
#[derive(Clone)]
struct Built {
    definition: Definition,
    pipeline: Arc<Pipeline>,
}

impl Built {
    fn functions(&self) -> impl Iterator<Item = &str> {
        self.definition.functions.iter().map(|(name, _)| name.as_str())
    }
}

/// One pipeline as the settings ask for it.
struct Wanted<'a> {
    entry: Entry,
    id: &'a str,
    /// `None` means every topic.
    topics: Option<&'a [String]>,
    execution_order: &'a [String],
}

impl Wanted<'_> {
    fn key(&self) -> String {
        match &self.entry {
            None => EXECUTION_ORDER.to_owned(),
            Some(name) => format!("Writable/Pipeline/PerTopicPipelines/{name}"),
        }
    }
}

/// Builds pipelines and remembers the last good ones.
pub struct Pipelines {
    registry: FunctionRegistry,
    topic_prefix: Option<String>,
    target_type: Option<TargetType>,
    fixed: Vec<Arc<Pipeline>>,
    built: BTreeMap<Entry, Built>,
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
        self.built.values().any(|built| built.pipeline.id() == id)
    }

    /// The pipelines as they are now.
    pub fn set(&self) -> Arc<PipelineSet> {
        self.set.clone()
    }

    /// Brings the pipelines to what the settings ask for, as far as it can be built, and says what cannot.
    ///
    /// A pipeline that goes on as it was keeps its id, whoever asks for that. Else, of two with the same id the one that has
    /// it already keeps it, and then the first by entry gets it.
    pub fn apply(&mut self, settings: &PipelineSettings, now: Timestamp) -> Applied {
        let wanted = wanted(settings);
        if wanted.is_empty() && self.fixed.is_empty() {
            return self.keep_all(settings, now);
        }
        let entries: BTreeSet<Entry> = wanted.iter().map(|wanted| wanted.entry.clone()).collect();
        let mut results: Vec<_> = wanted
            .into_iter()
            .map(|wanted| (self.built(&wanted, settings), wanted))
            .collect();
        results.sort_by_key(|(_, wanted)| {
            let last = self.built.get(&wanted.entry);
            last.is_none_or(|last| last.pipeline.id().as_str() != wanted.id)
        });
        // Each turn refuses one more, so that it ends.
        let kept = loop {
            let kept = self.kept(&results, &entries);
            let mut ids: BTreeSet<&PipelineId> = kept.values().map(|(_, last)| last.pipeline.id()).collect();
            let clash = results.iter().position(|(result, _)| {
                let id = result.as_ref().map(|built| built.pipeline.id());
                id.is_ok_and(|id| !ids.insert(id))
            });
            let Some(clash) = clash else { break kept };
            results[clash].0 = Err(format!(
                "another pipeline has the id '{}' as well",
                results[clash].1.id
            ));
        };
        let accepted = results.iter().filter_map(|(result, _)| result.as_ref().ok());
        let in_new_form: BTreeSet<&str> = accepted.flat_map(Built::functions).collect();
        let mut applied = Applied::default();
        for (result, wanted) in &results {
            let Err(reason) = result else { continue };
            let last_good = kept.get(&wanted.entry);
            applied.rejections.push(PipelineRejection {
                key: wanted.key(),
                pipeline_id: wanted.id.to_owned(),
                reason: reason.clone(),
                goes_on: last_good.is_some(),
            });
            match &wanted.entry {
                None => applied.kept.default_pipeline = true,
                Some(name) => {
                    let was = last_good.and_then(|(was, _)| (*was).clone());
                    applied.kept.per_topic.insert(name.clone(), was);
                }
            }
            let functions = last_good.iter().flat_map(|(_, last)| last.functions());
            let only_here = functions.filter(|name| !in_new_form.contains(name));
            applied.kept.functions.extend(only_here.map(str::to_owned));
        }
        applied.rejections.sort_by(|a, b| a.key.cmp(&b.key));
        let kept = kept.into_iter().map(|(entry, (_, last))| (entry, last.clone()));
        let mut next: BTreeMap<Entry, Built> = kept.collect();
        for (result, wanted) in results {
            if let Ok(built) = result {
                next.insert(wanted.entry, built);
            }
        }
        self.install(next, settings, now);
        applied
    }

    /// The last good forms of what is refused, each with the entry it had.
    fn kept(
        &self,
        results: &[(Result<Built, String>, Wanted<'_>)],
        entries: &BTreeSet<Entry>,
    ) -> BTreeMap<Entry, (&Entry, &Built)> {
        let mut kept = BTreeMap::<Entry, (&Entry, &Built)>::new();
        for (_, wanted) in results.iter().filter(|(result, _)| result.is_err()) {
            if let Some(last) = self.last_good(wanted, entries)
                && kept.values().all(|(was, _)| *was != last.0)
            {
                kept.insert(wanted.entry.clone(), last);
            }
        }
        kept
    }

    /// Settings without any pipeline: what would be left to run is nothing, which is never meant.
    fn keep_all(&mut self, settings: &PipelineSettings, now: Timestamp) -> Applied {
        let mut kept = KeptPipelines {
            default_pipeline: true,
            ..KeptPipelines::default()
        };
        for (entry, built) in &self.built {
            kept.functions.extend(built.functions().map(str::to_owned));
            if let Some(name) = entry {
                kept.per_topic.insert(name.clone(), Some(name.clone()));
            }
        }
        let rejection = PipelineRejection {
            key: EXECUTION_ORDER.to_owned(),
            pipeline_id: String::new(),
            reason: "there is no pipeline: ExecutionOrder is empty and there are no PerTopicPipelines"
                .to_owned(),
            goes_on: !self.built.is_empty(),
        };
        self.install(self.built.clone(), settings, now);
        Applied {
            rejections: vec![rejection],
            kept,
        }
    }

    /// What a pipeline was before, and the entry it had: its own, or that of its id if nothing is configured there any
    /// more.
    fn last_good(&self, wanted: &Wanted<'_>, entries: &BTreeSet<Entry>) -> Option<(&Entry, &Built)> {
        let own = self.built.get_key_value(&wanted.entry);
        own.or_else(|| {
            let renamed = |(entry, built): &(&Entry, &Built)| {
                entry.is_some() && !entries.contains(*entry) && built.pipeline.id().as_str() == wanted.id
            };
            self.built.iter().find(renamed)
        })
    }

    /// The pipeline as it is wanted.
    fn built(&self, wanted: &Wanted<'_>, settings: &PipelineSettings) -> Result<Built, String> {
        let id = PipelineId::try_new(wanted.id).map_err(|error| error.to_string())?;
        if self.fixed.iter().any(|pipeline| *pipeline.id() == id) {
            return Err(format!("another pipeline has the id '{id}' as well"));
        }
        let definition = self.definition(wanted, settings)?;
        let same = |built: &&Built| *built.pipeline.id() == id && built.definition == definition;
        let pipeline = match self.built.values().find(same) {
            Some(unchanged) => unchanged.pipeline.clone(),
            None => Arc::new(self.build(&id, &definition)?),
        };
        Ok(Built { definition, pipeline })
    }

    fn install(&mut self, next: BTreeMap<Entry, Built>, settings: &PipelineSettings, now: Timestamp) {
        let pipelines: Vec<_> = self
            .fixed
            .iter()
            .cloned()
            .chain(next.values().map(|built| built.pipeline.clone()))
            .collect();
        self.built = next;
        let target_type = self.target_type.unwrap_or(settings.target_type);
        let same = |(one, other): (&Arc<Pipeline>, &Arc<Pipeline>)| Arc::ptr_eq(one, other);
        if self.set.target_type == target_type
            && self.set.pipelines.len() == pipelines.len()
            && self.set.pipelines.iter().zip(&pipelines).all(same)
        {
            return;
        }
        let versions = |pipelines: &[Arc<Pipeline>]| -> BTreeMap<_, _> {
            pipelines
                .iter()
                .map(|pipeline| (pipeline.id().clone(), pipeline.version().clone()))
                .collect()
        };
        let changed = versions(&pipelines) != versions(&self.set.pipelines);
        self.set = Arc::new(PipelineSet {
            pipelines,
            target_type,
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
        entry: None,
        id: PipelineId::DEFAULT,
        topics: None,
        execution_order: &settings.execution_order,
    });
    let per_topic = settings.per_topic.iter().map(|(name, pipeline)| Wanted {
        entry: Some(name.clone()),
        id: &pipeline.id,
        topics: Some(&pipeline.topics),
        execution_order: &pipeline.execution_order,
    });
    default.into_iter().chain(per_topic).collect()
}

#[cfg(test)]
mod tests;
