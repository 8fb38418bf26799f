//! Keeping objects.

use std::{collections::HashSet, num::NonZeroU64};

use bytes::Bytes;
use edgehold_core::{AttemptError, ErrorReason, PayloadForm, StoredObjectId};
use futures_util::future::join_all;

use super::*;
use crate::StoreError;

/// One object for each input kind and state, with something unusual in every field.
pub(crate) fn unusual_objects() -> Vec<StoredObject> {
    let kinds = [
        DataKind::Event,
        DataKind::AddEventRequest,
        DataKind::Metric,
        DataKind::Bytes,
        DataKind::Text,
        DataKind::Json,
        DataKind::ByteStrings,
        DataKind::Events,
    ];
    let forms = [
        PayloadForm::Bytes,
        PayloadForm::Base64,
        PayloadForm::Text,
        PayloadForm::Json,
    ];
    let deliveries = forms.map(|form| StoredInput::Delivery {
        content_type: "application/cbor; charset=\"ü\"".to_owned(),
        topic: "edgex/events/device/käse/+/#/日本".to_owned(),
        form,
    });
    let nowhere = StoredInput::Delivery {
        content_type: String::new(),
        topic: String::new(),
        form: PayloadForm::Bytes,
    };
    let inputs = kinds
        .map(|kind| StoredInput::Bytes { kind })
        .into_iter()
        .chain(deliveries)
        .chain([nowhere]);
    let bare = inputs.zip(1_u64..).map(|(input, number)| StoredObject {
        input,
        ..object(number)
    });
    let mut objects: Vec<_> = bare.collect();
    for (object, state) in objects.iter_mut().zip(ObjectState::ALL.iter().cycle()) {
        object.state = *state;
        object.reason = (*state == ObjectState::Error).then_some(ErrorReason::PipelineChanged);
    }
    let full = StoredObject {
        pipeline_id: PipelineId::try_new("pipeline 'für' \"alles\"; DROP TABLE object --")
            .expect("not blank"),
        position: u32::MAX >> 1,
        version: PipelineVersion::from_stored("Pipeline-functions:  a/b.(*C).D-fm"),
        correlation_id: CorrelationId::new("ключ \t\n 🦀 %s $1 ?1 :x \\"),
        context: BTreeMap::from([
            (String::new(), String::new()),
            ("receivedtopic".to_owned(), "a/b/c".to_owned()),
            (
                "quote \" and \\ and \n".to_owned(),
                "🦀\u{0}\u{1f}\u{2028}".to_owned(),
            ),
            ("long".to_owned(), "ä".repeat(70_000)),
        ]),
        payload: (0..=255).collect::<Vec<u8>>().into(),
        attempts: u32::MAX >> 1,
        created_at: Timestamp::from_unix_millis(1),
        last_attempt_at: Some(Timestamp::from_unix_millis(253_402_300_799_999)),
        not_before: Some(Timestamp::from_unix_millis(0)),
        last_error: Some("connection refused: 'localhost' \"\\\" \r\n\t ü 🦀".to_owned()),
        errors: [
            AttemptError::new(1, at(-1), ""),
            AttemptError::new(u32::MAX >> 1, at(7), "'quoted' \"\\\" \r\n\t ü 🦀"),
        ]
        .into_iter()
        .collect(),
        destination: Some(Destination::new("http://[::1]:8080/ü?x=%20")),
        ended_at: None,
        ..object(100)
    };
    objects.push(StoredObject {
        id: id(101),
        state: ObjectState::Error,
        reason: Some(ErrorReason::Undecodable),
        correlation_id: CorrelationId::new(""),
        context: BTreeMap::new(),
        last_error: Some(String::new()),
        destination: Some(Destination::new("")),
        ended_at: Some(at(77)),
        ..full.clone()
    });
    objects.push(full);
    for (object, reason) in (200_u64..).map(object).zip([
        ErrorReason::RetriesExceeded,
        ErrorReason::PipelineRemoved,
        ErrorReason::PermanentError,
        ErrorReason::TooOld,
        ErrorReason::Capacity,
        ErrorReason::Crashed,
        ErrorReason::Corrupt,
    ]) {
        objects.push(StoredObject {
            state: ObjectState::Error,
            reason: Some(reason),
            ..object
        });
    }
    objects
}

