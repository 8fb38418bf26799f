use std::collections::HashSet;

use super::*;

#[test]
fn every_default_is_a_value_of_its_kind() {
    for setting in settings() {
        if let Some(default) = setting.default {
            let reading = setting.kind.read(default);
            assert!(
                reading.as_ref().is_ok_and(|r| r.adjusted.is_none()),
                "{}: {reading:?}",
                setting.path
            );
        }
    }
}

#[test]
fn paths_are_unique_and_meanings_fit_a_table() {
    let mut seen = HashSet::new();
    for setting in settings() {
        assert!(seen.insert(setting.path), "{} is there twice", setting.path);
        assert!(
            !setting.meaning.is_empty() && !setting.meaning.contains(['|', '\n']),
            "{}",
            setting.path
        );
        // A default below a free name could not be filled in: nobody knows which names there are.
        let ends_with_name = setting.path.ends_with('>');
        assert!(!(ends_with_name && setting.default.is_some()), "{}", setting.path);
    }
}

#[test]
fn a_row_that_names_a_path_wins_over_a_pattern() {
    assert_eq!(
        find("MessageBus/Optional/Qos").unwrap().path,
        "MessageBus/Optional/Qos"
    );
    assert_eq!(
        find("MessageBus/Optional/SomethingElse").unwrap().path,
        "MessageBus/Optional/<name>"
    );
    assert_eq!(
        find("Clients/core-metadata/Host").unwrap().path,
        "Clients/<name>/Host"
    );
    assert!(find("Clients//Host").is_none());
    assert!(find("writable/LogLevel").is_none(), "paths are case-sensitive");
}

#[test]
fn a_path_has_one_place() {
    assert!(matches!(place("Writable/LogLevel"), Place::Setting(_)));
    for folder in [
        "Writable",
        "Writable/Pipeline/Functions",
        "Writable/Pipeline/Functions/X",
        "Clients/x",
    ] {
        assert_eq!(place(folder), Place::Folder, "{folder}");
    }
    for below in [
        "Writable/LogLevel/x",
        "Writable/Pipeline/Functions/X/Parameters/Url/y",
        "MaxInFlightBytes/a/b",
    ] {
        assert_eq!(place(below), Place::BelowSetting, "{below}");
    }
    for unknown in [
        "Custom/Thing",
        "Writable/Loglevel",
        "Writable//LogLevel",
        "Writable/Pipeline/Functions/X/Url",
    ] {
        assert_eq!(place(unknown), Place::Unknown, "{unknown}");
    }
}

#[test]
fn an_entry_of_a_map_brings_its_siblings() {
    let all = complete(["Clients/core-data/Host", "Writable/Telemetry/Tags/Gateway"]);
    assert!(all.contains_key("Clients/core-data/Port"));
    assert!(all.contains_key("Writable/Telemetry/Tags/Gateway"));
    assert!(all.contains_key("Writable/LogLevel"));
    assert!(!all.keys().any(|path| path.contains('<')));
}

#[test]
fn hot_is_what_lies_below_writable() {
    assert!(find("Writable/StoreAndForward/Journal").unwrap().is_hot());
    assert!(!find("Service/Port").unwrap().is_hot());
}

#[test]
fn the_table_has_a_line_for_every_setting() {
    let table = settings_table_markdown();
    assert_eq!(table.lines().count(), 2 + settings().count());
    assert!(
        table.contains("| `Writable.StoreAndForward.RetryInterval` | duration ≥ 1s | `5m` | yes | pause")
    );
    for line in table.lines() {
        assert_eq!(line.matches(" | ").count(), 4, "{line}");
    }
}

#[test]
fn what_is_not_heeded_is_in_the_table() {
    for (path, done_anyway) in table::WITHOUT_EFFECT {
        let setting = settings().find(|setting| setting.path == *path).expect(path);
        assert!(!setting.ignores(done_anyway), "{path}");
        assert!(setting.ignores("something else"), "{path}");
    }
    assert!(!find("Writable/LogLevel").unwrap().ignores("DEBUG"));
}
