//! The rows. Defaults are what EdgeX's common configuration ships where both generations agree, so that a service
//! without a common configuration still starts; what differs between the generations has EdgeX's zero value.

use super::{Kind, Setting};
use crate::duration::GoDuration;

const NO_TIME: GoDuration = GoDuration::ZERO;
const ANY_TIME: GoDuration = GoDuration::from_nanos(i64::MIN);
const A_MOMENT: GoDuration = GoDuration::from_nanos(1);
const ONE_SECOND: GoDuration = GoDuration::from_secs(1);

const BOOL: Kind = Kind::Bool;
const TEXT: Kind = Kind::Text;
const SECRET: Kind = Kind::Secret;
const ANY_INT: Kind = Kind::Int {
    min: i64::MIN,
    max: i64::MAX,
};
const COUNT: Kind = Kind::Int {
    min: 0,
    max: i64::MAX,
};
const PORT: Kind = Kind::Int { min: 0, max: 65_535 };
const QOS: Kind = Kind::Int { min: 0, max: 2 };
const KEEP_ALIVE: Kind = Kind::Int { min: 0, max: 65_535 };
const RETRIES: Kind = Kind::Int { min: 0, max: 65_535 };
const SECONDS: Kind = Kind::Int { min: 0, max: 86_400 };
const TASKS: Kind = Kind::Int { min: 1, max: 65_536 };
const SIZE: Kind = Kind::Bytes {
    min: 0,
    max: u64::MAX,
};
/// At most what 32 bits can count: what is in memory at one moment.
const MEMORY_SIZE: Kind = Kind::Bytes {
    min: 1,
    max: 0xFFFF_FFFF,
};
/// At most what an MQTT packet can carry.
const MESSAGE_SIZE: Kind = Kind::Bytes {
    min: 1,
    max: 268_435_455,
};

/// A duration that may be zero and has to be written.
const TIME: Kind = Kind::Duration {
    min: NO_TIME,
    floor: NO_TIME,
    blank_is_zero: false,
};
/// A duration that may be zero, which empty text is too.
const OPTIONAL_TIME: Kind = Kind::Duration {
    min: NO_TIME,
    floor: NO_TIME,
    blank_is_zero: true,
};
/// A duration above zero.
const SOME_TIME: Kind = Kind::Duration {
    min: A_MOMENT,
    floor: NO_TIME,
    blank_is_zero: false,
};
/// A duration that is raised to a second, however small or negative it is.
const RETRY_TIME: Kind = Kind::Duration {
    min: ANY_TIME,
    floor: ONE_SECOND,
    blank_is_zero: false,
};

const fn one_of(words: &'static [&'static str]) -> Kind {
    Kind::OneOf {
        words,
        any_case: true,
    }
}

const fn edgex(
    path: &'static str,
    kind: Kind,
    default: Option<&'static str>,
    meaning: &'static str,
) -> Setting {
    Setting {
        path,
        kind,
        default,
        of_edgex: true,
        meaning,
    }
}

const fn own(
    path: &'static str,
    kind: Kind,
    default: Option<&'static str>,
    meaning: &'static str,
) -> Setting {
    Setting {
        path,
        kind,
        default,
        of_edgex: false,
        meaning,
    }
}

