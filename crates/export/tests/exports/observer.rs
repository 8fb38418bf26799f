//! What is told of an export, by what name.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use edgehold_core::{Context, ExportTarget, Observer, PipelineId};
use edgehold_test_support::{Behaviour, HttpSink, Mosquitto};

use super::{CONTINUE, PERSIST, RETURN_INPUT, bytes, call, context, export, mqtt};

/// Notes each export: its target, and the bytes of one that was taken.
#[derive(Default)]
struct Notes(Mutex<Vec<(String, Option<usize>)>>);

impl Notes {
    fn note(&self, target: ExportTarget<'_>, bytes: Option<usize>) {
        let target = match target {
            ExportTarget::Http { url } => url.to_owned(),
            ExportTarget::Mqtt { address, topic } => format!("{address} {topic}"),
        };
        self.0.lock().unwrap().push((target, bytes));
    }

    fn take(&self) -> Vec<(String, Option<usize>)> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl Observer for Notes {
    fn run_started(&self, _: &PipelineId) {}

    fn run_ended(&self, _: &PipelineId, _: Duration) {}

    fn attempt_failed(&self, _: &PipelineId) {}

    fn exported(&self, target: ExportTarget<'_>, bytes: usize) {
        self.note(target, Some(bytes));
    }

    fn export_failed(&self, target: ExportTarget<'_>) {
        self.note(target, None);
    }
}

fn observed(notes: &Arc<Notes>) -> Context {
    let mut ctx = context();
    ctx.set_observer(notes.clone());
    ctx.add_value("devicename", "pump-1");
    ctx
}

#[tokio::test]
async fn a_request_is_told_by_its_own_url_without_the_password() {
    let mut sink = HttpSink::start().await.unwrap();
    let notes = Arc::new(Notes::default());
    let port = sink.port();
    let function = export(
        &format!("http://joe:sesame@127.0.0.1:{port}/{{devicename}}"),
        &[PERSIST],
    );
    let url = format!("http://joe:xxxxx@127.0.0.1:{port}/pump-1");
    call(&function, &mut observed(&notes), bytes("data"))
        .await
        .unwrap();
    assert_eq!(notes.take(), [(url.clone(), Some(4))]);

    sink.behave(Behaviour::status(500));
    call(&function, &mut observed(&notes), bytes("data"))
        .await
        .unwrap_err();
    assert_eq!(notes.take(), [(url, None)]);

    // Also of one whose failure does not end the pipeline. As it is configured: no slash is added.
    sink.refuse().await;
    let closed = format!("http://127.0.0.1:{port}");
    let function = export(&closed, &[CONTINUE, RETURN_INPUT]);
    call(&function, &mut observed(&notes), bytes("data"))
        .await
        .unwrap();
    assert_eq!(notes.take(), [(closed, None)]);

    // Nothing was to be sent.
    let nowhere = export("http://{nosuch}/", &[]);
    call(&nowhere, &mut observed(&notes), bytes("data"))
        .await
        .unwrap_err();
    assert_eq!(notes.take(), []);
}

#[tokio::test]
async fn a_message_is_told_by_broker_and_topic() {
    let mut broker = Mosquitto::start().await.unwrap();
    let notes = Arc::new(Notes::default());
    let exports = mqtt::Exports::start();
    let address = format!("tcp://joe:sesame@127.0.0.1:{}", broker.port());
    let told = format!("tcp://joe:xxxxx@127.0.0.1:{} out/pump-1", broker.port());
    let parameters = [
        ("Topic", "out/{devicename}"),
        ("Qos", "1"),
        ("ConnectTimeout", "5s"),
    ];
    let function = exports.try_build(&address, &parameters).unwrap();
    function.call(&mut observed(&notes), bytes("data")).await.unwrap();
    assert_eq!(notes.take(), [(told.clone(), Some(4))]);

    broker.kill().unwrap();
    function
        .call(&mut observed(&notes), bytes("data"))
        .await
        .unwrap_err();
    assert_eq!(notes.take(), [(told, None)]);
}
