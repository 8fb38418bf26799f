//! Pipelines of a configuration file tried on a message, offline: the library side of `pipeline test`.

use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;
use edgehold_config::{Configuration, secrets::InsecureSecretProvider};
use edgehold_contracts::{EnvelopeError, MessageEnvelope, Payload};
use edgehold_core::{
    CorrelationId, Data, FunctionRegistry, InvalidId, PayloadForm, Pipeline, PipelineSet, SecretProvider,
    ServiceKey,
};
use edgehold_runtime::{Pipelines, Rehearsal, Rehearsed, RehearsedMessage, now};
use tokio::sync::watch;

use crate::{
    bootstrap::{self, Access, ConfigurationError},
    invocation::Invocation,
    service::AppService,
    trigger,
};

/// What to try, and on what.
#[derive(Clone, Debug)]
pub struct RehearsalRequest {
    /// The private configuration file. Flags and environment apply to it as to the file of a service.
    pub configuration: PathBuf,
    /// A message as it stands on the bus, in its envelope as JSON, or the payload alone.
    pub message: Bytes,
    /// The pipeline to try; none: all of them.
    pub pipeline: Option<String>,
    /// The topic the message comes from: pipelines of other topics are not tried. None: whatever their topics.
    pub topic: Option<String>,
    /// Whether exports send.
    pub sends: bool,
}

/// What a message became, in each pipeline that was tried.
#[derive(Debug)]
pub struct RehearsalReport {
    /// What the first functions received.
    pub input: Data,
    /// Each pipeline and what it made of it.
    pub pipelines: Vec<(Arc<Pipeline>, Rehearsed)>,
}

/// Why nothing was tried.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RehearsalError {
    /// The service key cannot be one.
    #[error(transparent)]
    ServiceKey(#[from] InvalidId),
    /// There is no configuration.
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    /// Pipelines that cannot be built.
    #[error("the pipelines cannot be built: {0}")]
    Pipelines(String),
    /// No pipeline is to be tried.
    #[error("{0}")]
    NoPipeline(String),
    /// The envelope of the message cannot be read.
    #[error("the envelope of the message cannot be read")]
    Envelope(#[from] EnvelopeError),
    /// The payload is not what the pipelines work on.
    #[error("the payload is not what TargetType asks for: {0}")]
    Payload(String),
}

impl AppService {
    /// Tries the pipelines of a configuration on a message, with the functions of this service; nothing is stored, and
    /// nothing sent unless asked for.
    ///
    /// # Errors
    /// [`RehearsalError`]; that a function fails is none, but part of the report.
    ///
    /// Cancel safety: dropped, it leaves nothing behind but what exports have sent.
    pub async fn rehearse(
        self,
        invocation: &Invocation,
        request: &RehearsalRequest,
    ) -> Result<RehearsalReport, RehearsalError> {
        // TLS clients take the process's provider; a second installation changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (service_key, functions, fixed) = self.into_pipeline_parts();
        let service_key = ServiceKey::try_new(&invocation.flags.service_key(&service_key))?;
        let mut invocation = invocation.clone();
        invocation.flags.config_provider = None;
        invocation.set_private_file(&request.configuration);
        let loaded = bootstrap::load(&invocation, &service_key, Access::ReadOnly).await?;
        let configuration = loaded.effective.configuration;

        let pipelines =
            offline_pipelines(functions, fixed, &configuration).map_err(RehearsalError::Pipelines)?;
        let set = pipelines.set();
        let chosen = chosen(&set, request)?;
        let message = message(request)?;

        let (_writable, receiver) = watch::channel(configuration.writable.clone());
        let secrets: Arc<dyn SecretProvider> = Arc::new(InsecureSecretProvider::new(receiver));
        let rehearsal = Rehearsal {
            service_key,
            generation: bootstrap::generation(&invocation),
            secrets,
            sends: request.sends,
        };
        let input = rehearsal
            .data(set.target_type, &message)
            .map_err(RehearsalError::Payload)?;
        let mut tried = Vec::new();
        for pipeline in chosen {
            let rehearsed = rehearsal.run(&pipeline, &message, input.clone()).await;
            tried.push((pipeline, rehearsed));
        }
        Ok(RehearsalReport {
            input,
            pipelines: tried,
        })
    }
}

/// The pipelines that a service with this configuration would run; else what cannot be built.
pub(crate) fn offline_pipelines(
    functions: FunctionRegistry,
    fixed: Vec<Pipeline>,
    configuration: &Configuration,
) -> Result<Pipelines, String> {
    let mut pipelines = Pipelines::new(functions, trigger::topic_prefix(configuration));
    for pipeline in fixed {
        pipelines.add_fixed(pipeline);
    }
    let rejections = pipelines
        .apply(&configuration.writable.pipeline, now())
        .rejections;
    if rejections.is_empty() {
        return Ok(pipelines);
    }
    let reasons: Vec<_> = rejections
        .iter()
        .map(|rejection| format!("{}: {}", rejection.key, rejection.reason))
        .collect();
    Err(reasons.join("; "))
}

fn chosen(set: &PipelineSet, request: &RehearsalRequest) -> Result<Vec<Arc<Pipeline>>, RehearsalError> {
    let ids = || {
        let ids: Vec<_> = set
            .pipelines
            .iter()
            .map(|pipeline| pipeline.id().as_str())
            .collect();
        ids.join(", ")
    };
    let mut chosen: Vec<_> = set.pipelines.clone();
    if let Some(wanted) = &request.pipeline {
        chosen.retain(|pipeline| pipeline.id().as_str() == wanted);
        if chosen.is_empty() {
            let problem = format!("there is no pipeline '{wanted}', only {}", ids());
            return Err(RehearsalError::NoPipeline(problem));
        }
    }
    if let Some(topic) = &request.topic {
        chosen.retain(|pipeline| pipeline.matches(topic));
        if chosen.is_empty() {
            let problem = format!("no pipeline takes the topic '{topic}' (there are {})", ids());
            return Err(RehearsalError::NoPipeline(problem));
        }
    }
    Ok(chosen)
}

/// The message out of its envelope, if it has one. A payload alone is JSON when it begins like it, else CBOR.
fn message(request: &RehearsalRequest) -> Result<RehearsedMessage, RehearsalError> {
    let topic = request.topic.clone().unwrap_or_default();
    let json: Option<serde_json::Value> = serde_json::from_slice(&request.message).ok();
    let is_envelope =
        json.is_some_and(|json| json.get("payload").is_some() && json.get("contentType").is_some());
    if !is_envelope {
        let begins_like_json = matches!(request.message.trim_ascii_start().first(), Some(b'{' | b'['));
        let content_type = if begins_like_json {
            "application/json"
        } else {
            "application/cbor"
        };
        return Ok(RehearsedMessage {
            payload: request.message.clone(),
            form: PayloadForm::Bytes,
            content_type: content_type.to_owned(),
            topic,
            correlation_id: CorrelationId::new("pipeline-test"),
        });
    }
    let envelope = MessageEnvelope::from_json(&request.message)?;
    let (payload, form) = match envelope.payload {
        Payload::Text(text) => (Bytes::from(text), PayloadForm::Text),
        payload @ Payload::Json(_) => (payload.into_bytes()?, PayloadForm::Json),
        payload => (payload.into_bytes()?, PayloadForm::Base64),
    };
    Ok(RehearsedMessage {
        payload,
        form,
        content_type: envelope.content_type,
        topic,
        correlation_id: CorrelationId::new(&envelope.correlation_id),
    })
}
