//! The tree of a configuration provider: whatever is in it and however it is edited, the outcome is a valid configuration
//! that says where each value comes from.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;
use std::time::Duration;

use edgehold_config::{
    Configuration, Effective, Layer, Layers, Leaf, Origin, Section, Snapshot, VanishedSection, diff, resolve,
    schema::{self, Setting},
};

const INSECURE_SECRETS: &str = "Writable/InsecureSecrets/";

/// Some trees, one after the other. A line is one edit and `-` ends a tree: `a` (all-services), `p` (app-services) or
/// `s` (the service's own section) is followed by `path=text`, which sets a leaf, or by `path`, which removes it.
pub fn kv_tree(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut snapshot = Snapshot::default();
    let mut before: Option<(Layers, Effective)> = None;
    for line in text.split('\n').chain(["-"]) {
        let section = match line.bytes().next() {
            Some(b'a') => &mut snapshot.all_services,
            Some(b'p') => &mut snapshot.app_services,
            Some(b's') => &mut snapshot.private,
            Some(b'-') => {
                before = Some(turn(&snapshot, before));
                continue;
            }
            _ => continue,
        };
        edit(section, &line[1..]);
    }
    let (layers, last) = before.expect("the last line ends a tree");
    is_stable(&layers, &last);
    can_be_shown(&last);
}

fn edit(section: &mut Option<Layer>, line: &str) {
    match line.split_once('=') {
        Some((path, text)) => section.get_or_insert_default().insert(path, text),
        None => {
            let layer = section.get_or_insert_default();
            layer.remove(line);
            // A section without any key is not there.
            section.take_if(|layer| layer.is_empty());
        }
    }
}

/// One read of the provider: the first, or the one after `before`.
fn turn(snapshot: &Snapshot, before: Option<(Layers, Effective)>) -> (Layers, Effective) {
    let Some((old, before)) = before else {
        let mut layers = Layers::default();
        layers.load(snapshot.clone());
        let now = resolves(&layers, None);
        return (layers, now);
    };
    let mut layers = old.clone();
    let vanished = layers.apply_snapshot(snapshot.clone());
    for (section, was, read, is) in [
        (
            Section::AllServices,
            &old.all_services,
            &snapshot.all_services,
            &layers.all_services,
        ),
        (
            Section::AppServices,
            &old.app_services,
            &snapshot.app_services,
            &layers.app_services,
        ),
        (Section::Private, &old.private, &snapshot.private, &layers.private),
    ] {
        let writable = |layer: &Layer| -> Layer {
            layer
                .iter()
                .filter(|(path, _)| path.starts_with("Writable/"))
                .collect()
        };
        let read = read.as_ref().map(writable).unwrap_or_default();
        let has_vanished = read.is_empty() && !writable(was).is_empty();
        assert_eq!(
            vanished.contains(&VanishedSection(section)),
            has_vanished,
            "{section:?}"
        );
        assert_eq!(
            writable(is),
            if has_vanished { writable(was) } else { read },
            "{section:?}"
        );
    }
    let now = resolves(&layers, Some(&before));
    let changed: Vec<_> = diff(&before, &now).into_iter().map(|change| change.key).collect();
    assert_eq!(changed, differing(&before, &now));
    (layers, now)
}

/// The paths whose texts differ, found the plain way.
fn differing(before: &Effective, now: &Effective) -> Vec<String> {
    let texts = |effective: &Effective| -> BTreeSet<(String, String)> {
        let leaves = effective.configuration.leaves();
        leaves
            .iter()
            .map(|(path, leaf)| (path.to_owned(), leaf.text().to_owned()))
            .collect()
    };
    let paths: BTreeSet<_> = texts(before)
        .symmetric_difference(&texts(now))
        .map(|(path, _)| path.clone())
        .collect();
    paths.into_iter().collect()
}

/// Resolves layers (of which only the three sections may be filled) and holds the outcome to all that is promised.
pub(crate) fn resolves(layers: &Layers, before: Option<&Effective>) -> Effective {
    let now = resolve(layers, before);
    is_valid(&now.configuration);
    let stack = [
        (Origin::Private, &layers.private),
        (Origin::AppServices, &layers.app_services),
        (Origin::AllServices, &layers.all_services),
    ];
    let outcome = Outcome {
        stack,
        before: before.map(|before| &*before.configuration),
        now: &now,
    };
    outcome.holds_what_it_says();
    outcome.passes_nothing_over();
    outcome.secrets_are_whole();
    now
}

