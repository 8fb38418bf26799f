//! `HTTPExport` and `MQTTExport` against real servers on loopback. Owns what their tests share: how an export is built and
//! called.

mod answer;
mod connection;
mod gate;
mod mqtt;
mod observer;
mod recorded;
mod request;
mod tls;

use std::{future::Future, sync::Arc};

use bytes::Bytes;
use edgehold_contracts::Generation;
use edgehold_core::{
    AppFunction, BoxFuture, Context, CorrelationId, Data, Flow, FunctionError, FunctionRegistry,
    InvalidFunction, Parameters, PipelineId, Secret, SecretError, SecretProvider, SecretText, ServiceKey,
};

use edgehold_export::mqtt::Connections;

type Given<'a> = &'a [(&'a str, &'a str)];

const PERSIST: (&str, &str) = ("PersistOnError", "true");
const RETURN_INPUT: (&str, &str) = ("ReturnInputData", "true");
const CONTINUE: (&str, &str) = ("ContinueOnSendError", "true");

fn built(
    registry: &FunctionRegistry,
    url: &str,
    parameters: Given,
) -> Result<Arc<dyn AppFunction>, InvalidFunction> {
    let all = [("Method", "post"), ("Url", url)]
        .into_iter()
        .chain(parameters.iter().copied());
    let (_, factory) = registry.resolve("HTTPExport2")?;
    Ok(factory.build(&Parameters::new("HTTPExport2", all))?.function)
}

/// An export by POST unless `parameters` say otherwise: later ones replace earlier ones.
fn export(url: &str, parameters: Given) -> Arc<dyn AppFunction> {
    let mut registry = FunctionRegistry::default();
    edgehold_export::register(&mut registry, Connections::new().0);
    built(&registry, url, parameters).unwrap()
}

fn call<'a>(
    function: &'a Arc<dyn AppFunction>,
    ctx: &'a mut Context,
    data: Data,
) -> impl Future<Output = Result<Flow, FunctionError>> + 'a {
    function.call(ctx, data)
}

#[track_caller]
fn continued(flow: Result<Flow, FunctionError>) -> Data {
    match flow {
        Ok(Flow::Continue(data)) => data,
        Ok(other) => panic!("HTTPExport always hands on something, but it answered {other:?}"),
        Err(error) => panic!("the export failed: {}", error.chain()),
    }
}

fn bytes(text: &str) -> Data {
    Data::Bytes(Bytes::copy_from_slice(text.as_bytes()))
}

struct Secrets;

impl SecretProvider for Secrets {
    fn secret<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Secret, SecretError>> {
        Box::pin(async move {
            let known = [
                ("headervalue", "Bearer example-token"),
                ("twolines", "sesame\nsesame"),
            ];
            match name {
                "http" => Ok(known
                    .map(|(key, value)| (key.to_owned(), SecretText::new(value)))
                    .into()),
                _ => Err(SecretError::UnknownName {
                    name: name.to_owned(),
                }),
            }
        })
    }
}

fn context() -> Context {
    context_in(Generation::V4)
}

fn context_in(generation: Generation) -> Context {
    Context::new(
        ServiceKey::try_new("app-test").unwrap(),
        PipelineId::default_pipeline(),
        CorrelationId::new("corr-1"),
        generation,
        Arc::new(Secrets),
    )
}
