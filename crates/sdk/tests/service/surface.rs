//! What a developer builds a service with, on a real broker: setup, pipelines and triggers in code, publishing, sections
//! of one's own, the end from within.

use edgehold::{
    Ack, BackgroundPublisher, CorrelationId, Counter, CustomRoute, Delivery, DeliveryReport, Event, Inlet,
    MissingSetting, NoMessageBus, PayloadForm, PipelineDraft, Publisher, Received, ReplaceError, RouteMethod,
    RouteResponse, RunEnd, SectionWatch, Setup, StopHandle, Transform,
};
use edgehold_test_support::{Message, Mosquitto, MqttPublisher, MqttSubscriber, Qos, wait::LONG};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::*;

const SERVICE: &str = "
Writable:
  LogLevel: INFO
  Mine:
    Limit: 7
  Pipeline:
    Functions:
      SetResponseData:
        Parameters:
          ResponseContentType: ''
Mine:
  Name: press
  Topics: a, b
  Inner:
    Factor: 1.5
ApplicationSettings:
  Line: hall-3
  Devices: pump-1, , pump-2
Service:
  Host: 127.0.0.1
  Port: 0
  RequestTimeout: 3s
Trigger:
  Type: edgex-messagebus
  SubscribeTopics: events/#
MessageBus:
  Type: mqtt
  Protocol: tcp
  Host: 127.0.0.1
  Port: @PORT@
";

#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "PascalCase")]
struct Mine {
    name: String,
    topics: Vec<String>,
    inner: Inner,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "PascalCase")]
struct Inner {
    factor: f64,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "PascalCase")]
struct Live {
    limit: u8,
}

/// Hands on what it is handed, and remembers how often.
#[derive(Clone, Default)]
struct Count(Arc<Mutex<Vec<String>>>);

impl Transform for Count {
    fn apply(&self, ctx: &mut Context, data: Data) -> Result<Flow, FunctionError> {
        self.0.lock().unwrap().push(ctx.pipeline_id().to_string());
        Ok(Flow::Continue(data))
    }
}

/// Publishes what it is handed.
struct Publish(&'static str);

impl AppFunction for Publish {
    fn call<'a>(&'a self, ctx: &'a mut Context, data: Data) -> BoxFuture<'a, Result<Flow, FunctionError>> {
        Box::pin(async move {
            ctx.publish_with_topic(self.0, &data, "application/json").await?;
            Ok(Flow::Continue(data))
        })
    }
}

/// A folder with the configuration of a service at this broker.
struct Place(TempDir);

impl Place {
    fn new(configuration: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("configuration.yaml"), configuration).unwrap();
        Self(folder)
    }

    fn at(broker: &Mosquitto) -> Self {
        Self::new(&SERVICE.replace("@PORT@", &broker.port().to_string()))
    }

    async fn build(&self, service: AppService) -> Result<Built, StartError> {
        self.build_for("4", service).await
    }

    async fn build_for(&self, generation: &str, service: AppService) -> Result<Built, StartError> {
        let folder = self.0.path().display();
        let args = [format!("-cd={folder}"), format!("--data-dir={folder}/data")];
        let environment = [
            ("EDGEX_SECURITY_SECRET_STORE", "false"),
            ("EDGEHOLD_GENERATION", generation),
        ];
        let invocation = Invocation::new(
            args.map(OsString::from),
            environment.map(|(name, value)| (name.into(), value.into())),
        );
        service.build(&invocation.unwrap()).await
    }
}

/// Puts what `take` makes of the setup where the test finds it.
fn with<T: Send + 'static>(
    service: AppService,
    take: impl FnOnce(&mut Setup<'_>) -> T + Send + 'static,
) -> (AppService, oneshot::Receiver<T>) {
    let (sender, receiver) = oneshot::channel();
    let service = service.with_setup(move |setup| {
        let _ = sender.send(take(setup));
        Ok(())
    });
    (service, receiver)
}

fn counting(count: &Count) -> BuiltFunction {
    BuiltFunction::new(count.clone())
}

