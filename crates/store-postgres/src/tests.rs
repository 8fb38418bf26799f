//! What PostgreSQL means to do with each statement.

use edgehold_core::SecretText;
use edgehold_store::{RetryQueue as _, Room, conformance};
use edgehold_test_support::Postgres;

use crate::{Options, PostgresQueue, claim, insert, instance, lanes, look, maintain, row, settlement};

/// How many parameters a statement has.
fn parameters(statement: &str) -> usize {
    let numbers = statement.split('$').skip(1).filter_map(|rest| {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit());
        rest[..digits.unwrap_or(rest.len())].parse().ok()
    });
    numbers.max().unwrap_or(0)
}

/// All but the one that counts what there is (`look::RECOUNT`), which looks at all of it.
fn statements() -> Vec<&'static str> {
    [
        &claim::NEAR[..],
        &claim::NEAR_FEW,
        &claim::NEAR_END,
        &claim::WALK,
        &[
            claim::FEW_TO,
            claim::FEW_UNKNOWN,
            claim::THESE,
            claim::IN_ORDER,
            claim::SUSPECTS,
            claim::TURN,
            insert::APPEND,
            insert::FIND,
            lanes::DESTINATIONS,
            lanes::LANES,
            lanes::UNKNOWN_LANE,
            lanes::EARLIEST_TO,
            lanes::EARLIEST_UNKNOWN,
            look::IS_WAITING,
            look::LIST,
            look::LIST_IDS,
            look::SURVEY,
            look::SURVEY_IDS,
            look::STATS,
            maintain::OLDEST,
            maintain::EVICT,
            maintain::TOO_OLD,
            maintain::ENDED,
            maintain::REDRIVE,
            maintain::REDRIVE_IDS,
            maintain::PURGE,
            maintain::PURGE_IDS,
            maintain::SET_ASIDE,
            row::SELECT,
            settlement::REPLACE_PAYLOAD,
            settlement::RELEASE,
            settlement::LET_GO,
            settlement::CHANGE,
            settlement::REMOVE,
            instance::BEATING,
            instance::FORGET,
            instance::COUNT,
            instance::NEW,
            instance::CRASHED,
            instance::LET_GO,
        ],
    ]
    .concat()
}

/// The plan of each statement that a session makes now, whatever its parameters will be.
fn plans(server: &Postgres, database: &str, statements: &[&str]) -> Vec<String> {
    let mut script = format!("SET search_path = \"{}\";", conformance::service_key());
    for setting in ["enable_seqscan", "enable_bitmapscan", "enable_sort", "jit"] {
        script.push_str(&format!("SET {setting} = off;"));
    }
    script.push_str("SET plan_cache_mode = force_generic_plan;");
    for (number, statement) in statements.iter().enumerate() {
        let nulls = vec!["NULL"; parameters(statement)].join(", ");
        let nulls = if nulls.is_empty() {
            nulls
        } else {
            format!("({nulls})")
        };
        script.push_str(&format!(
            "PREPARE statement_{number} AS {statement}; SELECT '--- {number}'; EXPLAIN EXECUTE statement_{number}{nulls};"
        ));
    }
    let plans = server.psql(database, &script).unwrap();
    let plans: Vec<_> = plans.split("--- ").skip(1).map(str::to_owned).collect();
    assert_eq!(plans.len(), statements.len());
    plans
}

/// Whether a plan reads all of a table, or all that is in an index of the large ones. `object_suspect` has few objects,
/// and the oldest one is the first in `object_oldest`.
fn goes_through_all(plan: &str) -> bool {
    let lines: Vec<_> = plan.lines().collect();
    let is_whole = |place: usize| {
        let line = lines[place];
        let on =
            |table: &str| line.contains(&format!(" on {table} ")) || line.contains(&format!(" on {table}_"));
        let is_large = on("object") || on("payload");
        let has_condition = lines.get(place + 1).is_some_and(|next| next.contains("Cond:"));
        let is_first = place > 0 && lines[place - 1].contains("Limit ");
        let is_small = line.contains("using object_suspect ");
        (is_large || on("lease")) && (line.contains("Seq Scan") || line.contains("Bitmap Heap Scan"))
            || is_large && line.contains("Index") && !has_condition && !is_first && !is_small
    };
    (0..lines.len()).any(is_whole)
}

#[tokio::test]
async fn no_statement_goes_through_all_whatever_the_planner_has_seen() {
    let server = Postgres::shared().await.unwrap();
    let database = server.database().unwrap();
    let service_key = conformance::service_key();
    let options = Options {
        port: server.port(),
        database: database.clone(),
        username: Postgres::USER.to_owned(),
        password: SecretText::new(Postgres::PASSWORD),
        ..Options::new("127.0.0.1", service_key.clone())
    };
    let sql = |sql: &str| {
        let sql = format!("SET search_path = \"{service_key}\"; {sql}");
        server.psql(&database, &sql).unwrap()
    };
    let analyze = || {
        server.psql(&database, "VACUUM ANALYZE").unwrap();
    };
    let (queue, worker) = PostgresQueue::open(options).await.unwrap();
    let check = |seen: &str| {
        let statements = statements();
        for (plan, statement) in plans(&server, &database, &statements).iter().zip(&statements) {
            assert!(!goes_through_all(plan), "{seen}:\n{statement}\n{plan}");
            let joins_payloads = statement.contains("FULL JOIN");
            assert!(
                !joins_payloads || plan.contains("Hash Full Join"),
                "{seen}:\n{statement}\n{plan}"
            );
            if claim::NEAR.contains(statement) || claim::NEAR_FEW.contains(statement) {
                // What ends early reads no more than it answers.
                let chosen = plan
                    .split("CTE chosen")
                    .nth(1)
                    .and_then(|rest| rest.split("CTE page").next());
                let chosen = chosen.expect("it is a part of each");
                assert!(!chosen.contains("Sort"), "{seen}:\n{statement}\n{plan}");
            }
        }
    };
    let work = async {
        check("nothing");
        let objects: Vec<_> = (1..=500).map(conformance::object).collect();
        queue.append(&objects, Room::default()).await;
        analyze();
        check("objects of which all wait");
        sql("UPDATE object SET state = 3 WHERE seq % 100 <> 0");
        analyze();
        check("objects of which few wait");
        sql("DELETE FROM object WHERE seq < (SELECT max(seq) FROM object)");
        analyze();
        check("that one is left");
        sql("DELETE FROM object");
        analyze();
        check("that all have left");
        queue.close().await;
    };
    tokio::join!(worker.run(), work);
}
