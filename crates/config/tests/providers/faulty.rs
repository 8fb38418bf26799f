//! Providers that are wrong in one way each: the case made for it has to notice.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use edgehold_config::{
    ConfigurationProvider, Edit, EditError, Expected, Layer, ProviderError, Snapshot,
    conformance::{KEY_VALUE_CASES, PROVIDER_CASES, TestProvider, any_path},
    memory::MemoryProvider,
};
use edgehold_core::{BoxFuture, Shutdown, ShutdownSignal};
use tokio::{sync::watch, task::yield_now};

use crate::behind::InMemory;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    MixesSections,
    TrimsText,
    DecodesKeys,
    LoadsOnce,
    AwayIsEmpty,
    AwayIsAlive,
    TellsOnlyChanges,
    ForgetsASection,
    KeepsWhatIsRemoved,
    TellsEverything,
    TellsAPieceAtATime,
    TellsAgain,
    AwayResets,
    AwayEndsTheWatch,
    AwayIsNotMadeUpFor,
    BeginsWithTheFirst,
    OneWatcherAtATime,
    NeverEnds,
    NeedsNoListener,
    SeedsOver,
    SeedsWithoutOverwriting,
    SeedDeletes,
    SeedCountsAll,
    SeedIsNotTold,
    EditsWhateverIsThere,
    EditsByHalves,
    FoldersAreLeaves,
    NoKeysAreAnEmptySection,
    ReadsSectionsOneByOne,
    AlwaysReady,
}

use Fault::{
    AlwaysReady, AwayEndsTheWatch, AwayIsAlive, AwayIsEmpty, AwayIsNotMadeUpFor, AwayResets,
    BeginsWithTheFirst, DecodesKeys, EditsByHalves, EditsWhateverIsThere, FoldersAreLeaves, ForgetsASection,
    KeepsWhatIsRemoved, LoadsOnce, MixesSections, NeedsNoListener, NeverEnds, NoKeysAreAnEmptySection,
    OneWatcherAtATime, ReadsSectionsOneByOne, SeedCountsAll, SeedDeletes, SeedIsNotTold, SeedsOver,
    SeedsWithoutOverwriting, TellsAPieceAtATime, TellsAgain, TellsEverything, TellsOnlyChanges, TrimsText,
};

/// Each fault, and the case that has to notice it.
const FAULTS: &[(Fault, &str)] = &[
    (MixesSections, "sections_are_loaded_apart"),
    (TrimsText, "any_key_and_any_text_comes_back_as_it_was"),
    (DecodesKeys, "any_key_and_any_text_comes_back_as_it_was"),
    (LoadsOnce, "a_load_gives_what_is_there_now"),
    (
        AwayIsEmpty,
        "what_is_away_is_an_error_and_never_an_empty_configuration",
    ),
    (
        AwayIsAlive,
        "what_is_away_is_an_error_and_never_an_empty_configuration",
    ),
    (TellsOnlyChanges, "the_first_snapshot_comes_by_itself"),
    (ForgetsASection, "every_change_of_every_section_is_told"),
    (KeepsWhatIsRemoved, "a_leaf_that_is_removed_is_gone"),
    (TellsEverything, "only_what_is_writable_is_told"),
    (
        TellsAPieceAtATime,
        "what_changes_together_in_a_section_is_told_together",
    ),
    (TellsAgain, "what_is_the_same_again_is_not_told"),
    (
        AwayResets,
        "while_it_is_away_nothing_is_told_and_afterwards_what_has_changed",
    ),
    (
        AwayEndsTheWatch,
        "while_it_is_away_nothing_is_told_and_afterwards_what_has_changed",
    ),
    (
        AwayIsNotMadeUpFor,
        "while_it_is_away_nothing_is_told_and_afterwards_what_has_changed",
    ),
    (BeginsWithTheFirst, "a_new_watch_begins_with_what_is_there"),
    (OneWatcherAtATime, "two_who_watch_are_told_the_same"),
    (NeverEnds, "a_watch_ends_when_told"),
    (NeedsNoListener, "a_watch_ends_when_nobody_listens"),
    (SeedsOver, "seeding_writes_what_is_missing"),
    (SeedCountsAll, "seeding_writes_what_is_missing"),
    (
        SeedsWithoutOverwriting,
        "seeding_over_what_is_there_writes_all_and_deletes_nothing",
    ),
    (
        SeedDeletes,
        "seeding_over_what_is_there_writes_all_and_deletes_nothing",
    ),
    (SeedIsNotTold, "what_is_seeded_is_told"),
    (
        EditsWhateverIsThere,
        "edits_take_place_as_long_as_what_they_expect_is_there",
    ),
    (
        EditsByHalves,
        "edits_take_place_as_long_as_what_they_expect_is_there",
    ),
    (FoldersAreLeaves, "folders_are_no_leaves"),
    (NoKeysAreAnEmptySection, "a_section_without_keys_is_none"),
    (
        ReadsSectionsOneByOne,
        "sections_that_change_together_are_told_together",
    ),
    (AlwaysReady, "the_common_configuration_is_ready_when_it_says_so"),
];

