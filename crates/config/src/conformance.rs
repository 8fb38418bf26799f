//! The suite every configuration provider must pass.
//!
//! A case is a function over a [`TestProvider`] that answers what is wrong: a provider, and a hand of the test's own on
//! what is behind it. [`provider_conformance!`](crate::provider_conformance) makes a test of each case that holds for
//! every provider, [`key_value_conformance!`](crate::key_value_conformance) of those for providers that keep keys in
//! which anybody may write.
//!
//! A bug found in one provider becomes a case here first. Each case must be able to fail: `tests/providers.rs` runs them
//! against providers that are wrong in one way each.

mod key_value;
mod load;
mod watching;

use std::{future::Future, sync::Arc, time::Duration};

use edgehold_core::{BoxFuture, Shutdown};
use tokio::{sync::watch, time::timeout};

use crate::{ConfigurationProvider, Edit, Section, Snapshot};

/// What a case found: nothing, or what is wrong.
pub type Outcome = Result<(), String>;

/// Long enough to pass only when something is broken.
const LONG: Duration = Duration::from_secs(60);

/// What is behind a provider, for changes that others make.
pub trait Behind: Send + Sync {
    /// Sets and removes leaves, whatever was there (`expected` does not count): those of one section together; those of
    /// several sections too where the provider promises it.
    fn edit<'a>(&'a self, edits: &'a [Edit]) -> BoxFuture<'a, ()>;

    /// Makes it unreachable for the provider, or reachable again. Edits go on.
    fn set_away(&self, away: bool) -> BoxFuture<'_, ()>;

    /// Says that the common configuration is complete, or that it is not. Only asked of keys and values.
    fn set_ready(&self, ready: bool) -> BoxFuture<'_, ()>;
}

/// A provider made for one test, of a service nobody has configured yet.
pub struct TestProvider {
    /// The provider.
    pub provider: Arc<dyn ConfigurationProvider>,
    /// What is behind it. It also keeps alive what has to live as long (a folder, a server).
    pub behind: Box<dyn Behind>,
    /// Whether a path can be one at all; [`any_path`] where everything can.
    pub is_legal: fn(&str) -> bool,
}

/// For providers whose paths may be any.
pub fn any_path(_: &str) -> bool {
    true
}

/// A case for a fresh provider.
#[derive(Clone, Copy)]
pub struct ProviderCase {
    /// Its name, a sentence.
    pub name: &'static str,
    /// Runs it.
    pub run: for<'a> fn(&'a TestProvider) -> BoxFuture<'a, Outcome>,
}

/// Runs the case with this name on a fresh provider.
///
/// # Panics
/// When the provider breaks the contract, saying how; for an unknown name.
pub async fn run_case(name: &str, provider: TestProvider) {
    let all = PROVIDER_CASES.iter().chain(KEY_VALUE_CASES);
    let mut all = all.filter(|case| case.name == name);
    let case = all.next().expect("the macros know their cases");
    assert_eq!((case.run)(&provider).await, Ok(()), "{name}");
}

/// Defines a list of cases and the macro that makes tests of them, so that neither can miss one. `$d` is a dollar sign:
/// the only way to write one inside a macro that is made by a macro.
macro_rules! cases {
    ($d:tt $list:ident, $about:literal, $macro:ident: $($module:ident :: $name:ident,)*) => {
        #[doc = $about]
        pub const $list: &[ProviderCase] =
            &[$(ProviderCase { name: stringify!($name), run: |provider| Box::pin($module::$name(provider)) },)*];

        /// Makes a `#[tokio::test]` of every case of that kind. Takes an `async fn() -> TestProvider`.
        #[macro_export]
        macro_rules! $macro {
            ($d make:path) => {
                $(
                    #[tokio::test]
                    async fn $name() {
                        $crate::conformance::run_case(stringify!($name), $d make().await).await;
                    }
                )*
            };
        }
    };
}

cases! { $ PROVIDER_CASES, "All cases for every provider.", provider_conformance:
    load::sections_are_loaded_apart,
    load::any_key_and_any_text_comes_back_as_it_was,
    load::a_load_gives_what_is_there_now,
    load::what_is_away_is_an_error_and_never_an_empty_configuration,
    watching::the_first_snapshot_comes_by_itself,
    watching::every_change_of_every_section_is_told,
    watching::a_leaf_that_is_removed_is_gone,
    watching::only_what_is_writable_is_told,
    watching::what_changes_together_in_a_section_is_told_together,
    watching::what_is_the_same_again_is_not_told,
    watching::while_it_is_away_nothing_is_told_and_afterwards_what_has_changed,
    watching::a_new_watch_begins_with_what_is_there,
    watching::two_who_watch_are_told_the_same,
    watching::a_watch_ends_when_told,
    watching::a_watch_ends_when_nobody_listens,
}

