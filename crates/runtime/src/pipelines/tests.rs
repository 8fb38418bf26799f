use edgehold_config::configuration::{PerTopicPipeline, PipelineSettings};
use edgehold_core::{BuiltFunction, Context, Data, Flow, FunctionError, InvalidFunction, Transform};

use super::*;

struct Nothing;

impl Transform for Nothing {
    fn apply(&self, _: &mut Context, data: Data) -> Result<Flow, FunctionError> {
        Ok(Flow::Continue(data))
    }
}

/// Knows `Good`, which needs a parameter `Type`.
fn pipelines() -> Pipelines {
    let mut registry = FunctionRegistry::default();
    registry.register("Good", |parameters: &Parameters| -> Result<_, InvalidFunction> {
        Ok(BuiltFunction::with_variant(Nothing, parameters.required("Type")?))
    });
    Pipelines::new(registry, Some("edgex".to_owned()))
}

fn settings(order: &[&str]) -> PipelineSettings {
    let parameters = |kind: &str| BTreeMap::from([("Type".to_owned(), kind.to_owned())]);
    PipelineSettings {
        execution_order: order.iter().map(|name| (*name).to_owned()).collect(),
        functions: BTreeMap::from([
            ("Good1".to_owned(), parameters("a")),
            ("Good2".to_owned(), parameters("b")),
            ("Good3".to_owned(), BTreeMap::new()),
            ("Unknown".to_owned(), BTreeMap::new()),
        ]),
        ..PipelineSettings::default()
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_millis(seconds * 1_000)
}

fn names(pipelines: &Pipelines, id: &str) -> Vec<String> {
    let set = pipelines.set();
    let pipeline = set.get(&PipelineId::try_new(id).unwrap()).unwrap();
    pipeline.steps().iter().map(|step| step.name.clone()).collect()
}

#[test]
fn a_broken_edit_leaves_the_running_pipeline_alone_and_is_named() {
    let mut pipelines = pipelines();
    assert_eq!(pipelines.apply(&settings(&["Good1", "Good2"]), at(1)), []);
    let before = pipelines.set();
    for (order, reason) in [
        (
            &["Good1", "Unknown"],
            "'Unknown' is not the name of a known function, nor does it begin with one",
        ),
        (
            &["Good1", "Missing"],
            "function 'Missing' is not configured under Writable/Pipeline/Functions",
        ),
        (
            &["Good1", "Good3"],
            "function 'Good3': parameter 'Type' is missing",
        ),
    ] {
        let rejections = pipelines.apply(&settings(order), at(2));
        assert_eq!(rejections.len(), 1);
        assert_eq!(rejections[0].reason, reason);
        assert_eq!(names(&pipelines, PipelineId::DEFAULT), ["Good1", "Good2"]);
        assert_eq!(
            pipelines.set().changed_at,
            before.changed_at,
            "no object may be judged by a broken edit"
        );
    }
}

#[test]
fn a_broken_pipeline_does_not_keep_another_from_changing() {
    let mut pipelines = pipelines();
    let mut edited = settings(&["Good1"]);
    pipelines.apply(&edited, at(1));
    edited.execution_order = vec!["Unknown".to_owned()];
    edited.per_topic.insert(
        "extra".to_owned(),
        PerTopicPipeline {
            id: "extra".to_owned(),
            topics: vec!["events/+/x".to_owned()],
            execution_order: vec!["Good2".to_owned()],
        },
    );
    assert_eq!(pipelines.apply(&edited, at(2)).len(), 1);
    assert_eq!(names(&pipelines, PipelineId::DEFAULT), ["Good1"]);
    assert_eq!(names(&pipelines, "extra"), ["Good2"]);
    assert!(
        pipelines
            .set()
            .get(&PipelineId::try_new("extra").unwrap())
            .unwrap()
            .matches("edgex/events/a/x")
    );
}

#[test]
fn pipelines_are_added_and_removed() {
    let mut pipelines = pipelines();
    let mut edited = settings(&["Good1"]);
    let extra = PerTopicPipeline {
        id: "extra".to_owned(),
        topics: vec!["#".to_owned()],
        execution_order: vec!["Good2".to_owned()],
    };
    edited.per_topic.insert("extra".to_owned(), extra);
    pipelines.apply(&edited, at(1));
    assert_eq!(pipelines.set().pipelines.len(), 2);
    edited.per_topic.clear();
    pipelines.apply(&edited, at(5));
    assert_eq!(pipelines.set().pipelines.len(), 1);
    assert_eq!(pipelines.set().changed_at, at(5));
}

#[test]
fn an_unchanged_pipeline_keeps_its_function_instances() {
    let mut pipelines = pipelines();
    pipelines.apply(&settings(&["Good1"]), at(1));
    let before = pipelines.set().pipelines[0].clone();
    let mut edited = settings(&["Good1"]);
    edited.functions.insert("Good2".to_owned(), BTreeMap::new());
    pipelines.apply(&edited, at(2));
    assert!(Arc::ptr_eq(&before, &pipelines.set().pipelines[0]));
}

#[test]
fn two_pipelines_with_one_id_are_refused_by_name() {
    let mut pipelines = pipelines();
    let mut edited = settings(&["Good1"]);
    let twin = PerTopicPipeline {
        id: PipelineId::DEFAULT.to_owned(),
        topics: vec!["#".to_owned()],
        execution_order: vec!["Good2".to_owned()],
    };
    edited.per_topic.insert("twin".to_owned(), twin);
    let rejections = pipelines.apply(&edited, at(1));
    assert_eq!(rejections[0].key, "Writable/Pipeline/PerTopicPipelines/twin");
    assert_eq!(
        rejections[0].reason,
        "another pipeline has the id 'default-pipeline' as well"
    );
}

#[test]
fn no_pipeline_at_all_keeps_what_runs() {
    let mut pipelines = pipelines();
    pipelines.apply(&settings(&["Good1"]), at(1));
    assert_eq!(pipelines.apply(&settings(&[]), at(2)).len(), 1);
    assert_eq!(names(&pipelines, PipelineId::DEFAULT), ["Good1"]);
}