/// The settings of EdgeX, with its names.
#[rustfmt::skip]
pub(super) const EDGEX: &[Setting] = &[
    edgex("Writable/LogLevel", Kind::OneOf { words: &["TRACE", "DEBUG", "INFO", "WARN", "ERROR"], any_case: false }, Some("INFO"), "least severe level that is logged; upper case only"),
    edgex("Writable/StoreAndForward/Enabled", BOOL, Some("false"), "keep failed exports and retry them"),
    edgex("Writable/StoreAndForward/RetryInterval", RETRY_TIME, Some("5m"), "pause between two attempts of one stored object; less than `1s` is taken as `1s`"),
    edgex("Writable/StoreAndForward/MaxRetryCount", Kind::RetryCount, Some("10"), "retries before an object goes to the error collection; 0 = without end, below 0 = 1"),
    edgex("Writable/Pipeline/TargetType", one_of(&["", "event", "raw", "metric"]), Some(""), "what a message is decoded into; empty = `event`"),
    edgex("Writable/Pipeline/ExecutionOrder", TEXT, Some(""), "functions of the default pipeline, separated by commas"),
    edgex("Writable/Pipeline/PerTopicPipelines/<name>/Id", TEXT, Some(""), "id of a further pipeline, unique in the service"),
    edgex("Writable/Pipeline/PerTopicPipelines/<name>/Topics", TEXT, Some(""), "topics it runs for, separated by commas, without base prefix"),
    edgex("Writable/Pipeline/PerTopicPipelines/<name>/ExecutionOrder", TEXT, Some(""), "its functions, separated by commas"),
    edgex("Writable/Pipeline/Functions/<name>/Parameters/<parameter>", TEXT, None, "a parameter of a function; the function's name begins with that of a built-in one"),
    edgex("Writable/InsecureSecrets/<entry>/SecretName", TEXT, None, "name of a secret, in insecure mode"),
    edgex("Writable/InsecureSecrets/<entry>/SecretData/<key>", SECRET, None, "a value of that secret"),
    edgex("Writable/Telemetry/Interval", OPTIONAL_TIME, Some("30s"), "pause between two reports of metrics; `0s` or empty = none"),
    edgex("Writable/Telemetry/Metrics/<name>", BOOL, None, "report the metrics whose names begin with this"),
    edgex("Writable/Telemetry/Tags/<name>", TEXT, None, "a tag of every metric"),

    edgex("Service/HealthCheckInterval", SOME_TIME, Some("10s"), "how often the registry asks for a sign of life"),
    edgex("Service/Host", TEXT, Some("localhost"), "host name others reach the service at; also bound to when `ServerBindAddr` is empty"),
    edgex("Service/Port", PORT, Some("0"), "REST port"),
    edgex("Service/ServerBindAddr", TEXT, Some(""), "address to listen at; empty = `Host`"),
    edgex("Service/StartupMsg", TEXT, Some(""), "logged when the service is ready"),
    edgex("Service/MaxResultCount", COUNT, Some("1024"), "not used by application services"),
    edgex("Service/MaxRequestSize", COUNT, Some("0"), "largest request body in KiB; 0 = no limit"),
    edgex("Service/RequestTimeout", SOME_TIME, Some("5s"), "longest time a REST request may take"),
    edgex("Service/EnableNameFieldEscape", BOOL, Some("false"), "escape names in topics and URLs"),
    edgex("Service/CORSConfiguration/EnableCORS", BOOL, Some("false"), "answer cross-origin requests"),
    edgex("Service/CORSConfiguration/CORSAllowCredentials", BOOL, Some("false"), "`Access-Control-Allow-Credentials`"),
    edgex("Service/CORSConfiguration/CORSAllowedOrigin", TEXT, Some("https://localhost"), "`Access-Control-Allow-Origin`"),
    edgex("Service/CORSConfiguration/CORSAllowedMethods", TEXT, Some("GET, POST, PUT, PATCH, DELETE"), "`Access-Control-Allow-Methods`"),
    edgex("Service/CORSConfiguration/CORSAllowedHeaders", TEXT, Some("Authorization, Accept, Accept-Language, Content-Language, Content-Type, X-Correlation-ID"), "`Access-Control-Allow-Headers`"),
    edgex("Service/CORSConfiguration/CORSExposeHeaders", TEXT, Some("Cache-Control, Content-Language, Content-Length, Content-Type, Expires, Last-Modified, Pragma, X-Correlation-ID"), "`Access-Control-Expose-Headers`"),
    edgex("Service/CORSConfiguration/CORSMaxAge", COUNT, Some("3600"), "`Access-Control-Max-Age` in seconds"),
    edgex("Service/SecurityOptions/Mode", TEXT, None, "`zerotrust` = listen through OpenZiti"),
    edgex("Service/SecurityOptions/OpenZitiController", TEXT, None, "address of the OpenZiti controller"),

    edgex("HttpServer/Protocol", TEXT, Some(""), "`https` = serve TLS; anything else is http"),
    edgex("HttpServer/SecretName", TEXT, Some(""), "secret that holds certificate and key"),
    edgex("HttpServer/HTTPSCertName", TEXT, Some(""), "key of the certificate in that secret"),
    edgex("HttpServer/HTTPSKeyName", TEXT, Some(""), "key of the private key in that secret"),

    edgex("Registry/Host", TEXT, Some(""), "host of the registry"),
    edgex("Registry/Port", PORT, Some("0"), "port of the registry"),
    edgex("Registry/Type", TEXT, Some(""), "`consul` or `keeper`"),

    edgex("MessageBus/Disabled", BOOL, Some("false"), "do without a message bus"),
    edgex("MessageBus/Type", TEXT, Some(""), "`mqtt`, `redis`, `nats-core` or `nats-jetstream`"),
    edgex("MessageBus/Protocol", TEXT, Some(""), "scheme of the bus's URL; empty = `tcp`"),
    edgex("MessageBus/Host", TEXT, Some(""), "host of the bus"),
    edgex("MessageBus/Port", PORT, Some("0"), "port of the bus"),
    edgex("MessageBus/AuthMode", TEXT, Some(""), "`none`, `usernamepassword`, `clientcert` or `cacert`; empty = `none`"),
    edgex("MessageBus/SecretName", TEXT, Some(""), "secret that holds the credentials"),
    edgex("MessageBus/BaseTopicPrefix", TEXT, Some("edgex"), "first level of every topic; empty = `edgex`"),
    edgex("MessageBus/Optional/ClientId", TEXT, None, "client id; on Redis and NATS the name of the connection"),
    edgex("MessageBus/Optional/Qos", QOS, None, "MQTT quality of service of every subscription and publication; not set = 0, with Store and Forward enabled at start 1; 2 is lowered to 1"),
    edgex("MessageBus/Optional/KeepAlive", KEEP_ALIVE, None, "MQTT keep-alive in seconds; 0 = off"),
    edgex("MessageBus/Optional/Retained", BOOL, None, "publish with the retained flag"),
    edgex("MessageBus/Optional/AutoReconnect", BOOL, None, "kept for compatibility: a lost connection is always made again"),
    edgex("MessageBus/Optional/CleanSession", BOOL, None, "`false` = the broker keeps messages while the service is away"),
    edgex("MessageBus/Optional/ConnectTimeout", SECONDS, None, "seconds to wait for a connection"),
    edgex("MessageBus/Optional/SkipCertVerify", BOOL, None, "do not verify the broker's certificate"),
    edgex("MessageBus/Optional/CertFile", TEXT, None, "file with the client's certificate in PEM"),
    edgex("MessageBus/Optional/KeyFile", TEXT, None, "file with its private key in PEM"),
    edgex("MessageBus/Optional/CaFile", TEXT, None, "file with the authorities to trust in PEM; not set = those of the system"),
    edgex("MessageBus/Optional/CertPEMBlock", TEXT, None, "the client's certificate itself; wins over `CertFile`"),
    edgex("MessageBus/Optional/CaPEMBlock", TEXT, None, "the authorities themselves; wins over `CaFile`"),
    edgex("MessageBus/Optional/Username", TEXT, None, "user name at the bus; better kept in a secret"),
    edgex("MessageBus/Optional/Password", SECRET, None, "password of the bus; better kept in a secret"),
    edgex("MessageBus/Optional/KeyPEMBlock", SECRET, None, "private key of the client; wins over `KeyFile`; better kept in a secret"),
    edgex("MessageBus/Optional/Format", TEXT, None, "NATS: `nats` (payload and headers) or `json` (an envelope); not set = `nats`"),
    edgex("MessageBus/Optional/QueueGroup", TEXT, None, "NATS: services that share the messages"),
    edgex("MessageBus/Optional/Durable", TEXT, None, "JetStream: name of the consumer, by which the stream keeps what is published while the service is away; not set = the queue group, with Store and Forward enabled at start the service key"),
    edgex("MessageBus/Optional/Subject", TEXT, None, "JetStream: topics of a stream that is made"),
    edgex("MessageBus/Optional/AutoProvision", BOOL, None, "JetStream: make a stream that is missing"),
    edgex("MessageBus/Optional/Deliver", TEXT, None, "JetStream: where a new consumer begins: `new`, `all`, `last` or `lastpersubject`"),
    edgex("MessageBus/Optional/DefaultPubRetryAttempts", RETRIES, None, "JetStream: how often a message is published again that no stream took; not set = 2"),
    edgex("MessageBus/Optional/ExactlyOnce", BOOL, None, "JetStream: a stream takes a message with the same correlation id once only"),
    edgex("MessageBus/Optional/RetryOnFailedConnect", BOOL, None, "kept for compatibility: a server that is away is always tried again"),
    edgex("MessageBus/Optional/NKeySeedFile", TEXT, None, "NATS: file with the seed of an NKey"),
    edgex("MessageBus/Optional/CredentialsFile", TEXT, None, "NATS: file with credentials (JWT and seed)"),
    edgex("MessageBus/Optional/<name>", TEXT, None, "any other option of the bus"),

    edgex("Trigger/Type", TEXT, Some("edgex-messagebus"), "`edgex-messagebus`, `external-mqtt`, `http` or the name of a custom trigger"),
    edgex("Trigger/SubscribeTopics", TEXT, Some("events/#"), "topics to subscribe, separated by commas; the bus trigger puts the base prefix before each"),
    edgex("Trigger/PublishTopic", TEXT, Some(""), "topic for responses, with placeholders; empty = none"),
    edgex("Trigger/ExternalMqtt/Url", TEXT, Some(""), "broker of the external MQTT trigger"),
    edgex("Trigger/ExternalMqtt/ClientId", TEXT, Some(""), "client id there"),
    edgex("Trigger/ExternalMqtt/ConnectTimeout", OPTIONAL_TIME, Some(""), "time to wait for a connection; empty = `30s`"),
    edgex("Trigger/ExternalMqtt/AutoReconnect", BOOL, Some("false"), "kept for compatibility: a lost connection is always made again"),
    edgex("Trigger/ExternalMqtt/KeepAlive", KEEP_ALIVE, Some("0"), "keep-alive in seconds; 0 = off"),
    edgex("Trigger/ExternalMqtt/QoS", QOS, Some("0"), "quality of service of the subscription, where 2 is lowered to 1, and of responses"),
    edgex("Trigger/ExternalMqtt/Retain", BOOL, Some("false"), "publish responses with the retained flag"),
    edgex("Trigger/ExternalMqtt/SkipCertVerify", BOOL, Some("false"), "do not verify the broker's certificate"),
    edgex("Trigger/ExternalMqtt/SecretName", TEXT, Some(""), "secret that holds the credentials"),
    edgex("Trigger/ExternalMqtt/AuthMode", TEXT, Some(""), "`none`, `usernamepassword`, `clientcert` or `cacert`; empty = `none`"),
    edgex("Trigger/ExternalMqtt/RetryDuration", ANY_INT, Some("0"), "seconds to try to connect at start before the service ends; 0 = for as long as it takes"),
    edgex("Trigger/ExternalMqtt/RetryInterval", ANY_INT, Some("0"), "seconds between two tries at start; 0 = two at most"),
    edgex("Trigger/ExternalMqtt/Will/Enabled", BOOL, Some("false"), "leave a last will at the broker"),
    edgex("Trigger/ExternalMqtt/Will/Payload", TEXT, Some(""), "payload of the last will"),
    edgex("Trigger/ExternalMqtt/Will/Qos", QOS, Some("0"), "quality of service of the last will"),
    edgex("Trigger/ExternalMqtt/Will/Retained", BOOL, Some("false"), "retained flag of the last will"),
    edgex("Trigger/ExternalMqtt/Will/Topic", TEXT, Some(""), "topic of the last will"),

    edgex("Database/Type", TEXT, Some(""), "`sqlite`, `postgres`, `memory` or the name of a custom store; empty = `sqlite`, and so is EdgeX 3's `redisdb`: nothing is kept in Redis"),
    edgex("Database/Host", TEXT, Some(""), "host of the store"),
    edgex("Database/Port", PORT, Some("0"), "port of the store"),
    edgex("Database/Timeout", SOME_TIME, Some("5s"), "longest time for a connection or a statement"),
    edgex("Database/Name", TEXT, Some(""), "file of the SQLite store; empty = `<service key>.db` in the data folder"),

    edgex("Clients/<name>/Protocol", TEXT, Some(""), "`http` or `https`"),
    edgex("Clients/<name>/Host", TEXT, Some(""), "host of another service"),
    edgex("Clients/<name>/Port", PORT, Some("0"), "port of another service"),
    edgex("Clients/<name>/UseMessageBus", BOOL, Some("false"), "call it over the message bus"),
    edgex("Clients/<name>/SecurityOptions/<option>", TEXT, None, "`Mode`, `OpenZitiController`: how to reach it through OpenZiti"),

    edgex("ApplicationSettings/<name>", TEXT, None, "free settings for custom functions"),
];

