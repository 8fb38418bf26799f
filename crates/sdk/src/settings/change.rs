//! Changes of the settings in a provider: what is to be written, which of it belongs together, and what speaks against it.
//!
//! A plan is made from what the provider held when it was looked at, and every edit expects just that: what somebody else
//! changes meanwhile is never overwritten. What belongs together goes in one transaction: a pipeline with the functions it
//! names, a secret, and everything that one `set` names.

use std::collections::{BTreeMap, BTreeSet};

use edgehold_config::{
    Edit, Expected, Layer, Layers, Section, configuration::PipelineSettings, environment,
    environment::Environment, resolve, schema, shown,
};

use super::{
    SettingDifference, SettingsError, SettingsView,
    check::{Finding, FindingSeverity, nowhere, sort},
};

/// As many leaves as any provider writes at once (Consul).
const MOST_AT_ONCE: usize = 64;

/// A leaf and its new text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Its path.
    pub path: String,
    /// Its text. It may be a secret.
    pub text: String,
}

/// What to push of the private file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PushOptions {
    /// Also what the provider holds with another value.
    pub overwrite: bool,
    /// Remove what is not in the file.
    pub prune: bool,
}

/// One leaf that is to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedChange {
    /// Its path.
    pub path: String,
    /// What there is, as it may be shown; none when it is not there.
    pub old: Option<String>,
    /// What there is to be; none when it is to be removed.
    pub new: Option<String>,
    /// Whether a running service follows at once; otherwise it does at its next start.
    pub is_hot: bool,
}

/// What is to be written.
#[derive(Clone, Debug, Default)]
pub struct ChangePlan {
    groups: Vec<Vec<Edit>>,
    /// Every leaf that changes, by ascending path.
    pub changes: Vec<PlannedChange>,
    /// Leaves of the file whose other value in the provider is kept: file left, provider right.
    pub kept: Vec<SettingDifference>,
    /// What speaks against it: errors that the settings have then and have not now.
    pub objections: Vec<Finding>,
}

