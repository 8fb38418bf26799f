//! From a builder and the configuration to a service: everything fallible, without taking a single delivery.
//!
//! [`AppService::build`] is the order of the start; what a step makes, and from what, is in [`start`].

mod start;

use std::{net::SocketAddr, sync::Arc};

use edgehold_api::Https;
use edgehold_clients::Clients;
use edgehold_config::{Configuration, configuration::LogLevel};
use edgehold_contracts::Generation;
use edgehold_core::ServiceKey;
use tokio::{sync::watch, time::Instant};

use self::start::{Shared, Start, controls, pipelines, sections_elsewhere};
use super::{AppService, StartError, version::version};
use crate::{
    bootstrap::{self, Access, Loaded},
    durability::Durability,
    invocation::Invocation,
    live::{LiveHooks, LiveSettings},
    logging::{LogControl, LogOutput, ServiceLog},
    membership::Membership,
    running::{Parts, Running},
    setup::{Added, Setup},
    trigger,
};

/// A service with everything made and nothing started.
pub struct Built {
    configuration: Arc<Configuration>,
    parts: Parts,
    begun: Instant,
}

impl Built {
    /// The address the REST interface listens on.
    ///
    /// # Errors
    /// When the system does not know.
    pub fn rest_address(&self) -> std::io::Result<SocketAddr> {
        self.parts.listener.local_addr()
    }

    /// Starts everything. Must be called inside a tokio runtime.
    pub fn spawn(self) -> Running {
        tracing::info!("Service started in: {:?}", self.begun.elapsed());
        if self.configuration.writable.store_and_forward.enabled {
            let setting = |name: &str| {
                let path = format!("Writable/StoreAndForward/{name}");
                self.configuration.leaves().shown(&path).unwrap_or_default()
            };
            tracing::info!(
                "Starting StoreAndForward Retry Loop with {} RetryInterval and {} max retries",
                setting("RetryInterval"),
                setting("MaxRetryCount")
            );
        }
        Running::start(self.parts)
    }
}

impl AppService {
    /// Makes everything that can fail, without taking a single delivery.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn build(self, invocation: &Invocation) -> Result<Built, StartError> {
        let begun = Instant::now();
        // TLS clients take the process's provider; a second installation changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let service_key = ServiceKey::try_new(&invocation.flags.service_key(&self.service_key))?;
        let log = start_log(invocation, &service_key, bootstrap::generation(invocation));
        let Loaded {
            layers,
            effective,
            provider,
            notices,
        } = bootstrap::load(invocation, &service_key, Access::Seed).await?;
        let configuration = effective.configuration.clone();
        log.0.set_level(configuration.writable.log_level);

        let (writable_out, writable) = watch::channel(configuration.writable.clone());
        let start = Start::new(
            invocation,
            service_key,
            &configuration,
            provider.clone(),
            writable,
        );
        let https = Https::from_settings(&configuration.http_server, start.secrets.clone()).await?;
        let mut ingress = start.ingress(self.trigger, self.custom_triggers, notices).await?;
        let identity = start.identity(ingress.publisher.as_ref());
        let shared = Shared::new(ingress.loss.take());
        let membership = Membership::configured(invocation, &configuration, &start.service_key)
            .map_err(StartError::Registry)?;

        let (handles, told) = controls(&shared, writable_out.subscribe(), membership.as_ref());
        let addresses = start.addresses(membership.as_ref()).await;
        // Each keeps connections and root certificates: only for code that can use them.
        let clients = match self.hooks.is_empty() {
            true => Clients::default(),
            false => start.clients(&addresses)?,
        };
        let mut functions = self.functions;
        let mut added = Added {
            routes: self.routes,
            functions: self.own_functions,
            ..Added::default()
        };
        let mut setup = Setup {
            identity: &identity,
            configuration: &configuration,
            layers: &layers,
            functions: &mut functions,
            added: &mut added,
            handles: &handles,
            clients: &clients,
            connections: &self.connections,
        };
        for hook in self.hooks {
            hook(&mut setup).map_err(StartError::Setup)?;
        }

        let prefix = trigger::topic_prefix(&configuration);
        let pipelines = pipelines(functions, prefix, self.pipelines, added.drafts, self.target_type)?;
        let sections_elsewhere = sections_elsewhere(provider.clone(), &layers, added.sections_elsewhere);
        let hooks = LiveHooks {
            writable: writable_out,
            sections: added.sections,
            replacements: told.replacements,
        };
        let (live, view) = LiveSettings::new(layers, effective, pipelines, log.0.clone(), hooks)
            .map_err(|rejections| StartError::of_pipelines(&rejections))?;

        let mut version_check = bootstrap::version_check(invocation, &addresses);
        if let Some(check) = &mut version_check {
            check.at_start().await?;
        }
        let opener = start.opener(self.stores, shared.wake.clone());
        let opened = match configuration.writable.store_and_forward.enabled {
            true => Some(opener.open().await?),
            false => None,
        };
        let listener = start.listen().await?;

        let dispatch = start.dispatch(identity, &view, &shared, ingress.response);
        let sources = start.sources(&view, &shared, &dispatch, handles.metrics);
        let reporter = start.reporter(&view, sources.clone(), ingress.publisher.as_ref());
        let api = start.api(&view, &shared, sources, https, ingress.inlet, added.routes);
        let parts = Parts {
            startup_message: configuration.service.startup_msg.clone(),
            live,
            provider,
            trigger: ingress.trigger,
            companions: ingress.companions,
            background: added.background,
            sections_elsewhere,
            ending: told.ending,
            stop_requested: told.stop_requested,
            durability: Durability {
                bus: ingress.session,
                own_functions: added.functions,
            },
            export_connections: self.export_connections,
            opener,
            opened,
            membership,
            version_check,
            listener,
            log,
            store_state: shared.store_state,
            queue: shared.queue,
            error_runs: shared.error_runs,
            drain: shared.drain,
            api,
            dispatch,
            reporter,
        };
        Ok(Built {
            configuration,
            parts,
            begun,
        })
    }
}

fn start_log(invocation: &Invocation, service_key: &ServiceKey, generation: Generation) -> ServiceLog {
    let log = LogControl::init(
        service_key.as_str(),
        LogLevel::Info,
        LogOutput::Stdout,
        invocation.flags.log_format,
    );
    log.set_app(service_key.as_str());
    log.set_local_time(generation == Generation::V4);
    tracing::info!("Starting {service_key} {}", version(generation));
    if invocation.flags.secure {
        tracing::warn!(
            "secure mode is not supported by this build: secrets come from Writable/InsecureSecrets and REST asks for no \
             token; set EDGEX_SECURITY_SECRET_STORE=false to say that this is meant"
        );
    }
    ServiceLog(log)
}
