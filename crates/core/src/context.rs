//! What accompanies one piece of data through one pipeline.

use std::{collections::BTreeMap, fmt, sync::Arc};

use bytes::Bytes;
use edgehold_contracts::{Generation, Payload, base64};

use crate::{
    CorrelationId, Data, DataKind, Destination, FunctionError, Gate, MessageId, MessagePublisher, NoObserver,
    Observer, OutgoingMessage, PipelineId, SecretProvider, ServiceKey, Unsent, digest,
};

/// What a failing function wants to be called with at its next attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryData {
    /// The bytes to keep.
    pub payload: Bytes,
    /// What they are turned back into.
    pub kind: DataKind,
}

/// The companion of one run of one pipeline: values, response, retry data.
///
/// Each pipeline that matches a delivery gets a context of its own. Values are text with lower-case keys:
/// `devicename`, `profilename`, `sourcename` (event target only), `receivedtopic` and `pipelineid` are there from the
/// beginning.
#[derive(Clone)]
pub struct Context {
    service_key: ServiceKey,
    pipeline_id: PipelineId,
    correlation_id: CorrelationId,
    generation: Generation,
    input_content_type: String,
    values: BTreeMap<String, String>,
    secrets: Arc<dyn SecretProvider>,
    /// What the pipeline began with; none before it begins.
    pipeline_input: Option<Data>,
    /// As it was given or restored; otherwise it follows from what the pipeline began with.
    message_id: Option<MessageId>,
    /// By what name it is kept in order, where not by its device.
    order: Option<String>,
    position: usize,
    retry_data: Option<RetryData>,
    destination: Option<Destination>,
    gate: Option<Arc<dyn Gate>>,
    response_data: Option<Bytes>,
    response_content_type: String,
    retry_wanted: bool,
    publisher: Option<Arc<dyn MessagePublisher>>,
    observer: Option<Arc<dyn Observer>>,
}

impl Context {
    /// The key of the context value that names the pipeline.
    pub const PIPELINE_ID: &'static str = "pipelineid";
    /// The key of the context value that holds the topic a delivery came from.
    pub const RECEIVED_TOPIC: &'static str = "receivedtopic";
    /// The key of the context value that names the device of an event.
    pub const DEVICE_NAME: &'static str = "devicename";
    /// The key of the context value that names the profile of an event.
    pub const PROFILE_NAME: &'static str = "profilename";
    /// The key of the context value that names the source of an event.
    pub const SOURCE_NAME: &'static str = "sourcename";

    /// Beside the values of a stored object: [`Context::message_id`].
    const STORED_MESSAGE_ID: &'static str = "edgehold:message";
    /// Beside the values of a stored object: its kind, a colon and the base64 of what the pipeline began with.
    const STORED_INPUT: &'static str = "edgehold:input";

    /// Beside the values of a stored object: [`Context::set_order`].
    pub const STORED_ORDER: &'static str = "edgehold:order";

    /// A fresh context; the only value it has is `pipelineid`.
    pub fn new(
        service_key: ServiceKey,
        pipeline_id: PipelineId,
        correlation_id: CorrelationId,
        generation: Generation,
        secrets: Arc<dyn SecretProvider>,
    ) -> Self {
        let values = BTreeMap::from([(Self::PIPELINE_ID.to_owned(), pipeline_id.as_str().to_owned())]);
        Self {
            service_key,
            pipeline_id,
            correlation_id,
            generation,
            input_content_type: String::new(),
            values,
            secrets,
            pipeline_input: None,
            message_id: None,
            order: None,
            position: 0,
            retry_data: None,
            destination: None,
            gate: None,
            response_data: None,
            response_content_type: String::new(),
            retry_wanted: false,
            publisher: None,
            observer: None,
        }
    }

    /// The service this pipeline belongs to.
    pub fn service_key(&self) -> &ServiceKey {
        &self.service_key
    }

    /// The pipeline that is running.
    pub fn pipeline_id(&self) -> &PipelineId {
        &self.pipeline_id
    }

    /// Follows the message through the stack.
    pub fn correlation_id(&self) -> &CorrelationId {
        &self.correlation_id
    }

