//! The layers a configuration is resolved from, lowest first: defaults, all-services, app-services, private,
//! environment, command line.
//!
//! Owns how they are replaced: by a snapshot of the provider, and by the hosts of hybrid and remote mode. What the
//! layers amount to is decided by [`crate::resolve`].

use std::{collections::BTreeSet, fmt};

use crate::{Layer, Origin, Section, Snapshot, flags::RemoteServiceHosts};

const WRITABLE: &str = "Writable/";

/// All layers above the defaults.
///
/// With a configuration provider, `environment` stays empty: what the environment overrides is seeded into the private
/// section ([`crate::environment::seed`]), and from then on the provider's value wins. Without one, the environment
/// has the last word over the files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layers {
    /// Common settings of all services.
    pub all_services: Layer,
    /// Common settings of application services.
    pub app_services: Layer,
    /// Settings of this service.
    pub private: Layer,
    /// Overrides from the environment.
    pub environment: Layer,
    /// What `-d` or `-rsh` put in place; made by [`Layers::set_dev_mode`] and [`Layers::set_remote_hosts`].
    pub command_line: Layer,
}

/// A section whose `Writable` settings have all vanished at once. It keeps the ones it had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VanishedSection(pub Section);

impl fmt::Display for VanishedSection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let section = Origin::from(self.0);
        write!(
            f,
            "all Writable settings of {section} have vanished from the configuration provider; the last ones stay"
        )
    }
}

impl Layers {
    /// Replaces all three sections by what a provider holds. A section without any key becomes empty.
    pub fn load(&mut self, snapshot: Snapshot) {
        self.all_services = snapshot.all_services.unwrap_or_default();
        self.app_services = snapshot.app_services.unwrap_or_default();
        self.private = snapshot.private.unwrap_or_default();
    }

    /// Replaces the `Writable` settings of the three sections by those of a snapshot. Other leaves are neither taken
    /// nor touched.
    ///
    /// Answers the sections whose `Writable` settings have all vanished at once although there were some: they keep
    /// what they had, because lost rights look just like that. The caller reports them.
    #[must_use = "a section that vanished has to be reported"]
    pub fn apply_snapshot(&mut self, snapshot: Snapshot) -> Vec<VanishedSection> {
        let Snapshot {
            all_services,
            app_services,
            private,
        } = snapshot;
        let sections = [
            (Section::AllServices, &mut self.all_services, all_services),
            (Section::AppServices, &mut self.app_services, app_services),
            (Section::Private, &mut self.private, private),
        ];
        let mut vanished = Vec::new();
        for (section, layer, now) in sections {
            let is_writable = |(path, _): &(&str, &str)| path.starts_with(WRITABLE);
            let now: Layer = now.iter().flat_map(Layer::iter).filter(is_writable).collect();
            if !now.is_empty() {
                *layer = layer
                    .iter()
                    .filter(|leaf| !is_writable(leaf))
                    .chain(now.iter())
                    .collect();
            } else if layer.iter().any(|leaf| is_writable(&leaf)) {
                vanished.push(VanishedSection(section));
            }
        }
        vanished
    }

    /// Hybrid mode (`-d`): this service runs on a developer's machine and everything else is reachable there.
    /// `local_host` is the address under which others reach this machine.
    pub fn set_dev_mode(&mut self, local_host: &str) {
        self.set_hosts("localhost", local_host, "0.0.0.0");
    }

    /// Remote mode (`-rsh`): the core services run on another machine.
    pub fn set_remote_hosts(&mut self, hosts: &RemoteServiceHosts) {
        self.set_hosts(&hosts.core, &hosts.local, &hosts.bind);
    }

    fn set_hosts(&mut self, others: &str, own: &str, bind: &str) {
        let clients: BTreeSet<String> = self.names("Clients/").map(str::to_owned).collect();
        let others = [
            "MessageBus/Host".to_owned(),
            "Registry/Host".to_owned(),
            "Database/Host".to_owned(),
        ]
        .into_iter()
        .chain(clients.into_iter().map(|name| format!("Clients/{name}/Host")))
        .map(|path| (path, others));
        let own = [("Service/Host", own), ("Service/ServerBindAddr", bind)];
        self.command_line = others
            .chain(own.map(|(path, host)| (path.to_owned(), host)))
            .collect();
    }

