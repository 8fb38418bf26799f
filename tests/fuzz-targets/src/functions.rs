//! What the targets of functions share: a function by its name, and a context to call it with.

use std::{
    future::Future,
    pin::pin,
    sync::Arc,
    task::{Context as TaskContext, Poll, Waker},
};

use edgehold_contracts::Generation;
use edgehold_core::{
    AppFunction, BoxFuture, Context, CorrelationId, Data, Flow, FunctionError, FunctionRegistry, Parameters,
    PipelineId, Secret, SecretError, SecretProvider, ServiceKey,
};
use edgehold_functions::Sources;

struct NoSecrets;

impl SecretProvider for NoSecrets {
    fn secret<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Secret, SecretError>> {
        let name = name.to_owned();
        Box::pin(std::future::ready(Err(SecretError::UnknownName { name })))
    }
}

/// The function with this name and these parameters; none when they are refused, which takes a text.
pub(crate) fn function(name: &str, parameters: &[(&str, &str)]) -> Option<Arc<dyn AppFunction>> {
    let mut registry = FunctionRegistry::default();
    let sources = Sources {
        uuid: Default::default,
        now: || 0,
        fill_random: |bytes| bytes.fill(0),
    };
    edgehold_functions::register(&mut registry, sources);
    let (_, factory) = registry.resolve(name).expect("it is built in");
    match factory.build(&Parameters::new(name, parameters.iter().copied())) {
        Ok(built) => Some(built.function),
        Err(refusal) => {
            assert!(!refusal.to_string().is_empty());
            None
        }
    }
}

/// Calls a function that never waits.
pub(crate) fn call(function: &dyn AppFunction, data: Data) -> Result<Flow, FunctionError> {
    let mut ctx = Context::new(
        ServiceKey::try_new("app-fuzzed").expect("it is a key"),
        PipelineId::default_pipeline(),
        CorrelationId::new("c"),
        Generation::V4,
        Arc::new(NoSecrets),
    );
    let mut future = pin!(function.call(&mut ctx, data));
    match future.as_mut().poll(&mut TaskContext::from_waker(Waker::noop())) {
        Poll::Ready(flow) => flow,
        Poll::Pending => panic!("it waits"),
    }
}
