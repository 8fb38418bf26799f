//! Where the three sections of a service's configuration live in Core Keeper, and reading all of them as of one moment.
//!
//! ```text
//! edgex/v4/core-common-config-bootstrapper/IsCommonConfigReady
//! edgex/v4/core-common-config-bootstrapper/all-services/…      Section::AllServices
//! edgex/v4/core-common-config-bootstrapper/app-services/…      Section::AppServices
//! edgex/v4/<service key>/…                                     Section::Private
//! ```
//!
//! One request reads a key with all below it, in one statement of the database. There is none for several keys. So the
//! common sections are read before and after the private one: when they are the same both times, and nothing in them was
//! written meanwhile, all three were like that at the moment of the second read.

use edgehold_config::{Layer, ProviderError, Section, Snapshot};
use edgehold_core::ServiceKey;

use crate::client::{Item, Session};

/// The key below which EdgeX 4 keeps all configuration.
pub(crate) const STEM: &str = "edgex/v4";

/// The key of the common sections.
pub(crate) const COMMON: &str = "edgex/v4/core-common-config-bootstrapper";

/// How often the sections are read afresh because the common ones were written meanwhile.
const TRIES: usize = 20;

/// The keys of one service.
#[derive(Clone, Debug)]
pub(crate) struct Sections {
    private: String,
    /// Each section and the beginning of its keys, which ends in `/`.
    prefixes: [(Section, String); 3],
}

/// What one read found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    /// The leaves.
    pub(crate) snapshot: Snapshot,
    /// Keys left out because their values are none that a setting could have.
    pub(crate) unusable: Vec<String>,
}

impl Sections {
    /// The sections of this service.
    pub(crate) fn of(service_key: &ServiceKey) -> Self {
        let private = format!("{STEM}/{service_key}");
        Self {
            prefixes: [
                (Section::AllServices, format!("{COMMON}/all-services/")),
                (Section::AppServices, format!("{COMMON}/app-services/")),
                (Section::Private, format!("{private}/")),
            ],
            private,
        }
    }

    /// The key that is `true` once the common sections are complete.
    pub(crate) fn common_ready_key() -> String {
        format!("{COMMON}/IsCommonConfigReady")
    }

    /// The full key of a leaf.
    pub(crate) fn key(&self, section: Section, path: &str) -> String {
        let prefix = self.prefixes.iter().find(|(of, _)| *of == section);
        let (_, prefix) = prefix.expect("every section has its keys");
        format!("{prefix}{path}")
    }

    /// Reads the leaves of the three sections whose paths begin with `below`.
    pub(crate) async fn read(&self, session: &Session<'_>, below: &str) -> Result<Reading, ProviderError> {
        let mut common = session.items(COMMON).await?;
        for _ in 0..TRIES {
            let mut private = session.items(&self.private).await?;
            let again = session.items(COMMON).await?;
            if again == common {
                private.extend(common);
                return Ok(self.sort(private, below));
            }
            common = again;
        }
        Err(session.unexpected("others write the common configuration all the time"))
    }

    /// Puts each key into its section.
    fn sort(&self, items: Vec<Item>, below: &str) -> Reading {
        let mut reading = Reading {
            snapshot: Snapshot::default(),
            unusable: Vec::new(),
        };
        for Item { key, value, .. } in items {
            let Some((section, leaf)) = self
                .prefixes
                .iter()
                .find_map(|(section, prefix)| Some((*section, key.strip_prefix(prefix.as_str())?)))
            else {
                continue;
            };
            if !leaf.starts_with(below) {
                continue;
            }
            let layer = layer_of(&mut reading.snapshot, section).get_or_insert_default();
            // A folder, made by somebody who took it for one.
            if leaf.is_empty() || leaf.ends_with('/') {
                continue;
            }
            match value {
                Some(text) => layer.insert(leaf, text),
                None => reading.unusable.push(key),
            }
        }
        reading
    }
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
    use edgehold_test_support::fixtures::{self, Generation};

    use super::*;
    use crate::client::items_of;

    fn sections() -> Sections {
        Sections::of(&ServiceKey::try_new("app-http-export").unwrap())
    }

    fn recorded(name: &str) -> Vec<Item> {
        let body = fixtures::read(Generation::V4, &format!("keeper/{name}.body")).unwrap();
        items_of(&body).unwrap()
    }

    #[test]
    fn a_recorded_stack_gives_three_sections_and_nothing_of_others() {
        let items = recorded("kvs-edgex-plaintext");
        let with = |prefix: &str| items.iter().filter(|item| item.key.starts_with(prefix)).count();
        let expected = [
            with("edgex/v4/core-common-config-bootstrapper/all-services/"),
            with("edgex/v4/core-common-config-bootstrapper/app-services/"),
            with("edgex/v4/app-http-export/"),
        ];

        let reading = sections().sort(items.clone(), "");

        assert_eq!(reading.unusable, Vec::<String>::new());
        let Snapshot {
            all_services,
            app_services,
            private,
        } = reading.snapshot;
        let layers = [all_services, app_services, private].map(Option::unwrap);
        assert_eq!(layers.each_ref().map(Layer::len), expected);
        let [all_services, app_services, private] = &layers;
        assert_eq!(all_services.get("Registry/Type"), Some("keeper"));
        assert_eq!(
            app_services.get("Writable/StoreAndForward/RetryInterval"),
            Some("5m")
        );
        assert_eq!(private.get("Writable/LogLevel"), Some("INFO"));
        assert_eq!(
            private.get("Writable/Pipeline/Functions/HTTPExport/Parameters/HeaderName"),
            Some("")
        );
    }

    #[test]
    fn only_what_is_asked_for_counts_and_a_section_without_it_is_none() {
        let item = |key: &str, value: Option<&str>| Item {
            key: format!("edgex/v4/{key}"),
            modified: 1,
            value: value.map(str::to_owned),
        };
        let items = vec![
            item("app-http-export", Some("a leaf where the folder is")),
            item("app-http-export/Writable/Pipeline/Functions/", Some("")),
            item("app-http-export/Writable/LogLevel", Some("INFO")),
            item("app-http-export/Writable/Broken", None),
            item("app-http-export/WritableX", Some("no")),
            item("app-http-export-2/Writable/LogLevel", Some("no")),
            item(
                "core-common-config-bootstrapper/all-services/Service/Port",
                Some("1"),
            ),
        ];

        let reading = sections().sort(items, "Writable/");

        assert_eq!(
            reading.snapshot,
            Snapshot {
                private: Some(Layer::from_iter([("Writable/LogLevel", "INFO")])),
                ..Snapshot::default()
            }
        );
        assert_eq!(reading.unusable, ["edgex/v4/app-http-export/Writable/Broken"]);
    }
}
