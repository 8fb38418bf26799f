//! The routes over a real connection, with the answers recorded from EdgeX where they are EdgeX's.

#[path = "routes/connections.rs"]
mod connections;
#[path = "routes/errors.rs"]
mod errors;
#[path = "routes/requests.rs"]
mod requests;

use std::{sync::Arc, time::Duration};

use edgehold_api::{Api, ConfigShown, CustomRoute, Https, Limits, RouteMethod, RouteResponse};
use edgehold_config::{
    Admin, Configuration, configuration::Cors, memory::MemoryProvider, secrets::InsecureSecretStorer,
};
use edgehold_contracts::Generation;
use edgehold_core::{ByteBudget, Deliveries, Inlet, ServiceKey, Shutdown, Trigger};
use edgehold_runtime::{Books, ErrorCollection, Health, StoreState};
use edgehold_store::{MemoryQueue, RetryQueue};
use edgehold_test_support::http::{self, Response};
use futures_util::FutureExt;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinSet,
};

struct Server {
    port: u16,
    running: JoinSet<()>,
    shutdown: Shutdown,
    health: Arc<Health>,
    _state: watch::Sender<StoreState>,
    store: Arc<dyn RetryQueue>,
    /// What has come in by the trigger's route.
    deliveries: Deliveries,
}

/// Limits nobody runs into.
fn generous() -> Limits {
    Limits {
        max_request_bytes: 1024 * 1024,
        request_timeout: Duration::from_secs(60),
        budget: ByteBudget::new(1024 * 1024),
    }
}

/// What a test may want otherwise.
struct Build {
    generation: Generation,
    limits: Limits,
    routes: Vec<CustomRoute>,
    cors: Cors,
    https: Option<Https>,
    secrets: Option<MemoryProvider>,
    admin: Admin,
}

impl Default for Build {
    fn default() -> Self {
        Self {
            generation: Generation::V3,
            limits: generous(),
            routes: Vec::new(),
            cors: Configuration::default().service.cors,
            https: None,
            secrets: None,
            admin: Admin::Write,
        }
    }
}

impl Build {
    async fn start(self) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let service_key = ServiceKey::try_new("app-rest").unwrap();
        let health = Arc::new(Health::default());
        let store: Arc<dyn RetryQueue> = Arc::new(MemoryQueue::new(service_key.clone()));
        let (state, queue) = watch::channel(StoreState::Open(store.clone()));
        let books = Arc::new(Books::default());
        let (errors, runs) = ErrorCollection::new(queue.clone(), books.clone(), Arc::default());
        let (inlet, trigger) = Inlet::new();
        let provider = self.secrets.map(|provider| Arc::new(provider) as _);
        let (_, writable) = watch::channel(Configuration::default().writable);
        let api = Api {
            service_key,
            generation: self.generation,
            version: "3.1.1".to_owned(),
            sdk_version: "v3.1.1".to_owned(),
            config: Arc::new(|| ConfigShown {
                config: serde_json::json!({ "Writable": { "LogLevel": "INFO" } }),
                rejected: Vec::new(),
            }),
            metrics: Arc::new(|| Box::pin(std::future::ready("up 1\n".to_owned()))),
            books,
            queue,
            health: health.clone(),
            drain: Arc::default(),
            limits: self.limits,
            cors: self.cors,
            https: self.https.map(Arc::new),
            secrets: Arc::new(InsecureSecretStorer::new(provider, writable)),
            trigger: Some(inlet),
            routes: self.routes,
            errors,
            admin: self.admin,
        };
        let (shutdown, signal) = Shutdown::new();
        let mut running = JoinSet::new();
        running.spawn(runs.run(shutdown.signal()));
        running.spawn(api.serve(listener, signal));
        let (sender, deliveries) = mpsc::channel(1);
        // Until then its route answers that nothing is taken yet.
        running.spawn(
            Box::new(trigger)
                .run(sender, shutdown.signal())
                .map(|end| end.unwrap()),
        );
        tokio::task::yield_now().await;
        Server {
            port,
            health,
            running,
            shutdown,
            _state: state,
            store,
            deliveries,
        }
    }
}

impl Server {
    async fn start() -> Self {
        Build::default().start().await
    }

    async fn with(limits: Limits, routes: Vec<CustomRoute>) -> Self {
        let build = Build {
            limits,
            routes,
            ..Build::default()
        };
        build.start().await
    }

    async fn ask(&self, method: &str, target: &str, headers: &[(&str, &str)]) -> Response {
        http::send(self.port, method, target, headers, b"").await.unwrap()
    }
}

