//! The configuration as types: what a running service reads its settings from.
//!
//! A value of [`Configuration`] is always whole and valid: it is made by [`crate::resolve`] alone, from leaves that have
//! each been checked. Special numbers of the files (0 = without end) end here; from here on they are types.

mod json;
mod writable;

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

pub use writable::{
    Backoff, InsecureSecret, Journal, LogLevel, Ordering, PerTopicPipeline, PipelineSettings,
    StoreAndForward, Telemetry, WhenFull, Writable,
};

pub(crate) use self::json::shown as leaf_json;
use crate::{Layers, Leaves, redact};

/// Everything a service is told.
#[derive(Clone, PartialEq)]
pub struct Configuration {
    /// What may change while the service runs.
    pub writable: Arc<Writable>,
    /// The service itself and its REST server.
    pub service: Service,
    /// TLS of the REST server.
    pub http_server: HttpServer,
    /// Where the registry is.
    pub registry: RegistryAddress,
    /// The EdgeX message bus.
    pub message_bus: MessageBus,
    /// Where deliveries come from.
    pub trigger: Trigger,
    /// Where store and forward keeps its objects.
    pub database: Database,
    /// Other services by service key.
    pub clients: BTreeMap<String, Client>,
    /// Free settings for custom functions.
    pub application_settings: BTreeMap<String, String>,
    /// How much may be held at once.
    pub limits: Limits,
    leaves: Arc<Leaves>,
}

/// `Service`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// How often the registry asks for a sign of life. Above zero.
    pub health_check_interval: Duration,
    /// The host others reach the service at.
    pub host: String,
    /// REST port.
    pub port: u16,
    /// The address to listen at; empty means `host`. See [`Service::bind_host`].
    pub server_bind_addr: String,
    /// Logged when the service is ready.
    pub startup_msg: String,
    /// Not used by application services.
    pub max_result_count: u64,
    /// Largest request body; none = no limit. (`MaxRequestSize` counts in KiB.)
    pub max_request_bytes: Option<u64>,
    /// Longest time a request may take. Above zero.
    pub request_timeout: Duration,
    /// Whether names are escaped in topics and URLs.
    pub enable_name_field_escape: bool,
    /// Cross-origin requests.
    pub cors: Cors,
    /// How to listen through OpenZiti.
    pub security_options: BTreeMap<String, String>,
}

impl Service {
    /// The host to listen at.
    pub fn bind_host(&self) -> &str {
        if self.server_bind_addr.is_empty() {
            &self.host
        } else {
            &self.server_bind_addr
        }
    }
}

/// `Service.CORSConfiguration`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    /// Whether cross-origin requests are answered.
    pub enabled: bool,
    /// `Access-Control-Allow-Credentials`.
    pub allow_credentials: bool,
    /// `Access-Control-Allow-Origin`.
    pub allowed_origin: String,
    /// `Access-Control-Allow-Methods`.
    pub allowed_methods: String,
    /// `Access-Control-Allow-Headers`.
    pub allowed_headers: String,
    /// `Access-Control-Expose-Headers`.
    pub expose_headers: String,
    /// `Access-Control-Max-Age`.
    pub max_age: Duration,
}

/// `HttpServer`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpServer {
    /// `https` serves TLS; anything else is http.
    pub protocol: String,
    /// The secret that holds certificate and key.
    pub secret_name: String,
    /// The key of the certificate in that secret.
    pub https_cert_name: String,
    /// The key of the private key in that secret.
    pub https_key_name: String,
}

/// `Registry`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryAddress {
    /// `Type`: `consul` or `keeper`.
    pub kind: String,
    /// Host name; empty when not configured.
    pub host: String,
    /// Port; 0 when not configured.
    pub port: u16,
}

/// `MessageBus`.
#[derive(Clone, PartialEq, Eq)]
pub struct MessageBus {
    /// Whether the service does without.
    pub disabled: bool,
    /// `Type`: `mqtt`, `redis`, `nats-core`, `nats-jetstream`.
    pub kind: String,
    /// Scheme of its URL; `tcp` when not configured.
    pub protocol: String,
    /// Host name; empty when not configured.
    pub host: String,
    /// Port; 0 when not configured.
    pub port: u16,
    /// `none`, `usernamepassword`, `clientcert`, `cacert`; `none` when not configured.
    pub auth_mode: String,
    /// The secret that holds the credentials.
    pub secret_name: String,
    /// First level of every topic, never empty.
    pub base_topic_prefix: String,
    /// Options by name, as configured. The typed ones are checked.
    pub optional: BTreeMap<String, String>,
}

impl MessageBus {
    /// The MQTT client id; none when not configured.
    pub fn client_id(&self) -> Option<&str> {
        self.optional
            .get("ClientId")
            .map(String::as_str)
            .filter(|id| !id.is_empty())
    }