    /// The generation whose forms this service writes.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The content type the delivery arrived with; empty on a retry.
    pub fn input_content_type(&self) -> &str {
        &self.input_content_type
    }

    /// Notes the content type the delivery arrived with.
    pub fn set_input_content_type(&mut self, content_type: &str) {
        content_type.clone_into(&mut self.input_content_type);
    }

    /// The secrets of this service.
    pub fn secrets(&self) -> &dyn SecretProvider {
        &*self.secrets
    }

    /// The value with this key, whatever its case.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.values.get(&key.to_lowercase()).map(String::as_str)
    }

    /// Adds or replaces a value. Keys are kept in lower case.
    pub fn add_value(&mut self, key: &str, value: impl Into<String>) {
        self.values.insert(key.to_lowercase(), value.into());
    }

    /// Removes a value.
    pub fn remove_value(&mut self, key: &str) {
        self.values.remove(&key.to_lowercase());
    }

    /// All values; keys in lower case.
    pub fn values(&self) -> &BTreeMap<String, String> {
        &self.values
    }

    /// What is stored of this context with an object: its values, and under names of our own what is not a value but has
    /// to be the same at the next attempt. `with_input`: also what the pipeline began with.
    pub fn to_stored(&self, with_input: bool) -> BTreeMap<String, String> {
        let mut stored = self.values.clone();
        if let Some(id) = self.message_id() {
            stored.insert(Self::STORED_MESSAGE_ID.to_owned(), id.as_str().to_owned());
        }
        if let Some(input) = self.pipeline_input.as_ref().filter(|_| with_input) {
            let bytes = base64::encode(&input.to_bytes(self.generation));
            let text = format!("{}:{bytes}", input.kind().as_str());
            stored.insert(Self::STORED_INPUT.to_owned(), text);
        }
        if let Some(order) = &self.order {
            stored.insert(Self::STORED_ORDER.to_owned(), order.clone());
        }
        stored
    }

    /// Puts back what a stored object was kept with ([`Context::to_stored`]).
    pub fn restore(&mut self, mut stored: BTreeMap<String, String>) {
        self.message_id = stored
            .remove(Self::STORED_MESSAGE_ID)
            .map(|id| MessageId::from_stored(&id));
        self.pipeline_input = stored
            .remove(Self::STORED_INPUT)
            .and_then(|text| input_from_stored(&text));
        self.order = stored.remove(Self::STORED_ORDER);
        self.values = stored;
    }

    /// What is kept of this run is kept in order with others of this name, instead of with those of its device
    /// (`Ordering: device`).
    pub fn set_order(&mut self, name: String) {
        self.order = Some(name);
    }

    /// Notes what the pipeline begins with, unless that is known: a run that resumes has it from where it began, or else
    /// begins with what it resumes with.
    pub fn begin_with(&mut self, input: &Data) {
        self.pipeline_input.get_or_insert_with(|| input.clone());
    }

    /// What the pipeline began with; none before it begins.
    pub fn pipeline_input(&self) -> Option<&Data> {
        self.pipeline_input.as_ref()
    }

    /// Says which function of the pipeline is called, counted from 0.
    pub fn set_position(&mut self, position: usize) {
        self.position = position;
    }

    /// Says which message this is from now on: for a function that makes one of several
    /// ([`MessageId::of_members`]).
    pub fn set_message_id(&mut self, id: MessageId) {
        self.message_id = Some(id);
    }

    /// Which message this is. None for one that nothing tells from another of the same content: without a correlation id
    /// and no event.
    pub fn message_id(&self) -> Option<MessageId> {
        if let Some(id) = &self.message_id {
            return Some(id.clone());
        }
        let input = self.pipeline_input.as_ref()?;
        let is_event = matches!(input, Data::Event(event) if !event.id.is_empty());
        let is_unique = is_event || !self.correlation_id.as_str().is_empty();
        let topic = self.value(Self::RECEIVED_TOPIC).unwrap_or_default();
        is_unique.then(|| MessageId::of(topic, input, self.generation))
    }

    /// A text by which a destination tells an export that comes twice from two exports: a digest of service key,
    /// pipeline, position of the function, correlation id and [message](Context::message_id). The same at every attempt,
    /// also after a restart and when the broker delivers again.
    pub fn idempotency_key(&self) -> Option<String> {
        let position = self.position.to_string();
        let message_id = self.message_id()?;
        let parts = [
            self.service_key.as_str(),
            self.pipeline_id.as_str(),
            &position,
            self.correlation_id.as_str(),
            message_id.as_str(),
        ];
        Some(digest::hex(parts.map(str::as_bytes)))
    }

    /// Replaces each `{key}` in `format` by the context value of that key, whatever its case.
    ///
    /// # Errors
    /// [`UnresolvedPlaceholder`] for the first key without a value; nothing is replaced then.
    pub fn apply_values(&self, format: &str) -> Result<String, UnresolvedPlaceholder> {
        let mut result = String::with_capacity(format.len());
        let mut rest = format;
        while let Some(start) = rest.find('{') {
            let Some(length) = rest[start..].find('}') else {
                break;
            };
            let key = &rest[start + 1..start + length];
            let value = self.value(key).ok_or_else(|| UnresolvedPlaceholder {
                key: key.to_owned(),
                format: format.to_owned(),
            })?;
            result.push_str(&rest[..start]);
            result.push_str(value);
            rest = &rest[start + length + 1..];
        }
        result.push_str(rest);
        Ok(result)
    }

    /// Says that these bytes are to be kept and this function called again with them, should it now fail. Cleared
    /// before each function.
    pub fn set_retry_data(&mut self, payload: Bytes) {
        self.retry_data = Some(RetryData {
            payload,
            kind: DataKind::Bytes,
        });
    }

    /// As [`Context::set_retry_data`] with the bytes of `input`, which come back as what they are now: a function
    /// behind this one then receives the same type on a retry as at first.
    pub fn set_retry_input(&mut self, input: &Data) {
        self.retry_data = Some(RetryData {
            payload: input.to_bytes(self.generation),
            kind: input.kind(),
        });
    }

    /// Takes what the last function wanted to keep, leaving nothing.
    pub fn take_retry_data(&mut self) -> Option<RetryData> {
        self.retry_data.take()
    }

    /// Puts a gate before the destinations of this run.
    pub fn set_gate(&mut self, gate: Arc<dyn Gate>) {
        self.gate = Some(gate);
    }

    /// To be called by a function before it sends: says where to, as [`Context::set_destination`], and returns when it
    /// may. `unsent` is what becomes of the data if it may not. Without a gate it always may.
    ///
    /// # Errors
    /// As [`Gate::enter`]. It is to be returned like the failure of a send, with the data to keep.
    pub async fn approach(&mut self, destination: Destination, unsent: Unsent) -> Result<(), FunctionError> {
        let result = match &self.gate {
            Some(gate) => gate.enter(&destination, unsent).await,
            None => Ok(()),
        };
        self.destination = Some(destination);
        result
    }

    /// Says where this function sends to, for one that sends without asking. Cleared before each function.
    pub fn set_destination(&mut self, destination: Destination) {
        self.destination = Some(destination);
    }

    /// Takes the destination the last function named, leaving none.
    pub fn take_destination(&mut self) -> Option<Destination> {
        self.destination.take()
    }

    /// Asks for everything that waits in the store to be tried now, once this function has ended well; for a function that
    /// knows that its destination is back. Has no effect in a retry. (EdgeX: `TriggerRetryFailedData`.)
    pub fn trigger_retry_failed_data(&mut self) {
        self.retry_wanted = true;
    }

    /// Takes whether the last function wanted what waits to be tried.
    pub fn take_retry_wanted(&mut self) -> bool {
        std::mem::take(&mut self.retry_wanted)
    }

    /// Says how the functions of this run publish.
    pub fn set_publisher(&mut self, publisher: Arc<dyn MessagePublisher>) {
        self.publisher = Some(publisher);
    }

    /// Says who counts what the functions of this run send.
    pub fn set_observer(&mut self, observer: Arc<dyn Observer>) {
        self.observer = Some(observer);
    }

    /// To be told by a function of what it has sent or could not send.
    pub fn observer(&self) -> &dyn Observer {
        self.observer.as_deref().unwrap_or(&NoObserver)
    }

    /// Publishes `data` to the message bus: to `topic` behind the base prefix, each `{key}` in it replaced by the context
    /// value of that key. The message gets a correlation id of its own; events and other values go as JSON, bytes and text
    /// as they are, all of it as base64 in both generations. Returns once the bus has taken it.
    /// (EdgeX: `PublishWithTopic`.)
    ///
    /// # Errors
    /// Permanent: a placeholder without a value, no message bus, a topic nobody can publish to. Transient: the bus is away
    /// or did not confirm in time; the message may have arrived all the same.
    pub async fn publish_with_topic(
        &self,
        topic: &str,
        data: &Data,
        content_type: &str,
    ) -> Result<(), FunctionError> {
        let topic = self
            .apply_values(topic)
            .map_err(|error| FunctionError::permanent(error.to_string()))?;
        let Some(publisher) = &self.publisher else {
            return Err(FunctionError::permanent(
                "there is no message bus to publish to: MessageBus is disabled or not configured",
            ));
        };
        let message = OutgoingMessage {
            topic,
            payload: Payload::Bytes(data.to_bytes(self.generation)),
            content_type: content_type.to_owned(),
            correlation_id: None,
        };
        publisher.publish(message).await.map_err(|error| {
            FunctionError::new(error.class(), "cannot publish to the message bus").with_source(error)
        })
    }

    /// Sets what the trigger answers with once this pipeline has ended well.
    pub fn set_response_data(&mut self, data: Bytes) {
        self.response_data = Some(data);
    }

    /// What the trigger answers with.
    pub fn response_data(&self) -> Option<&Bytes> {
        self.response_data.as_ref()
    }

    /// Forgets what the trigger was to answer with.
    pub fn clear_response_data(&mut self) {
        self.response_data = None;
    }

    /// Sets the content type of the response; empty means: judge by the first byte.
    pub fn set_response_content_type(&mut self, content_type: impl Into<String>) {
        self.response_content_type = content_type.into();
    }

    /// The content type of the response.
    pub fn response_content_type(&self) -> &str {
        &self.response_content_type
    }
}

