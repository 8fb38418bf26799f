//! Differences between two sets of settings, leaf by leaf.

use std::collections::{BTreeMap, BTreeSet};

use edgehold_clients::{FetchError, FileUri};
use edgehold_config::{Configuration, Layers, Origin, Section, diff, environment, resolve, shown};
use serde_json::Value as Json;

use super::{SettingOrigin, SettingsError, SettingsView, check::nowhere};
use crate::{invocation::Invocation, logging::with_causes, rest_client::rest_client};

/// What settings are compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Counterpart {
    /// What holds, with the defaults.
    Defaults,
    /// The private file with what the provider holds of it.
    Provider,
    /// What holds, with what a running service says: at this address, or where the settings say that it listens.
    Running(Option<String>),
}

/// A leaf that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingDifference {
    /// Its path.
    pub path: String,
    /// The text on the left side, as it may be shown; none when it is not there.
    pub left: Option<String>,
    /// The text on the right side.
    pub right: Option<String>,
    /// Where the value of these settings comes from.
    pub origin: SettingOrigin,
}

/// Two sides and what differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// What is on the left.
    pub left: String,
    /// What is on the right.
    pub right: String,
    /// What differs, by ascending path.
    pub differences: Vec<SettingDifference>,
    /// What a running service says that it does not use, and why.
    pub rejected: Vec<String>,
}

impl SettingsView {
    /// Compares these settings. A secret that differs is named, its values are not shown; one that a running service does
    /// not show counts as equal.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub async fn compare(&self, with: &Counterpart) -> Result<Comparison, SettingsError> {
        match with {
            Counterpart::Defaults => self.compare_with_defaults(),
            Counterpart::Provider => self.compare_with_provider(),
            Counterpart::Running(address) => self.compare_with_running(address.as_deref()).await,
        }
    }

    fn compare_with_defaults(&self) -> Result<Comparison, SettingsError> {
        let (layers, environment) = self.layers()?;
        let effective = resolve(&layers, None);
        let changes = diff(&resolve(&Layers::default(), None), &effective);
        let differences = changes.into_iter().map(|change| SettingDifference {
            origin: self.origin(change.origin, &change.key, &environment),
            path: change.key,
            left: change.old,
            right: change.new,
        });
        Ok(Comparison {
            left: "defaults".to_owned(),
            right: "effective".to_owned(),
            differences: differences.collect(),
            rejected: Vec::new(),
        })
    }

    fn compare_with_provider(&self) -> Result<Comparison, SettingsError> {
        let remote = self.remote()?;
        let file = environment::seed(&self.document()?.layer, &Default::default());
        let held = remote.section(Section::Private).cloned().unwrap_or_default();
        let paths: BTreeSet<&str> = file.iter().chain(held.iter()).map(|(path, _)| path).collect();
        let text = |path: &str, text: Option<&str>| text.map(|text| shown(path, text));
        let differences = paths
            .into_iter()
            .filter(|path| file.get(path) != held.get(path))
            .map(|path| SettingDifference {
                path: path.to_owned(),
                left: text(path, file.get(path)),
                right: text(path, held.get(path)),
                origin: match file.get(path) {
                    Some(_) => self.in_file(path),
                    None => nowhere("private"),
                },
            });
        Ok(Comparison {
            left: self.file(),
            right: remote.provider.describe(),
            differences: differences.collect(),
            rejected: Vec::new(),
        })
    }

    async fn compare_with_running(&self, address: Option<&str>) -> Result<Comparison, SettingsError> {
        let (layers, environment) = self.layers()?;
        let effective = resolve(&layers, None);
        let (url, answer) = match address {
            Some(address) => self.ask_at(&config_route(address)).await?,
            None => self.ask_where_it_listens(&effective.configuration).await?,
        };
        let unasked = |problem: String| SettingsError::Running(format!("{url}: {problem}"));
        let Some(config @ Json::Object(_)) = answer.get("config") else {
            return Err(unasked("its answer has no 'config'".to_owned()));
        };
        let (mut here, mut there) = (BTreeMap::new(), BTreeMap::new());
        flatten("", &effective.configuration.to_json(), &mut here);
        flatten("", config, &mut there);
        let paths: BTreeSet<&String> = here.keys().chain(there.keys()).collect();
        let leaves = effective.configuration.leaves();
        let differences = paths
            .into_iter()
            .filter(|path| here.get(*path) != there.get(*path))
            .map(|path| {
                let origin = leaves
                    .get(path)
                    .map_or(Origin::Default, edgehold_config::Leaf::origin);
                SettingDifference {
                    path: path.clone(),
                    left: here.get(path).cloned(),
                    // The original shows secrets.
                    right: there.get(path).map(|text| shown(path, text)),
                    origin: self.origin(origin, path, &environment),
                }
            });
        Ok(Comparison {
            left: match &self.remote {
                Some(remote) => remote.provider.describe(),
                None => self.file(),
            },
            right: url.clone(),
            differences: differences.collect(),
            rejected: rejected(&answer),
        })
    }

    /// What the service at an address says, and the address.
    async fn ask_at(&self, url: &str) -> Result<(String, Json), SettingsError> {
        let unasked = |problem: String| SettingsError::Running(format!("{url}: {problem}"));
        let uri = FileUri::parse(url).map_err(|error| unasked(with_causes(&error)))?;
        let answer = uri.fetch(None, self.invocation.flags.file_uri_timeout).await;
        let answer = answer.map_err(|error| match error {
            FetchError::Call { source, .. } => unasked(with_causes(&source)),
            other => unasked(with_causes(&other)),
        })?;
        let answer = serde_json::from_str(&answer)
            .map_err(|error| unasked(format!("its answer is not JSON: {error}")))?;
        Ok((url.to_owned(), answer))
    }

    /// The same of the service with this configuration, over https when it says so.
    async fn ask_where_it_listens(
        &self,
        configuration: &Configuration,
    ) -> Result<(String, Json), SettingsError> {
        let service = &configuration.service;
        if service.host.is_empty() || service.port == 0 {
            let problem =
                "Service/Host and Service/Port do not say where it listens: --running=http://host:port";
            return Err(SettingsError::Running(problem.to_owned()));
        }
        let Invocation {
            flags, environment, ..
        } = &self.invocation;
        let client = rest_client(configuration, environment, flags.file_uri_timeout)
            .map_err(|error| SettingsError::Running(with_causes(&error)))?;
        let url = config_route(&client.to_string());
        let answer = client.get(&["config"], &[]).await;
        let answer =
            answer.map_err(|error| SettingsError::Running(format!("{url}: {}", with_causes(&error))))?;
        Ok((url, answer))
    }

    /// Where a leaf of the private file stands, whatever the provider holds.
    fn in_file(&self, path: &str) -> SettingOrigin {
        let place = self
            .private
            .as_ref()
            .ok()
            .and_then(|document| document.places.value(path));
        SettingOrigin {
            file: Some(self.file()),
            place: place.map(|place| (place.line, place.column)),
            ..nowhere("private")
        }
    }
}

