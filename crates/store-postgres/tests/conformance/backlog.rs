//! What the original left in its own table, read from a real server: as it was recorded, in pages, odd and huge.

use std::collections::BTreeMap;

use edgehold_store::StoreError;
use edgehold_store_postgres::{Backlog, LeftBehind};
use serde_json::Value;

use super::*;

/// What the original makes of its schema.
const TABLE: &str = "
    CREATE SCHEMA IF NOT EXISTS \"app-conformance\";
    CREATE TABLE \"app-conformance\".store
        (id UUID PRIMARY KEY, created timestamp NOT NULL DEFAULT now(), content JSONB NOT NULL)";

/// A database with the table of the original, and what SQL is to put there.
async fn database(rows: &str) -> Database {
    let database = Database::new().await;
    database.sql(TABLE);
    database.sql(rows);
    database
}

async fn open(database: &Database) -> Backlog {
    Backlog::open(&database.options()).await.unwrap().unwrap()
}

async fn pages(backlog: &mut Backlog) -> Vec<Vec<LeftBehind>> {
    let mut pages = Vec::new();
    loop {
        let page = backlog.next_page().await.unwrap();
        if page.is_empty() {
            return pages;
        }
        pages.push(page);
    }
}

fn numbers(pages: &[Vec<LeftBehind>]) -> Vec<u64> {
    let rows = pages.iter().flatten();
    let json = rows.map(|left| left.json.as_deref().unwrap());
    json.map(|json| json.parse().unwrap()).collect()
}

fn left(database: &Database) -> String {
    database.sql("SELECT count(*) FROM store")
}

#[tokio::test]
async fn what_was_recorded_comes_as_it_lay_there_and_as_old_as_it_is() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../store/testdata/v4");
    for file in std::fs::read_dir(folder).unwrap() {
        // Given what EdgeX 4 left in one case,
        let database = database("").await;
        let rows: Value = serde_json::from_slice(&std::fs::read(file.unwrap().path()).unwrap()).unwrap();
        let mut wanted = BTreeMap::new();
        for row in rows.as_array().unwrap() {
            let (id, created) = (row["id"].as_str().unwrap(), row["created"].as_str().unwrap());
            let content = row["content"].to_string().replace('\'', "''");
            database.sql(&format!(
                "INSERT INTO store VALUES ('{id}', '{created}', '{content}')"
            ));
            let millis = database.sql(&format!(
                "SELECT round(extract(epoch FROM timestamptz '{created}+00') * 1000)"
            ));
            wanted.insert(id.to_owned(), (millis.parse().unwrap(), row["content"].clone()));
        }
        assert!(!wanted.is_empty());
        // when it is read, then it comes with what it holds and when it was stored.
        let mut backlog = open(&database).await;
        assert_eq!(
            backlog.count().await.unwrap(),
            u64::try_from(wanted.len()).unwrap()
        );
        let found = pages(&mut backlog).await.into_iter().flatten();
        let found: BTreeMap<String, (i64, Value)> = found
            .map(|left| {
                let json = serde_json::from_str(&left.json.unwrap()).unwrap();
                (
                    left.id.to_string(),
                    (left.created.unwrap().as_unix_millis(), json),
                )
            })
            .collect();
        assert_eq!(found, wanted);
        backlog.close().await;
    }
}

#[tokio::test]
async fn many_come_in_pages_in_the_order_in_which_they_were_stored() {
    let rows = "INSERT INTO store SELECT gen_random_uuid(), timestamp '2026-11-01' + interval '1 second' * n, to_jsonb(n)
                FROM generate_series(1, 600) AS n ORDER BY random()";
    let database = database(rows).await;
    let mut backlog = open(&database).await;
    let pages = pages(&mut backlog).await;
    assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [256, 256, 88]);
    assert_eq!(numbers(&pages), (1..=600).collect::<Vec<_>>());
    assert!(backlog.next_page().await.unwrap().is_empty(), "it has ended");
}

#[tokio::test]
async fn a_page_ends_at_the_bytes_it_has_here_however_small_they_are_there() {
    const MIB: usize = 1 << 20;
    // Given rows that the server keeps in a hundredth of what they are.
    let rows = format!(
        "INSERT INTO store SELECT gen_random_uuid(), timestamp '2026-11-01' + interval '1 second' * n,
                to_jsonb(rpad(n::text || ' ', {MIB}, '0')) FROM generate_series(1, 20) AS n"
    );
    let database = database(&rows).await;
    database.sql(&format!(
        "INSERT INTO store SELECT gen_random_uuid(), timestamp '2026-12-01', to_jsonb(repeat('0', {}))",
        20 * MIB
    ));
    let mut backlog = open(&database).await;
    let pages = pages(&mut backlog).await;
    let mut found = Vec::new();
    for page in &pages {
        let texts: Vec<_> = page.iter().map(|left| left.json.as_deref().unwrap()).collect();
        // The one that is too much for it ends it.
        let bytes: usize = texts.iter().rev().skip(1).map(|text| text.len()).sum();
        assert!(
            bytes < 4 * MIB,
            "{} rows of {bytes} bytes and one more",
            page.len()
        );
        found.extend(texts);
    }
    // Then none is passed over, whatever its size.
    assert_eq!(found.len(), 21);
    for (text, number) in found.iter().zip(1..=20) {
        assert!(text.starts_with(&format!("\"{number} ")), "{}", &text[..10]);
    }
    assert_eq!(found[20].len(), 20 * MIB + 2);
}