/// What holds is its own last good: resolving again changes no value, and from then on nothing at all.
pub(crate) fn is_stable(layers: &Layers, now: &Effective) {
    let again = resolve(layers, Some(now));
    assert_eq!(diff(now, &again), [], "resolving again changes a value");
    assert_eq!(again.configuration.writable, now.configuration.writable);
    assert!(
        again
            .rejected
            .iter()
            .all(|rejection| now.rejected.contains(rejection))
    );
    assert_eq!(
        resolve(layers, Some(&again)),
        again,
        "resolving a third time changes something"
    );
}

/// What the types promise and do not say.
fn is_valid(configuration: &Configuration) {
    let writable = &configuration.writable;
    let saf = &writable.store_and_forward;
    assert!(saf.retry_interval >= Duration::from_secs(1));
    assert!(saf.max_retry_interval > Duration::ZERO);
    assert!(saf.retry_rate.is_none_or(|rate| rate > 0.0));
    assert!((0.0..=1.0).contains(&saf.fresh_share));
    assert!(saf.retry_batch_bytes > 0);
    assert!(saf.max_age.is_none_or(|age| age > Duration::ZERO));
    assert!(
        writable
            .telemetry
            .interval
            .is_none_or(|interval| interval > Duration::ZERO)
    );
    for secret in writable.insecure_secrets.values() {
        assert!(!secret.secret_name.trim().is_empty());
    }

    assert!(configuration.service.health_check_interval > Duration::ZERO);
    assert!(configuration.service.request_timeout > Duration::ZERO);
    assert!(configuration.database.timeout > Duration::ZERO);
    assert!(!configuration.database.kind.is_empty());
    let bus = &configuration.message_bus;
    assert!(
        !bus.base_topic_prefix.is_empty()
            && bus.qos().is_none_or(|qos| qos <= 2)
            && bus.connect_timeout() > Duration::ZERO
    );
    let _ = (
        bus.client_id(),
        bus.keep_alive(),
        bus.clean_session(),
        bus.retained(),
    );
    let _ = (bus.auto_reconnect(), bus.skip_cert_verify());
    let external = &configuration.trigger.external_mqtt;
    assert!(external.qos <= 2 && external.will.as_ref().is_none_or(|will| will.qos <= 2));
    assert!(external.keep_alive.is_none_or(|pause| pause > Duration::ZERO));
    assert!(configuration.limits.max_in_flight_bytes > 0 && configuration.limits.max_message_bytes > 0);

    let leaves = configuration.leaves();
    for setting in fixed_settings()
        .values()
        .filter(|setting| setting.default.is_some())
    {
        assert!(
            leaves.get(setting.path).is_some(),
            "{} has no value",
            setting.path
        );
    }
}

/// Everything of it can be shown.
pub(crate) fn can_be_shown(effective: &Effective) {
    let configuration = &effective.configuration;
    assert!(configuration.to_json()["Writable"].is_object());
    for (path, leaf) in configuration.leaves().iter() {
        assert!(
            leaf.origin() == Origin::Default || configuration.leaves().shown(path).is_some(),
            "{path}"
        );
    }
    for rejection in &effective.rejected {
        assert!(rejection.to_string().contains(&rejection.key));
    }
    for adjustment in &effective.adjusted {
        assert!(adjustment.to_string().contains(&adjustment.key));
    }
}

/// The settings without a name in their path, by path: looking a path up in the schema is slow.
fn fixed_settings() -> &'static BTreeMap<&'static str, &'static Setting> {
    static FIXED: LazyLock<BTreeMap<&str, &Setting>> = LazyLock::new(|| {
        let fixed = schema::settings().filter(|setting| !setting.path.contains('<'));
        fixed.map(|setting| (setting.path, setting)).collect()
    });
    &FIXED
}

fn find(path: &str) -> Option<&'static Setting> {
    fixed_settings().get(path).copied().or_else(|| schema::find(path))
}