/// What a service says beside its settings: values it does not use.
fn rejected(answer: &Json) -> Vec<String> {
    let list = answer.get("rejected").and_then(Json::as_array);
    let text = |rejection: &Json, name: &str| {
        rejection
            .get(name)
            .and_then(Json::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let told = |rejection: &Json| {
        format!(
            "{} = '{}': {}",
            text(rejection, "key"),
            text(rejection, "value"),
            text(rejection, "reason")
        )
    };
    list.into_iter().flatten().map(told).collect()
}

/// The address of a service's settings: the one given, unless it names a service alone.
fn config_route(address: &str) -> String {
    let address = address.trim_end_matches('/');
    let (scheme, rest) = address.split_once("://").unwrap_or(("http", address));
    match rest.contains('/') {
        true => format!("{scheme}://{rest}"),
        false => format!("{scheme}://{rest}/api/v3/config"),
    }
}

/// The leaves of a tree, as text. Nothing at all is as good as an empty folder.
fn flatten(path: &str, json: &Json, into: &mut BTreeMap<String, String>) {
    let child = |name: &str| match path {
        "" => name.to_owned(),
        path => format!("{path}/{name}"),
    };
    match json {
        Json::Null => {}
        Json::Object(entries) => entries
            .iter()
            .for_each(|(name, json)| flatten(&child(name), json, into)),
        Json::Array(elements) => {
            for (index, json) in elements.iter().enumerate() {
                flatten(&child(&index.to_string()), json, into);
            }
        }
        Json::String(text) => _ = into.insert(path.to_owned(), text.clone()),
        other => _ = into.insert(path.to_owned(), other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_enough_of_an_address() {
        for (given, route) in [
            ("localhost:59700", "http://localhost:59700/api/v3/config"),
            ("https://h:1/", "https://h:1/api/v3/config"),
            ("http://h/app/api/v3/config", "http://h/app/api/v3/config"),
        ] {
            assert_eq!(config_route(given), route);
        }
    }
}
