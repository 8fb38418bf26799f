//! Pipelines made in code: of functions that are known by name, and of functions of the developer's own.
//! (EdgeX: `SetDefaultFunctionsPipeline`, `AddFunctionsPipelineForTopics`.)

use edgehold_core::{
    BuiltFunction, FunctionRegistry, InvalidFunction, InvalidId, InvalidTopicFilter, Parameters, Pipeline,
    PipelineId, PipelineStep, TopicFilter,
};

/// A pipeline as code asks for it. Settings never change it.
///
/// ```
/// use edgehold::{BuiltFunction, Context, Data, Flow, FunctionError, PipelineDraft, Transform};
///
/// struct Shout;
///
/// impl Transform for Shout {
///     fn apply(&self, _: &mut Context, data: Data) -> Result<Flow, FunctionError> {
///         Ok(Flow::Continue(data))
///     }
/// }
///
/// let draft = PipelineDraft::for_topics("pumps", &["events/device/+/Pump/#"])
///     .function("FilterByResourceName", [("ResourceNames", "Level")])
///     .step("Shout", BuiltFunction::new(Shout));
/// ```
pub struct PipelineDraft {
    id: String,
    /// None for every topic.
    topics: Option<Vec<String>>,
    steps: Vec<Step>,
}

enum Step {
    Known(Parameters),
    Own(String, BuiltFunction),
}

/// Why a draft is no pipeline.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidDraft {
    /// Its id cannot be one.
    #[error(transparent)]
    Id(#[from] InvalidId),
    /// One of its topics is no topic filter.
    #[error("pipeline '{id}': {source}")]
    Topic {
        /// The id.
        id: String,
        /// What is wrong.
        source: InvalidTopicFilter,
    },
    /// One of its functions cannot be built.
    #[error("pipeline '{id}': {source}")]
    Function {
        /// The id.
        id: String,
        /// What is wrong.
        source: InvalidFunction,
    },
    /// Another pipeline has its id.
    #[error("another pipeline has the id '{id}' as well")]
    Duplicate {
        /// The id.
        id: String,
    },
    /// It has no function, or its list of topics is empty.
    #[error("pipeline '{id}' has no {what}")]
    Empty {
        /// The id.
        id: String,
        /// What it has none of.
        what: &'static str,
    },
}

impl PipelineDraft {
    /// The default pipeline, which runs for every topic.
    pub fn default_pipeline() -> Self {
        Self {
            id: PipelineId::DEFAULT.to_owned(),
            topics: None,
            steps: Vec::new(),
        }
    }

    /// A pipeline for these topics, wildcards allowed. The base prefix is put before each, as before those of the
    /// settings; with the HTTP trigger and external MQTT there is none.
    pub fn for_topics(id: &str, topics: &[&str]) -> Self {
        Self {
            id: id.to_owned(),
            topics: Some(topics.iter().map(|topic| (*topic).to_owned()).collect()),
            steps: Vec::new(),
        }
    }

    /// Then the function that is built in, or was added, under this name (or one it begins with: `HTTPExport2`).
    #[must_use]
    pub fn function<'a>(
        mut self,
        name: &str,
        parameters: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Self {
        self.steps.push(Step::Known(Parameters::new(name, parameters)));
        self
    }

    /// Then this function of one's own. The name stands in log lines and in the version of the pipeline: data that waits
    /// for a function of another name is set aside.
    #[must_use]
    pub fn step(mut self, name: &str, function: BuiltFunction) -> Self {
        self.steps.push(Step::Own(name.to_owned(), function));
        self
    }

    pub(crate) fn build(
        self,
        registry: &FunctionRegistry,
        topic_prefix: Option<&str>,
    ) -> Result<Pipeline, InvalidDraft> {
        let Self { id, topics, steps } = self;
        let pipeline_id = PipelineId::try_new(&id)?;
        let empty = |what| InvalidDraft::Empty { id: id.clone(), what };
        if steps.is_empty() {
            return Err(empty("function"));
        }
        let topics = match topics {
            None => vec![TopicFilter::all()],
            Some(topics) if topics.is_empty() => return Err(empty("topic")),
            Some(topics) => topics
                .iter()
                .map(|topic| match topic_prefix {
                    Some(prefix) => TopicFilter::try_new(&format!("{prefix}/{topic}")),
                    None => TopicFilter::try_new(topic),
                })
                .collect::<Result<_, _>>()
                .map_err(|source| InvalidDraft::Topic {
                    id: id.clone(),
                    source,
                })?,
        };
        let steps = steps.into_iter().map(|step| match step {
            Step::Known(parameters) => {
                let (built_in, factory) = registry.resolve(parameters.function())?;
                let built = factory.build(&parameters)?;
                Ok(PipelineStep {
                    name: parameters.function().to_owned(),
                    built_in: built_in.to_owned(),
                    variant: built.variant,
                    function: built.function,
                })
            }
            Step::Own(name, built) => Ok(PipelineStep {
                built_in: name.clone(),
                name,
                variant: built.variant,
                function: built.function,
            }),
        });
        let steps =
            steps
                .collect::<Result<_, InvalidFunction>>()
                .map_err(|source| InvalidDraft::Function {
                    id: id.clone(),
                    source,
                })?;
        Ok(Pipeline::new(pipeline_id, topics, steps))
    }
}