struct Outcome<'a> {
    /// Highest first.
    stack: [(Origin, &'a Layer); 3],
    before: Option<&'a Configuration>,
    now: &'a Effective,
}

impl Outcome<'_> {
    fn is_rejected(&self, path: &str, section: Origin) -> bool {
        self.now
            .rejected
            .iter()
            .any(|rejection| rejection.key == path && rejection.section == section)
    }

    /// The value that held before.
    fn last_good(&self, path: &str) -> Option<&Leaf> {
        self.before?.leaves().get(path)
    }

    /// Each value is that of the place it is said to come from, and whatever is above that was named as unusable.
    fn holds_what_it_says(&self) {
        for (path, leaf) in self.now.configuration.leaves().iter() {
            let setting = find(path).expect("only settings hold");
            let mut above = self
                .stack
                .iter()
                .take_while(|(section, _)| *section != leaf.origin());
            let is_secret = path.starts_with(INSECURE_SECRETS);
            // Of a secret the entry is named, once for each layer; the leaf itself need not be bad.
            let above_is_named = is_secret
                || above
                    .all(|(section, layer)| layer.get(path).is_none() || self.is_rejected(path, *section));
            let text = Some(leaf.text());
            match leaf.origin() {
                Origin::Default => {
                    assert!(above_is_named, "{path}: a default in place of a good value");
                    assert_eq!(text, setting.default, "{path}");
                }
                Origin::LastGood => {
                    assert_eq!(
                        text,
                        self.last_good(path).map(Leaf::text),
                        "{path}: not the last good value"
                    );
                    let mut sections = self.stack.iter();
                    let highest = sections.find(|(_, layer)| layer.get(path).is_some());
                    let is_named = highest.is_some_and(|(section, _)| self.is_rejected(path, *section));
                    assert!(
                        is_secret || is_named,
                        "{path}: the last good value, and nothing is wrong"
                    );
                }
                origin => {
                    assert!(
                        above_is_named,
                        "{path}: a good value of a higher layer is passed over"
                    );
                    let from = self.stack.iter().find(|(section, _)| *section == origin);
                    assert_eq!(text, from.and_then(|(_, layer)| layer.get(path)), "{path}");
                }
            }
        }
    }

    /// A setting that is configured somewhere has a value unless each of its texts was named, and one that was named keeps
    /// the value it had.
    fn passes_nothing_over(&self) {
        let paths: BTreeSet<_> = self
            .stack
            .iter()
            .flat_map(|(_, layer)| layer.iter())
            .map(|(path, _)| path)
            .collect();
        for path in paths {
            if find(path).is_none() || path.starts_with(INSECURE_SECRETS) {
                continue;
            }
            let holds = self.now.configuration.leaves().get(path);
            let texts = || self.stack.iter().filter(|(_, layer)| layer.get(path).is_some());
            if texts().any(|(section, _)| self.is_rejected(path, *section))
                && let Some(last_good) = self.last_good(path)
            {
                let kept = holds.map(|leaf| (leaf.text(), leaf.origin()));
                assert_eq!(kept, Some((last_good.text(), Origin::LastGood)), "{path}");
            }
            assert!(
                holds.is_some() || texts().all(|(section, _)| self.is_rejected(path, *section)),
                "{path} has vanished"
            );
        }
    }

    /// Each secret is that of the highest layer in which it has a name, or as a whole the last good one.
    fn secrets_are_whole(&self) {
        let all: BTreeSet<_> = self
            .stack
            .iter()
            .flat_map(|(_, layer)| secret_leaves(layer))
            .map(|(path, _)| path)
            .collect();
        let entries: BTreeSet<_> = all
            .iter()
            .filter_map(|path| path[INSECURE_SECRETS.len()..].split('/').next())
            .collect();
        let expected: BTreeMap<_, _> = entries.into_iter().flat_map(|entry| self.secret(entry)).collect();
        assert_eq!(secret_texts(&self.now.configuration), expected);
    }

    fn secret(&self, entry: &str) -> BTreeMap<String, String> {
        let folder = format!("{INSECURE_SECRETS}{entry}/");
        let name = format!("{folder}SecretName");
        let mut layers: Vec<_> = self.stack.iter().map(|(_, layer)| *layer).collect();
        while let Some(top) = layers.first() {
            if secret_leaves(top).any(|(path, _)| path.starts_with(&folder)) {
                let overlaid: BTreeMap<_, _> = layers
                    .iter()
                    .rev()
                    .flat_map(|layer| secret_leaves(layer))
                    .filter(|(path, _)| path.starts_with(&folder))
                    .map(|(path, text)| (path.to_owned(), text.to_owned()))
                    .collect();
                if overlaid.get(&name).is_some_and(|name| !name.trim().is_empty()) {
                    return overlaid;
                }
                let mut last_good = self.before.map(secret_texts).unwrap_or_default();
                last_good.retain(|path, _| path.starts_with(&folder));
                if !last_good.is_empty() {
                    return last_good;
                }
            }
            layers.remove(0);
        }
        BTreeMap::new()
    }
}

fn secret_leaves(layer: &Layer) -> impl Iterator<Item = (&str, &str)> {
    let below = layer
        .iter()
        .filter(|(path, _)| path.starts_with(INSECURE_SECRETS));
    below.filter(|(path, _)| find(path).is_some())
}

fn secret_texts(configuration: &Configuration) -> BTreeMap<String, String> {
    let leaves = configuration.leaves().iter();
    leaves
        .filter(|(path, _)| path.starts_with(INSECURE_SECRETS))
        .map(|(path, leaf)| (path.to_owned(), leaf.text().to_owned()))
        .collect()
}
