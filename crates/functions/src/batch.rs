//! `Batch`: many items as one, to be sent less often. The pure part: what an item is, when a batch is full or its time
//! has come, and what becomes of its items. Waiting for others is the runtime's.

use std::{sync::Arc, time::Duration};

use edgehold_contracts::{ContentType, Event};
use edgehold_core::{
    BatchItem, Batching, BuiltFunction, Context, Data, Flow, FunctionError, InvalidFunction, Parameters,
    Transform, duration::parse_go_duration,
};

/// `Batch`, whose `Mode` is `bycount`, `bytime` or `bytimecount`, any case. A `BatchThreshold` below 2 means that nothing
/// waits.
pub(crate) fn build(parameters: &Parameters) -> Result<BuiltFunction, InvalidFunction> {
    let mode = parameters.required("Mode")?.to_lowercase();
    let (by_count, by_time) = match mode.as_str() {
        "bycount" => (true, false),
        "bytime" => (false, true),
        "bytimecount" => (true, true),
        text => {
            let problem = format!("'{text}', which is not 'bycount', 'bytime' or 'bytimecount'");
            return Err(parameters.invalid("Mode", problem));
        }
    };
    let threshold = by_count.then(|| threshold(parameters)).transpose()?;
    let window = by_time.then(|| window(parameters)).transpose()?;
    let is_event_data = parameters.bool("IsEventData", false)?;
    let form = match (is_event_data, parameters.bool("MergeOnSend", false)?) {
        (true, _) => Form::Events,
        (false, true) => Form::Merged,
        (false, false) => Form::List,
    };
    let batch = Batch {
        form,
        shape: Arc::new(Shape {
            threshold,
            window,
            form,
        }),
    };
    Ok(BuiltFunction::with_variant(batch, form.name()))
}

fn threshold(parameters: &Parameters) -> Result<usize, InvalidFunction> {
    let text = parameters.required("BatchThreshold")?;
    let number: i64 = text.parse().map_err(|_| {
        parameters.invalid("BatchThreshold", format!("'{text}', which is not a whole number"))
    })?;
    Ok(usize::try_from(number).unwrap_or(0))
}

fn window(parameters: &Parameters) -> Result<Duration, InvalidFunction> {
    let text = parameters.required("TimeInterval")?;
    let duration =
        parse_go_duration(text).map_err(|error| parameters.invalid("TimeInterval", error.to_string()))?;
    // As a timer of less than nothing, which has run out.
    Ok(duration.to_std().unwrap_or_default())
}

/// What a batch becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// A list of byte strings.
    List,
    /// The byte strings one behind the other.
    Merged,
    /// A list of events.
    Events,
}

impl Form {
    fn name(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Merged => "merged",
            Self::Events => "events",
        }
    }
}

struct Batch {
    form: Form,
    shape: Arc<Shape>,
}

impl Transform for Batch {
    /// An item is the bytes of the input; with `IsEventData` the event they say. One that says none fails alone.
    fn apply(&self, ctx: &mut Context, data: Data) -> Result<Flow, FunctionError> {
        let item = match (self.form, data) {
            (Form::Events, event @ Data::Event(_)) => event,
            (Form::Events, other) => {
                let bytes = other.to_bytes(ctx.generation());
                match Event::decode(&bytes, ContentType::Json) {
                    Ok(event) => Data::Event(Arc::new(event)),
                    Err(error) => {
                        // So that it can be looked at, and tried again behind a corrected pipeline.
                        ctx.set_retry_input(&other);
                        return Err(FunctionError::permanent(format!(
                            "Batch in pipeline '{}' has IsEventData, and this is no event: {error}",
                            ctx.pipeline_id()
                        )));
                    }
                }
            }
            (Form::List | Form::Merged, other) => Data::Bytes(other.to_bytes(ctx.generation())),
        };
        Ok(Flow::Batch(BatchItem {
            data: item,
            batching: self.shape.clone(),
        }))
    }
}

#[derive(Debug)]
struct Shape {
    /// As many items are enough; none: only time is.
    threshold: Option<usize>,
    window: Option<Duration>,
    form: Form,
}

impl Batching for Shape {
    fn is_full(&self, items: usize) -> bool {
        self.threshold.is_some_and(|threshold| items >= threshold)
    }

    fn window(&self) -> Option<Duration> {
        self.window
    }

    fn combine(&self, items: Vec<Data>) -> Data {
        let mut strings = Vec::new();
        let mut events = Vec::new();
        for item in items {
            match item {
                Data::Bytes(bytes) => strings.push(bytes),
                Data::Event(event) => events.push(event),
                other => debug_assert!(false, "Batch makes no item of kind {:?}", other.kind()),
            }
        }
        match self.form {
            Form::List => Data::ByteStrings(strings.into()),
            Form::Merged => Data::Bytes(strings.concat().into()),
            Form::Events => Data::Events(events.into()),
        }
    }
}