/// Gives the objects the `seq` they were answered.
pub(super) fn with_seqs(objects: &[StoredObject], seqs: &[i64]) -> Vec<StoredObject> {
    objects
        .iter()
        .zip(seqs)
        .map(|(object, seq)| StoredObject {
            seq: *seq,
            ..object.clone()
        })
        .collect()
}

pub(super) async fn every_field_survives(queue: &dyn RetryQueue) -> Outcome {
    // given
    let objects = unusual_objects();
    // when
    let seqs = append(queue, &objects).await?;
    // then
    let wanted = with_seqs(&objects, &seqs);
    ensure_eq!(
        list(queue, list_all()).await?,
        wanted,
        "listed as it was appended"
    );
    let waiting: Vec<_> = wanted
        .into_iter()
        .filter(|object| object.state == ObjectState::Failed)
        .collect();
    ensure!(waiting.len() > 2, "the suite has objects to claim");
    ensure_eq!(
        claim(queue, claim_due()).await?,
        waiting,
        "claimed as it was appended"
    );
    Ok(())
}

pub(super) async fn payloads_of_every_size_survive(queue: &dyn RetryQueue) -> Outcome {
    let sizes = [0, 1, 4_095, 4_096, 70_000, 1 << 20, 16 << 20];
    // Bytes that are no text and repeat in step with no page size.
    let pattern: Vec<u8> = (0_u32..65_537)
        .map(|place| place.wrapping_mul(2_654_435_761).to_be_bytes()[0])
        .collect();
    let payload = |size: usize| {
        Bytes::from(
            [
                pattern.repeat(size / pattern.len()),
                pattern[..size % pattern.len()].to_vec(),
            ]
            .concat(),
        )
    };
    let objects: Vec<_> = (1_u64..)
        .zip(sizes)
        .map(|(number, size)| StoredObject {
            payload: payload(size),
            ..object(number)
        })
        .collect();
    append(queue, &objects).await?;
    let claimed = claim(queue, claim_due()).await?;
    ensure_eq!(ids(&claimed), ids(&objects), "every payload is claimed");
    for (claimed, object) in claimed.iter().zip(&objects) {
        ensure!(
            claimed.payload == object.payload,
            "a payload of {} bytes came back changed",
            object.payload.len()
        );
    }
    Ok(())
}

pub(super) async fn answers_come_in_order_with_growing_seq(queue: &dyn RetryQueue) -> Outcome {
    let mut seqs = append(queue, &objects(1..=5)).await?;
    seqs.extend(append(queue, &objects(6..=6)).await?);
    seqs.extend(append(queue, &objects(7..=9)).await?);
    ensure!(seqs.iter().all(|seq| *seq > 0), "a seq is above 0: {seqs:?}");
    ensure!(
        seqs.is_sorted_by(|one, next| one < next),
        "seqs grow in the order of appending: {seqs:?}"
    );
    for (number, seq) in (1..).zip(&seqs) {
        ensure_eq!(
            find(queue, id(number)).await?.seq,
            *seq,
            "object {number} has the seq that was answered"
        );
    }
    ensure_eq!(
        append(queue, &[]).await?,
        Vec::<i64>::new(),
        "appending nothing is fine"
    );
    Ok(())
}

pub(super) async fn appending_again_is_the_same(queue: &dyn RetryQueue) -> Outcome {
    let first = append(queue, &objects([1, 2])).await?;
    let again = append(queue, &objects([2, 1, 3])).await?;
    ensure_eq!(
        again[..2],
        [first[1], first[0]],
        "the same objects keep their seq"
    );
    ensure_eq!(
        ids(&claim(queue, claim_due()).await?),
        [id(1), id(2), id(3)],
        "each is there once"
    );
    ensure_eq!(stats(queue).await?.failed.objects, 3, "each is counted once");
    Ok(())
}

pub(super) async fn appending_again_after_an_attempt_is_the_same(queue: &dyn RetryQueue) -> Outcome {
    // given an append whose answer was lost, and an attempt in the meantime
    let first = append(queue, &objects([1])).await?;
    settle(queue, &[verdict(id(1), Action::RetryLater(failure(2, at(5))))]).await?;
    // when
    let again = append(queue, &objects([1])).await?;
    // then
    ensure_eq!(again, first, "it is the same object");
    ensure_eq!(find(queue, id(1)).await?.attempts, 2, "its attempt still counts");
    Ok(())
}