/// The settings of Edgehold.
#[rustfmt::skip]
pub(super) const OWN: &[Setting] = &[
    own("Writable/Pipeline/Concurrency", TASKS, Some("64"), "deliveries that run at the same time"),

    own("Writable/StoreAndForward/Journal", one_of(&["off", "auto", "always"]), Some("auto"), "write a delivery to the store before it has ended: never, when it takes longer than `JournalDelay`, or before the first attempt"),
    own("Writable/StoreAndForward/JournalDelay", TIME, Some("5ms"), "how long a delivery may take before it is journaled; up to eight times as long while others end quickly"),
    own("Writable/StoreAndForward/Backoff", one_of(&["fixed", "exponential", "none"]), Some("fixed"), "pause between attempts: always `RetryInterval`, a random one that grows up to `MaxRetryInterval`, or none: what has failed is tried again at once, which `MaxRetryCount` should end"),
    own("Writable/StoreAndForward/MaxRetryInterval", SOME_TIME, Some("1h"), "longest pause of the exponential backoff"),
    own("Writable/StoreAndForward/Breaker", one_of(&["on", "off"]), Some("on"), "after 16 objects have failed in a row at one destination, probe it with one object at a time"),
    own("Writable/StoreAndForward/RetryConcurrency", TASKS, Some("64"), "most attempts at the same time for each destination"),
    own("Writable/StoreAndForward/RetryRate", Kind::Number { min: 0.0, max: f64::MAX }, Some("0"), "most objects a second for each destination; 0 = no limit"),
    own("Writable/StoreAndForward/FreshShare", Kind::Number { min: 0.0, max: 1.0 }, Some("0.5"), "most of a destination's capacity that is kept for fresh events while a backlog drains; as much is kept as they needed lately"),
    own("Writable/StoreAndForward/RetryBatchSize", TASKS, Some("256"), "most objects read from the store at once"),
    own("Writable/StoreAndForward/RetryBatchBytes", MEMORY_SIZE, Some("4MiB"), "most bytes read from the store at once"),
    own("Writable/StoreAndForward/Ordering", one_of(&["none", "device"]), Some("none"), "`device`: in order, one at a time, for each pipeline and device"),
    own("Writable/StoreAndForward/MaxAge", OPTIONAL_TIME, Some("0"), "older objects go to the error collection; 0 = no limit"),
    own("Writable/StoreAndForward/MaxItems", COUNT, Some("0"), "most objects waiting; 0 = no limit"),
    own("Writable/StoreAndForward/MaxBytes", SIZE, Some("0"), "most bytes waiting; 0 = no limit"),
    own("Writable/StoreAndForward/WhenFull", one_of(&["block", "drop-oldest", "drop-newest", "dead-letter"]), Some("block"), "what happens when a limit or the disk is full"),
    own("Writable/StoreAndForward/OnPipelineChange", one_of(&["dead-letter", "discard"]), Some("dead-letter"), "what becomes of objects whose pipeline has changed"),
    own("Writable/StoreAndForward/DeadLetterRetention", OPTIONAL_TIME, Some("168h"), "how long the error collection is kept; 0 = without end"),
    own("Writable/StoreAndForward/DeadLetterMaxItems", COUNT, Some("0"), "most objects in the error collection; 0 = no limit"),
    own("Writable/StoreAndForward/HistoryRetention", OPTIONAL_TIME, Some("0s"), "how long delivered objects are kept; 0 = not at all"),

    own("Trigger/ExternalMqtt/CleanSession", BOOL, None, "`false` = the broker keeps messages while the service is away; not set = `false` with Store and Forward enabled at start and `QoS` above 0, else `true`"),

    own("Database/Compression", one_of(&["off", "zstd"]), Some("off"), "compress payloads and contexts of stored objects"),
    own("Database/Encryption", one_of(&["off", "aes256-gcm"]), Some("off"), "encrypt payloads and contexts of stored objects"),
    own("Database/EncryptionSecretName", TEXT, Some("store-encryption"), "secret with the keys to encrypt with: the id of each and 64 hexadecimal digits; `active` names the one in use"),
    own("Database/SslMode", one_of(&["disable", "prefer", "require", "verify-ca", "verify-full"]), None, "encryption towards PostgreSQL, as its `sslmode`; not set = `verify-full` with a `cacert` in the secret, else `prefer`"),

    own("MaxInFlightBytes", MEMORY_SIZE, Some("16MiB"), "bytes of all deliveries in hand; past it no more are read"),
    own("SpoolMaxBytes", SIZE, Some("256MiB"), "most bytes kept on the local disk while the store is away; 0 = none"),
    own("MaxMessageBytes", MESSAGE_SIZE, Some("64MiB"), "largest message that is taken in"),
];

/// What is accepted and changes nothing, with the text that says what is done anyway. Whoever gives one its effect takes
/// it off this list.
pub(super) const WITHOUT_EFFECT: &[(&str, &str)] = &[
    ("Service/MaxResultCount", "1024"),
    ("Service/SecurityOptions/Mode", ""),
    ("Service/SecurityOptions/OpenZitiController", ""),
    ("Clients/<name>/SecurityOptions/<option>", ""),
    ("MessageBus/Optional/AutoReconnect", "true"),
    ("MessageBus/Optional/RetryOnFailedConnect", "true"),
    ("Trigger/ExternalMqtt/AutoReconnect", "true"),
];
