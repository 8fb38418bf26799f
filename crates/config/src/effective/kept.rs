//! Pipelines that go on as they were: whether a pipeline can be built is not known here, so whoever builds them says
//! what was kept, and the configuration then shows what runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    Configuration, Effective, Leaves,
    schema::{FUNCTIONS, PER_TOPIC_PIPELINES},
};

const EXECUTION_ORDER: &str = "Writable/Pipeline/ExecutionOrder";

/// What of the pipelines is not as its settings ask for, because they were rejected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeptPipelines {
    /// Whether the default pipeline goes on as it was (also when that is not at all).
    pub default_pipeline: bool,
    /// Entries of `PerTopicPipelines`, and the entry that each was before; none when nothing runs for it.
    pub per_topic: BTreeMap<String, Option<String>>,
    /// Functions that run in kept pipelines alone.
    pub functions: BTreeSet<String>,
}

impl KeptPipelines {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Effective {
    /// This outcome with the settings of kept pipelines as they were `before`: an entry as a whole, whatever it was called
    /// then, and each function that only kept pipelines use.
    ///
    /// A function that runs in two forms, a newer one in another pipeline, is shown in the newer.
    #[must_use]
    pub fn keeping(self, before: &Self, kept: &KeptPipelines) -> Self {
        if kept.is_empty() {
            return self;
        }
        let old = before.configuration.leaves();
        let mut leaves = self.configuration.leaves().clone();
        if kept.default_pipeline
            && let Some(leaf) = old.get(EXECUTION_ORDER)
        {
            leaves.insert(EXECUTION_ORDER.to_owned(), leaf.kept());
        }
        let per_topic = |name: &str| format!("{PER_TOPIC_PIPELINES}{name}/");
        for (name, was) in &kept.per_topic {
            replace(&mut leaves, &per_topic(name), old, was.as_deref().map(per_topic));
        }
        for name in &kept.functions {
            let folder = format!("{FUNCTIONS}{name}/");
            replace(&mut leaves, &folder, old, Some(folder.clone()));
        }
        let functions = self.configuration.writable.pipeline.functions.keys();
        let functions: BTreeSet<&str> = functions.chain(&kept.functions).map(String::as_str).collect();
        let configuration = Configuration::from_leaves(Arc::new(leaves), functions);
        Self {
            configuration: Arc::new(configuration),
            ..self
        }
    }
}

/// Puts what was below one folder in the place of what is below another.
fn replace(leaves: &mut Leaves, folder: &str, old: &Leaves, was: Option<String>) {
    leaves.remove_below(folder);
    for (rest, leaf) in was.iter().flat_map(|was| old.below(was)) {
        leaves.insert(format!("{folder}{rest}"), leaf.kept());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Layers, Origin, diff, resolve};

    fn effective<const N: usize>(leaves: [(&str, &str); N]) -> Effective {
        let private = leaves.into_iter();
        let private = private.map(|(path, text)| (format!("Writable/Pipeline/{path}"), text));
        let layers = Layers {
            private: private.collect(),
            ..Layers::default()
        };
        resolve(&layers, None)
    }

    #[test]
    fn what_is_kept_is_shown_as_it_runs_and_what_is_not_as_it_is_configured() {
        let before = effective([
            ("ExecutionOrder", "A, B"),
            ("Functions/A/Parameters/x", "1"),
            ("Functions/B/Parameters/x", "1"),
            ("PerTopicPipelines/old/Id", "p"),
            ("PerTopicPipelines/old/Topics", "t/#"),
            ("PerTopicPipelines/old/ExecutionOrder", "A"),
        ]);
        let now = effective([
            ("ExecutionOrder", "Broken"),
            ("Functions/A/Parameters/x", "2"),
            ("Functions/B/Parameters/y", "2"),
            ("PerTopicPipelines/new/Id", "p"),
            ("PerTopicPipelines/new/ExecutionOrder", "Broken"),
            ("PerTopicPipelines/other/Id", "q"),
            ("PerTopicPipelines/nothing/Id", ""),
        ]);
        let kept = KeptPipelines {
            default_pipeline: true,
            per_topic: [("new", Some("old")), ("nothing", None)]
                .map(|(name, was)| (name.to_owned(), was.map(str::to_owned)))
                .into(),
            functions: ["B".to_owned()].into(),
        };
        let shown = now.keeping(&before, &kept).configuration;
        let pipeline = &shown.writable.pipeline;
        assert_eq!(pipeline.execution_order, ["A", "B"]);
        assert_eq!(
            pipeline.functions["A"]["x"], "2",
            "another pipeline runs it in its new form"
        );
        assert_eq!(pipeline.functions["B"], [("x".to_owned(), "1".to_owned())].into());
        let entries: Vec<&str> = pipeline.per_topic.keys().map(String::as_str).collect();
        assert_eq!(entries, ["new", "other"]);
        assert_eq!(pipeline.per_topic["new"].topics, ["t/#"]);
        assert_eq!(pipeline.per_topic["new"].execution_order, ["A"]);
        let leaf = shown.leaves().get(EXECUTION_ORDER).unwrap();
        assert_eq!((leaf.text(), leaf.origin()), ("A, B", Origin::LastGood));
    }

    #[test]
    fn a_function_that_is_gone_from_the_settings_is_shown_as_long_as_it_runs() {
        let before = effective([("ExecutionOrder", "A"), ("Functions/A", "")]);
        let now = effective([("ExecutionOrder", "A")]);
        let kept = KeptPipelines {
            default_pipeline: true,
            functions: ["A".to_owned()].into(),
            ..KeptPipelines::default()
        };
        let shown = now.keeping(&before, &kept);
        assert!(shown.configuration.writable.pipeline.functions.contains_key("A"));
        assert_eq!(diff(&before, &shown), []);
    }
}