fn delivery(topic: &str, ack: Ack) -> Delivery {
    Delivery {
        topic: topic.to_owned(),
        received: Received::Message {
            payload: EVENT.into(),
            form: PayloadForm::Bytes,
            content_type: "application/json".to_owned(),
            correlation_id: CorrelationId::new("corr-1"),
        },
        ack,
        permit: edgehold::BytePermit::none(),
    }
}

/// Delivers one event and hears how it ended.
async fn report(inlet: &Inlet, topic: &str) -> DeliveryReport {
    let (report, told) = oneshot::channel();
    inlet
        .deliver(delivery(topic, Ack::none().with_report(report)))
        .await
        .unwrap();
    told.await.unwrap()
}

fn envelope(message: &Message) -> Value {
    serde_json::from_slice(&message.payload).unwrap()
}

#[tokio::test]
async fn settings_sections_and_the_service_itself_are_known_at_setup() {
    let place = Place::new(&SERVICE.replace("@PORT@", "1"));
    let service = AppService::new("app-surface")
        .with_trigger(Idle)
        .with_setup(|setup| {
            assert_eq!(setup.service_key().as_str(), "app-surface");
            assert_eq!(setup.request_timeout(), Duration::from_secs(3));
            assert_eq!(setup.app_setting("Line")?, "hall-3");
            assert_eq!(setup.app_setting_list("Devices")?, ["pump-1", "pump-2"]);
            let missing: MissingSetting = setup.app_setting("line").unwrap_err();
            assert_eq!(missing.to_string(), "ApplicationSettings has no 'line'");
            let mine: Mine = setup.section("Mine")?;
            assert_eq!((mine.name.as_str(), mine.inner.factor), ("press", 1.5));
            assert_eq!(mine.topics, ["a", "b"]);
            let live: SectionWatch<Live> = setup.watch_section("Writable/Mine")?;
            assert_eq!(live.current()?, Live { limit: 7 });
            let elsewhere: SectionWatch<Mine> = setup.watch_section("Mine")?;
            assert_eq!(elsewhere.current()?.name, "press");
            assert!(setup.watch_section::<Live>("Mine").is_err());
            assert!(setup.registry().is_none(), "it was started without");
            assert!(setup.clients().readings().is_none());
            let wrong = setup.section::<Live>("Mine").unwrap_err().to_string();
            assert!(wrong.contains("missing field `Limit`"), "{wrong}");
            let ctx = setup.build_context("corr-9", "application/json");
            assert_eq!(
                (ctx.correlation_id().as_str(), ctx.input_content_type()),
                ("corr-9", "application/json")
            );
            setup.add_pipeline(PipelineDraft::default_pipeline().step("Count", counting(&Count::default())));
            Ok(())
        });
    place.build(service).await.unwrap();

    // And what the setup refuses ends the start.
    let refusing = AppService::new("app-surface")
        .with_trigger(Idle)
        .with_setup(|setup| {
            setup.app_setting("Absent")?;
            Ok(())
        });
    let error = place.build(refusing).await.err().unwrap();
    assert!(error.to_string().contains("no 'Absent'"), "{error}");
}

