//! A store copied into another one, of the same kind and of another: what is in it afterwards.

use super::*;

/// The two are the same, in order; else the first object that is not.
#[track_caller]
fn assert_same(found: &[StoredObject], wanted: &[StoredObject], what: &str) {
    for (found, wanted) in found.iter().zip(wanted) {
        assert_eq!(found, wanted, "{what}");
    }
    assert_eq!(found.len(), wanted.len(), "{what}");
}

/// What a start makes of an object that only a running process could have in hand.
fn as_started(object: &StoredObject) -> StoredObject {
    match object.state {
        ObjectState::New | ObjectState::Batched => StoredObject {
            state: ObjectState::Failed,
            last_attempt_at: None,
            ..object.clone()
        },
        _ => object.clone(),
    }
}

#[tokio::test]
async fn an_object_of_any_state_is_in_the_copy_as_the_next_start_would_have_it() {
    let bench = Bench::new();
    let kept = every_state();
    let wanted: Vec<_> = kept.iter().map(as_started).collect();
    for from in [bench.file("from.db"), Place::postgres().await] {
        from.fill(&kept).await;
        for (number, to) in [bench.file("to.db"), Place::postgres().await].iter().enumerate() {
            // When the store of a stopped service is copied, and copied again.
            let report = bench.copy(&from, to).await.unwrap();
            assert!(report.agrees() && report.already == 0, "{report:?}");
            let again = bench.copy(&from, to).await.unwrap();
            assert!(again.agrees() && again.already == again.copied, "{again:?}");

            // Then a service that starts there finds every object, in order and equal field by field.
            let what = format!("{} to {number}", from.address());
            assert_same(&to.started().await, &wanted, &what);
            if let Place::File(path) = to {
                std::fs::remove_file(path).unwrap();
            }
        }
        // And so does one that starts where it was.
        assert_same(&from.started().await, &wanted, &from.address());
    }
}

#[tokio::test]
async fn a_text_that_postgres_takes_only_without_nul_is_no_difference() {
    let (bench, to) = (Bench::new(), Place::postgres().await);
    let from = bench.file("from.db");
    let nul = StoredObject {
        correlation_id: CorrelationId::new("a\0b"),
        last_error: Some("\0".to_owned()),
        errors: [AttemptError::new(1, at(2), "answered \0\0")]
            .into_iter()
            .collect(),
        ..full(1, ObjectState::Failed)
    };
    from.fill(&[nul]).await;
    let report = bench.copy(&from, &to).await.unwrap();
    assert!(report.agrees(), "{report:?}");
    assert_eq!(to.started().await[0].last_error.as_deref(), Some("\u{2400}"));
}

#[tokio::test]
async fn a_store_that_a_service_works_with_is_neither_copied_nor_copied_to() {
    let bench = Bench::new();
    let stores = [
        [bench.file("a.db"), bench.file("b.db")],
        [Place::postgres().await, Place::postgres().await],
    ];
    let is_in_use = |error: &StoreError| match error {
        StoreError::Locked { .. } => true,
        StoreError::Configuration(told) => told.contains("a running service works with"),
        _ => false,
    };
    for [used, other] in stores {
        other.fill(&[full(1, ObjectState::Failed)]).await;
        let (queue, closed) = used.open().await;
        let from = bench.copy(&used, &other).await;
        assert!(
            matches!(&from, Err(CopyError::Source(error)) if is_in_use(error)),
            "{from:?}"
        );
        let to = bench.copy(&other, &used).await;
        assert!(
            matches!(&to, Err(CopyError::Target(error)) if is_in_use(error)),
            "{to:?}"
        );
        assert_eq!(listed(&*queue).await, []);
        queue.close().await;
        closed.await.unwrap();
        assert!(bench.copy(&other, &used).await.unwrap().agrees());
    }
}

#[tokio::test]
async fn a_store_whose_service_was_killed_is_copied_as_soon_as_that_is_certain() {
    let (bench, from) = (Bench::new(), Place::postgres().await);
    let (queue, killed) = from.open().await;
    queue.append(&[full(1, ObjectState::New)], Room::default()).await;
    killed.abort();
    assert!(killed.await.is_err(), "it was killed");
    let report = bench.copy(&from, &bench.file("to.db")).await.unwrap();
    assert!(report.agrees() && report.copied == 1, "{report:?}");
}

#[tokio::test]
async fn a_service_cannot_start_on_a_file_while_it_is_copied() {
    let (bench, to) = (Bench::new(), Place::postgres().await);
    let from = bench.file("from.db");
    from.fill(&[full(1, ObjectState::Failed)]).await;
    let Place::File(path) = &from else { unreachable!() };
    let mut refused = None;
    let report = bench
        .copy_telling(&from, &to, |_| refused = Some(SqliteQueue::lock(path).is_err()))
        .await;
    assert!(report.unwrap().agrees());
    assert_eq!(refused, Some(true));
}

#[tokio::test]
async fn a_service_that_starts_on_a_server_while_it_is_copied_is_told_of() {
    let (bench, from) = (Bench::new(), Place::postgres().await);
    from.fill(&[full(1, ObjectState::Failed)]).await;
    let Place::Postgres(server, database) = &from else {
        unreachable!()
    };
    let started = bench
        .copy_telling(&from, &bench.file("to.db"), |_| {
            let join = format!(
                "INSERT INTO \"{SERVICE_KEY}\".instance (name, heartbeat_at) VALUES ('other', clock_timestamp())"
            );
            server.psql(database, &join).unwrap();
        })
        .await;
    assert!(matches!(started, Err(CopyError::Started(_))), "{started:?}");
}

#[tokio::test]
async fn what_waits_in_the_spool_in_front_of_a_server_is_told_of_and_can_be_copied() {
    let (bench, from, to) = (Bench::new(), Place::postgres().await, Place::postgres().await);
    let spool = bench.file(&format!("{SERVICE_KEY}.spool.db"));
    from.fill(&[full(1, ObjectState::Failed)]).await;
    spool.fill(&[full(2, ObjectState::Failed)]).await;
    let report = bench.copy(&from, &to).await.unwrap();
    assert_eq!(report.spool.map(|(_, objects)| objects), Some(1));
    let report = bench.copy(&spool, &to).await.unwrap();
    assert!(report.agrees() && report.others == 1, "{report:?}");
    assert_eq!(report.spool, None);
    assert_eq!(to.started().await.len(), 2);
}