    /// What all layers together hold below a folder, as text and unchecked, by path below it: for sections a custom
    /// function brings along.
    pub fn section(&self, folder: &str) -> Layer {
        let lowest_first = self.stack().into_iter().rev();
        lowest_first
            .flat_map(|(_, layer)| layer.iter())
            .filter_map(|(path, text)| Some((path.strip_prefix(folder)?.strip_prefix('/')?, text)))
            .collect()
    }

    /// The layers, highest first.
    pub(crate) fn stack(&self) -> [(Origin, &Layer); 5] {
        [
            (Origin::CommandLine, &self.command_line),
            (Origin::Environment, &self.environment),
            (Origin::Private, &self.private),
            (Origin::AppServices, &self.app_services),
            (Origin::AllServices, &self.all_services),
        ]
    }

    /// Every path that is in some layer; those in several come several times.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &str> {
        self.stack()
            .into_iter()
            .flat_map(|(_, layer)| layer.iter())
            .map(|(path, _)| path)
    }

    /// The first segments below a folder that is given with its slash.
    pub(crate) fn names<'a>(&'a self, folder: &'a str) -> impl Iterator<Item = &'a str> {
        self.paths()
            .filter_map(move |path| path.strip_prefix(folder)?.split('/').next())
            .filter(|name| !name.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer<const N: usize>(leaves: [(&str, &str); N]) -> Layer {
        leaves.into_iter().collect()
    }

    #[test]
    fn a_snapshot_replaces_what_is_writable_and_nothing_else() {
        let mut layers = Layers {
            private: layer([
                ("Service/Port", "1"),
                ("Writable/LogLevel", "INFO"),
                ("Writable/Old", "x"),
            ]),
            ..Layers::default()
        };
        let vanished = layers.apply_snapshot(Snapshot {
            private: Some(layer([("Service/Port", "2"), ("Writable/LogLevel", "DEBUG")])),
            ..Snapshot::default()
        });
        assert_eq!(vanished, []);
        assert_eq!(
            layers.private,
            layer([("Service/Port", "1"), ("Writable/LogLevel", "DEBUG")])
        );
    }

    #[test]
    fn a_section_that_vanishes_whole_is_kept_and_named() {
        let before = Layers {
            all_services: layer([("Writable/Telemetry/Interval", "30s")]),
            app_services: layer([("Trigger/Type", "http")]),
            private: layer([("Writable/LogLevel", "INFO")]),
            ..Layers::default()
        };
        let mut layers = before.clone();
        let vanished = layers.apply_snapshot(Snapshot {
            all_services: None,
            app_services: None,
            private: Some(layer([("Service/Port", "2")])),
        });
        assert_eq!(
            vanished,
            [
                VanishedSection(Section::AllServices),
                VanishedSection(Section::Private)
            ]
        );
        assert!(
            vanished[0].to_string().contains("all-services"),
            "{}",
            vanished[0]
        );
        assert_eq!(layers, before);
    }

    #[test]
    fn dev_mode_puts_everything_on_this_machine() {
        let mut layers = Layers {
            app_services: layer([("Clients/core-metadata/Host", "edgex-core-metadata")]),
            ..Layers::default()
        };
        layers.set_dev_mode("10.0.0.7");
        assert_eq!(
            layers.command_line,
            layer([
                ("Clients/core-metadata/Host", "localhost"),
                ("Database/Host", "localhost"),
                ("MessageBus/Host", "localhost"),
                ("Registry/Host", "localhost"),
                ("Service/Host", "10.0.0.7"),
                ("Service/ServerBindAddr", "0.0.0.0"),
            ])
        );
    }

    #[test]
    fn a_custom_section_is_overlaid_leaf_by_leaf() {
        let layers = Layers {
            app_services: layer([
                ("Custom/A", "low"),
                ("Custom/B/C", "low"),
                ("Customer/A", "other"),
            ]),
            private: layer([("Custom/A", "high")]),
            ..Layers::default()
        };
        assert_eq!(layers.section("Custom"), layer([("A", "high"), ("B/C", "low")]));
    }
}
