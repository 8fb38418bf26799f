//! Pipelines: which functions run in which order, for which topics, and under which version.

use std::{fmt, str::FromStr, sync::Arc};

use crate::{AppFunction, PipelineId, Timestamp, TopicFilter, digest};

/// What a payload is decoded into before the first function (`Writable.Pipeline.TargetType`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TargetType {
    /// An event, from an AddEventRequest or a bare event.
    #[default]
    Event,
    /// The bytes as they are.
    Raw,
    /// A service metric.
    Metric,
}

impl FromStr for TargetType {
    type Err = String;

    /// Trimmed, without regard to case; empty is `event`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.trim().to_lowercase().as_str() {
            "" | "event" => Ok(Self::Event),
            "raw" => Ok(Self::Raw),
            "metric" => Ok(Self::Metric),
            _ => Err(format!(
                "'{text}' is not a target type; use 'event', 'raw' or 'metric'"
            )),
        }
    }
}

/// One function in its place.
#[derive(Clone)]
pub struct PipelineStep {
    /// The name it is configured under, for example `HTTPExport2`.
    pub name: String,
    /// The built-in name that stands for, for example `HTTPExport`.
    pub built_in: String,
    /// The method, algorithm or type it was built with.
    pub variant: String,
    /// The function itself.
    pub function: Arc<dyn AppFunction>,
}

impl fmt::Debug for PipelineStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PipelineStep")
            .field("name", &self.name)
            .field("built_in", &self.built_in)
            .field("variant", &self.variant)
            .finish_non_exhaustive()
    }
}

/// What a stored object remembers of its pipeline: equal versions mean that the saved position still names the same
/// function with the same destination.
///
/// A digest of the ordered (configured name, built-in name, variant). Other parameters do not count, so a corrected
/// URL takes the backlog along; swapping `HTTPExport1` and `HTTPExport2` changes it, so that nothing goes astray.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PipelineVersion(String);

impl PipelineVersion {
    /// The version of these steps.
    pub fn of(steps: &[PipelineStep]) -> Self {
        let parts = steps
            .iter()
            .flat_map(|step| [&step.name, &step.built_in, &step.variant]);
        let hex = digest::hex(parts.map(|part| part.as_bytes()));
        Self(hex)
    }

    /// A version read back from a store.
    pub fn from_stored(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text that is stored.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PipelineVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Functions in order, the topics they run for and their version.
#[derive(Clone, Debug)]
pub struct Pipeline {
    id: PipelineId,
    topics: Vec<TopicFilter>,
    steps: Vec<PipelineStep>,
    version: PipelineVersion,
}

impl Pipeline {
    /// A pipeline; its version follows from its steps.
    pub fn new(id: PipelineId, topics: Vec<TopicFilter>, steps: Vec<PipelineStep>) -> Self {
        let version = PipelineVersion::of(&steps);
        Self {
            id,
            topics,
            steps,
            version,
        }
    }

    /// Its id, unique in the service.
    pub fn id(&self) -> &PipelineId {
        &self.id
    }

    /// Its functions, in order.
    pub fn steps(&self) -> &[PipelineStep] {
        &self.steps
    }

    /// Its version.
    pub fn version(&self) -> &PipelineVersion {
        &self.version
    }

    /// The topics it runs for, base prefix included.
    pub fn topics(&self) -> &[TopicFilter] {
        &self.topics
    }

    /// Whether it runs for this topic.
    pub fn matches(&self, topic: &str) -> bool {
        self.topics.iter().any(|filter| filter.matches(topic))
    }
}

/// All pipelines of a service at one moment: replaced as a whole, never changed.
#[derive(Clone, Debug, Default)]
pub struct PipelineSet {
    /// The pipelines; ids are unique.
    pub pipelines: Vec<Arc<Pipeline>>,
    /// What payloads are decoded into.
    pub target_type: TargetType,
    /// When this set replaced a different one. A stored object whose pipeline does not fit is judged only one retry
    /// interval after this, so that an edit in two steps harms nothing.
    pub changed_at: Timestamp,
}

impl PipelineSet {
    /// The pipeline with this id.
    pub fn get(&self, id: &PipelineId) -> Option<&Arc<Pipeline>> {
        self.pipelines.iter().find(|pipeline| pipeline.id() == id)
    }

    /// The pipelines that run for this topic.
    pub fn matching<'a>(&'a self, topic: &'a str) -> impl Iterator<Item = &'a Arc<Pipeline>> {
        self.pipelines
            .iter()
            .filter(move |pipeline| pipeline.matches(topic))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{Context, Data, Flow, FunctionError, Transform};

    struct Nothing;

    impl Transform for Nothing {
        fn apply(&self, _: &mut Context, data: Data) -> Result<Flow, FunctionError> {
            Ok(Flow::Continue(data))
        }
    }

    pub(crate) fn step(name: &str, built_in: &str, variant: &str) -> PipelineStep {
        PipelineStep {
            name: name.to_owned(),
            built_in: built_in.to_owned(),
            variant: variant.to_owned(),
            function: Arc::new(Nothing),
        }
    }

    #[test]
    fn a_version_changes_with_names_order_and_variant_only() {
        let of = |steps: &[PipelineStep]| PipelineVersion::of(steps);
        let base = of(&[
            step("HTTPExport1", "HTTPExport", "post"),
            step("HTTPExport2", "HTTPExport", "post"),
        ]);
        let same = of(&[
            step("HTTPExport1", "HTTPExport", "post"),
            step("HTTPExport2", "HTTPExport", "post"),
        ]);
        let swapped = of(&[
            step("HTTPExport2", "HTTPExport", "post"),
            step("HTTPExport1", "HTTPExport", "post"),
        ]);
        let put = of(&[
            step("HTTPExport1", "HTTPExport", "put"),
            step("HTTPExport2", "HTTPExport", "post"),
        ]);
        assert_eq!(base, same);
        assert_ne!(base, swapped);
        assert_ne!(base, put);
    }

    #[test]
    fn a_target_type_is_read_without_regard_to_case() {
        assert_eq!(" RAW ".parse(), Ok(TargetType::Raw));
        assert_eq!("".parse(), Ok(TargetType::Event));
        assert!("rows".parse::<TargetType>().is_err());
    }
}
