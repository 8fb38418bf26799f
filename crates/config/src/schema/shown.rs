//! Where each setting of our own is shown to do what the table says of it.
//!
//! | setting | test |
//! | --- | --- |
//! | `Writable/Pipeline/Concurrency` | `crates/runtime/tests/runtime.rs::no_more_deliveries_run_at_a_time_than_the_setting_says` |
//! | `Writable/StoreAndForward/Journal` | `crates/runtime/tests/runtime/journal.rs::with_journal_always_the_row_is_there_before_the_first_function_is_called` |
//! | `Writable/StoreAndForward/JournalDelay` | `crates/runtime/tests/runtime/journal.rs::while_others_end_one_after_the_other_a_run_gets_more_time_but_not_for_ever` |
//! | `Writable/StoreAndForward/Backoff` | `crates/core/src/retry/tests.rs::exponential_backoff_stays_between_the_interval_and_what_doubles_up_to_the_longest` |
//! | `Writable/StoreAndForward/MaxRetryInterval` | `crates/core/src/retry/tests.rs::a_destination_may_not_ask_for_longer_than_the_longest_interval` |
//! | `Writable/StoreAndForward/Breaker` | `crates/runtime/tests/runtime/lanes.rs::without_breaker_each_is_tried_when_it_is_due` |
//! | `Writable/StoreAndForward/RetryConcurrency` | `crates/runtime/tests/runtime/lanes.rs::a_backlog_leaves_slowly_at_first_and_never_more_at_a_time_than_allowed` |
//! | `Writable/StoreAndForward/RetryRate` | `crates/runtime/tests/runtime/live.rs::a_backlog_leaves_at_the_rate_that_is_set_now` |
//! | `Writable/StoreAndForward/FreshShare` | `crates/core/src/destination/tests.rs::fresh_ones_keep_as_much_of_their_share_as_they_need` |
//! | `Writable/StoreAndForward/RetryBatchSize` | `crates/runtime/tests/runtime/live.rs::a_page_has_as_many_objects_as_are_set_now` |
//! | `Writable/StoreAndForward/RetryBatchBytes` | `crates/runtime/tests/runtime/live.rs::a_page_has_as_many_bytes_as_are_set_now` |
//! | `Writable/StoreAndForward/Ordering` | `crates/runtime/tests/runtime/order.rs::ten_thousand_objects_with_random_failures_arrive_in_the_order_of_each_device` |
//! | `Writable/StoreAndForward/MaxAge` | `crates/runtime/tests/runtime/limits.rs::what_waits_longer_than_its_age_is_set_aside` |
//! | `Writable/StoreAndForward/MaxItems` | `crates/runtime/tests/runtime/limits.rs::by_default_a_delivery_beyond_the_limit_waits_unacknowledged_until_there_is_room` |
//! | `Writable/StoreAndForward/MaxBytes` | `crates/runtime/tests/runtime/limits.rs::drop_oldest_makes_room_for_bytes_too` |
//! | `Writable/StoreAndForward/WhenFull` | `crates/runtime/tests/runtime/limits.rs::dead_letter_sets_aside_what_does_not_fit` |
//! | `Writable/StoreAndForward/OnPipelineChange` | `crates/runtime/tests/runtime/live.rs::what_becomes_of_objects_whose_pipeline_changes_is_as_set_now` |
//! | `Writable/StoreAndForward/DeadLetterRetention` | `crates/runtime/tests/runtime/limits.rs::the_error_collection_keeps_what_its_settings_say_and_drops_the_rest_by_name` |
//! | `Writable/StoreAndForward/DeadLetterMaxItems` | `crates/runtime/tests/runtime/limits.rs::the_error_collection_keeps_what_its_settings_say_and_drops_the_rest_by_name` |
//! | `Writable/StoreAndForward/HistoryRetention` | `crates/runtime/tests/runtime/journal.rs::delivered_objects_are_kept_as_long_as_the_history_says` |
//! | `Trigger/ExternalMqtt/CleanSession` | `tests/tests/external_mqtt.rs::a_clean_session_that_was_asked_for_is_named_alone` |
//! | `Database/Compression` | `tests/tests/at_rest.rs::what_waits_is_compressed_on_the_disk` |
//! | `Database/Encryption` | `tests/tests/at_rest.rs::what_waits_is_encrypted_on_the_disk_and_leaves_after_a_kill_and_a_rotation` |
//! | `Database/EncryptionSecretName` | `tests/tests/at_rest.rs::without_a_key_nothing_is_kept_in_clear_and_the_start_says_what_is_missing` |
//! | `Database/SslMode` | `crates/store-postgres/tests/conformance/opening.rs::a_server_is_believed_as_far_as_its_certificate_goes` |
//! | `MaxInFlightBytes` | `tests/tests/buses.rs::what_nats_core_drops_past_the_budget_is_in_the_stats` |
//! | `SpoolMaxBytes` | `tests/tests/postgres.rs::a_full_spool_holds_deliveries_back_and_loses_nothing` |
//! | `MaxMessageBytes` | `tests/tests/bad_input.rs::a_message_beyond_the_limit_is_set_aside_and_acknowledged` |

use std::{collections::BTreeMap, path::Path};

#[test]
fn each_setting_of_our_own_names_a_test_that_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let rows: BTreeMap<_, _> = include_str!("shown.rs")
        .lines()
        .filter_map(|line| line.strip_prefix("//! | `")?.strip_suffix("` |"))
        .map(|row| row.split_once("` | `").unwrap_or_else(|| panic!("{row}")))
        .collect();
    for setting in super::settings().filter(|setting| !setting.of_edgex) {
        assert!(rows.contains_key(setting.path), "{} has no row", setting.path);
    }
    for (path, shown) in rows {
        assert!(
            super::find(path).is_some_and(|setting| !setting.of_edgex),
            "{path} is no setting of our own"
        );
        let (file, test) = shown.split_once("::").unwrap();
        let source =
            std::fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(
            source.contains(&format!("fn {test}(")),
            "{file} has no test {test}"
        );
    }
}
