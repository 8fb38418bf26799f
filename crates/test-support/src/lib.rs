//! Real servers as values, a programmable HTTP sink, small MQTT and HTTP clients, recorded fixtures and waits,
//! for tests only.
//!
//! What it owns: everything a test needs around the code under test. What it does not: any EdgeX meaning and any
//! adapter. It speaks MQTT and HTTP by a few hundred lines of its own, so that a fault in an adapter's library
//! cannot hide itself in the test that looks for it, and so that no crate's tests wait for another adapter to compile.
//!
//! | value | what it stands for |
//! | --- | --- |
//! | [`Mosquitto`], [`Redis`], [`Nats`], [`Consul`], [`Postgres`] | the real server: own port, own folder, ready when `start` returns, gone on drop |
//! | [`NatsOperator`] | who lets users in by JWT, with their credentials files |
//! | [`ConsulCluster`] | three of them that elect their leader |
//! | [`Keeper`] | a stand-in for Core Keeper, held against recordings of the real one |
//! | [`HttpSink`] | an export destination that answers, fails, hangs or vanishes as told |
//! | [`Authority`], [`TlsFront`] | certificates of the test's own, and TLS before a server that speaks none |
//! | [`MqttPublisher`], [`MqttSubscriber`] | the devices before us and the cloud behind us |
//! | [`Process`] | a built program, with its output and its signals |
//! | [`aes256`] | the reader of what was encrypted |
//! | [`fixtures`] | data recorded from EdgeX itself |
//! | [`wait::until`] | the only way to wait: for a state, until a deadline |
//!
//! Two habits hold throughout. Starting something returns a `Result`, whose error carries the end of the server's
//! log; a missing program is such an error and names its Debian package, never a skipped test. Waiting for
//! something panics when the deadline passes, at the line of the test that waits, so that every server that is
//! dropped while the test unwinds prints the end of its log beside the failure.
//!
//! Never keep a server in a `static`: statics are not dropped, and the server would outlive the test run.

pub mod aes256;
mod collected;
mod consul;
pub mod fixtures;
pub mod http;
mod http_sink;
mod keeper;
mod mosquitto;
mod mqtt;
mod nats;
mod nats_operator;
mod port;
mod postgres;
mod process;
mod recorded_messages;
mod redis;
mod tls;
mod unique;
pub mod wait;

pub use consul::{AclToken, Consul, ConsulBuilder, ConsulCluster};
pub use http_sink::{Answer, Behaviour, HttpSink, Received};
pub use keeper::{Keeper, KeeperNotice};
pub use mosquitto::{Mosquitto, MosquittoBuilder};
pub use mqtt::{Message, MqttPublisher, MqttSubscriber, Qos};
pub use nats::{Nats, NatsBuilder, NatsClient, NatsMessage};
pub use nats_operator::NatsOperator;
pub use port::Port;
pub use postgres::{Postgres, PostgresBuilder};
pub use process::{Process, edgehold_binary, installed_program};
pub use redis::{Answer as RedisAnswer, Redis, RedisBuilder, RedisClient};
pub use tls::{Authority, Certificate, TlsFront};
pub use unique::unique_name;
