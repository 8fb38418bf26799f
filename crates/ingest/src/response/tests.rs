use std::sync::Arc;

use bytes::Bytes;
use edgehold_contracts::Generation;
use edgehold_core::{CorrelationId, PipelineId, Secret, SecretError, SecretProvider, ServiceKey};

use super::*;

struct NoSecrets;

impl SecretProvider for NoSecrets {
    fn secret<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Secret, SecretError>> {
        Box::pin(std::future::ready(Err(SecretError::UnknownName {
            name: name.to_owned(),
        })))
    }
}

fn context(generation: Generation, response: &'static [u8]) -> Context {
    let mut ctx = Context::new(
        ServiceKey::try_new("app-test").unwrap(),
        PipelineId::default_pipeline(),
        CorrelationId::new("corr-1"),
        generation,
        Arc::new(NoSecrets),
    );
    ctx.add_value(Context::DEVICE_NAME, "pump-1");
    ctx.set_response_data(Bytes::from_static(response));
    ctx
}

const TOPIC: &str = "edgex/out/{DeviceName}";

#[test]
fn the_envelope_names_no_version_and_holds_base64_in_both_generations() {
    for generation in [Generation::V3, Generation::V4] {
        let message = message(TOPIC, &context(generation, br#"{"a":1}"#));
        let (topic, envelope) = message.unwrap().expect("there is a response");
        assert_eq!(topic, "edgex/out/pump-1");
        let wanted = concat!(
            r#"{"apiVersion":"","receivedTopic":"","correlationID":"corr-1","requestID":"","errorCode":0,"#,
            r#""payload":"eyJhIjoxfQ==","contentType":"application/json"}"#
        );
        assert_eq!(String::from_utf8(envelope.to_json(generation)).unwrap(), wanted);
    }
}

#[test]
fn without_a_content_type_the_first_byte_decides() {
    let content_type = |response, told: &str| {
        let mut ctx = context(Generation::V4, response);
        ctx.set_response_content_type(told);
        let (_, envelope) = message(TOPIC, &ctx).unwrap().unwrap();
        envelope.content_type
    };
    assert_eq!(content_type(b"{}", ""), "application/json");
    assert_eq!(content_type(b"[1]", ""), "application/json");
    assert_eq!(content_type(b"<Event>", ""), "application/cbor");
    assert_eq!(content_type(b"", ""), "application/cbor");
    assert_eq!(content_type(b"{}", "text/plain"), "text/plain");
}

#[test]
fn a_placeholder_without_a_value_is_an_error_that_names_it() {
    let error = message("edgex/{nope}", &context(Generation::V4, b"{}")).unwrap_err();
    assert!(
        error.chain().contains("no value for '{nope}'"),
        "{}",
        error.chain()
    );
}

#[test]
fn without_a_response_there_is_no_message() {
    let ctx = Context::new(
        ServiceKey::try_new("app-test").unwrap(),
        PipelineId::default_pipeline(),
        CorrelationId::new("corr-1"),
        Generation::V4,
        Arc::new(NoSecrets),
    );
    assert!(message(TOPIC, &ctx).unwrap().is_none());
}
