//! Where the three sections of a service's configuration live in Consul, and reading all of them as one.
//!
//! ```text
//! edgex/v3/core-common-config-bootstrapper/IsCommonConfigReady
//! edgex/v3/core-common-config-bootstrapper/all-services/…      Section::AllServices
//! edgex/v3/core-common-config-bootstrapper/app-services/…      Section::AppServices
//! edgex/v3/<service key>/…                                     Section::Private
//! ```
//!
//! One transaction reads them, so that a change to several keys is seen whole or not at all. Consul leaves out what a
//! token may not read as if it were not there. So a section that seems to be absent is asked for once more, by a single
//! key, which is the one read that Consul refuses in so many words.

use edgehold_config::{Layer, ProviderError, Section, Snapshot};
use edgehold_core::ServiceKey;
use futures_util::future::try_join_all;

use crate::{
    client::{Client, Session},
    transaction::{KeyValue, Operation, Outcome},
};

/// The key below which EdgeX 3 keeps all configuration.
pub(crate) const STEM: &str = "edgex/v3";

/// Below each section: what may change while the service runs.
pub(crate) const WRITABLE: &str = "Writable/";

const COMMON: &str = "edgex/v3/core-common-config-bootstrapper";

/// The single key to ask for. It need not exist: without rights the answer is 403, with them 404.
const ACCESS_CHECK: &str = "edgehold-access-check";

/// The keys of one service.
#[derive(Clone, Debug)]
pub(crate) struct Sections {
    /// Each section and the beginning of its keys, which ends in `/`.
    prefixes: [(Section, String); 3],
}

/// What one read found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    /// The leaves.
    pub(crate) snapshot: Snapshot,
    /// Keys left out because their values are not text.
    pub(crate) not_text: Vec<String>,
}

impl Sections {
    /// The sections of this service.
    pub(crate) fn of(service_key: &ServiceKey) -> Self {
        Self {
            prefixes: [
                (Section::AllServices, format!("{COMMON}/all-services/")),
                (Section::AppServices, format!("{COMMON}/app-services/")),
                (Section::Private, format!("{STEM}/{service_key}/")),
            ],
        }
    }

    /// The key that is `true` once the common sections are complete.
    pub(crate) fn common_ready_key() -> String {
        format!("{COMMON}/IsCommonConfigReady")
    }

    /// The beginning of the private keys.
    pub(crate) fn private(&self) -> &str {
        &self.prefixes[2].1
    }

    /// The beginning of a section's keys.
    pub(crate) fn prefix(&self, section: Section) -> &str {
        let (_, prefix) = self
            .prefixes
            .iter()
            .find(|(of, _)| *of == section)
            .expect("every section has its keys");
        prefix
    }

    /// The beginnings of the three sections' keys below `Writable`.
    pub(crate) fn writable(&self) -> impl Iterator<Item = String> {
        self.prefixes
            .iter()
            .map(|(_, prefix)| format!("{prefix}{WRITABLE}"))
    }

    /// Reads the leaves of the three sections that begin with `below`, in one transaction.
    pub(crate) async fn read(&self, client: &Client, below: &str) -> Result<Reading, ProviderError> {
        let prefixes = &self
            .prefixes
            .each_ref()
            .map(|(_, prefix)| format!("{prefix}{below}"));
        let read = |session| async move { read_trees(&session, prefixes).await };
        Ok(self.sort(client.with_token(read).await?))
    }

    /// Puts each key into its section.
    fn sort(&self, entries: Vec<KeyValue>) -> Reading {
        let mut reading = Reading {
            snapshot: Snapshot::default(),
            not_text: Vec::new(),
        };
        for KeyValue { key, value, .. } in entries {
            let Some((section, leaf)) = self
                .prefixes
                .iter()
                .find_map(|(section, prefix)| Some((*section, key.strip_prefix(prefix.as_str())?)))
            else {
                continue;
            };
            let layer = layer_of(&mut reading.snapshot, section).get_or_insert_default();
            // Consul's own pages make such keys when somebody creates a folder.
            if leaf.is_empty() || leaf.ends_with('/') {
                continue;
            }
            match String::from_utf8(value) {
                Ok(text) => layer.insert(leaf, text),
                Err(_) => reading.not_text.push(key),
            }
        }
        reading
    }
}

/// Every key that begins with one of the prefixes, in one transaction.
///
/// # Errors
/// [`ProviderError::Denied`] when the token may not read one of them, and otherwise as the client's calls.
pub(crate) async fn read_trees(
    session: &Session<'_>,
    prefixes: &[String],
) -> Result<Vec<KeyValue>, ProviderError> {
    let reads: Vec<Operation> = prefixes
        .iter()
        .map(|prefix| Operation::get_tree(prefix))
        .collect();
    let entries = match session.transaction(&reads).await? {
        Outcome::Done(entries) => entries,
        Outcome::Refused(reason) => return Err(session.denied(format!("reading configuration: {reason}"))),
    };
    let absent = prefixes
        .iter()
        .filter(|prefix| !entries.iter().any(|entry| entry.key.starts_with(*prefix)));
    try_join_all(absent.map(|prefix| session.check_readable(format!("{prefix}{ACCESS_CHECK}")))).await?;
    Ok(entries)
}

