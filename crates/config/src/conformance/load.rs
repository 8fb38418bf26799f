//! Reading everything at once.

use super::{Outcome, TestProvider, check, leaf, same, snapshot_of};
use crate::Section::{self, AllServices, AppServices, Private};

pub(super) async fn sections_are_loaded_apart(test: &TestProvider) -> Outcome {
    let leaves = [
        (AllServices, "Writable/LogLevel", "INFO"),
        (AllServices, "Service/RequestTimeout", "5s"),
        (AppServices, "Writable/LogLevel", "WARN"),
        (AppServices, "Trigger/Type", "http"),
        (Private, "Writable/LogLevel", "DEBUG"),
        (Private, "Service/Port", "59704"),
    ];
    test.set(&leaves).await;
    same("the sections", test.load().await?, snapshot_of(&leaves))
}

pub(super) async fn any_key_and_any_text_comes_back_as_it_was(test: &TestProvider) -> Outcome {
    let mut leaves = vec![
        (Private, "Writable/a-b_c~d;e=f.g", "a-b"),
        (Private, "Writable/sp ace/ä ö", " a b "),
        (Private, "Writable/日本/ümläut", "ü"),
        (Private, "Writable/100%/%41+%2F", "%41"),
        (Private, "Writable/a.b/../c/.", ".."),
        (Private, "Writable//double//slash", "//"),
        (Private, "Writable/query?x=1#y&z", "?"),
        (Private, "Writable/\"quoted\"\\", "\"\\\n\t"),
        (Private, "Writable/Number", "007"),
        (Private, "Writable/Truth", "yes"),
        (Private, "Writable/Null", "null"),
        (Private, "Writable/Empty", ""),
        (Private, "Writable/Template", "{{x}}: [1, {2}"),
        (AllServices, "Writable/lower case", "a: b"),
        (AppServices, "Writable/UPPER", "- c"),
    ];
    leaves.retain(|(_, path, _)| (test.is_legal)(path));
    test.set(&leaves).await;
    same("the leaves", test.load().await?, snapshot_of(&leaves))
}

pub(super) async fn a_load_gives_what_is_there_now(test: &TestProvider) -> Outcome {
    test.given().await;
    for text in ["1", "2", "3"] {
        test.set_private("Writable/Now", text).await;
        same(
            "the leaf",
            leaf(&test.load().await?, Private, "Writable/Now"),
            Some(text),
        )?;
    }
    test.remove(Section::Private, "Writable/Now").await;
    same(
        "the leaf",
        leaf(&test.load().await?, Private, "Writable/Now"),
        None,
    )
}

pub(super) async fn what_is_away_is_an_error_and_never_an_empty_configuration(
    test: &TestProvider,
) -> Outcome {
    test.given().await;
    let before = test.load().await?;
    test.behind.set_away(true).await;
    for _ in 0..3 {
        let loaded = test.provider.load().await;
        check(loaded.is_err(), format!("away, it was loaded as {loaded:?}"))?;
    }
    let alive = test.provider.check_alive().await;
    check(alive.is_err(), "away, it says that it is alive")?;
    let ready = test.provider.common_config_ready().await;
    check(ready.is_err(), format!("away, it says that ready is {ready:?}"))?;
    test.behind.set_away(false).await;
    same("what was loaded afterwards", test.load().await?, before)?;
    let alive = test.provider.check_alive().await;
    check(alive.is_ok(), format!("back, it says {alive:?}"))
}