#[tokio::test]
async fn what_functions_and_services_publish_is_an_envelope_of_the_generation() {
    let broker = Mosquitto::start().await.unwrap();
    let place = Place::at(&broker);
    for (generation, object) in [("3", false), ("4", true)] {
        let subscriber = MqttSubscriber::connect(broker.port(), "edgex/out/#", Qos::AtLeastOnce)
            .await
            .unwrap();
        let (inlet, trigger) = Inlet::new();
        let service = AppService::new("app-surface").with_trigger(trigger);
        let (service, handles) = with(service, |setup| {
            let draft = PipelineDraft::default_pipeline();
            setup.add_pipeline(draft.step("Publish", BuiltFunction::new(Publish("out/{devicename}"))));
            let ctx = setup.build_context("corr-background", "text/plain");
            (
                setup.publisher().unwrap(),
                setup.background_publisher(4).unwrap(),
                ctx,
            )
        });
        let running = place.build_for(generation, service).await.unwrap().spawn();
        let (publisher, background, mut ctx): (Publisher, BackgroundPublisher, Context) =
            handles.await.unwrap();

        // When a function publishes what it has been handed
        let ended = report(&inlet, "edgex/events/device/d/Pump/pump-1/Level").await;
        let DeliveryReport::Runs(runs) = ended else {
            panic!("{ended:?}")
        };
        assert_eq!(runs[0].end, RunEnd::Succeeded(None));

        // Then it is base64 in both generations, with a correlation id of its own
        let message = subscriber.wait_for(1, LONG).await.remove(0);
        assert_eq!(message.topic, "edgex/out/pump-1");
        let first = envelope(&message);
        let event = base64_simd::STANDARD
            .decode_to_vec(first["payload"].as_str().unwrap())
            .unwrap();
        assert_eq!(
            serde_json::from_slice::<Value>(&event).unwrap()["deviceName"],
            "pump-1"
        );
        assert_eq!(
            (&first["apiVersion"], &first["contentType"]),
            (&json!("v3"), &json!("application/json"))
        );
        assert_ne!(first["correlationID"], "corr-1");

        // And what the service publishes is an object in generation 4
        let value = Data::Json(json!({ "a": 1 }));
        publisher
            .publish_with_topic("out/service", &value, "application/json")
            .await
            .unwrap();
        let second = envelope(&subscriber.wait_for(2, LONG).await[1]);
        assert_eq!(second["payload"].is_object(), object, "{second}");

        // And in the background with the context's values, correlation id and content type
        ctx.add_value("Where", "here");
        background
            .publish("out/{where}", &Data::Text("hello".to_owned()), &ctx)
            .await
            .unwrap();
        let message = subscriber.wait_for(3, LONG).await.remove(2);
        let third = envelope(&message);
        assert_eq!(message.topic, "edgex/out/here");
        assert_eq!(
            (&third["correlationID"], &third["contentType"]),
            (&json!("corr-background"), &json!("text/plain"))
        );
        assert!(
            background
                .publish("{nope}", &Data::Text(String::new()), &ctx)
                .await
                .is_err()
        );
        running.drain(Duration::from_secs(5)).await;
    }
}

/// EdgeX: what has not been published when the service ends is lost.
#[tokio::test]
async fn what_waits_for_the_background_at_the_end_is_sent() {
    const MESSAGES: usize = 500;
    let broker = Mosquitto::start().await.unwrap();
    let subscriber = MqttSubscriber::connect(broker.port(), "edgex/out/#", Qos::AtLeastOnce)
        .await
        .unwrap();
    let (service, handles) = with(AppService::new("app-surface"), |setup| {
        setup.add_pipeline(PipelineDraft::default_pipeline().step("Count", counting(&Count::default())));
        let queue = setup.background_publisher(MESSAGES).unwrap();
        (queue, setup.build_context("c", "text/plain"))
    });
    let place = Place::new(&SERVICE.replace("@PORT@", &broker.port().to_string()));
    let running = place.build(service).await.unwrap().spawn();
    let (queue, ctx) = handles.await.unwrap();
    for number in 0..MESSAGES {
        let data = Data::Text(number.to_string());
        queue.publish("out/x", &data, &ctx).await.unwrap();
    }
    running.drain(Duration::from_secs(20)).await;
    assert_eq!(subscriber.wait_for(MESSAGES, LONG).await.len(), MESSAGES);
}