#[tokio::test]
async fn ping_answers_as_edgex_does() {
    let server = Server::start().await;
    let response = server
        .ask("GET", "/api/v3/ping", &[("X-Correlation-ID", "my-corr-1")])
        .await;
    assert_eq!(response.status, 200);
    assert_eq!(response.header("content-type"), Some("application/json"));
    assert_eq!(response.header("x-correlation-id"), Some("my-corr-1"));
    // {"apiVersion":"v3","timestamp":"Sun Nov 22 15:34:09 UTC 2026","serviceName":"app-rest"}
    let body = response.text();
    let timestamp = body
        .strip_prefix(r#"{"apiVersion":"v3","timestamp":""#)
        .and_then(|rest| rest.strip_suffix(r#"","serviceName":"app-rest"}"#))
        .unwrap_or_else(|| panic!("{body}"));
    let words: Vec<_> = timestamp.split(' ').filter(|word| !word.is_empty()).collect();
    assert_eq!((words.len(), words[4]), (6, "UTC"), "{timestamp}");
    assert_eq!(
        timestamp.len(),
        "Sun Nov 22 15:34:09 UTC 2026".len(),
        "the day is padded with a space"
    );
}

#[tokio::test]
async fn readiness_names_what_is_wrong_as_long_as_it_is() {
    let server = Server::start().await;
    let ask = || server.ask("GET", "/readyz", &[]);
    let ready = ask().await;
    assert_eq!(
        (ready.status, ready.text()),
        (200, r#"{"ready":true,"problems":{}}"#.to_owned())
    );
    server.health.problem(Health::STORE, "the store is full");
    let broken = ask().await;
    let text = r#"{"ready":false,"problems":{"store":"the store is full"}}"#;
    assert_eq!((broken.status, broken.text()), (503, text.to_owned()));
    server.health.works(Health::STORE);
    assert_eq!(ask().await.status, 200);
}

#[tokio::test]
async fn metrics_are_where_prometheus_looks_unless_the_developer_has_a_route_there() {
    let server = Server::start().await;
    let metrics = server.ask("GET", "/metrics", &[]).await;
    assert_eq!((metrics.status, metrics.text()), (200, "up 1\n".to_owned()));
    assert_eq!(
        metrics.header("content-type"),
        Some("text/plain; version=0.0.4; charset=utf-8")
    );
    let own = CustomRoute::try_new("/metrics", &[RouteMethod::Get], |_| async {
        RouteResponse::text(200, "mine")
    });
    let server = Server::with(generous(), vec![own.unwrap()]).await;
    assert_eq!(server.ask("GET", "/metrics", &[]).await.text(), "mine");
}

#[tokio::test]
async fn a_missing_correlation_id_is_invented() {
    let server = Server::start().await;
    let response = server.ask("GET", "/api/v3/ping", &[]).await;
    assert_eq!(response.header("x-correlation-id").map(str::len), Some(36));
}

#[tokio::test]
async fn version_and_config_keep_the_order_of_keys() {
    let server = Server::start().await;
    let version = server.ask("GET", "/api/v3/version", &[]).await;
    assert_eq!(
        version.text(),
        r#"{"apiVersion":"v3","version":"3.1.1","serviceName":"app-rest","sdk_version":"v3.1.1"}"#
    );
    let config = server.ask("GET", "/api/v3/config", &[]).await;
    assert_eq!(
        config.text(),
        r#"{"apiVersion":"v3","config":{"Writable":{"LogLevel":"INFO"}},"serviceName":"app-rest"}"#
    );
}

#[tokio::test]
async fn what_is_not_there_is_refused_as_edgex_refuses_it() {
    let server = Server::start().await;
    for target in ["/", "/api/v2/ping", "/api/v3/ping/"] {
        let response = server.ask("GET", target, &[]).await;
        assert_eq!(response.status, 404, "{target}");
        assert_eq!(response.text(), "{\"message\":\"Not Found\"}\n");
        assert_eq!(
            response.header("content-type"),
            Some("application/json; charset=UTF-8")
        );
    }
    let post = server.ask("POST", "/api/v3/ping", &[]).await;
    assert_eq!(
        (post.status, post.text().as_str()),
        (405, "{\"message\":\"Method Not Allowed\"}\n")
    );
    assert_eq!(post.header("allow"), Some("OPTIONS, GET"));
    assert_eq!(post.header("x-correlation-id"), None);
    let options = server.ask("OPTIONS", "/api/v3/ping", &[]).await;
    assert_eq!((options.status, options.text().as_str()), (204, ""));
    assert_eq!(options.header("allow"), Some("OPTIONS, GET"));
    for (target, status, allow) in [("/api/v3/ping", 405, Some("OPTIONS, GET")), ("/", 404, None)] {
        let head = server.ask("HEAD", target, &[]).await;
        assert_eq!(
            (head.status, head.header("allow"), head.header("content-type")),
            (status, allow, None)
        );
    }
}

/// A preflight is 200 whatever it is for. A request that only looks like one keeps its own status, which EdgeX makes 200.
#[tokio::test]
async fn a_page_of_another_origin_is_told_what_it_may_do() {
    let server = Build {
        cors: Cors {
            enabled: true,
            allow_credentials: true,
            allowed_origin: "https://a".to_owned(),
            max_age: Duration::ZERO,
            ..Configuration::default().service.cors
        },
        ..Build::default()
    };
    let server = server.start().await;
    let asks = [("Origin", "https://b"), ("Access-Control-Request-Method", "PUT")];
    for (method, target, status, exposes, allow) in [
        ("OPTIONS", "/api/v3/ping", 200, false, Some("OPTIONS, GET")),
        ("OPTIONS", "/none", 200, false, None),
        ("GET", "/api/v3/ping", 200, true, None),
        ("GET", "/none", 404, true, None),
    ] {
        let answer = server.ask(method, target, &asks).await;
        assert_eq!(
            (answer.status, answer.header("allow")),
            (status, allow),
            "{method} {target}"
        );
        for (name, is_there) in [
            ("access-control-allow-origin", true),
            ("access-control-allow-credentials", true),
            ("access-control-allow-methods", true),
            ("access-control-allow-headers", true),
            ("access-control-max-age", false),
            ("access-control-expose-headers", exposes),
        ] {
            assert_eq!(
                answer.header(name).is_some(),
                is_there,
                "{method} {target}: {name}"
            );
        }
    }
    let same = server.ask("GET", "/api/v3/ping", &[]).await;
    assert_eq!(same.header("vary"), None);
}

#[tokio::test]
async fn the_books_and_the_store_are_shown_together() {
    let server = Server::start().await;
    let stats: serde_json::Value = server
        .ask("GET", "/api/v3/store/stats", &[])
        .await
        .json()
        .unwrap();
    assert_eq!(stats["books"]["started"], 0);
    assert_eq!(stats["store"]["waiting"], 0);
    assert_eq!(stats["store"]["oldestWaiting"], serde_json::Value::Null);
}
