//! An application service with code of its own: watches the pressure of boilers.
//!
//! - Keeps the readings named by an application setting, and lets alarms pass a limit that may change while it runs.
//! - Tags what passes, publishes it to the message bus, answers it to whoever triggered it, and sends it on, wherever its
//!   profile belongs.
//! - Says how many alarms there were by a route of its own, and stops when asked to.
//!
//! Run it beside a broker on port 1883, and publish an event:
//!
//! ```text
//! EDGEX_SECURITY_SECRET_STORE=false cargo run -p edgehold --example boiler -- -cd=crates/sdk/examples/boiler
//! curl http://localhost:59790/api/v3/alarms
//! ```

use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use edgehold::{
    AppFunction, AppService, BoxFuture, BuiltFunction, Context, CustomRoute, Data, Flow, FunctionError,
    HttpExportFactory, PipelineDraft, ReadingValue, RouteMethod, RouteResponse, SectionWatch, Setup,
    SetupError, Tags, TargetType, add_tags,
};
use serde::Deserialize;
use serde_json::json;

/// `Writable.Alarm`: live.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Alarm {
    /// Bar.
    limit: f64,
}

/// Lets events pass that have a reading over the limit, and publishes each of them as an alarm.
struct OverLimit {
    alarm: SectionWatch<Alarm>,
    count: Arc<AtomicU64>,
}

impl AppFunction for OverLimit {
    fn call<'a>(&'a self, ctx: &'a mut Context, data: Data) -> BoxFuture<'a, Result<Flow, FunctionError>> {
        Box::pin(async move {
            let Data::Event(event) = &data else {
                return Err(FunctionError::permanent("an alarm is made of an event"));
            };
            // A limit that cannot be read is put right in the configuration: the event waits for that.
            let limit = self.alarm.current().map_err(|error| {
                ctx.set_retry_input(&data);
                FunctionError::transient("the limit is not known").with_source(error)
            })?;
            let over = event.readings.iter().any(|reading| match &reading.value {
                ReadingValue::Simple(text) => text.parse().is_ok_and(|bar: f64| bar > limit.limit),
                _ => false,
            });
            if !over {
                return Ok(Flow::Stop);
            }
            ctx.publish_with_topic("alarms/{devicename}", &data, "application/json")
                .await?;
            self.count.fetch_add(1, Ordering::Relaxed);
            Ok(Flow::Continue(data))
        })
    }
}

pub(crate) fn set_up(setup: &mut Setup<'_>) -> Result<(), SetupError> {
    let count = Arc::new(AtomicU64::new(0));
    let over_limit = OverLimit {
        alarm: setup.watch_section("Writable/Alarm")?,
        count: count.clone(),
    };
    let resources = setup.app_setting_list("Resources")?.join(",");
    let site = setup.app_setting("Site")?;
    let destination = setup.app_setting("Destination")?.to_owned();
    let tags = Tags::from_iter([
        ("site".to_owned(), json!(site)),
        ("severity".to_owned(), json!(2)),
    ]);

    // Each profile has a path of its own at the destination.
    let by_profile = HttpExportFactory::new().with_url_formatter(Arc::new(|format, ctx, _| {
        let profile = ctx.value("profilename").unwrap_or("unknown");
        Ok(format!("{format}/{}", profile.to_lowercase()))
    }));
    setup.add_function("HTTPExportByProfile", by_profile);

    setup.add_pipeline(
        PipelineDraft::for_topics("alarms", &["events/device/#"])
            .function("FilterByResourceName", [("ResourceNames", resources.as_str())])
            .step("OverLimit", BuiltFunction::new(over_limit))
            .step("AddTags", add_tags(tags))
            .function("SetResponseData", [("ResponseContentType", "application/json")])
            .function(
                "HTTPExportByProfile",
                [
                    ("Method", "post"),
                    ("Url", destination.as_str()),
                    ("MimeType", ""),
                    ("PersistOnError", "true"),
                ],
            ),
    );

    setup.add_route(CustomRoute::try_new(
        "/api/v3/alarms",
        &[RouteMethod::Get],
        move |_| {
            let alarms = count.load(Ordering::Relaxed);
            async move { RouteResponse::json(&json!({ "alarms": alarms })) }
        },
    )?);
    let stop = setup.stop_handle();
    setup.add_route(CustomRoute::try_new(
        "/api/v3/stop",
        &[RouteMethod::Post],
        move |_| {
            stop.stop();
            async { RouteResponse::status(202) }
        },
    )?);
    Ok(())
}

fn main() -> ExitCode {
    AppService::new("app-boiler")
        .with_target_type(TargetType::Event)
        .with_setup(set_up)
        .main()
}