impl SettingsView {
    /// Writes leaves of the private file into the private section of the provider.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub fn plan_push(&self, options: PushOptions) -> Result<ChangePlan, SettingsError> {
        let remote = self.remote()?;
        let file = environment::seed(&self.document()?.layer, &Layer::default());
        let held = remote.section(Section::Private).cloned().unwrap_or_default();
        let mut edits = Vec::new();
        let mut kept = Vec::new();
        for (path, text) in file.iter() {
            match held.get(path) {
                Some(held) if held == text => {}
                Some(held) if !options.overwrite => kept.push(SettingDifference {
                    path: path.to_owned(),
                    left: Some(shown(path, text)),
                    right: Some(shown(path, held)),
                    origin: self.origin(edgehold_config::Origin::Private, path, &Environment::default()),
                }),
                _ => edits.push(self.edit(Section::Private, path, Some(text.to_owned()))),
            }
        }
        if options.prune {
            let gone = held
                .iter()
                .map(|(path, _)| path)
                .filter(|path| file.get(path).is_none());
            edits.extend(gone.map(|path| self.edit(Section::Private, path, None)));
        }
        let (before, after) = self.before_and_after(&edits)?;
        let settings = |layers: &Layers| resolve(layers, None).configuration.writable.pipeline.clone();
        let groups = group(edits, &[settings(&before), settings(&after)]);
        let mut plan = self.plan(groups, &before, &after);
        plan.kept = kept;
        Ok(plan)
    }

    /// Sets leaves of one section, all in one transaction.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub fn plan_set(
        &self,
        section: Section,
        assignments: &[Assignment],
    ) -> Result<ChangePlan, SettingsError> {
        let remote = self.remote()?;
        let mut refused = Vec::new();
        let mut edits: Vec<Edit> = Vec::new();
        for Assignment { path, text } in assignments {
            if let Some(reason) = schema::refusal(path, text) {
                let is_unknown = schema::is_unknown(path);
                let message = match is_unknown {
                    true => reason,
                    false => format!("'{}' cannot be used: {reason}", shown(path, text)),
                };
                let meant = is_unknown.then(|| schema::similar_setting(path)).flatten();
                let finding = Finding::new(FindingSeverity::Error, nowhere(name(section)), message);
                refused.push(finding.of_key(path).meant(meant));
            }
            edits.retain(|edit| edit.path != *path);
            if remote.text(section, path) != Some(text) {
                edits.push(self.edit(section, path, Some(text.clone())));
            }
        }
        self.plan_of_section(section, edits, refused)
    }

    /// Removes leaves of one section, all in one transaction.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub fn plan_unset(&self, section: Section, paths: &[String]) -> Result<ChangePlan, SettingsError> {
        let remote = self.remote()?;
        let paths: BTreeSet<&String> = paths
            .iter()
            .filter(|path| remote.text(section, path).is_some())
            .collect();
        let edits = paths
            .into_iter()
            .map(|path| self.edit(section, path, None))
            .collect();
        self.plan_of_section(section, edits, Vec::new())
    }

    /// Writes what is planned; answers how many leaves that were. Objections are the caller's to heed.
    ///
    /// # Errors
    /// [`SettingsError`]; groups that belong together are written whole or not at all.
    pub async fn write(&self, plan: &ChangePlan) -> Result<usize, SettingsError> {
        Ok(self.remote()?.provider.edit(&plan.groups).await?)
    }

    fn plan_of_section(
        &self,
        section: Section,
        edits: Vec<Edit>,
        refused: Vec<Finding>,
    ) -> Result<ChangePlan, SettingsError> {
        let (before, after) = self.before_and_after(&edits)?;
        let mut plan = self.plan(vec![edits], &before, &after);
        // What was refused by itself need not be told again, and none of it stands in a file.
        let is_told = |finding: &Finding| refused.iter().any(|refused| refused.key == finding.key);
        plan.objections.retain(|finding| !is_told(finding));
        for finding in &mut plan.objections {
            finding.origin = nowhere(name(section));
        }
        plan.objections.splice(0..0, refused);
        Ok(plan)
    }

    fn edit(&self, section: Section, path: &str, text: Option<String>) -> Edit {
        let held = self.remote.as_ref().and_then(|remote| remote.text(section, path));
        Edit {
            section,
            path: path.to_owned(),
            text,
            expected: Expected::seen(held),
        }
    }

    /// The layers of the provider as they are, and with these edits.
    fn before_and_after(&self, edits: &[Edit]) -> Result<(Layers, Layers), SettingsError> {
        let mut before = Layers::default();
        before.load(self.remote()?.snapshot.clone());
        let mut after = before.clone();
        for edit in edits {
            let layer = match edit.section {
                Section::AllServices => &mut after.all_services,
                Section::AppServices => &mut after.app_services,
                Section::Private => &mut after.private,
            };
            match &edit.text {
                Some(text) => layer.insert(&*edit.path, text),
                None => _ = layer.remove(&edit.path),
            }
        }
        Ok((before, after))
    }

    fn plan(&self, groups: Vec<Vec<Edit>>, before: &Layers, after: &Layers) -> ChangePlan {
        let errors = |layers: &Layers| {
            let mut findings = Vec::new();
            self.examine(
                layers,
                &resolve(layers, None),
                &Environment::default(),
                &mut findings,
            );
            findings.retain(|finding| finding.severity == FindingSeverity::Error);
            findings
        };
        let is_said = |finding: &Finding| (finding.key.clone(), finding.message.clone());
        let known: BTreeSet<_> = errors(before).iter().map(is_said).collect();
        let mut objections = errors(after);
        objections.retain(|finding| !known.contains(&is_said(finding)));
        sort(&mut objections);
        let mut changes: Vec<PlannedChange> = groups
            .iter()
            .flatten()
            .map(|edit| PlannedChange {
                path: edit.path.clone(),
                old: match &edit.expected {
                    Expected::Text(text) => Some(shown(&edit.path, text)),
                    _ => None,
                },
                new: edit.text.as_ref().map(|text| shown(&edit.path, text)),
                is_hot: edit.path.starts_with("Writable/"),
            })
            .collect();
        changes.sort_by(|one, other| one.path.cmp(&other.path));
        ChangePlan {
            groups,
            changes,
            kept: Vec::new(),
            objections,
        }
    }
}

fn name(section: Section) -> &'static str {
    match section {
        Section::AllServices => "all-services",
        Section::AppServices => "app-services",
        Section::Private => "private",
    }
}

/// What belongs together: a pipeline with the functions it names, before or after, and a secret. Large groups first, so
/// that small ones fill what room they leave. A group that no transaction can take goes in several, those that name
/// functions last: until then, new functions are there and not called.
fn group(edits: Vec<Edit>, settings: &[PipelineSettings]) -> Vec<Vec<Edit>> {
    let pipelines = pipelines(settings);
    let mut groups: BTreeMap<String, Vec<Edit>> = BTreeMap::new();
    for edit in edits {
        let unit = unit(&edit.path);
        let number = pipelines.iter().position(|pipeline| pipeline.contains(&unit));
        let name = number.map_or(unit, |number| format!("pipeline {number}"));
        groups.entry(name).or_default().push(edit);
    }
    let mut groups: Vec<Vec<Edit>> = groups.into_values().collect();
    groups.sort_by_key(|group| std::cmp::Reverse(group.len()));
    let split = |mut group: Vec<Edit>| {
        group.sort_by_key(|edit| !edit.path.starts_with(FUNCTIONS));
        group
            .chunks(MOST_AT_ONCE)
            .map(<[Edit]>::to_vec)
            .collect::<Vec<_>>()
    };
    groups.into_iter().flat_map(split).collect()
}