cases! { $ KEY_VALUE_CASES, "All cases for providers of keys and values.", key_value_conformance:
    key_value::seeding_writes_what_is_missing,
    key_value::seeding_over_what_is_there_writes_all_and_deletes_nothing,
    key_value::what_is_seeded_is_told,
    key_value::edits_take_place_as_long_as_what_they_expect_is_there,
    key_value::folders_are_no_leaves,
    key_value::a_section_without_keys_is_none,
    key_value::sections_that_change_together_are_told_together,
    key_value::the_common_configuration_is_ready_when_it_says_so,
}

impl TestProvider {
    /// Sets leaves of several sections.
    async fn set(&self, leaves: &[(Section, &str, &str)]) {
        let edits: Vec<Edit> = leaves
            .iter()
            .map(|(section, path, text)| Edit {
                section: *section,
                ..Edit::set(*path, *text)
            })
            .collect();
        self.behind.edit(&edits).await;
    }

    async fn set_private(&self, path: &str, text: &str) {
        self.set(&[(Section::Private, path, text)]).await;
    }

    async fn remove(&self, section: Section, path: &str) {
        let edit = Edit {
            section,
            ..Edit::remove(path)
        };
        self.behind.edit(&[edit]).await;
    }

    /// Something in each section, which most cases begin with.
    async fn given(&self) {
        self.set(&[
            (Section::AllServices, "Writable/LogLevel", "INFO"),
            (
                Section::AppServices,
                "Writable/StoreAndForward/RetryInterval",
                "5m",
            ),
            (Section::Private, "Writable/LogLevel", "DEBUG"),
            (Section::Private, "Service/Port", "59704"),
        ])
        .await;
    }

    async fn load(&self) -> Result<Snapshot, String> {
        self.provider
            .load()
            .await
            .map_err(|error| format!("it cannot be loaded: {error}"))
    }

    /// Runs `test` beside a watch, which is not to end before it.
    async fn watched<Test>(&self, test: impl FnOnce(Told) -> Test) -> Outcome
    where
        Test: Future<Output = Outcome>,
    {
        let (sender, snapshots) = watch::channel(None);
        let (_shutdown, signal) = Shutdown::new();
        let watching = self.provider.clone().watch(sender, signal);
        tokio::select! {
            outcome = test(Told { snapshots }) => outcome,
            () = watching => Err("the watch ended by itself".to_owned()),
        }
    }
}

/// What a watch tells.
struct Told {
    snapshots: watch::Receiver<Option<Snapshot>>,
}

impl Told {
    /// The current snapshot, or the next one, that is as wanted. Each one on the way has to pass `always`.
    async fn until(
        &mut self,
        what: &str,
        wanted: impl Fn(&Snapshot) -> bool,
        mut always: impl FnMut(&Snapshot) -> Outcome,
    ) -> Result<Snapshot, String> {
        let looking = async {
            loop {
                let now = self.snapshots.borrow_and_update().clone();
                if let Some(now) = now {
                    always(&now)?;
                    if wanted(&now) {
                        return Ok(now);
                    }
                }
                let changed = self.snapshots.changed().await;
                changed.map_err(|_| format!("the watch ended before {what}"))?;
            }
        };
        let found = timeout(LONG, looking).await;
        found.unwrap_or_else(|_| {
            Err(format!(
                "never told: {what}; last was {:?}",
                self.snapshots.borrow()
            ))
        })
    }

    /// Until a leaf has this text.
    async fn text(&mut self, section: Section, path: &str, text: &str) -> Result<Snapshot, String> {
        let what = format!("{section:?} {path} = {text:?}");
        self.until(&what, |now| leaf(now, section, path) == Some(text), |_| Ok(()))
            .await
    }
}

/// The text of a leaf.
fn leaf<'a>(snapshot: &'a Snapshot, section: Section, path: &str) -> Option<&'a str> {
    let layer = match section {
        Section::AllServices => &snapshot.all_services,
        Section::AppServices => &snapshot.app_services,
        Section::Private => &snapshot.private,
    };
    layer.as_ref()?.get(path)
}

fn snapshot_of(leaves: &[(Section, &str, &str)]) -> Snapshot {
    let section = |wanted: Section| {
        let of_it = leaves.iter().filter(|(section, ..)| *section == wanted);
        let layer: crate::Layer = of_it.map(|(_, path, text)| (*path, *text)).collect();
        (!layer.is_empty()).then_some(layer)
    };
    Snapshot {
        all_services: section(Section::AllServices),
        app_services: section(Section::AppServices),
        private: section(Section::Private),
    }
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Outcome {
    if found == expected {
        Ok(())
    } else {
        Err(format!("{what}: found {found:?} instead of {expected:?}"))
    }
}

fn check(holds: bool, otherwise: impl Into<String>) -> Outcome {
    if holds { Ok(()) } else { Err(otherwise.into()) }
}
