//! What the original does wrong or its documentation says otherwise (contract messages-and-functions): each crash input, nil
//! result, leak, overwritten setting and prefix match, and each row of §8, with the test that shows what happens here.
//!
//! A test stands where the thing is decided; those below need the whole service. The last test here holds the table
//! against the code.
//!
//! | § | weakness of the original | test |
//! | --- | --- | --- |
//! | 1.3 | integers of a raw envelope pass through a double | `crates/contracts/tests/recorded.rs::large_integers_stay_exact_in_every_envelope_form` |
//! | 1.4 | a message that cannot be decoded is acknowledged and gone | `tests/tests/bad_input.rs::each_kind_is_named_and_counted_and_the_good_event_behind_it_leaves` |
//! | 2.3 | a number as a reading's value is corrupted | `crates/contracts/src/event/tests.rs::each_value_form_is_read_and_written_by_generation` |
//! | 2.4 | crash: an array value shorter than two characters | `tests/tests/weaknesses.rs::an_array_value_shorter_than_two_characters_is_no_crash` |
//! | 2.4 | a value type in another case is not validated | `crates/contracts/src/event/tests.rs::value_types_are_corrected_in_requests_only` |
//! | 3.2 | acknowledged before any function has run | `tests/tests/kill.rs::a_build_that_acknowledges_before_the_commit_is_found` |
//! | 3.2 | overlapping topics bring a message twice | `crates/ingest/src/topics.rs::overlapping_topics_run_a_message_once` |
//! | 3.2, 4.2 | a subscription that was refused is not asked for again | `crates/mqtt/tests/broker/security.rs::a_subscription_that_is_refused_is_asked_for_again_and_the_others_are_not` |
//! | 3.3 | Redis: `+` is as good as `#`, dots in names become levels | `crates/ingest/tests/message_bus/buses.rs::names_with_dots_come_as_they_were` |
//! | 3.4 | JetStream: acknowledged before processing | `crates/bus-nats/src/hand.rs::a_message_is_answered_when_it_is_done_and_not_before` |
//! | 4 | crash: an empty payload with external-mqtt | `tests/tests/external_mqtt.rs::an_empty_payload_is_a_message_and_no_crash` |
//! | 4 | pipelines of external-mqtt topics never match, because of the prefix | `tests/tests/external_mqtt.rs::several_topics_run_the_pipelines_of_their_own_and_no_topic_has_a_prefix` |
//! | 4 | unbounded goroutines for messages | `crates/runtime/tests/runtime.rs::no_more_deliveries_run_at_a_time_than_the_setting_says` |
//! | 4.1 | crash: empty response data without a content type | `tests/tests/weaknesses.rs::empty_response_data_without_a_content_type_is_no_crash` |
//! | 4.1 | external-mqtt waits for the response without limit | `crates/mqtt/tests/broker/publication.rs::who_waited_in_vain_is_told_and_the_message_is_not_sent_later` |
//! | 4.3 | reserved trigger names are compared by case | `crates/sdk/src/trigger.rs::a_built_in_trigger_name_is_reserved_whatever_its_case` |
//! | 4.3 | only the last background publisher works, and not with every trigger | `crates/sdk/tests/service/surface.rs::background_publishing_works_with_every_trigger_and_any_number_of_queues` |
//! | 4.4 | messages in hand are lost at the end | `crates/mqtt/tests/broker.rs::told_to_end_it_waits_for_what_is_in_hand_and_acknowledges_it` |
//! | 5.1 | with per-topic pipelines alone the target type is ignored | `tests/tests/external_mqtt.rs::several_topics_run_the_pipelines_of_their_own_and_no_topic_has_a_prefix` |
//! | 5.2 | nil: a null payload with target raw (kept: EdgeX 4 fails it, EdgeX 3 has empty bytes) | `tests/tests/weaknesses.rs::a_null_payload_with_target_raw_fails_in_edgex_4_and_is_empty_in_3` |
//! | 5.2 | `metric` fails with base64 payloads in EdgeX 4 | `crates/runtime/src/decode.rs::an_event_and_a_metric_come_out_of_every_form_alike` |
//! | 5.2 | leak: what one pipeline changes shows in another | `crates/functions/src/tests.rs::added_tags_replace_those_of_the_same_name_and_no_other_pipeline_sees_them` |
//! | 5.3 | prefix matching: `a/+` takes `a/b/c`, `a/#` misses `a`, `#` in the middle | `crates/core/src/topic.rs::filters_match_as_a_broker_matches` |
//! | 5.3 | prefix matching, end to end | `tests/tests/weaknesses.rs::a_pipeline_topic_is_no_prefix` |
//! | 5.4 | nil: MQTTExport hands on nothing (kept: the next one gets what the pipeline began with) | `crates/runtime/tests/runtime/input.rs::behind_a_function_that_hands_on_nothing_comes_what_the_pipeline_began_with` |
//! | 5.4 | crash: a function that panics | `crates/runtime/tests/runtime.rs::a_panic_in_a_function_is_a_failed_attempt` |
//! | 5.5 | one placeholder without a value rejects the text (kept) | `crates/core/src/context.rs::an_unknown_placeholder_rejects_the_whole_text_by_name` |
//! | 5.6 | a change beside another one is not seen | `tests/tests/settings.rs::weakness_01_several_keys_of_one_transaction_all_take_effect` |
//! | 5.6 | leak: old MQTT connections of an edited pipeline stay | `crates/export/tests/exports/mqtt.rs::functions_with_one_client_id_share_one_connection_also_across_an_edit` |
//! | 5.6 | added pipelines are ignored, removed ones run on, topics lose the prefix | `tests/tests/settings.rs::weakness_07_a_pipeline_is_added_and_removed_while_events_flow` |
//! | 5.6 | a load that fails empties all pipelines | `tests/tests/settings.rs::weakness_08_a_broken_pipeline_edit_leaves_pipeline_and_backlog_alone` |
//! | 6.1 | a bad regular expression stops every event in silence | `crates/functions/src/name_patterns.rs::what_cannot_be_used_is_refused_by_name` |
//! | 6.4 | contradictory switches load, and every message fails (kept) | `crates/export/src/http/options.rs::contradictory_switches_load_and_fail_each_message` |
//! | 6.4 | HTTPExport has no time limit | `crates/export/tests/exports/answer.rs::every_way_a_send_can_break_is_worth_another_attempt` |
//! | 6.4 | an answer that breaks off is sent again | `crates/export/tests/exports/answer.rs::data_that_has_arrived_is_not_sent_again_because_the_answer_broke_off` |
//! | 6.4 | a missing secret or placeholder is not persisted | `crates/export/tests/exports/request.rs::without_its_secret_nothing_is_sent_and_a_later_attempt_may_succeed` |
//! | 6.4 | leak: a connection for each answer that is not read | `crates/export/tests/exports/connection.rs::ten_thousand_refusals_with_bodies_leak_no_connection` |
//! | 6.5 | `Qos` is cut to a byte | `crates/export/src/mqtt/options.rs::what_does_not_parse_is_refused_by_name` |
//! | 6.5 | `WillQos` overwrites the QoS of messages | `crates/export/src/mqtt/options.rs::the_qos_of_the_will_is_not_that_of_messages` |
//! | 6.5 | leak: a client for each renewed secret | `crates/export/tests/exports/mqtt.rs::a_corrected_password_counts_without_a_restart` |
//! | 6.5 | every message waits behind a connect; messages wait in memory | `crates/export/tests/exports/mqtt.rs::while_the_broker_is_away_messages_fail_at_once_and_go_out_when_it_is_back` |
//! | 6.5 | PreConnect holds up the start | `crates/export/tests/exports/mqtt.rs::nobody_waits_for_pre_connect` |
//! | 6.5 | without AutoReconnect a lost connection never comes back | `tests/tests/exports.rs::an_outage_of_the_export_s_broker_is_kept_and_drained` |
//! | 6.6 | a batch is lost at stop, reload and crash | `tests/tests/batch.rs::a_kill_amid_batches_loses_nothing` |
//! | 6.6 | two calls may take the same items, or none | `crates/runtime/tests/runtime/batch.rs::a_batch_by_time_and_count_goes_on_by_whichever_comes_first` |
//! | 6.6 | an item that is no event stops its batch for good | `crates/functions/src/tests/batch.rs::what_is_no_event_fails_alone_and_is_kept_as_it_came` |
//! | 6.6 | a request of the HTTP trigger waits for its batch | `tests/tests/http_trigger.rs::what_waits_in_a_batch_is_answered_at_once_survives_a_kill_and_leaves_as_one` |
//! | 6.7 | nil: JSONLogic's null is false, a missing variable a number | `crates/functions/src/json_logic/tests.rs::a_result_that_is_no_boolean_is_an_error_and_null_is_false` |
//! | 6.7 | a malformed rule and an unknown operator load | `crates/functions/src/json_logic/tests.rs::what_can_never_be_a_rule_is_refused_by_name_when_it_is_loaded` |
//! | 6.8 | line protocol is not escaped | `crates/functions/src/line_protocol.rs::text_is_escaped_where_it_would_break_the_line` |
//! | 6.8 | a number's type depends on its codec | `crates/functions/src/line_protocol.rs::a_field_has_one_type_whatever_its_sign_and_codec` |
//! | 7.1 | nil: clients that are not configured | `crates/clients/tests/clients/core.rs::what_is_not_configured_has_no_client` |
//! | 8 | per-topic topics that begin with `edgex/` (as the source: the prefix is added, so they never match) | `tests/tests/pairs.rs::per_topic_pipelines` |
//! | 8 | SubscribeTopics that begin with `edgex/` (as the source) | `crates/ingest/src/topics.rs::every_topic_of_the_list_gets_the_prefix` |
//! | 8 | HTTP trigger and per-topic pipelines (as documented: those for `#` run) | `tests/tests/http_trigger.rs::a_per_topic_pipeline_for_all_topics_runs_with_the_http_trigger` |
//! | 8 | an empty PublishTopic (as documented: nothing is published) | `tests/tests/weaknesses.rs::without_a_publish_topic_no_response_is_published` |
//! | 8 | HTTPExport's MimeType (as documented: optional) | `crates/export/src/http/options.rs::every_parameter_but_two_has_a_default` |
//! | 8 | ToLineProtocol's Tags (as the source: the key is required) | `crates/functions/src/tests.rs::functions_with_a_required_parameter_name_it_when_it_is_missing` |
//! | 8 | MQTTExport's SecretName and AuthMode (as documented: optional) | `crates/export/src/mqtt/options.rs::what_is_left_out_has_edgex_s_defaults` |
//! | 8 | MaxReconnectInterval's default (neither: two seconds) | `crates/export/src/mqtt/options.rs::what_is_left_out_has_edgex_s_defaults` |
//! | 8 | CleanSession and ConnectTimeout of the bus (as the source; CleanSession false where Store and Forward is on) | `crates/config/src/configuration/tests.rs::options_of_the_bus_have_the_defaults_of_the_source` |
//! | 8 | clientcert and the user name (as the source: sent if present) | `crates/mqtt/src/identity.rs::elsewhere_the_user_name_counts_with_every_mode_and_has_to_be_there_with_its_own` |
//! | 8 | SetResponseData's default type (as the source: unchanged, or by the first byte) | `crates/ingest/src/response/tests.rs::without_a_content_type_the_first_byte_decides` |
//! | 8 | CBOR envelopes (there) | `crates/ingest/tests/message_bus/mqtt.rs::on_a_cbor_bus_messages_and_responses_are_cbor` |
//!
//! Without a test, because the thing is not here: optimised event payloads (`EDGEX_OPTIMIZE_EVENT_PAYLOAD`, SDK 4.0.2 and
//! later; off there unless asked for), and names of metrics that match by prefix (§5.7), which `telemetry` owns.