fn layer_of(snapshot: &mut Snapshot, section: Section) -> &mut Option<Layer> {
    match section {
        Section::AllServices => &mut snapshot.all_services,
        Section::AppServices => &mut snapshot.app_services,
        Section::Private => &mut snapshot.private,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::transaction;

    fn sections() -> Sections {
        Sections::of(&ServiceKey::try_new("app-http-export").unwrap())
    }

    fn entry(key: &str, value: &[u8]) -> KeyValue {
        KeyValue {
            key: key.to_owned(),
            value: value.to_owned(),
            modify_index: 1,
        }
    }

    /// The answer to a transaction that read these entries.
    fn read(entries: Vec<Value>) -> Vec<KeyValue> {
        let results: Vec<Value> = entries.into_iter().map(|entry| json!({ "KV": entry })).collect();
        let body = json!({"Results": results, "Errors": null}).to_string();
        match transaction::parse(body.as_bytes()).unwrap() {
            Outcome::Done(entries) => entries,
            Outcome::Refused(reason) => panic!("{reason}"),
        }
    }

    #[test]
    fn a_recorded_private_section_gives_its_leaves() {
        let body = include_str!("../testdata/http-kv-recurse-app-http-export.body");
        let reading = sections().sort(read(serde_json::from_str(body).unwrap()));

        assert_eq!(reading.not_text, Vec::<String>::new());
        assert_eq!(
            (reading.snapshot.all_services, reading.snapshot.app_services),
            (None, None)
        );
        let private = reading.snapshot.private.unwrap();
        assert_eq!(private.get("Writable/LogLevel"), Some("INFO"));
        assert_eq!(private.get("Service/Port"), Some("59704"));
        assert_eq!(
            private.get("MessageBus/Optional/ClientId"),
            Some("app-http-export")
        );
        assert_eq!(
            private.get("Writable/Pipeline/Functions/HTTPExport/Parameters/HeaderName"),
            Some("")
        );
    }

    #[test]
    fn a_recorded_stack_gives_three_sections_and_nothing_of_others() {
        let dump: Vec<Value> = serde_json::from_str(include_str!("../testdata/kv-export.json")).unwrap();
        let entry = |entry: &Value| json!({"Key": entry["key"], "Value": entry["value"]});
        let reading = sections().sort(read(dump.iter().map(entry).collect()));

        let Snapshot {
            all_services,
            app_services,
            private,
        } = reading.snapshot;
        let (all_services, app_services, private) =
            (all_services.unwrap(), app_services.unwrap(), private.unwrap());
        assert_eq!(all_services.get("Registry/Type"), Some("consul"));
        assert_eq!(
            app_services.get("Writable/StoreAndForward/RetryInterval"),
            Some("5m")
        );
        assert_eq!(
            private.get("Writable/Pipeline/ExecutionOrder"),
            Some("HTTPExport")
        );

        let with = |prefix: &str| {
            dump.iter()
                .filter(|entry| entry["key"].as_str().unwrap().starts_with(prefix))
                .count()
        };
        assert_eq!(
            all_services.len(),
            with("edgex/v3/core-common-config-bootstrapper/all-services/")
        );
        assert_eq!(
            app_services.len(),
            with("edgex/v3/core-common-config-bootstrapper/app-services/")
        );
        assert_eq!(private.len(), with("edgex/v3/app-http-export/"));
    }

    #[test]
    fn folders_and_values_that_are_not_text_are_left_out() {
        let reading = sections().sort(vec![
            entry("edgex/v3/app-http-export/", b""),
            entry("edgex/v3/app-http-export/Writable/Pipeline/Functions/", b""),
            entry("edgex/v3/app-http-export/Writable//odd %/ü", b"kept"),
            entry("edgex/v3/app-http-export/Writable/Broken", b"\xff"),
            entry(
                "edgex/v3/app-http-export-2/Writable/LogLevel",
                b"of another service",
            ),
        ]);

        let private = Layer::from_iter([("Writable//odd %/ü", "kept")]);
        assert_eq!(
            reading.snapshot,
            Snapshot {
                private: Some(private),
                ..Snapshot::default()
            }
        );
        assert_eq!(reading.not_text, ["edgex/v3/app-http-export/Writable/Broken"]);
    }

    #[test]
    fn a_section_with_nothing_but_a_folder_is_there_and_empty() {
        let reading = sections().sort(vec![entry("edgex/v3/app-http-export/Writable/", b"")]);

        assert_eq!(
            reading.snapshot,
            Snapshot {
                private: Some(Layer::default()),
                ..Snapshot::default()
            }
        );
    }
}
