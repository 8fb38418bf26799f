//! What each function that only computes costs for one event, on one core.
//!
//! The event is one of five readings, as devices send several at once, and shared with other pipelines, so that a function
//! that changes it copies it. Functions that work on something else get what stands before them in EdgeX's profiles.

use std::{future::Future, hint::black_box, pin::pin, sync::Arc, task::Poll};

use anyhow::{Context as _, Result, bail};
use edgehold_bench::report::Rate;
use edgehold_contracts::{
    Event, Generation, Metric, MetricField, MetricTag, Reading, ReadingValue, ValueType,
};
use edgehold_core::{
    AppFunction, BoxFuture, Context, CorrelationId, Data, Flow, FunctionRegistry, Parameters, PipelineId,
    Secret, SecretError, SecretProvider, SecretText, ServiceKey,
};
use edgehold_functions::Sources;
use tokio::time::Instant;
use uuid::Uuid;

/// How often each function is called.
const CALLS: usize = 100_000;

/// A rule like those of app-rules-engine: a device, and a reading beyond a limit.
const RULE: &str = r#"{"and":[{"==":[{"var":"deviceName"},"pump-1"]},{"some":[{"var":"readings"},{">":[{"var":"value"},90]}]}]}"#;

/// Each function with its parameters; what it works on is an event unless it says otherwise.
const FUNCTIONS: &[(&str, &[(&str, &str)])] = &[
    ("FilterByProfileName", &[("ProfileNames", "pump")]),
    ("FilterByDeviceName", &[("DeviceNames", "^pump-[0-9]+$")]),
    ("FilterBySourceName", &[("SourceNames", "All")]),
    (
        "FilterByResourceName",
        &[("ResourceNames", "Temperature,Pressure")],
    ),
    ("AddTags", &[("Tags", "site:plant-1,line:7")]),
    ("TransformJson", &[("Type", "json")]),
    ("TransformXml", &[("Type", "xml")]),
    ("SetResponseData", &[("ResponseContentType", "application/json")]),
    (
        "WrapIntoEvent",
        &[
            ("ProfileName", "p"),
            ("DeviceName", "d"),
            ("ResourceName", "r"),
            ("ValueType", "Object"),
        ],
    ),
    ("CompressGzip", &[("Algorithm", "gzip")]),
    ("CompressZlib", &[("Algorithm", "zlib")]),
    (
        "Encrypt",
        &[
            ("Algorithm", "aes256"),
            ("SecretName", "aes"),
            ("SecretValueKey", "key"),
        ],
    ),
    ("JSONLogic", &[("Rule", RULE)]),
    ("ToLineProtocol", &[("Tags", "site:plant-1")]),
    ("FilterByDeadband", &[("Band", "0.5")]),
    ("RateLimit", &[("Limit", "1000000000"), ("Interval", "1s")]),
    ("SelectReadings", &[("Resources", "Temperature:temp,Pressure")]),
];

struct OneKey;

impl SecretProvider for OneKey {
    fn secret<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Secret, SecretError>> {
        let key = SecretText::new("0123456789abcdef".repeat(8));
        Box::pin(std::future::ready(Ok(Secret::from([("key".to_owned(), key)]))))
    }
}

/// Calls every function.
///
/// # Errors
/// A function that cannot be built, fails or waits.
pub(crate) fn rates() -> Result<Vec<Rate>> {
    let mut registry = FunctionRegistry::default();
    edgehold_functions::register(
        &mut registry,
        Sources {
            uuid: Uuid::new_v4,
            now: || 1_712_345_678_901_234_567,
            fill_random: |bytes| bytes.fill(7),
        },
    );
    FUNCTIONS
        .iter()
        .map(|(name, parameters)| {
            let (_, factory) = registry.resolve(name)?;
            let built = factory.build(&Parameters::new(name, parameters.iter().copied()))?;
            let input = match *name {
                "ToLineProtocol" => Data::Metric(Arc::new(metric())),
                _ => Data::Event(Arc::new(event())),
            };
            rate(name, &*built.function, &input).with_context(|| (*name).to_owned())
        })
        .collect()
}

fn rate(name: &str, function: &dyn AppFunction, input: &Data) -> Result<Rate> {
    let ctx = Context::new(
        ServiceKey::try_new("app-bench")?,
        PipelineId::default_pipeline(),
        CorrelationId::new("c"),
        Generation::V4,
        Arc::new(OneKey),
    );
    let mut waker = std::task::Context::from_waker(std::task::Waker::noop());
    let begin = Instant::now();
    for _ in 0..CALLS {
        let mut ctx = ctx.clone();
        let call = pin!(function.call(&mut ctx, input.clone()));
        match call.poll(&mut waker) {
            Poll::Ready(Ok(Flow::Continue(data))) => drop(black_box(data)),
            Poll::Ready(Ok(_)) => {}
            Poll::Ready(Err(error)) => bail!("{}", error.chain()),
            Poll::Pending => bail!("it waits"),
        }
    }
    let elapsed = begin.elapsed();
    // One core does nothing else: what it took is what it cost.
    Ok(Rate {
        name: format!("function, {name}"),
        sent: CALLS,
        arrived: CALLS,
        elapsed,
        cpu: Some(elapsed),
        compared_with: Vec::new(),
    })
}

fn event() -> Event {
    let mut event = Event::new(Uuid::nil(), "pump", "pump-1", "All", 1_712_345_678_901_234_567);
    event.readings = [
        ("Temperature", ValueType::Float64, "9.15e+01"),
        ("Pressure", ValueType::Float32, "1.013e+00"),
        ("Level", ValueType::Int32, "42"),
        ("State", ValueType::String, "running"),
        ("Valves", ValueType::BoolArray, "[true, false, true]"),
    ]
    .into_iter()
    .map(|(resource, value_type, text)| {
        let value = ReadingValue::Simple(text.to_owned());
        Reading::new(Uuid::nil(), &event, resource, value_type, value, event.origin)
    })
    .collect();
    event
}

fn metric() -> Metric {
    Metric::new(
        "PipelineMessageProcessingTime",
        vec![
            MetricField::integer("timer-count", 1311),
            MetricField::integer("timer-max", 1_422_828_239),
            MetricField::float("timer-mean", 63_994_499.545_719_85),
            MetricField::float("timer-stddev", 211_727_819.506_158_1),
        ],
        vec![
            MetricTag::new("service", "app-http-export"),
            MetricTag::new("pipeline", "default-pipeline"),
        ],
        1_795_361_148_192_503_846,
    )
}