/// None for a damaged row: the run then goes on as one that begins with what it resumes with.
fn input_from_stored(text: &str) -> Option<Data> {
    let (kind, base64) = text.split_once(':')?;
    let bytes = base64::decode(base64.as_bytes()).ok()?;
    Data::restore(DataKind::from_name(kind)?, bytes.into()).ok()
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("service_key", &self.service_key)
            .field("pipeline_id", &self.pipeline_id)
            .field("correlation_id", &self.correlation_id)
            .field("values", &self.values)
            .finish_non_exhaustive()
    }
}

/// A `{placeholder}` whose key has no context value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed to replace all context placeholders in '{format}': no value for '{{{key}}}'")]
pub struct UnresolvedPlaceholder {
    key: String,
    format: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BoxFuture, Secret, SecretError};

    struct NoSecrets;

    impl SecretProvider for NoSecrets {
        fn secret<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Secret, SecretError>> {
            Box::pin(std::future::ready(Err(SecretError::UnknownName {
                name: name.to_owned(),
            })))
        }
    }

    fn context() -> Context {
        Context::new(
            ServiceKey::try_new("app-test").unwrap(),
            PipelineId::default_pipeline(),
            CorrelationId::new("corr-1"),
            Generation::V4,
            Arc::new(NoSecrets),
        )
    }

    #[test]
    fn placeholders_are_replaced_whatever_their_case() {
        let mut ctx = context();
        ctx.add_value("DeviceName", "pump-1");
        let result = ctx
            .apply_values("http://host/{deviceName}/{PIPELINEID}?d={devicename}")
            .unwrap();
        assert_eq!(result, "http://host/pump-1/default-pipeline?d=pump-1");
    }

    #[test]
    fn an_unknown_placeholder_rejects_the_whole_text_by_name() {
        let error = context().apply_values("{pipelineid}/{nope}").unwrap_err();
        assert_eq!(
            error.to_string(),
            "failed to replace all context placeholders in '{pipelineid}/{nope}': no value for '{nope}'"
        );
    }

    fn event(id: &str, readings: &[(&str, &str)]) -> Data {
        let reading = |(id, resource): &(&str, &str)| edgehold_contracts::Reading {
            id: (*id).to_owned(),
            resource_name: (*resource).to_owned(),
            ..Default::default()
        };
        Data::Event(Arc::new(edgehold_contracts::Event {
            id: id.to_owned(),
            readings: readings.iter().map(reading).collect(),
            ..Default::default()
        }))
    }

    fn key(correlation_id: &str, topic: &str, position: usize, input: &Data) -> Option<String> {
        let mut ctx = context();
        ctx.correlation_id = CorrelationId::new(correlation_id);
        ctx.add_value(Context::RECEIVED_TOPIC, topic);
        ctx.begin_with(input);
        ctx.set_position(position);
        ctx.idempotency_key()
    }

    #[test]
    fn every_message_has_a_key_of_its_own_at_every_position() {
        let one = event("e1", &[("r1", "a")]);
        let keys = [
            key("c", "t", 1, &one),
            key("c", "t", 2, &one),
            key("c", "u", 1, &one),
            key("d", "t", 1, &one),
            key("c", "t", 1, &event("e2", &[("r1", "a")])),
            key("c", "t", 1, &event("e1", &[("r2", "b")])),
            key("c", "t", 1, &Data::Text("a".to_owned())),
            key("c", "t", 1, &Data::Text("b".to_owned())),
        ];
        let different: std::collections::BTreeSet<_> = keys.iter().flatten().collect();
        assert_eq!(different.len(), keys.len(), "{keys:?}");
        assert_eq!(key("c", "t", 1, &one), keys[0]);
        assert!(keys.iter().flatten().all(|key| key.len() == 32));
    }

    #[test]
    fn what_may_legally_come_twice_has_no_key() {
        assert_eq!(key("", "t", 1, &Data::Text("on".to_owned())), None);
        assert!(key("", "t", 1, &event("e1", &[])).is_some());
    }

    #[test]
    fn what_is_stored_of_a_context_comes_back_but_is_no_value() {
        let mut first = context();
        first.begin_with(&event("e1", &[]));
        first.add_value("a", "1");
        first.set_position(3);

        first.set_order("a line".to_owned());
        let stored = first.to_stored(true);
        assert_eq!(
            stored.get(Context::STORED_ORDER).map(String::as_str),
            Some("a line")
        );
        let mut resumed = context();
        resumed.restore(stored);
        resumed.begin_with(&Data::Text("transformed".to_owned()));
        resumed.set_position(3);

        assert_eq!(resumed.to_stored(true), first.to_stored(true));
        assert_eq!(resumed.values(), first.values());
        assert_eq!(resumed.pipeline_input(), first.pipeline_input());
        assert_eq!(resumed.idempotency_key(), first.idempotency_key());
    }

    #[test]
    fn a_message_of_several_is_named_by_them() {
        let member = |id: &str| MessageId::of("t", &event(id, &[]), Generation::V4);
        let (a, b) = (member("a"), member("b"));
        let mut ctx = context();
        ctx.begin_with(&event("a", &[]));
        let alone = ctx.idempotency_key();
        ctx.set_message_id(MessageId::of_members([&a, &b]));
        let together = ctx.idempotency_key();
        assert!(together.is_some() && together != alone);
        assert_ne!(MessageId::of_members([&a, &b]), MessageId::of_members([&a]));
        assert_ne!(MessageId::of_members([&a]), a);
    }

    #[test]
    fn an_open_brace_without_its_end_is_plain_text() {
        assert_eq!(context().apply_values("a{b").unwrap(), "a{b");
    }

    #[test]
    fn a_value_is_not_searched_for_placeholders_again() {
        let mut ctx = context();
        ctx.add_value("a", "{b}");
        assert_eq!(ctx.apply_values("{a}").unwrap(), "{b}");
    }
}