#[tokio::test]
async fn what_is_no_object_comes_as_it_is() {
    // Whether it is one is not for the reader to say.
    let texts = [
        "{}",
        "null",
        "[1, 2]",
        "\"text\"",
        "{\"payload\": \"%\", \"version\": \"main.Mine-fm\"}",
    ];
    let database = database("").await;
    for (number, text) in texts.iter().enumerate() {
        database.sql(&format!(
            "INSERT INTO store VALUES (gen_random_uuid(), timestamp '2026-11-01' + interval '1 second' * {number}, '{text}')"
        ));
    }
    let mut backlog = open(&database).await;
    let found: Vec<_> = pages(&mut backlog).await.into_iter().flatten().collect();
    let found: Vec<_> = found.iter().map(|left| left.json.as_deref().unwrap()).collect();
    assert_eq!(found, texts);
}

#[tokio::test]
async fn a_row_without_a_moment_keeps_no_other_from_being_read() {
    let rows = "INSERT INTO store SELECT gen_random_uuid(), created::timestamp, to_jsonb(n)
                FROM (VALUES ('-infinity', 1), ('2026-11-01', 2), ('infinity', 3)) AS row (created, n)";
    let database = database(rows).await;
    let mut backlog = open(&database).await;
    assert_eq!(numbers(&pages(&mut backlog).await), [1, 2, 3]);
}

#[tokio::test]
async fn what_goes_away_meanwhile_comes_with_nothing_and_what_is_removed_goes_alone() {
    let rows = "INSERT INTO store SELECT lpad(n::text, 32, '0')::uuid, timestamp '2026-11-01' + interval '1 second' * n,
                to_jsonb(n) FROM generate_series(1, 300) AS n";
    let database = database(rows).await;
    let mut backlog = open(&database).await;
    let first = backlog.next_page().await.unwrap();
    database.sql("DELETE FROM store WHERE content = '300'");
    let second = backlog.next_page().await.unwrap();
    let gone: Vec<_> = second.iter().filter(|left| left.json.is_none()).collect();
    assert_eq!((first.len(), second.len(), gone.len()), (256, 44, 1));

    backlog.remove(&[]).await.unwrap();
    assert_eq!(left(&database), "299");
    let ids: Vec<_> = first.iter().map(|left| left.id).chain([gone[0].id]).collect();
    backlog.remove(&ids).await.unwrap();
    backlog.remove(&ids).await.unwrap();
    assert_eq!(left(&database), "43");
}

#[tokio::test]
async fn no_table_is_nothing_and_one_that_may_not_be_read_is_no_empty_one() {
    let empty = Database::new().await;
    assert!(
        Backlog::open(&empty.options()).await.unwrap().is_none(),
        "no schema"
    );
    // Ours in the same schema is not the original's.
    let (queue, worker) = PostgresQueue::open(empty.options()).await.unwrap();
    tokio::join!(worker.run(), queue.close());
    assert!(
        Backlog::open(&empty.options()).await.unwrap().is_none(),
        "no table"
    );

    let database = database("CREATE ROLE reader_of_nothing LOGIN PASSWORD 'x'").await;
    database.sql("GRANT USAGE ON SCHEMA \"app-conformance\" TO reader_of_nothing");
    let mut options = database.options();
    options.username = "reader_of_nothing".to_owned();
    options.password = SecretText::new("x");
    let mut backlog = Backlog::open(&options).await.unwrap().unwrap();
    for refused in [backlog.count().await.err(), backlog.next_page().await.err()] {
        let refused = refused.expect("it may not");
        assert!(matches!(refused, StoreError::Unavailable { .. }), "{refused}");
    }
}

#[tokio::test]
async fn the_schema_is_that_of_the_service_whatever_its_name() {
    let database = Database::new().await;
    let key = ServiceKey::try_new("app \"odd\" \\ 'key'; DROP").unwrap();
    database.sql(
        "CREATE SCHEMA \"app \"\"odd\"\" \\ 'key'; DROP\";
         CREATE TABLE \"app \"\"odd\"\" \\ 'key'; DROP\".store (id uuid, created timestamp, content jsonb);
         INSERT INTO \"app \"\"odd\"\" \\ 'key'; DROP\".store VALUES (gen_random_uuid(), now(), '7')",
    );
    let options = options(&database.server, &database.name, key);
    let mut backlog = Backlog::open(&options).await.unwrap().unwrap();
    assert_eq!(numbers(&pages(&mut backlog).await), [7]);
}
