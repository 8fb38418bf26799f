//! A store looked through, beside whoever writes it.

use edgehold::StoreView;

use super::*;

/// A store on a server, and who looks at it from outside.
async fn on_server() -> (Place, Bench) {
    let place = Place::postgres().await;
    let Place::Postgres(server, database) = &place else {
        unreachable!()
    };
    let bench = Bench::on_server(server, database);
    (place, bench)
}

fn sql(place: &Place, sql: &str) -> String {
    let Place::Postgres(server, database) = place else {
        unreachable!()
    };
    let sql = format!("SET search_path TO \"{SERVICE_KEY}\"; {sql}");
    server.psql(database, &sql).unwrap()
}

#[tokio::test]
async fn what_changes_places_while_a_store_is_looked_through_is_no_damage() {
    // Given more than a page, of which one at each end is journaled, in turns.
    let (place, bench) = on_server().await;
    let objects: Vec<_> = (1..=400)
        .map(|number| full(number, ObjectState::Failed))
        .collect();
    place.fill(&objects).await;
    sql(&place, "UPDATE object SET state = 0 WHERE seq = 1");
    let view = StoreView::open(&bench.invocation(), SERVICE_KEY).await.unwrap();
    // When they change places between two pages, so that the counters say what they said before.
    let swap = "UPDATE object SET state = CASE state WHEN 0 THEN 2 ELSE 0 END WHERE seq IN (1, 400)";
    let check = view
        .check(|_, _| {
            sql(&place, swap);
        })
        .await
        .unwrap();
    // Then that is nothing to complain of.
    assert!(check.is_sound(), "{check:?}");
    view.close().await;
}

#[tokio::test]
async fn counters_that_say_something_else_and_damaged_rows_are_named() {
    let (place, bench) = on_server().await;
    let objects: Vec<_> = (1..=3).map(|number| full(number, ObjectState::Failed)).collect();
    place.fill(&objects).await;
    sql(&place, "UPDATE counter SET objects = 7 WHERE state = 2");
    sql(&place, "DELETE FROM payload WHERE seq = 2");
    let view = StoreView::open(&bench.invocation(), SERVICE_KEY).await.unwrap();
    let check = view.check(|_, _| {}).await.unwrap();
    assert!(!check.is_sound());
    assert_eq!((check.objects, check.damaged, check.unopened), (3, 1, 0));
    assert_eq!(check.counters, Some([("failed", (7, 3))].into()));
    let [(id, problem)] = &check.problems[..] else {
        panic!("{check:?}");
    };
    assert_eq!(*id, objects[1].id.to_string());
    assert!(problem.contains("the payload is missing"), "{problem}");
    view.close().await;
}

#[tokio::test]
async fn a_store_that_only_its_own_process_has_says_so() {
    let bench = Bench::new();
    let configuration = bench.folder.path().join("configuration.yaml");
    for kind in ["memory", "Shelf"] {
        std::fs::write(&configuration, format!("Database: {{Type: {kind}}}\n")).unwrap();
        let error = StoreView::open(&bench.invocation(), SERVICE_KEY).await.err();
        let error = error.expect("it is in another process").to_string();
        assert!(error.contains("cannot be looked at from outside"), "{error}");
    }
}

#[tokio::test]
async fn what_has_never_been_stored_is_sound_and_nothing_to_put_away() {
    let file = Bench::new();
    let (place, server) = on_server().await;
    for (bench, refusal) in [(file, "nothing has been stored yet"), (server, "pg_dump")] {
        let view = StoreView::open(&bench.invocation(), SERVICE_KEY).await.unwrap();
        let check = view.check(|_, _| {}).await.unwrap();
        assert!(check.is_sound() && check.objects == 0, "{check:?}");
        let backup = bench.folder.path().join("backup.db");
        let error = view.back_up(&backup).await.unwrap_err().to_string();
        assert!(error.contains(refusal) && !backup.exists(), "{error}");
        view.close().await;
    }
    drop(place);
}