    /// The quality of service of subscriptions and publications, 0 to 2; none when not configured.
    pub fn qos(&self) -> Option<u8> {
        self.optional_int("Qos")
    }

    /// The MQTT keep-alive in whole seconds, zero = off; 10 seconds when not configured, as the common configuration
    /// has it.
    pub fn keep_alive(&self) -> Duration {
        Duration::from_secs(self.optional_int("KeepAlive").unwrap_or(10))
    }

    /// Whether the broker forgets the client when it leaves; none when not configured.
    pub fn clean_session(&self) -> Option<bool> {
        self.optional_bool("CleanSession")
    }

    /// How long to wait for a connection; 5 seconds when not configured.
    pub fn connect_timeout(&self) -> Duration {
        Duration::from_secs(
            self.optional_int("ConnectTimeout")
                .filter(|secs| *secs > 0)
                .unwrap_or(5),
        )
    }

    /// Whether messages are published with the retained flag; false when not configured.
    pub fn retained(&self) -> bool {
        self.optional_bool("Retained").unwrap_or(false)
    }

    /// Whether a lost connection is made again. True when not configured (EdgeX's library says false there, and its
    /// common configuration true).
    pub fn auto_reconnect(&self) -> bool {
        self.optional_bool("AutoReconnect").unwrap_or(true)
    }

    /// Whether the broker's certificate goes unverified; false when not configured.
    pub fn skip_cert_verify(&self) -> bool {
        self.optional_bool("SkipCertVerify").unwrap_or(false)
    }

    /// An option that is a text; empty when not configured.
    pub fn optional_text(&self, name: &str) -> &str {
        self.optional.get(name).map_or("", String::as_str)
    }

    /// Whether a stream that is missing is made (JetStream); false when not configured.
    pub fn auto_provision(&self) -> bool {
        self.optional_bool("AutoProvision").unwrap_or(false)
    }

    /// Whether a stream takes a message with the same correlation id once only (JetStream); false when not configured.
    pub fn exactly_once(&self) -> bool {
        self.optional_bool("ExactlyOnce").unwrap_or(false)
    }

    /// How often a message is published again that no stream took (JetStream); 2 when not configured.
    pub fn publish_retries(&self) -> u32 {
        self.optional_int("DefaultPubRetryAttempts").unwrap_or(2)
    }

    fn optional_bool(&self, name: &str) -> Option<bool> {
        self.optional
            .get(name)
            .filter(|text| !text.is_empty())
            .and_then(|text| edgehold_core::parse_go_bool(text))
    }

    fn optional_int<T: TryFrom<i64>>(&self, name: &str) -> Option<T> {
        let text = self.optional.get(name)?;
        crate::scalar::parse_int(text)
            .ok()
            .and_then(|number| T::try_from(number).ok())
    }
}

/// `Trigger`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trigger {
    /// `Type`, to be compared without regard to case: `edgex-messagebus`, `external-mqtt`, `http` or a custom name.
    pub kind: String,
    /// Topics to subscribe, without base prefix.
    pub subscribe_topics: Vec<String>,
    /// Topic for responses, with placeholders and without base prefix; empty = none.
    pub publish_topic: String,
    /// The external broker.
    pub external_mqtt: ExternalMqtt,
}

/// `Trigger.ExternalMqtt`.
#[derive(Clone, PartialEq, Eq)]
pub struct ExternalMqtt {
    /// Broker URL.
    pub url: String,
    /// MQTT client id.
    pub client_id: String,
    /// How long to wait for a connection; 30 seconds when not configured.
    pub connect_timeout: Duration,
    /// Whether a lost connection is made again.
    pub auto_reconnect: bool,
    /// Keep-alive; none = off.
    pub keep_alive: Option<Duration>,
    /// Quality of service, 0 to 2.
    pub qos: u8,
    /// Whether responses are published with the retained flag.
    pub retain: bool,
    /// Whether the broker's certificate goes unverified.
    pub skip_cert_verify: bool,
    /// The secret that holds the credentials.
    pub secret_name: String,
    /// `none`, `usernamepassword`, `clientcert`, `cacert`; `none` when not configured.
    pub auth_mode: String,
    /// How long to try to connect at start; none when not configured.
    pub retry_duration: Option<Duration>,
    /// The pause between two tries at start; none when not configured.
    pub retry_interval: Option<Duration>,
    /// Whether the broker forgets the client when it leaves; none when not configured.
    pub clean_session: Option<bool>,
    /// The last will; none unless enabled.
    pub will: Option<Will>,
}

/// An MQTT last will.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will {
    /// Topic.
    pub topic: String,
    /// Payload.
    pub payload: String,
    /// Quality of service, 0 to 2.
    pub qos: u8,
    /// Retained flag.
    pub retained: bool,
}

