//! The suite of all configuration providers, against a real Consul.

use edgehold_config::{
    Edit, Section,
    conformance::{Behind, TestProvider, any_path},
};
use edgehold_core::BoxFuture;
use edgehold_test_support::Consul;
use serde_json::{Value, json};

use crate::{ALL_SERVICES, APP_SERVICES, PRIVATE, provider, proxy::Proxy};

edgehold_config::provider_conformance!(fresh);
edgehold_config::key_value_conformance!(fresh);

/// An empty Consul, with a proxy before it that can be cut.
async fn fresh() -> TestProvider {
    let consul = Consul::start().await.expect("Consul starts");
    let proxy = Proxy::start(consul.port()).await.expect("a port is free");
    TestProvider {
        provider: provider(proxy.port()),
        behind: Box::new(InConsul { consul, proxy }),
        is_legal: any_path,
    }
}

struct InConsul {
    consul: Consul,
    proxy: Proxy,
}

impl Behind for InConsul {
    fn edit<'a>(&'a self, edits: &'a [Edit]) -> BoxFuture<'a, ()> {
        let operation = |edit: &Edit| {
            let section = match edit.section {
                Section::AllServices => ALL_SERVICES,
                Section::AppServices => APP_SERVICES,
                Section::Private => PRIVATE,
            };
            let key = format!("{section}/{}", edit.path);
            match &edit.text {
                Some(text) => {
                    let value = base64_simd::STANDARD.encode_to_string(text);
                    json!({"KV": {"Verb": "set", "Key": key, "Value": value}})
                }
                None => json!({"KV": {"Verb": "delete", "Key": key}}),
            }
        };
        let operations: Vec<Value> = edits.iter().map(operation).collect();
        Box::pin(async move {
            let body = Value::from(operations).to_string();
            let answer = self.consul.ask("PUT", "/v1/txn", body.as_bytes()).await;
            answer
                .and_then(|answer| answer.succeeded())
                .expect("Consul takes the edits");
        })
    }

    fn set_away(&self, away: bool) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if away {
                self.proxy.cut_off().await;
            } else {
                self.proxy.restore();
            }
        })
    }

    fn set_ready(&self, ready: bool) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let key = "edgex/v3/core-common-config-bootstrapper/IsCommonConfigReady";
            let put = self.consul.put(key, ready.to_string()).await;
            put.expect("Consul takes the key");
        })
    }
}