use anyhow::{Context, Result, ensure};
use edgehold_test_support::fixtures::Generation;
use edgehold_test_support::wait::LONG;
use edgehold_test_support::{HttpSink, MqttPublisher, MqttSubscriber, Qos};
use serde_json::{Value, json};

use crate::profiles::profile;
use crate::support::{Service, TOPIC, broker, envelope, event, exported_id, start_subscribed};

/// The `sample` profile with another way through the functions it has, on the MQTT bus at `port`.
fn sample(generation: Generation, port: u16, sink: &HttpSink, order: &str) -> Result<Service> {
    Ok(profile(generation, "sample")?
        .env("MESSAGEBUS_TYPE", "mqtt")
        .env("MESSAGEBUS_PROTOCOL", "tcp")
        .env("MESSAGEBUS_PORT", &port.to_string())
        .env("WRITABLE_PIPELINE_EXECUTIONORDER", order)
        .env(
            "WRITABLE_PIPELINE_FUNCTIONS_SETRESPONSEDATA_PARAMETERS_RESPONSECONTENTTYPE",
            "",
        )
        .env(
            "WRITABLE_PIPELINE_FUNCTIONS_HTTPEXPORT_PARAMETERS_URL",
            &sink.url("/export"),
        ))
}

/// [`sample`] with the target type raw.
fn raw(generation: Generation, port: u16, sink: &HttpSink, order: &str) -> Result<Service> {
    Ok(sample(generation, port, sink, order)?.env("WRITABLE_PIPELINE_TARGETTYPE", "raw"))
}