/// EdgeX: `MetricsManager`.
#[tokio::test]
async fn a_metric_of_ones_own_is_reported_like_those_of_the_service() {
    // Given a function that counts, and a configuration that switches this on
    let broker = Mosquitto::start().await.unwrap();
    let telemetry = "  Telemetry:\n    Interval: 100ms\n    Metrics:\n      CallsSeen: true\nMine:\n  Name:";
    let configuration = SERVICE.replacen("Mine:\n  Name:", telemetry, 1);
    let place = Place::new(&configuration.replace("@PORT@", &broker.port().to_string()));
    let subscriber = MqttSubscriber::connect(broker.port(), "edgex/telemetry/#", Qos::AtLeastOnce)
        .await
        .unwrap();
    let (inlet, trigger) = Inlet::new();
    let (service, metrics) = with(AppService::new("app-surface").with_trigger(trigger), |setup| {
        let calls = Counter::new();
        let registered = setup.metrics().register("CallsSeen-7", &calls, [("line", "7")]);
        registered.unwrap();
        let count = CountCalls(calls);
        setup.add_pipeline(PipelineDraft::default_pipeline().step("CountCalls", BuiltFunction::new(count)));
        setup.metrics().clone()
    });
    let built = place.build(service).await.unwrap();
    let port = built.rest_address().unwrap().port();
    let running = built.spawn();
    let metrics = metrics.await.unwrap();

    // When it has counted
    report(&inlet, "edgex/events/device/d/Pump/pump-1/Level").await;

    // Then its number is on the bus, with the tag of the service and its own
    let mut seen = 0;
    let metric = loop {
        seen += 1;
        let message = subscriber.wait_for(seen, LONG).await.remove(seen - 1);
        assert_eq!(message.topic, "edgex/telemetry/app-surface/CallsSeen");
        let metric = envelope(&message)["payload"].take();
        if metric["fields"] == json!([{ "name": "counter-count", "value": 1 }]) {
            break metric;
        }
    };
    assert_eq!(
        metric["tags"],
        json!([{ "name": "service", "value": "app-surface" }, { "name": "line", "value": "7" }])
    );

    // And where Prometheus looks, beside those of the service, until it is taken away
    let text = http::get(port, "/metrics").await.unwrap().text();
    let own = "edgehold_calls_seen_7_total{service=\"app-surface\",line=\"7\"} 1\n";
    let of_pipeline = "edgehold_pipeline_messages_processed_total{service=\"app-surface\",pipeline=\"default-pipeline\"} 1\n";
    assert!(text.contains(own) && text.contains(of_pipeline), "{text}");
    assert!(metrics.unregister("CallsSeen-7"));
    let text = http::get(port, "/metrics").await.unwrap().text();
    assert!(!text.contains("calls_seen"), "{text}");
    running.drain(Duration::from_secs(5)).await;
}

/// Counts what it is handed.
struct CountCalls(Counter);

impl Transform for CountCalls {
    fn apply(&self, _: &mut Context, data: Data) -> Result<Flow, FunctionError> {
        self.0.increment();
        Ok(Flow::Continue(data))
    }
}

/// Contract, messages §4: with the HTTP trigger and external MQTT the original refuses to start a background publisher,
/// and of two the last one alone works.
#[tokio::test]
async fn background_publishing_works_with_every_trigger_and_any_number_of_queues() {
    let broker = Mosquitto::start().await.unwrap();
    for kind in ["http", "External-MQTT"] {
        let subscriber = MqttSubscriber::connect(broker.port(), "edgex/out/#", Qos::AtLeastOnce)
            .await
            .unwrap();
        let port = broker.port().to_string();
        let configuration = SERVICE.replace("@PORT@", &port).replace(
            "edgex-messagebus",
            &format!("{kind}\n  ExternalMqtt:\n    Url: tcp://127.0.0.1:{port}"),
        );
        let (service, handles) = with(AppService::new("app-surface"), |setup| {
            setup.add_pipeline(PipelineDraft::default_pipeline().step("Count", counting(&Count::default())));
            let queues = [1, 2].map(|capacity| setup.background_publisher(capacity).unwrap());
            (queues, setup.build_context("c", "text/plain"))
        });
        let place = Place::new(&configuration);
        let running = place.build(service).await.unwrap().spawn();
        let (queues, ctx) = handles.await.unwrap();
        for queue in &queues {
            queue
                .publish("out/x", &Data::Text("x".to_owned()), &ctx)
                .await
                .unwrap();
        }
        assert_eq!(subscriber.wait_for(2, LONG).await.len(), 2, "{kind}");
        running.drain(Duration::from_secs(5)).await;
    }
}