pub(super) async fn other_content_under_the_same_id_is_refused(queue: &dyn RetryQueue) -> Outcome {
    append(queue, &objects([1])).await?;
    let base = object(1);
    let other = |change: fn(&mut StoredObject)| {
        let mut object = base.clone();
        change(&mut object);
        object
    };
    let others = [
        other(|object| object.payload = Bytes::from_static(b"other")),
        other(|object| object.position += 1),
        other(|object| object.context.clear()),
        other(|object| object.correlation_id = CorrelationId::new("other")),
        other(|object| object.pipeline_id = PipelineId::try_new("other").expect("not blank")),
        other(|object| object.input = StoredInput::Bytes { kind: DataKind::Text }),
    ];
    for other in others {
        let answers = queue
            .append(&[object(2), other, object(3)], Room::default())
            .await;
        ensure_eq!(answers.len(), 3, "one answer for each");
        ensure!(
            answers[0].is_ok() && answers[2].is_ok(),
            "its neighbours are kept: {answers:?}"
        );
        ensure!(
            matches!(&answers[1], Err(StoreError::Exists(exists)) if *exists == id(1)),
            "other content is refused as existing: {:?}",
            answers[1]
        );
    }
    let kept = find(queue, id(1)).await?;
    ensure_eq!(
        StoredObject { seq: 0, ..kept },
        object(1),
        "the first object is untouched"
    );
    ensure_eq!(stats(queue).await?.failed.objects, 3, "nothing else was kept");
    Ok(())
}

pub(super) async fn a_dropped_append_does_not_come_after_what_is_asked_next(
    queue: &dyn RetryQueue,
) -> Outcome {
    for (number, steps) in (1..=24).zip((1..=6).cycle()) {
        // given an append that nobody waits for any more, after so many steps
        let objects = [object(number)];
        let mut pending = queue.append(&objects, Room::default());
        for _ in 0..steps {
            if futures_util::poll!(&mut pending).is_ready() {
                break;
            }
        }
        drop(pending);
        // when it is removed by somebody who cannot know whether it is there
        settle(queue, &[verdict(id(number), Action::Remove)]).await?;
        // then it is not, and does not come
        ensure_eq!(ids(&list(queue, list_all()).await?), [], "what was removed");
        append(queue, &[object(100 + number)]).await?;
        settle(queue, &[verdict(id(100 + number), Action::Remove)]).await?;
        ensure_eq!(
            ids(&list(queue, list_all()).await?),
            [],
            "what was removed before"
        );
    }
    Ok(())
}

pub(super) async fn an_id_twice_in_one_call_is_kept_once(queue: &dyn RetryQueue) -> Outcome {
    let other = StoredObject {
        payload: Bytes::from_static(b"other"),
        ..object(1)
    };
    let answers = queue
        .append(&[object(1), object(1), other, object(2)], Room::default())
        .await;
    ensure_eq!(answers.len(), 4, "one answer for each");
    match (&answers[0], &answers[1], &answers[2], &answers[3]) {
        (Ok(first), Ok(second), Err(StoreError::Exists(_)), Ok(last)) if first == second && last > first => {}
        _ => return Err(format!("wrong answers: {answers:?}")),
    }
    ensure_eq!(
        ids(&claim(queue, claim_due()).await?),
        [id(1), id(2)],
        "each id is there once"
    );
    Ok(())
}

pub(super) async fn an_object_of_another_service_is_refused(queue: &dyn RetryQueue) -> Outcome {
    let service_key = ServiceKey::try_new("app-other").expect("it is a valid service key");
    let foreign = StoredObject {
        service_key,
        ..object(1)
    };
    let answers = queue.append(&[foreign, object(2)], Room::default()).await;
    ensure!(
        matches!(answers[..], [Err(StoreError::Invalid { .. }), Ok(_)]),
        "only the object of this service is kept: {answers:?}"
    );
    ensure_eq!(
        stats(queue).await?.failed.objects,
        1,
        "the other one is not counted"
    );
    Ok(())
}

pub(super) async fn a_thousand_objects_keep_their_order(queue: &dyn RetryQueue) -> Outcome {
    let objects = objects(1..=1_000);
    let seqs = append(queue, &objects).await?;
    ensure!(seqs.is_sorted_by(|one, next| one < next), "seqs grow");
    let claimed = claim(queue, claim_due()).await?;
    ensure!(
        claimed == with_seqs(&objects, &seqs),
        "a thousand objects come back in order and whole"
    );
    ensure_eq!(stats(queue).await?.failed.objects, 1_000, "all are counted");
    Ok(())
}