/// An envelope with this payload.
fn message(payload: Value) -> Vec<u8> {
    let envelope = json!({
        "apiVersion": "v3", "correlationID": "corr-1", "payload": payload, "contentType": "application/json",
    });
    envelope.to_string().into_bytes()
}

#[tokio::test]
async fn a_null_payload_with_target_raw_fails_in_edgex_4_and_is_empty_in_3() -> Result<()> {
    for generation in Generation::ALL {
        let (mut broker, sink) = (broker().await?, HttpSink::start().await?);
        let mut service = raw(generation, broker.port(), &sink, "HTTPExport")?;
        start_subscribed(&mut service, &mut broker).await?;
        let mut publisher = MqttPublisher::connect(broker.port()).await?;

        // When there is no payload, and then one without bytes
        publisher
            .publish(TOPIC, message(Value::Null), Qos::AtLeastOnce)
            .await?;
        let ended = service
            .wait_stats("the first to end", |stats| stats.all_ended(1))
            .await;
        publisher
            .publish(TOPIC, message(json!("")), Qos::AtLeastOnce)
            .await?;
        service
            .wait_stats("the second to end", |stats| stats.all_ended(2))
            .await;

        // Then EdgeX 4 has nothing to begin with; bytes there are in either case with the second
        let bodies: Vec<_> = sink.requests().into_iter().map(|request| request.body).collect();
        match generation {
            Generation::V3 => ensure!(bodies == ["", ""], "{bodies:?}"),
            Generation::V4 => {
                ensure!(bodies == [""], "{bodies:?}");
                ensure!(ended.books("dropped") == 1, "{ended:?}");
                service.process().wait_for_line("No Data Received", LONG).await;
            }
        }
        service.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn an_array_value_shorter_than_two_characters_is_no_crash() -> Result<()> {
    for generation in Generation::ALL {
        let (mut broker, sink) = (broker().await?, HttpSink::start().await?);
        let mut service = sample(generation, broker.port(), &sink, "TransformJson, HTTPExport")?;
        start_subscribed(&mut service, &mut broker).await?;
        let mut publisher = MqttPublisher::connect(broker.port()).await?;
        let values = ["", "[", "7"];
        for value in values {
            let mut event = event(0);
            event["readings"][0]["valueType"] = "Int32Array".into();
            event["readings"][0]["value"] = value.into();
            publisher
                .publish(TOPIC, envelope(&event), Qos::AtLeastOnce)
                .await?;
        }
        publisher
            .publish(TOPIC, envelope(&event(1)), Qos::AtLeastOnce)
            .await?;
        let stats = service
            .wait_stats("all to have come", |stats| stats.all_ended(4))
            .await;
        ensure!(stats.books("undecodable") == 3, "{generation}: {stats:?}");
        ensure!(sink.requests().len() == 1, "{generation}: {:?}", sink.requests());
        ensure!(service.process().is_running()?, "{generation}");
        service.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn empty_response_data_without_a_content_type_is_no_crash() -> Result<()> {
    for generation in Generation::ALL {
        let (mut broker, sink) = (broker().await?, HttpSink::start().await?);
        let service = raw(generation, broker.port(), &sink, "SetResponseData")?;
        let mut service = service.env("TRIGGER_PUBLISHTOPIC", "answers/{pipelineid}");
        start_subscribed(&mut service, &mut broker).await?;
        let answers = MqttSubscriber::connect(broker.port(), "edgex/answers/#", Qos::AtLeastOnce).await?;
        let mut publisher = MqttPublisher::connect(broker.port()).await?;
        publisher
            .publish(TOPIC, message(json!("")), Qos::AtLeastOnce)
            .await?;
        let answer = answers.wait_for(1, LONG).await.remove(0);
        let answer: Value = serde_json::from_slice(&answer.payload)?;
        ensure!(
            answer["payload"] == "" && answer["contentType"] == "application/cbor",
            "{generation}: {answer}"
        );
        ensure!(service.process().is_running()?, "{generation}");
        service.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn without_a_publish_topic_no_response_is_published() -> Result<()> {
    let (mut broker, sink) = (broker().await?, HttpSink::start().await?);
    let service = sample(
        Generation::V4,
        broker.port(),
        &sink,
        "TransformJson, SetResponseData",
    )?;
    let mut service = service.env("TRIGGER_PUBLISHTOPIC", "");
    start_subscribed(&mut service, &mut broker).await?;
    let everything = MqttSubscriber::connect(broker.port(), "#", Qos::AtLeastOnce).await?;
    let mut publisher = MqttPublisher::connect(broker.port()).await?;
    publisher
        .publish(TOPIC, envelope(&event(1)), Qos::AtLeastOnce)
        .await?;
    let stats = service
        .wait_stats("the run to end", |stats| stats.books("completed") == 1)
        .await;
    ensure!(stats.books("responsesLost") == 0, "{stats:?}");
    service.stop().await?;
    let topics: Vec<String> = everything
        .messages()
        .into_iter()
        .map(|message| message.topic)
        .collect();
    ensure!(topics.iter().all(|topic| topic == TOPIC), "{topics:?}");
    Ok(())
}

/// The original compares the beginning of a topic, so that `+` takes any number of levels.
#[tokio::test]
async fn a_pipeline_topic_is_no_prefix() -> Result<()> {
    let (mut broker, sink) = (broker().await?, HttpSink::start().await?);
    let mut service = sample(Generation::V4, broker.port(), &sink, "")?
        .env(
            "WRITABLE_PIPELINE_PERTOPICPIPELINES_FLOAT_TOPICS",
            "events/device/+, events/core/#",
        )
        .env(
            "WRITABLE_PIPELINE_PERTOPICPIPELINES_FLOAT_EXECUTIONORDER",
            "TransformJson, HTTPExport",
        );
    start_subscribed(&mut service, &mut broker).await?;
    let mut publisher = MqttPublisher::connect(broker.port()).await?;
    for (topic, number) in [
        (TOPIC, 1),
        ("edgex/events/device/one", 2),
        ("edgex/events/core", 3),
        ("edgex/events/core/a/b", 4),
    ] {
        publisher
            .publish(topic, envelope(&event(number)), Qos::AtLeastOnce)
            .await?;
    }
    let stats = service
        .wait_stats("all to have come", |stats| stats.all_ended(4))
        .await;
    ensure!(stats.books("unmatched") == 1, "{stats:?}");
    let mut ids: Vec<_> = sink.requests().iter().filter_map(exported_id).collect();
    ids.sort();
    assert_eq!(ids, [2, 3, 4].map(crate::support::event_id));
    service.stop().await
}

#[test]
fn every_row_of_the_table_names_a_test_that_is_there() -> Result<()> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut rows = 0;
    for line in include_str!("weaknesses.rs").lines() {
        let Some(cells) = line.strip_prefix("//! | ").filter(|row| row.contains(".rs::")) else {
            continue;
        };
        let named = cells.split('`').rfind(|text| text.contains(".rs::"));
        let (file, test) = named.and_then(|named| named.split_once("::")).context(line)?;
        let source = std::fs::read_to_string(root.join(file)).with_context(|| file.to_owned())?;
        // Recorded cases are named in a list, tests of every bus in a macro.
        let is_there =
            source.contains(&format!("fn {test}(")) || source.lines().any(|line| line.trim() == test);
        ensure!(is_there, "{file} has no test {test}");
        rows += 1;
    }
    ensure!(rows > 60, "the table has {rows} rows");
    Ok(())
}