#[tokio::test]
async fn without_a_message_bus_nobody_is_promised_to_publish() {
    let configuration = SERVICE
        .replace("MessageBus:", "MessageBus:\n  Disabled: true")
        .replace("@PORT@", "1");
    let (service, told) = with(AppService::new("app-surface").with_trigger(Idle), |setup| {
        setup.add_pipeline(PipelineDraft::default_pipeline().step("Count", counting(&Count::default())));
        setup.publisher().err()
    });
    let place = Place::new(&configuration);
    place.build(service).await.unwrap();
    assert_eq!(told.await.unwrap(), Some(NoMessageBus));
}

#[tokio::test]
async fn pipelines_in_code_get_the_base_prefix_and_can_be_replaced() {
    let broker = Mosquitto::start().await.unwrap();
    let (inlet, trigger) = Inlet::new();
    let count = Count::default();
    let (pumps, everything) = (count.clone(), count.clone());
    let service = AppService::new("app-surface").with_trigger(trigger);
    let (service, control) = with(service, move |setup| {
        let topics = ["events/device/+/Pump/#"];
        setup.add_pipeline(
            PipelineDraft::for_topics("pumps", &topics)
                .function("FilterByDeviceName", [("DeviceNames", "pump")])
                .step("Count", counting(&pumps)),
        );
        setup.pipelines()
    });
    let place = Place::at(&broker);
    let running = place.build(service).await.unwrap().spawn();
    let control = control.await.unwrap();
    let pipelines = async |topic: &str| match report(&inlet, topic).await {
        DeliveryReport::Runs(runs) => runs
            .iter()
            .map(|run| run.pipeline_id.to_string())
            .collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert_eq!(pipelines("edgex/events/device/d/Pump/p/Level").await, ["pumps"]);
    assert_eq!(pipelines("events/device/d/Pump/p/Level").await, [""; 0]);

    let default = PipelineDraft::default_pipeline().step("Count", counting(&everything));
    control.replace(vec![default]).await.unwrap();
    assert_eq!(pipelines("anything").await, ["default-pipeline"]);

    // What cannot be built changes nothing.
    let twice = || PipelineDraft::default_pipeline().step("Count", counting(&count));
    for wrong in [
        vec![twice(), twice()],
        vec![PipelineDraft::default_pipeline()],
        vec![PipelineDraft::default_pipeline().function("Nonsense", [])],
        vec![PipelineDraft::for_topics("x", &["a/#/b"]).step("Count", counting(&count))],
    ] {
        assert!(matches!(
            control.replace(wrong).await,
            Err(ReplaceError::Draft(_))
        ));
    }
    assert_eq!(pipelines("anything").await, ["default-pipeline"]);

    control.replace(Vec::new()).await.unwrap();
    assert_eq!(pipelines("anything").await, [""; 0]);
    assert_eq!(
        *count.0.lock().unwrap(),
        ["pumps", "default-pipeline", "default-pipeline"]
    );
    running.drain(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_custom_trigger_is_chosen_by_name_and_hears_how_its_deliveries_ended() {
    let configuration = SERVICE
        .replace("edgex-messagebus", "My-Line")
        .replace("@PORT@", "1");
    let (inlet, trigger) = Inlet::new();
    let service = AppService::new("app-surface")
        .with_custom_trigger("my-LINE", move |context| {
            assert_eq!(context.service_key.as_str(), "app-surface");
            Ok(Box::new(trigger))
        })
        .unwrap()
        .with_setup(|setup| {
            setup.add_pipeline(
                PipelineDraft::default_pipeline()
                    .function("SetResponseData", [("ResponseContentType", "a/b")]),
            );
            Ok(())
        });
    let place = Place::new(&configuration);
    let running = place.build(service).await.unwrap().spawn();
    let DeliveryReport::Runs(runs) = report(&inlet, "any").await else {
        panic!("it is an event")
    };
    let RunEnd::Succeeded(Some(response)) = &runs[0].end else {
        panic!("{runs:?}")
    };
    assert_eq!(response.content_type, "a/b");
    assert!(Event::decode(&response.data, edgehold_contracts::ContentType::Json).is_ok());
    running.drain(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn routes_of_ones_own_answer_and_may_stop_the_service() {
    let broker = Mosquitto::start().await.unwrap();
    let service = AppService::new("app-surface").with_setup(|setup| {
        setup.add_pipeline(PipelineDraft::default_pipeline().step("Count", counting(&Count::default())));
        let stop: StopHandle = setup.stop_handle();
        let route = CustomRoute::try_new("/api/v3/stop", &[RouteMethod::Post], move |_| {
            stop.stop();
            async { RouteResponse::text(202, "stopping") }
        })?;
        setup.add_route(route);
        Ok(())
    });
    let place = Place::at(&broker);
    let built = place.build(service).await.unwrap();
    let port = built.rest_address().unwrap().port();
    let running = built.spawn();
    let stopped = running.stop_requested();
    let answer = http::send(port, "POST", "/api/v3/stop", &[], b"").await.unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (202, "stopping"));
    stopped.await;
    running.drain(Duration::from_secs(5)).await;
}

/// Refuses while the switch is off, and says that what waits may go when told to.
struct Gatekeeper {
    up: Arc<AtomicBool>,
    asks: bool,
}

impl Transform for Gatekeeper {
    fn apply(&self, ctx: &mut Context, data: Data) -> Result<Flow, FunctionError> {
        if !self.up.load(Ordering::SeqCst) {
            ctx.set_retry_input(&data);
            return Err(FunctionError::transient("not yet"));
        }
        if self.asks {
            ctx.trigger_retry_failed_data();
        }
        Ok(Flow::Continue(data))
    }
}

/// EdgeX: `TriggerRetryFailedData`.
#[tokio::test]
async fn a_function_may_ask_for_everything_that_waits_to_be_tried() {
    // Given a pipeline whose data waits for an hour, and another that knows better
    let configuration = SERVICE.replace("@PORT@", "1").replace(
        "  LogLevel: INFO\n",
        "  LogLevel: INFO\n  StoreAndForward:\n    Enabled: true\n    RetryInterval: 1h\n    MaxRetryCount: 0\n",
    );
    let (inlet, trigger) = Inlet::new();
    let up = Arc::new(AtomicBool::new(false));
    let (slow, other) = (up.clone(), Arc::new(AtomicBool::new(true)));
    let service = AppService::new("app-surface")
        .with_trigger(trigger)
        .with_setup(move |setup| {
            let step = |up, asks| BuiltFunction::new(Gatekeeper { up, asks });
            setup.add_pipeline(PipelineDraft::for_topics("slow", &["slow"]).step("Slow", step(slow, false)));
            setup.add_pipeline(
                PipelineDraft::for_topics("knows", &["knows"]).step("Knows", step(other, true)),
            );
            Ok(())
        });
    let place = Place::new(&configuration);
    let running = place.build(service).await.unwrap().spawn();
    let ended = report(&inlet, "edgex/slow").await;
    assert!(
        matches!(&ended, DeliveryReport::Runs(runs) if matches!(runs[0].end, RunEnd::Kept { .. })),
        "{ended:?}"
    );
    wait::until("it to wait", LONG, async || waiting(&running).await == 1).await;

    // When that one asks, then it is tried at once
    up.store(true, Ordering::SeqCst);
    report(&inlet, "edgex/knows").await;
    wait::until("what waited to be gone", LONG, async || {
        waiting(&running).await == 0
    })
    .await;
    running.drain(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn events_from_the_bus_run_through_pipelines_in_code() {
    let broker = Mosquitto::start().await.unwrap();
    let count = Count::default();
    let seen = count.clone();
    let service = AppService::new("app-surface").with_setup(move |setup| {
        let draft = PipelineDraft::for_topics("levels", &["events/device/+/+/+/Level"]);
        setup.add_pipeline(draft.step("Count", counting(&seen)));
        Ok(())
    });
    let place = Place::at(&broker);
    let running = place.build(service).await.unwrap().spawn();
    let mut publisher = MqttPublisher::connect(broker.port()).await.unwrap();
    let event: Value = serde_json::from_str(EVENT).unwrap();
    let envelope = json!({ "correlationID": "c", "contentType": "application/json", "payload": event });
    wait::until("the event to be seen", LONG, async || {
        let topic = "edgex/events/device/d/Pump/pump-1/Level";
        publisher
            .publish(topic, envelope.to_string(), Qos::AtLeastOnce)
            .await
            .unwrap();
        !count.0.lock().unwrap().is_empty()
    })
    .await;
    running.drain(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn events_are_pushed_to_core_data_over_the_bus_and_never_in_a_circle() {
    let broker = Mosquitto::start().await.unwrap();
    let pushed = "edgex/events/device/app-surface/Pump/pump-1/Level";
    let subscriber = MqttSubscriber::connect(broker.port(), "edgex/events/#", Qos::AtLeastOnce)
        .await
        .unwrap();
    let place = Place::at(&broker);
    let (inlet, trigger) = Inlet::new();
    let service = AppService::new("app-surface")
        .with_trigger(trigger)
        .with_setup(|setup| {
            let push = setup.push_to_core_data(false)?;
            setup.add_pipeline(PipelineDraft::default_pipeline().step("PushToCoreData", push));
            Ok(())
        });
    let running = place.build(service).await.unwrap().spawn();
    report(&inlet, "edgex/other/topic").await;
    let message = subscriber.wait_for(1, LONG).await.remove(0);
    assert_eq!(message.topic, pushed);
    let request = &envelope(&message)["payload"];
    assert_eq!(
        (&request["apiVersion"], &request["event"]["deviceName"]),
        (&json!("v3"), &json!("pump-1"))
    );

    // What it has pushed itself it does not push again.
    report(&inlet, pushed).await;
    report(&inlet, "edgex/other/topic").await;
    let mut last = MqttPublisher::connect(broker.port()).await.unwrap();
    last.publish("edgex/events/last", "", Qos::AtLeastOnce)
        .await
        .unwrap();
    let mut seen = Vec::new();
    wait::until("the last message", LONG, async || {
        seen = subscriber.messages();
        seen.iter().any(|message| message.topic == "edgex/events/last")
    })
    .await;
    assert_eq!(seen.iter().filter(|message| message.topic == pushed).count(), 2);
    running.drain(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn events_are_pushed_to_core_data_by_rest_and_kept_while_it_is_away() {
    let core_data = HttpSink::start().await.unwrap();
    let created = || {
        Answer::new(201)
            .body(r#"{"apiVersion":"v3","statusCode":201,"id":"e"}"#)
            .into()
    };
    core_data.script(move |_| created());
    let clients = format!(
        "Clients:\n  core-data:\n    Host: 127.0.0.1\n    Port: {}\n",
        core_data.port()
    );
    let configuration = SERVICE.replace("@PORT@", "1").replace(
        "  LogLevel: INFO\n",
        "  LogLevel: INFO\n  StoreAndForward:\n    Enabled: true\n    RetryInterval: 1s\n",
    );
    let place = Place::new(&format!("{configuration}{clients}"));
    let (inlet, trigger) = Inlet::new();
    let service = AppService::new("app-surface")
        .with_trigger(trigger)
        .with_setup(|setup| {
            assert!(setup.clients().metadata().is_none());
            let push = setup
                .push_to_core_data_by_rest(true)
                .expect("core-data has an address");
            setup.add_pipeline(PipelineDraft::default_pipeline().step("PushToCoreData", push));
            Ok(())
        });
    let running = place.build(service).await.unwrap().spawn();
    report(&inlet, "any").await;
    assert_eq!(
        core_data.take()[0].target,
        "/api/v3/event/app-surface/Pump/pump-1/Level"
    );
    core_data.behave(Behaviour::status(503));
    let ended = report(&inlet, "any").await;
    assert!(
        matches!(&ended, DeliveryReport::Runs(runs) if matches!(runs[0].end, RunEnd::Kept { .. })),
        "{ended:?}"
    );
    core_data.script(move |_| created());
    wait::until("what was kept to arrive", LONG, async || {
        core_data
            .requests()
            .iter()
            .any(|request| request.status == Some(201))
    })
    .await;
    running.drain(Duration::from_secs(5)).await;
}

#[path = "../../examples/boiler.rs"]
#[expect(dead_code, reason = "its main is for a process of its own")]
mod boiler;

#[tokio::test]
async fn the_example_watches_boilers() {
    // Given the example with its own configuration, at servers of the test
    let (broker, sink) = (
        Mosquitto::start().await.unwrap(),
        HttpSink::start().await.unwrap(),
    );
    let alarms = MqttSubscriber::connect(broker.port(), "edgex/alarms/#", Qos::AtLeastOnce)
        .await
        .unwrap();
    let configuration = include_str!("../../examples/boiler/configuration.yaml")
        .replace("Port: 1883", &format!("Port: {}", broker.port()))
        .replace("Port: 59790", "Port: 0")
        .replace("http://localhost:8080/alarms", &sink.url("/alarms"));
    let place = Place::new(&configuration);
    let built = place
        .build(AppService::new("app-boiler").with_setup(boiler::set_up))
        .await
        .unwrap();
    let port = built.rest_address().unwrap().port();
    let running = built.spawn();

    // When events below and above the limit come
    let mut publisher = MqttPublisher::connect(broker.port()).await.unwrap();
    let event: Value = serde_json::from_str(EVENT).unwrap();
    wait::until("an alarm", LONG, async || {
        for (bar, resource) in [("8.5", "Pressure"), ("9.9", "Level"), ("9.5e0", "Pressure")] {
            let mut event = event.clone();
            let reading = &mut event["readings"][0];
            (reading["value"], reading["valueType"]) = (json!(bar), json!("Float64"));
            reading["resourceName"] = json!(resource);
            let envelope =
                json!({ "correlationID": "c", "contentType": "application/json", "payload": event });
            let topic = "edgex/events/device/d/Pump/pump-1/Pressure";
            publisher
                .publish(topic, envelope.to_string(), Qos::AtLeastOnce)
                .await
                .unwrap();
        }
        sink.count() > 0
    })
    .await;

    // Then only what is above it has been sent on, tagged, to where its profile belongs, and published
    for request in sink.requests() {
        let event = request.json();
        assert_eq!(request.target, "/alarms/pump");
        assert_eq!(event["readings"][0]["value"], "9.5e0");
        assert_eq!(event["tags"], json!({ "site": "hall-3", "severity": 2 }));
    }
    assert_eq!(alarms.wait_for(1, LONG).await[0].topic, "edgex/alarms/pump-1");
    let counted: Value = http::get(port, "/api/v3/alarms").await.unwrap().json().unwrap();
    assert!(counted["alarms"].as_u64() >= Some(1), "{counted}");
    running.drain(Duration::from_secs(5)).await;
}

/// EdgeX: `NewMQTTSecretSenderWithTopicFormatter`.
#[tokio::test]
async fn topics_of_an_mqtt_export_may_be_made_by_code() {
    let broker = Mosquitto::start().await.unwrap();
    let subscriber = MqttSubscriber::connect(broker.port(), "out/#", Qos::AtLeastOnce)
        .await
        .unwrap();
    let (inlet, trigger) = Inlet::new();
    let url = broker.url();
    let service = AppService::new("app-surface")
        .with_trigger(trigger)
        .with_setup(move |setup| {
            let formatter = |format: &str, ctx: &Context, data: &Data| {
                Ok(format!("{format}/{}/{}", ctx.pipeline_id(), data.kind().as_str()))
            };
            setup.add_mqtt_export("MQTTExportMade", Arc::new(formatter));
            let parameters = [
                ("BrokerAddress", url.as_str()),
                ("Topic", "out"),
                ("SecretName", ""),
                ("AuthMode", "none"),
                ("ClientId", "app-surface-export"),
            ];
            setup.add_pipeline(PipelineDraft::default_pipeline().function("MQTTExportMade", parameters));
            Ok(())
        });
    let place = Place::at(&broker);
    let running = place.build(service).await.unwrap().spawn();
    report(&inlet, "any").await;
    let message = subscriber.wait_for(1, LONG).await.remove(0);
    assert_eq!(message.topic, "out/default-pipeline/event");
    running.drain(Duration::from_secs(5)).await;
}