/// `Database`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    /// `Type`, to be compared without regard to case; `sqlite` when empty. As written, it is the name of the secret
    /// with the credentials.
    pub kind: String,
    /// Host name; empty when not configured.
    pub host: String,
    /// Port; 0 when not configured.
    pub port: u16,
    /// Longest time for a connection or a statement. Above zero.
    pub timeout: Duration,
    /// File of the SQLite store; empty = the default in the data folder.
    pub name: String,
    /// Whether stored objects are compressed.
    pub compression: bool,
    /// Whether stored objects are encrypted.
    pub encryption: bool,
    /// The secret with the keys.
    pub encryption_secret_name: String,
    /// `SslMode` of the PostgreSQL store; empty when not configured.
    pub ssl_mode: String,
}

/// One of `Clients`.
#[derive(Clone, PartialEq, Eq)]
pub struct Client {
    /// `http` or `https`.
    pub protocol: String,
    /// Host name.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Whether it is called over the message bus.
    pub use_message_bus: bool,
    /// How to reach it through OpenZiti.
    pub security_options: BTreeMap<String, String>,
}

/// How much may be held at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all deliveries in hand. Above zero.
    pub max_in_flight_bytes: u32,
    /// Most bytes kept on the local disk while the store is away; 0 = none.
    pub spool_max_bytes: u64,
    /// Largest message that is taken in, in bytes. Above zero, at most what an MQTT packet can carry.
    pub max_message_bytes: usize,
}

impl Configuration {
    pub(crate) fn from_leaves<'a>(leaves: Arc<Leaves>, functions: impl IntoIterator<Item = &'a str>) -> Self {
        let of = &*leaves;
        Self {
            writable: Arc::new(Writable::from_leaves(of, functions)),
            service: Service {
                health_check_interval: of.duration("Service/HealthCheckInterval"),
                host: of.text("Service/Host"),
                port: of.int("Service/Port"),
                server_bind_addr: of.text("Service/ServerBindAddr"),
                startup_msg: of.text("Service/StartupMsg"),
                max_result_count: of.int("Service/MaxResultCount"),
                max_request_bytes: match of.int("Service/MaxRequestSize") {
                    0_u64 => None,
                    kib => Some(kib.saturating_mul(1024)),
                },
                request_timeout: of.duration("Service/RequestTimeout"),
                enable_name_field_escape: of.bool("Service/EnableNameFieldEscape"),
                cors: Cors {
                    enabled: of.bool("Service/CORSConfiguration/EnableCORS"),
                    allow_credentials: of.bool("Service/CORSConfiguration/CORSAllowCredentials"),
                    allowed_origin: of.text("Service/CORSConfiguration/CORSAllowedOrigin"),
                    allowed_methods: of.text("Service/CORSConfiguration/CORSAllowedMethods"),
                    allowed_headers: of.text("Service/CORSConfiguration/CORSAllowedHeaders"),
                    expose_headers: of.text("Service/CORSConfiguration/CORSExposeHeaders"),
                    max_age: Duration::from_secs(of.int("Service/CORSConfiguration/CORSMaxAge")),
                },
                security_options: of.texts("Service/SecurityOptions/"),
            },
            http_server: HttpServer {
                protocol: of.text("HttpServer/Protocol"),
                secret_name: of.text("HttpServer/SecretName"),
                https_cert_name: of.text("HttpServer/HTTPSCertName"),
                https_key_name: of.text("HttpServer/HTTPSKeyName"),
            },
            registry: RegistryAddress {
                kind: of.text("Registry/Type"),
                host: of.text("Registry/Host"),
                port: of.int("Registry/Port"),
            },
            message_bus: MessageBus {
                disabled: of.bool("MessageBus/Disabled"),
                kind: of.text("MessageBus/Type"),
                protocol: of.text_or("MessageBus/Protocol", "tcp"),
                host: of.text("MessageBus/Host"),
                port: of.int("MessageBus/Port"),
                auth_mode: of.text_or("MessageBus/AuthMode", "none"),
                secret_name: of.text("MessageBus/SecretName"),
                base_topic_prefix: of.text_or("MessageBus/BaseTopicPrefix", "edgex"),
                optional: of.texts("MessageBus/Optional/"),
            },
            trigger: Trigger {
                kind: of.text("Trigger/Type"),
                subscribe_topics: of.list("Trigger/SubscribeTopics"),
                publish_topic: of.text("Trigger/PublishTopic"),
                external_mqtt: external_mqtt(of),
            },
            database: Database {
                kind: of.text_or("Database/Type", "sqlite"),
                host: of.text("Database/Host"),
                port: of.int("Database/Port"),
                timeout: of.duration("Database/Timeout"),
                name: of.text("Database/Name"),
                compression: of.word("Database/Compression") == "zstd",
                encryption: of.word("Database/Encryption") == "aes256-gcm",
                encryption_secret_name: of.text("Database/EncryptionSecretName"),
                ssl_mode: of
                    .get("Database/SslMode")
                    .map(|leaf| leaf.text().to_owned())
                    .unwrap_or_default(),
            },
            clients: of
                .names("Clients/")
                .map(|name| (name.to_owned(), client(of, name)))
                .collect(),
            application_settings: of.texts("ApplicationSettings/"),
            limits: Limits {
                max_in_flight_bytes: of.bytes("MaxInFlightBytes"),
                spool_max_bytes: of.bytes("SpoolMaxBytes"),
                max_message_bytes: of.bytes("MaxMessageBytes"),
            },
            leaves,
        }
    }

    /// The settings this configuration was made from, with their texts and origins.
    pub fn leaves(&self) -> &Leaves {
        &self.leaves
    }
}

