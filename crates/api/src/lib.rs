//! The REST interface of a service: EdgeX's standard routes and our own views of the store.
//!
//! Owns routes, bodies and status codes (contract: configuration §6). Does not own what it shows: it is handed
//! closures and receivers.
//!
//! | route | answer |
//! | --- | --- |
//! | `GET /api/v3/ping` | 200 `{"apiVersion","timestamp","serviceName"}` |
//! | `GET /api/v3/version` | 200 `{"apiVersion","version","serviceName","sdk_version"}` |
//! | `GET /api/v3/config` | 200 `{"apiVersion","config","serviceName"}`, secrets redacted |
//! | `POST /api/v3/secret` | 201 when the secret is stored: see `secret` |
//! | `GET /api/v3/store/stats` | 200 the books and what the store holds |
//! | `… /api/v3/store/errors…`, `… /api/v3/store/runs…` | the error collection: see the module `errors` |
//! | `POST /api/v3/trigger` | with the HTTP trigger: see [`Api::trigger`] |
//! | `GET /metrics` | 200 all metrics as Prometheus reads them, unless the developer has a route of that path |
//! | `GET /readyz` | 200 `{"ready":true,"problems":{}}`, or 503 with the problems by name |
//!
//! Every route, whoever wrote it, has the same limits around it (`limits`): 413, 503, a correlation id. A new one is a line
//! in `route::routes`; a group of them is a router of its own that is merged there.

mod body;
mod cors;
mod custom;
mod errors;
mod https;
mod limits;
mod route;
mod secret;
mod server;
mod sniff;
mod trigger;

use std::sync::Arc;

use edgehold_config::{Admin, configuration::Cors};
use edgehold_contracts::Generation;
use edgehold_core::{BoxFuture, Inlet, SecretStorer, ServiceKey, ShutdownSignal};
use edgehold_runtime::{Books, Drain, ErrorCollection, Health, QueueHandle};
use tokio::net::TcpListener;

pub use custom::{CustomRoute, InvalidRoute, RouteHandler, RouteMethod, RouteRequest, RouteResponse};
pub use errors::wire;
pub use https::{Https, HttpsError};
pub use limits::Limits;

/// Answers with the configuration as it is now.
pub type ConfigView = Arc<dyn Fn() -> ConfigShown + Send + Sync>;

/// Answers with the metrics as they are now, as Prometheus reads them.
pub type MetricsView = Arc<dyn Fn() -> BoxFuture<'static, String> + Send + Sync>;

/// The configuration as it is shown, secrets redacted.
#[derive(Clone, Debug, Default)]
pub struct ConfigShown {
    /// The whole tree of what holds.
    pub config: serde_json::Value,
    /// What is configured and does not hold: `key`, `value`, `reason`, `section`. Shown beside the tree, and only when
    /// there is any.
    pub rejected: Vec<serde_json::Value>,
}

/// What the routes show.
#[derive(Clone)]
pub struct Api {
    /// The service that answers.
    pub service_key: ServiceKey,
    /// The generation whose forms it answers in.
    pub generation: Generation,
    /// The version of the service, for example `3.1.1`.
    pub version: String,
    /// The version of the SDK, for example `v3.1.1`.
    pub sdk_version: String,
    /// The effective configuration.
    pub config: ConfigView,
    /// The metrics.
    pub metrics: MetricsView,
    /// What became of every run.
    pub books: Arc<Books>,
    /// The store, once it is open.
    pub queue: QueueHandle,
    /// What is wrong now.
    pub health: Arc<Health>,
    /// How fast what waits becomes less.
    pub drain: Arc<Drain>,
    /// What every request is held to.
    pub limits: Limits,
    /// `Service.CORSConfiguration`.
    pub cors: Cors,
    /// Certificate and key; none = plain HTTP.
    pub https: Option<Arc<Https>>,
    /// Where `POST /api/v3/secret` puts secrets.
    pub secrets: Arc<dyn SecretStorer>,
    /// Where `POST /api/v3/trigger` puts its deliveries; none with any other trigger, where the route does not exist.
    pub trigger: Option<Inlet>,
    /// The error collection.
    pub errors: ErrorCollection,
    /// What may be done beyond EdgeX's own routes.
    pub admin: Admin,
    /// The developer's own routes.
    pub routes: Vec<CustomRoute>,
}

impl Api {
    /// Answers requests until told to end; requests in hand are finished first.
    pub async fn serve(self, listener: TcpListener, shutdown: ShutdownSignal) {
        let (https, limit) = (self.https.clone(), self.limits.request_timeout);
        server::serve(listener, route::router(self), https, limit, shutdown).await;
    }
}
