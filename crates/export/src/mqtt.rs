//! `MQTTExport`: publishes what it is handed to a broker (contract: messages-and-functions §6.5).
//!
//! | parameter | default | meaning |
//! | --- | --- | --- |
//! | `BrokerAddress` | required | `tcp://host:port`, over TLS `ssl://host:port` |
//! | `Topic` | required | `{placeholders}` are replaced by context values for each message |
//! | `ClientId` | required | by which the broker knows us; empty: it gives a name |
//! | `AuthMode` | `none` | `none`, `usernamepassword`, `clientcert`, `cacert` |
//! | `SecretName` | empty | the secret with `username`, `password`, `clientcert`, `clientkey`, `cacert` |
//! | `Qos` | `0` | 0: exported when written to the connection; 1 and 2: when the broker has confirmed it |
//! | `Retain` | `false` | whether the broker keeps the message for later subscribers |
//! | `PersistOnError` | `false` | what cannot be published is kept for a later attempt |
//! | `SkipVerify` | `false` | any certificate of the broker will do |
//! | `KeepAlive` | `30s` | how often the broker hears from us at least; `0s`: never |
//! | `ConnectTimeout` | `30s` | how long one attempt to connect may take, and one message in all |
//! | `WillEnabled`, `WillTopic`, `WillPayload`, `WillQos`, `WillRetained` | none | what the broker publishes when the connection breaks |
//! | `PreConnect` | `false` | connects when the pipeline is built, not with the first message; nobody waits for it |
//! | `MaxReconnectInterval` | `2s` | the longest pause between two attempts to connect, which double from 100 ms |
//! | `AutoReconnect`, `PreConnectRetryCount`, `PreConnectRetryInterval` | | checked, without effect: a lost connection always comes back |
//!
//! It hands on nothing: the next function gets what the pipeline began with. MQTT 3.1.1 has no header that could carry an
//! idempotency key.
//!
//! Where this differs from EdgeX on purpose:
//!
//! - Every wait ends, and no message stays in the memory of a client: while the connection is away messages fail at once.
//! - With `PersistOnError` all failures keep the data, also a missing secret and a placeholder without a value.
//! - `WillQos` is the quality of service of the will alone, and `Qos` is 0, 1 or 2.
//! - Functions with the same broker, client id and credentials share one connection, so that they do not throw each other
//!   off, and a change of the configuration keeps it.
//! - Secrets are read again before each attempt to connect, and for each message: a changed one makes the connection anew.
//! - Durations and numbers are checked when the pipeline is built; `AuthMode` and `SecretName` may be left out.

mod connection;
mod options;

use std::sync::Arc;

use edgehold_core::{
    AppFunction, BoxFuture, BuiltFunction, Context, Data, Destination, ErrorClass, ExportTarget, Fault, Flow,
    FunctionError, FunctionFactory, InvalidFunction, Parameters, Unsent,
};
use edgehold_mqtt::PublishError;

use crate::Formatter;

pub use self::connection::{ConnectionRunner, Connections};
use self::{connection::Connection, options::MqttExportOptions};

/// Builds `MQTTExport` functions, which share their connections.
pub struct MqttExportFactory {
    connections: Connections,
    formatter: Option<Formatter>,
}

impl MqttExportFactory {
    /// Its functions publish over these connections.
    pub fn new(connections: Connections) -> Self {
        Self {
            connections,
            formatter: None,
        }
    }

    /// Makes the topic of each message from `Topic` with this, instead of replacing placeholders.
    /// (EdgeX: `NewMQTTSecretSenderWithTopicFormatter`.)
    #[must_use]
    pub fn with_topic_formatter(mut self, formatter: Formatter) -> Self {
        self.formatter = Some(formatter);
        self
    }
}

impl FunctionFactory for MqttExportFactory {
    fn build(&self, parameters: &Parameters) -> Result<BuiltFunction, InvalidFunction> {
        let options = MqttExportOptions::from_parameters(parameters)?;
        let settings = options.connection.clone();
        let connection = self
            .connections
            .get(settings)
            .map_err(|e| parameters.invalid("BrokerAddress", format!("of no use: {e}")))?;
        for remark in connection.remarks() {
            tracing::warn!(function = parameters.function(), "{remark}");
        }
        if options.pre_connect
            && let Err(error) = connection.connect()
        {
            tracing::warn!(function = parameters.function(), "connecting later: {error}");
        }
        Ok(BuiltFunction::new(MqttExport {
            destination: connection.destination(),
            connection,
            options: Arc::new(options),
            formatter: self.formatter.clone(),
        }))
    }
}

/// The function `MQTTExport`.
struct MqttExport {
    options: Arc<MqttExportOptions>,
    connection: Connection,
    destination: Destination,
    formatter: Option<Formatter>,
}

/// Cancel safety: a message that is dropped before it was written is not sent; one that was written may arrive.
impl AppFunction for MqttExport {
    fn call<'a>(&'a self, ctx: &'a mut Context, data: Data) -> BoxFuture<'a, Result<Flow, FunctionError>> {
        Box::pin(async move {
            match self.publish(ctx, &data).await {
                Ok(()) => Ok(Flow::ContinueWithPipelineInput),
                Err(error) => {
                    if self.options.persist_on_error {
                        ctx.set_retry_input(&data);
                    }
                    Err(error)
                }
            }
        })
    }

    fn hands_on_nothing(&self) -> bool {
        true
    }
}

impl MqttExport {
    async fn publish(&self, ctx: &mut Context, data: &Data) -> Result<(), FunctionError> {
        let options = &self.options;
        let pipeline = ctx.pipeline_id().clone();
        let topic = match &self.formatter {
            Some(format) => format(&options.topic, ctx, data)?,
            None => ctx.apply_values(&options.topic).map_err(|e| {
                FunctionError::permanent(format!(
                    "in pipeline '{pipeline}' there is no topic to publish to"
                ))
                .with_source(e)
            })?,
        };
        let payload = data.to_bytes(ctx.generation());
        let bytes = payload.len();
        let unsent = match options.persist_on_error {
            true => Unsent::Kept,
            false => Unsent::Lost,
        };
        ctx.approach(self.destination.clone(), unsent).await?;
        let published = match self.connection.publisher().await {
            Ok(publisher) => {
                publisher
                    .publish(&topic, payload, options.qos, options.retain)
                    .await
            }
            Err(error) => Err(error),
        };
        let target = ExportTarget::Mqtt {
            address: &options.shown_address,
            topic: &topic,
        };
        match &published {
            Ok(()) => ctx.observer().exported(target, bytes),
            Err(_) => ctx.observer().export_failed(target),
        }
        published.map_err(|error| {
            FunctionError::new(error.class(), format!("export failed in pipeline '{pipeline}'"))
                .with_fault(fault(&error))
                .with_source(error)
        })
    }
}

/// A broker that refuses this client serves none of its messages: as good as one that is away. The destination is that of
/// the client alone, so that it says nothing of other clients' messages.
fn fault(error: &PublishError) -> Fault {
    match error {
        PublishError::TimedOut { .. }
        | PublishError::Refused { .. }
        | PublishError::Away { .. }
        | PublishError::ConnectionLost => Fault::Destination,
        // The service is ending, or the connection just gives way to another one.
        PublishError::Ended => Fault::Unknown,
        error if error.class() == ErrorClass::Permanent => Fault::Request,
        _ => Fault::Unknown,
    }
}