#[test]
fn every_case_has_a_fault_made_for_it() {
    let noticed: BTreeSet<&str> = FAULTS.iter().map(|(_, case)| *case).collect();
    let cases = PROVIDER_CASES.iter().chain(KEY_VALUE_CASES);
    let cases: BTreeSet<&str> = cases.map(|case| case.name).collect();
    assert_eq!(noticed, cases);
}

/// Waiting for what never comes takes no time here.
#[tokio::test(start_paused = true)]
async fn every_fault_is_noticed_by_the_case_made_for_it() {
    for (fault, name) in FAULTS {
        let test = faulty(*fault);
        let mut cases = PROVIDER_CASES.iter().chain(KEY_VALUE_CASES);
        let case = cases
            .find(|case| case.name == *name)
            .expect("the list knows its cases");
        let outcome = (case.run)(&test).await;
        assert!(outcome.is_err(), "{fault:?} passes {name}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_fault_every_case_passes() {
    for case in PROVIDER_CASES.iter().chain(KEY_VALUE_CASES) {
        assert_eq!((case.run)(&faulty(Fault::None)).await, Ok(()), "{}", case.name);
    }
}

fn faulty(fault: Fault) -> TestProvider {
    let memory = MemoryProvider::default();
    let provider = Faulty {
        fault,
        memory: memory.clone(),
        first: watch::channel(None).0,
    };
    TestProvider {
        provider: Arc::new(provider),
        behind: Box::new(InMemory(memory)),
        is_legal: any_path,
    }
}

struct Faulty {
    fault: Fault,
    memory: MemoryProvider,
    /// The first snapshot anybody has seen.
    first: watch::Sender<Option<Snapshot>>,
}

impl Faulty {
    fn is(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    fn once(&self, snapshot: Snapshot) -> Snapshot {
        let mut first = snapshot;
        self.first
            .send_modify(|seen| first = seen.get_or_insert_with(|| first.clone()).clone());
        first
    }

    fn distort(&self, mut snapshot: Snapshot) -> Snapshot {
        let changed = |layer: &mut Option<Layer>, change: &dyn Fn(&str, &str) -> (String, String)| {
            *layer = layer
                .take()
                .map(|layer| layer.iter().map(|(path, text)| change(path, text)).collect());
        };
        let layers = [
            &mut snapshot.all_services,
            &mut snapshot.app_services,
            &mut snapshot.private,
        ];
        match self.fault {
            TrimsText => {
                for layer in layers {
                    changed(layer, &|path, text| (path.to_owned(), text.trim().to_owned()));
                }
            }
            DecodesKeys => {
                for layer in layers {
                    changed(layer, &|path, text| (path.replace("%41", "A"), text.to_owned()));
                }
            }
            MixesSections => std::mem::swap(&mut snapshot.all_services, &mut snapshot.app_services),
            FoldersAreLeaves => {
                let private = snapshot.private.get_or_insert_default();
                private.insert("Writable/Pipeline/Functions/", "");
            }
            NoKeysAreAnEmptySection => {
                for layer in layers {
                    layer.get_or_insert_default();
                }
            }
            _ => {}
        }
        snapshot
    }
}

fn writable(snapshot: &Snapshot) -> Snapshot {
    let part = |layer: &Option<Layer>| {
        let leaves = layer.iter().flat_map(Layer::iter);
        let layer: Layer = leaves.filter(|(path, _)| path.starts_with("Writable/")).collect();
        (!layer.is_empty()).then_some(layer)
    };
    Snapshot {
        all_services: part(&snapshot.all_services),
        app_services: part(&snapshot.app_services),
        private: part(&snapshot.private),
    }
}

impl ConfigurationProvider for Faulty {
    fn describe(&self) -> String {
        format!("{:?}", self.fault)
    }

    fn check_alive(&self) -> BoxFuture<'_, Result<(), ProviderError>> {
        Box::pin(async {
            match self.memory.check_alive().await {
                Err(_) if self.is(AwayIsAlive) => Ok(()),
                alive => alive,
            }
        })
    }

    fn common_config_ready(&self) -> BoxFuture<'_, Result<bool, ProviderError>> {
        Box::pin(async {
            let ready = self.memory.common_config_ready().await?;
            Ok(ready || self.is(AlwaysReady))
        })
    }

    fn load(&self) -> BoxFuture<'_, Result<Snapshot, ProviderError>> {
        Box::pin(async {
            let loaded = match self.memory.load().await {
                Err(_) if self.is(AwayIsEmpty) => Snapshot::default(),
                loaded => loaded?,
            };
            if self.is(LoadsOnce) {
                return Ok(self.once(loaded));
            }
            Ok(self.distort(loaded))
        })
    }

    fn seed<'a>(&'a self, leaves: &'a Layer, overwrite: bool) -> BoxFuture<'a, Result<usize, ProviderError>> {
        Box::pin(async move {
            match self.fault {
                SeedsOver => self.memory.seed(leaves, true).await,
                SeedsWithoutOverwriting => self.memory.seed(leaves, false).await,
                SeedDeletes => {
                    let before = self.memory.load().await?.private.unwrap_or_default();
                    let gone = before.iter().filter(|(path, _)| leaves.get(path).is_none());
                    let edits: Vec<Edit> = gone.map(|(path, _)| Edit::remove(path)).collect();
                    self.memory.edit(&[edits]).await.expect("it expects nothing");
                    self.memory.seed(leaves, overwrite).await
                }
                SeedCountsAll => self.memory.seed(leaves, overwrite).await.map(|_| leaves.len()),
                SeedIsNotTold => Ok(leaves.len()),
                _ => self.memory.seed(leaves, overwrite).await,
            }
        })
    }

    fn edit<'a>(&'a self, groups: &'a [Vec<Edit>]) -> BoxFuture<'a, Result<usize, EditError>> {
        Box::pin(async move {
            let groups: Vec<Vec<Edit>> = match self.fault {
                EditsWhateverIsThere => {
                    let blind = |edit: &Edit| Edit {
                        expected: Expected::Anything,
                        ..edit.clone()
                    };
                    groups
                        .iter()
                        .map(|group| group.iter().map(blind).collect())
                        .collect()
                }
                EditsByHalves => groups.iter().flatten().map(|edit| vec![edit.clone()]).collect(),
                _ => groups.to_vec(),
            };
            self.memory.edit(&groups).await
        })
    }

    fn watch(
        self: Arc<Self>,
        snapshots: watch::Sender<Option<Snapshot>>,
        mut shutdown: ShutdownSignal,
    ) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            if self.is(OneWatcherAtATime) && self.first.receiver_count() > 0 {
                return std::future::pending().await;
            }
            let _place = self.first.subscribe();
            // What a provider without faults tells, of which the fault makes something else.
            let (sender, mut right) = watch::channel::<Option<Snapshot>>(None);
            let (_end, signal) = Shutdown::new();
            let memory = Arc::new(self.memory.clone());
            let deaf = AtomicBool::new(false);
            let telling = async {
                let mut last: Option<Snapshot> = None;
                while right.changed().await.is_ok() {
                    let now = right.borrow_and_update().clone().expect("a snapshot was sent");
                    if deaf.load(Ordering::SeqCst) {
                        continue;
                    }
                    for told in self.tell(last.as_ref(), now.clone()).await {
                        snapshots.send_replace(Some(told));
                        yield_now().await;
                    }
                    last = Some(now);
                }
            };
            let meddling = async {
                loop {
                    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                    let away = self.memory.check_alive().await.is_err();
                    match self.fault {
                        AwayResets if away => drop(snapshots.send_replace(Some(Snapshot::default()))),
                        AwayEndsTheWatch if away => return,
                        AwayIsNotMadeUpFor if away => deaf.store(true, Ordering::SeqCst),
                        TellsEverything => {
                            let whole = self.memory.load().await.unwrap_or_default();
                            snapshots.send_replace(Some(whole));
                        }
                        _ => {}
                    }
                }
            };
            let ended = async {
                match self.fault {
                    NeverEnds => std::future::pending().await,
                    NeedsNoListener => shutdown.recv().await,
                    _ => tokio::select! {
                        () = shutdown.recv() => {}
                        () = snapshots.closed() => {}
                    },
                }
            };
            tokio::select! {
                () = memory.watch(sender, signal) => {}
                () = telling => {}
                () = meddling => {}
                () = ended => {}
            }
        })
    }
}