pub(super) async fn concurrent_appends_are_all_kept(queue: &dyn RetryQueue) -> Outcome {
    // given twenty calls at once
    let calls: Vec<_> = (0..20)
        .map(|call| objects([call * 3 + 1, call * 3 + 2]))
        .collect();
    let answers = join_all(calls.iter().map(|objects| queue.append(objects, Room::default()))).await;
    let seqs: Vec<_> = answers
        .into_iter()
        .flatten()
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())?;
    // then
    let distinct: HashSet<_> = seqs.iter().collect();
    ensure_eq!(distinct.len(), 40, "every object has a seq of its own");
    let listed = list(queue, list_all()).await?;
    let seq_of = |id: StoredObjectId| {
        listed
            .iter()
            .find(|object| object.id == id)
            .map(|object| object.seq)
    };
    for (object, seq) in calls.iter().flatten().zip(&seqs) {
        ensure_eq!(
            seq_of(object.id),
            Some(*seq),
            "an object is where its answer says"
        );
    }
    Ok(())
}

/// Room for so many objects and bytes; 0 is no limit.
fn room(items: u64, bytes: u64) -> Room {
    Room {
        max_items: NonZeroU64::new(items),
        max_bytes: NonZeroU64::new(bytes),
    }
}

fn is_full(answer: &Result<i64, StoreError>) -> bool {
    matches!(answer, Err(StoreError::Full { .. }))
}

pub(super) async fn what_has_no_room_is_refused_by_name(queue: &dyn RetryQueue) -> Outcome {
    // given one journaled and one failed object of 9 bytes each, and others that do not count
    let in_state = |number, state| StoredObject {
        state,
        reason: (state == ObjectState::Error).then_some(ErrorReason::TooOld),
        ..object(number)
    };
    append(
        queue,
        &[
            in_state(1, ObjectState::New),
            object(2),
            in_state(3, ObjectState::Error),
            in_state(4, ObjectState::Success),
        ],
    )
    .await?;
    // when there is room for one more, by count and by bytes
    for (room, limit) in [(room(3, 0), "3"), (room(0, 27), "27")] {
        let answers = queue
            .append(&[object(5), object(6), in_state(7, ObjectState::New)], room)
            .await;
        ensure!(
            answers[0].is_ok() && is_full(&answers[1]) && is_full(&answers[2]),
            "the first one fits: {answers:?}"
        );
        let reason = answers[1]
            .as_ref()
            .err()
            .map(ToString::to_string)
            .unwrap_or_default();
        ensure!(reason.contains(limit), "the limit is named: {reason}");
        // then what is kept already, and what does not wait, need no room
        let answers = queue
            .append(
                &[object(2), object(5), in_state(8, ObjectState::Error), object(9)],
                room,
            )
            .await;
        ensure!(
            answers[..3].iter().all(Result::is_ok) && is_full(&answers[3]),
            "only what would wait needs room: {answers:?}"
        );
        settle(queue, &[5, 8].map(|number| verdict(id(number), Action::Remove))).await?;
    }
    // and a smaller one still fits where a larger one does not
    let small = StoredObject {
        payload: Bytes::from_static(b"x"),
        ..object(10)
    };
    let answers = queue.append(&[object(11), small], room(0, 20)).await;
    ensure!(
        is_full(&answers[0]) && answers[1].is_ok(),
        "by its own size: {answers:?}"
    );
    let stats = stats(queue).await?;
    ensure_eq!(
        (stats.new.objects, stats.failed.objects, stats.error.objects),
        (1, 2, 1),
        "what was refused is not there"
    );
    // and without a limit everything does
    append(queue, &objects([5, 6, 7])).await?;
    Ok(())
}

pub(super) async fn concurrent_appends_never_exceed_the_room(queue: &dyn RetryQueue) -> Outcome {
    let calls: Vec<_> = (0..30)
        .map(|call| objects([call * 3 + 1, call * 3 + 2]))
        .collect();
    let answers = join_all(calls.iter().map(|objects| queue.append(objects, room(25, 0)))).await;
    let kept = answers.iter().flatten().filter(|answer| answer.is_ok()).count();
    ensure!(
        answers
            .iter()
            .flatten()
            .all(|answer| answer.is_ok() || is_full(answer)),
        "the others are refused for want of room: {answers:?}"
    );
    ensure_eq!(kept, 25, "as many are kept as there is room for");
    ensure_eq!(stats(queue).await?.failed.objects, 25, "and no more are there");
    Ok(())
}
