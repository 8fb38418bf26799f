//! The function-retry machine: an event is created on a schedule, and a function succeeds or fails at random with it. Its
//! states are those of a stored object: 0 not tried, 1 success, 2 failed, 3 error. Each move is one write of the store.
//! `cargo run -p edgehold --example retry_machine -- -cd=crates/sdk/examples/retry_machine every=1s` (default: 2m)

use std::{process::ExitCode, time::Duration};

use edgehold::{
    Ack, AppService, BoxFuture, BuiltFunction, BytePermit, Context, CorrelationId, Data, Delivery,
    DeliverySender, Flow, FunctionError, Invocation, PayloadForm, PipelineDraft, Received, ShutdownSignal,
    Transform, Trigger, TriggerError, exit, parse_go_duration,
};

const EVENT: &str = r#"{"apiVersion":"v3","id":"ID","deviceName":"machine","profileName":"Machine","sourceName":"Number","origin":NUMBER,"readings":[{"deviceName":"machine","profileName":"Machine","resourceName":"Number","valueType":"Int64","value":"NUMBER","origin":NUMBER}]}"#;

type Ran = BoxFuture<'static, Result<(), TriggerError>>;

/// Creates an event whenever its time has come.
struct Generator(Duration);

impl Trigger for Generator {
    fn run(self: Box<Self>, deliveries: DeliverySender, mut end: ShutdownSignal) -> Ran {
        Box::pin(async move {
            let mut schedule = tokio::time::interval(self.0);
            for number in (1_u64..).map(|number| number.to_string()) {
                tokio::select! { _ = schedule.tick() => {}, () = end.recv() => break }
                let event = EVENT.replace("NUMBER", &number);
                let received = Received::Message {
                    payload: event.replace("ID", &uuid::Uuid::new_v4().to_string()).into(),
                    form: PayloadForm::Bytes,
                    content_type: "application/json".to_owned(),
                    correlation_id: CorrelationId::new(&number),
                };
                let (topic, ack, permit) = ("machine".to_owned(), Ack::none(), BytePermit::none());
                #[rustfmt::skip]
                let delivery = Delivery { topic, received, ack, permit };
                // An error: the service is ending.
                let _ = deliveries.send(delivery).await;
            }
            Ok(())
        })
    }
}

/// Draws a number and succeeds when it is divisible by 2; otherwise the event is to be tried again.
struct Machine<Draw>(Draw);

impl<Draw: Fn() -> u64 + Send + Sync> Transform for Machine<Draw> {
    fn apply(&self, ctx: &mut Context, data: Data) -> Result<Flow, FunctionError> {
        let drawn = (self.0)();
        tracing::info!("event {}: drew {drawn}", ctx.correlation_id());
        ctx.set_retry_input(&data);
        match drawn % 2 {
            0 => Ok(Flow::Continue(data)),
            _ => Err(FunctionError::transient(format!("drew {drawn}"))),
        }
    }
}

pub(crate) fn service(draw: impl Fn() -> u64 + Send + Sync + 'static, every: Duration) -> AppService {
    let machine = BuiltFunction::new(Machine(draw));
    let pipeline = PipelineDraft::default_pipeline().step("Machine", machine);
    let service = AppService::new("app-retry-machine").with_trigger(Generator(every));
    service.with_setup(|setup| {
        setup.add_pipeline(pipeline);
        Ok(())
    })
}

fn main() -> ExitCode {
    let every = |word: String| parse_go_duration(word.strip_prefix("every=")?).ok()?.to_std();
    let every = std::env::args().find_map(every);
    let draw = || 1 + getrandom::u64().unwrap_or_default() % 10;
    let service = service(draw, every.unwrap_or(Duration::from_secs(120)));
    let invocation = Invocation::from_process().map_err(Into::into);
    exit(invocation.and_then(|invocation| service.block_on(&invocation)))
}