const FUNCTIONS: &str = "Writable/Pipeline/Functions/";
const PER_TOPIC: &str = "Writable/Pipeline/PerTopicPipelines/";
const DEFAULT: &str = "Writable/Pipeline/ExecutionOrder";

/// The smallest thing a leaf is part of: a function, an entry of the pipelines, a secret, or itself.
fn unit(path: &str) -> String {
    for folder in [FUNCTIONS, PER_TOPIC, "Writable/InsecureSecrets/"] {
        if let Some(rest) = path.strip_prefix(folder) {
            let entry = rest.split('/').next().unwrap_or_default();
            return format!("{folder}{entry}");
        }
    }
    path.to_owned()
}

/// Sets of units that hang together by the functions that pipelines name.
fn pipelines(settings: &[PipelineSettings]) -> Vec<BTreeSet<String>> {
    let mut sets: Vec<BTreeSet<String>> = Vec::new();
    for settings in settings {
        let default = (DEFAULT.to_owned(), &settings.execution_order);
        let per_topic = settings.per_topic.iter();
        let per_topic =
            per_topic.map(|(entry, pipeline)| (format!("{PER_TOPIC}{entry}"), &pipeline.execution_order));
        for (unit, order) in std::iter::once(default).chain(per_topic) {
            let mut set: BTreeSet<String> = order.iter().map(|name| format!("{FUNCTIONS}{name}")).collect();
            set.insert(unit);
            sets.retain(|other| {
                let is_apart = other.is_disjoint(&set);
                if !is_apart {
                    set.extend(other.iter().cloned());
                }
                is_apart
            });
            sets.push(set);
        }
    }
    sets
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grouped(paths: &[&str], orders: &[(&str, &[&str])]) -> Vec<Vec<String>> {
        let mut layers = Layers::default();
        for (pipeline, order) in orders {
            let key = match *pipeline {
                "" => DEFAULT.to_owned(),
                entry => format!("{PER_TOPIC}{entry}/ExecutionOrder"),
            };
            layers.private.insert(key, order.join(","));
        }
        let settings = resolve(&layers, None).configuration.writable.pipeline.clone();
        let edits = paths.iter().map(|path| Edit::set(*path, "")).collect();
        let groups = group(edits, &[settings]);
        groups
            .into_iter()
            .map(|group| group.into_iter().map(|edit| edit.path).collect())
            .collect()
    }

    #[test]
    fn a_pipeline_goes_with_its_functions_and_with_pipelines_that_share_one() {
        let function = |name: &str| format!("{FUNCTIONS}{name}/Parameters/X");
        let (a, b, c, d) = (function("A"), function("B"), function("C"), function("D"));
        let other = format!("{PER_TOPIC}p/Id");
        let groups = grouped(
            &[
                &a,
                &b,
                &c,
                &d,
                &other,
                DEFAULT,
                "Writable/LogLevel",
                "Service/Port",
            ],
            &[("", &["A", "B"]), ("p", &["B", "C"])],
        );
        assert_eq!(groups[0], [&*a, &*b, &*c, &*other, DEFAULT]);
        assert_eq!(
            groups[1..],
            [["Service/Port".to_owned()], ["Writable/LogLevel".to_owned()], [d],]
        );
    }

    #[test]
    fn what_is_too_large_for_one_transaction_names_its_functions_last() {
        let parameters: Vec<String> = (0..70).map(|n| format!("{FUNCTIONS}A/Parameters/P{n}")).collect();
        let paths: Vec<&str> = [DEFAULT]
            .into_iter()
            .chain(parameters.iter().map(String::as_str))
            .collect();
        let groups = grouped(&paths, &[("", &["A"])]);
        let sizes: Vec<usize> = groups.iter().map(Vec::len).collect();
        assert_eq!(sizes, [64, 7]);
        assert_eq!(groups[1].last().unwrap(), DEFAULT);
    }

    #[test]
    fn a_secret_is_one_thing() {
        let secret = "Writable/InsecureSecrets/DB";
        let name = format!("{secret}/SecretName");
        let value = format!("{secret}/SecretData/password");
        assert_eq!(grouped(&[&name, &value], &[]), [[name.clone(), value.clone()]]);
    }
}