/// Shows no secret: a map of settings below a folder, given with its slash.
pub(crate) struct Shown<'a>(pub(crate) &'static str, pub(crate) &'a BTreeMap<String, String>);

impl fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |(name, text): (&String, &String)| {
            (name.clone(), redact::shown(&format!("{}{name}", self.0), text))
        };
        f.debug_map().entries(self.1.iter().map(shown)).finish()
    }
}

impl fmt::Debug for Configuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Configuration").field(&self.leaves).finish()
    }
}

impl fmt::Debug for MessageBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessageBus")
            .field("kind", &self.kind)
            .field("protocol", &self.protocol)
            .field("host", &redact::shown("MessageBus/Host", &self.host))
            .field("port", &self.port)
            .field("auth_mode", &self.auth_mode)
            .field("secret_name", &self.secret_name)
            .field("optional", &Shown("MessageBus/Optional/", &self.optional))
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ExternalMqtt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExternalMqtt")
            .field("url", &redact::shown("Trigger/ExternalMqtt/Url", &self.url))
            .field("client_id", &self.client_id)
            .field("qos", &self.qos)
            .field("auth_mode", &self.auth_mode)
            .field("secret_name", &self.secret_name)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("protocol", &self.protocol)
            .field("host", &redact::shown("Host", &self.host))
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

macro_rules! default_from {
    ($($part:ty = $field:ident),+) => {$(
        impl Default for $part {
            /// Every setting at its default.
            fn default() -> Self {
                Configuration::default().$field
            }
        }
    )+};
}

default_from!(
    Service = service,
    MessageBus = message_bus,
    Trigger = trigger,
    Database = database,
    Limits = limits
);

impl Default for Configuration {
    /// Every setting at its default.
    fn default() -> Self {
        let defaults = crate::resolve(&Layers::default(), None);
        Arc::unwrap_or_clone(defaults.configuration)
    }
}

fn external_mqtt(of: &Leaves) -> ExternalMqtt {
    let path = |name: &str| format!("Trigger/ExternalMqtt/{name}");
    let seconds = |name: &str| {
        let configured: i64 = of.int(&path(name));
        let configured = u64::try_from(configured).ok().filter(|seconds| *seconds > 0);
        configured.map(Duration::from_secs)
    };
    ExternalMqtt {
        url: of.text(&path("Url")),
        client_id: of.text(&path("ClientId")),
        connect_timeout: of
            .some_duration(&path("ConnectTimeout"))
            .unwrap_or(Duration::from_secs(30)),
        auto_reconnect: of.bool(&path("AutoReconnect")),
        keep_alive: Some(of.int(&path("KeepAlive")))
            .filter(|secs| *secs > 0)
            .map(Duration::from_secs),
        qos: of.int(&path("QoS")),
        retain: of.bool(&path("Retain")),
        skip_cert_verify: of.bool(&path("SkipCertVerify")),
        secret_name: of.text(&path("SecretName")),
        auth_mode: of.text_or(&path("AuthMode"), "none"),
        retry_duration: seconds("RetryDuration"),
        retry_interval: seconds("RetryInterval"),
        clean_session: of
            .get(&path("CleanSession"))
            .map(|_| of.bool(&path("CleanSession"))),
        will: of.bool(&path("Will/Enabled")).then(|| Will {
            topic: of.text(&path("Will/Topic")),
            payload: of.text(&path("Will/Payload")),
            qos: of.int(&path("Will/Qos")),
            retained: of.bool(&path("Will/Retained")),
        }),
    }
}

fn client(of: &Leaves, name: &str) -> Client {
    let path = |setting: &str| format!("Clients/{name}/{setting}");
    Client {
        protocol: of.text(&path("Protocol")),
        host: of.text(&path("Host")),
        port: of.int(&path("Port")),
        use_message_bus: of.bool(&path("UseMessageBus")),
        security_options: of.texts(&path("SecurityOptions/")),
    }
}

#[cfg(test)]
mod tests;
