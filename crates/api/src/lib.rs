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
//! | `GET /api/v3/store/stats` | 200 the books and what the store holds |
//! | `POST /api/v3/trigger` | with the HTTP trigger: see [`Api::trigger`] |
//! | `GET /readyz` | 200 `{"ready":true,"problems":{}}`, or 503 with the problems by name |

mod body;
mod custom;
mod route;
mod sniff;
mod trigger;

use std::{io, sync::Arc};

use edgehold_core::{Inlet, ServiceKey, ShutdownSignal};
use edgehold_runtime::{Books, Drain, Health, QueueHandle};
use tokio::net::TcpListener;

pub use body::Limits;
pub use custom::{CustomRoute, InvalidRoute, RouteHandler, RouteMethod, RouteRequest, RouteResponse};

/// Answers with the configuration as it is now.
pub type ConfigView = Arc<dyn Fn() -> ConfigShown + Send + Sync>;

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
    /// The version of the service, for example `3.1.1`.
    pub version: String,
    /// The version of the SDK, for example `v3.1.1`.
    pub sdk_version: String,
    /// The effective configuration.
    pub config: ConfigView,
    /// What became of every run.
    pub books: Arc<Books>,
    /// The store, once it is open.
    pub queue: QueueHandle,
    /// What is wrong now.
    pub health: Arc<Health>,
    /// How fast what waits becomes less.
    pub drain: Arc<Drain>,
    /// What a request with a body is held to.
    pub limits: Limits,
    /// Where `POST /api/v3/trigger` puts its deliveries; none with any other trigger, where the route does not exist.
    pub trigger: Option<Inlet>,
    /// The developer's own routes.
    pub routes: Vec<CustomRoute>,
}

impl Api {
    /// Answers requests until told to end; requests in hand are finished first.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn serve(self, listener: TcpListener, mut shutdown: ShutdownSignal) -> io::Result<()> {
        let router = route::router(self);
        axum::serve(listener, router)
            .with_graceful_shutdown(async move { shutdown.recv().await })
            .await
    }
}
