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
    assert_eq!(
        pipelines.apply(&settings(&["Good1", "Good2"]), at(1)),
        Applied::default()
    );
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
        let rejections = pipelines.apply(&settings(order), at(2)).rejections;
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
    assert_eq!(pipelines.apply(&edited, at(2)).rejections.len(), 1);
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
    let rejections = pipelines.apply(&edited, at(1)).rejections;
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
    let nothing = PipelineSettings {
        target_type: TargetType::Raw,
        ..settings(&[])
    };
    let applied = pipelines.apply(&nothing, at(2));
    assert_eq!(applied.rejections.len(), 1);
    assert!(applied.rejections[0].goes_on && applied.kept.default_pipeline);
    assert_eq!(applied.kept.functions, ["Good1".to_owned()].into());
    assert_eq!(names(&pipelines, PipelineId::DEFAULT), ["Good1"]);
    assert_eq!(
        pipelines.set().target_type,
        TargetType::Raw,
        "which is a setting of its own"
    );
}

/// Entries of `PerTopicPipelines` with their ids, all of them good.
fn per_topic<const N: usize>(entries: [(&str, &str); N]) -> PipelineSettings {
    let entry = |id: &str| PerTopicPipeline {
        id: id.to_owned(),
        topics: vec!["#".to_owned()],
        execution_order: vec!["Good2".to_owned()],
    };
    PipelineSettings {
        per_topic: entries.map(|(name, id)| (name.to_owned(), entry(id))).into(),
        ..settings(&["Good1"])
    }
}

#[track_caller]
fn run(pipelines: &Pipelines, ids: &[&str]) {
    let set = pipelines.set();
    let mut running: Vec<&str> = set
        .pipelines
        .iter()
        .map(|pipeline| pipeline.id().as_str())
        .collect();
    running.retain(|id| *id != PipelineId::DEFAULT);
    assert_eq!(running, ids);
}

#[test]
fn an_edit_that_breaks_an_id_ends_no_pipeline() {
    let mut pipelines = pipelines();
    pipelines.apply(&per_topic([("a", "x"), ("b", "y")]), at(1));
    for id in ["", "x"] {
        let applied = pipelines.apply(&per_topic([("a", "x"), ("b", id)]), at(2));
        assert_eq!(applied.rejections.len(), 1, "{id:?}");
        assert!(applied.rejections[0].goes_on);
        let kept = [("b".to_owned(), Some("b".to_owned()))].into();
        assert_eq!(applied.kept.per_topic, kept);
        assert_eq!(
            applied.kept.functions,
            BTreeSet::new(),
            "the other one runs it too"
        );
        run(&pipelines, &["x", "y"]);
        assert_eq!(pipelines.set().changed_at, at(1));
    }
}

#[test]
fn who_has_an_id_keeps_it_and_two_may_swap_theirs() {
    let mut pipelines = pipelines();
    pipelines.apply(&per_topic([("b", "x")]), at(1));
    let applied = pipelines.apply(&per_topic([("a", "x"), ("b", "x")]), at(2));
    assert_eq!(applied.rejections[0].key, "Writable/Pipeline/PerTopicPipelines/a");
    assert!(!applied.rejections[0].goes_on);
    assert_eq!(applied.kept.per_topic, [("a".to_owned(), None)].into());
    run(&pipelines, &["x"]);

    let both = per_topic([("a", "y"), ("b", "x")]);
    assert_eq!(pipelines.apply(&both, at(3)), Applied::default());
    let swapped = per_topic([("a", "x"), ("b", "y")]);
    assert_eq!(pipelines.apply(&swapped, at(4)), Applied::default());
    assert_eq!(pipelines.set().changed_at, at(3), "the same ids run the same");
}

#[test]
fn what_goes_on_as_it_was_keeps_its_id_from_who_asks_for_it() {
    // The default pipeline is broken, and another one takes its id.
    let mut pipelines = pipelines();
    pipelines.apply(&per_topic([("b", "y"), ("c", "z")]), at(1));
    let mut edited = per_topic([("b", "y"), ("c", PipelineId::DEFAULT)]);
    edited.execution_order = vec!["Unknown".to_owned()];
    let applied = pipelines.apply(&edited, at(2));
    let keys: Vec<&str> = applied.rejections.iter().map(|one| one.key.as_str()).collect();
    assert_eq!(keys, [EXECUTION_ORDER, "Writable/Pipeline/PerTopicPipelines/c"]);
    assert_eq!(names(&pipelines, PipelineId::DEFAULT), ["Good1"]);
    run(&pipelines, &["y", "z"]);

    // One may not have what it asks for, so it keeps what a third one asks for.
    let edited = per_topic([("a", "z"), ("b", "y"), ("c", "y")]);
    let applied = pipelines.apply(&edited, at(3));
    assert_eq!(applied.rejections.len(), 2);
    run(&pipelines, &["y", "z"]);
}

#[test]
fn a_renamed_entry_is_the_same_pipeline_also_when_it_is_broken_on_the_way() {
    let mut pipelines = pipelines();
    pipelines.apply(&per_topic([("old", "x")]), at(1));
    let before = pipelines.set().pipelines[1].clone();
    let renamed = per_topic([("new", "x")]);
    assert_eq!(pipelines.apply(&renamed, at(2)), Applied::default());
    assert!(Arc::ptr_eq(&before, &pipelines.set().pipelines[1]));

    let mut broken = per_topic([("newer", "x")]);
    let entry = broken.per_topic.get_mut("newer").expect("it was made");
    entry.execution_order = vec!["Unknown".to_owned()];
    let applied = pipelines.apply(&broken, at(3));
    let kept = [("newer".to_owned(), Some("new".to_owned()))].into();
    assert_eq!(applied.kept.per_topic, kept);
    assert_eq!(applied.kept.functions, ["Good2".to_owned()].into());
    assert!(Arc::ptr_eq(&before, &pipelines.set().pipelines[1]));
}

#[test]
fn settings_that_say_the_same_leave_the_set_as_it_is() {
    let mut pipelines = pipelines();
    pipelines.apply(&settings(&["Good1"]), at(1));
    let before = pipelines.set();
    pipelines.apply(&settings(&["Good1"]), at(2));
    pipelines.apply(&settings(&["Unknown"]), at(3));
    assert!(Arc::ptr_eq(&before, &pipelines.set()));
}