impl Faulty {
    /// What is told instead of `now`.
    async fn tell(&self, last: Option<&Snapshot>, now: Snapshot) -> Vec<Snapshot> {
        match self.fault {
            TellsOnlyChanges if last.is_none() => Vec::new(),
            ForgetsASection => vec![Snapshot {
                app_services: last.and_then(|last| last.app_services.clone()),
                ..now
            }],
            KeepsWhatIsRemoved => {
                let mut kept = last.cloned().unwrap_or_default();
                for (kept, now) in [
                    (&mut kept.all_services, now.all_services),
                    (&mut kept.app_services, now.app_services),
                    (&mut kept.private, now.private),
                ] {
                    let kept = kept.get_or_insert_default();
                    now.iter()
                        .flat_map(Layer::iter)
                        .for_each(|(path, text)| kept.insert(path, text));
                }
                vec![kept]
            }
            TellsAPieceAtATime => {
                let mut half = last.cloned().unwrap_or_default();
                let a = now.private.as_ref().and_then(|private| private.get("Writable/A"));
                if let Some(a) = a {
                    half.private.get_or_insert_default().insert("Writable/A", a);
                }
                vec![half, now]
            }
            ReadsSectionsOneByOne => {
                let half = Snapshot {
                    all_services: now.all_services.clone(),
                    ..last.cloned().unwrap_or_else(|| now.clone())
                };
                vec![half, now]
            }
            TellsAgain => vec![now.clone(), now],
            BeginsWithTheFirst if last.is_none() => vec![self.once(now)],
            TellsEverything => vec![self.memory.load().await.unwrap_or_default()],
            _ => vec![writable(&self.distort(now))],
        }
    }
}
