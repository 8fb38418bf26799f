//! What PostgreSQL means to do with each statement.

use edgehold_core::{SecretText, ServiceKey};
use edgehold_store::RetryQueue as _;
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

#[tokio::test]
async fn no_statement_goes_through_the_whole_table() {
    let server = Postgres::shared().await.unwrap();
    let database = server.database().unwrap();
    let options = Options {
        port: server.port(),
        database: database.clone(),
        username: Postgres::USER.to_owned(),
        password: SecretText::new(Postgres::PASSWORD),
        ..Options::new("127.0.0.1", ServiceKey::try_new("app").unwrap())
    };
    let (queue, worker) = PostgresQueue::open(options).await.unwrap();
    tokio::join!(worker.run(), queue.close());
    let statements = [
        &claim::NEAR[..],
        &claim::NEAR_END,
        &claim::WALK,
        &[
            claim::FEW_TO,
            claim::FEW_UNKNOWN,
            claim::IN_ORDER,
            claim::SUSPECTS,
            claim::LEASE,
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
            look::RECOUNT,
            look::SURVEY,
            look::SURVEY_IDS,
            look::STATS,
            maintain::OLDEST,
            maintain::EVICT,
            maintain::CREATED_BEFORE,
            maintain::TOO_OLD,
            maintain::LET_GO,
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
    .concat();
    // One session: the plan that a statement has for as long as it is prepared, whatever its parameters.
    let mut script = "SET search_path = app; SET plan_cache_mode = force_generic_plan;".to_owned();
    for setting in ["enable_seqscan", "enable_bitmapscan", "enable_sort"] {
        script.push_str(&format!("SET {setting} = off;"));
    }
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
    let plans = server.psql(&database, &script).unwrap();
    let plans: Vec<_> = plans.split("--- ").skip(1).collect();
    assert_eq!(plans.len(), statements.len());
    for (plan, statement) in plans.iter().zip(&statements) {
        for table in ["object", "payload", "lease"] {
            for whole in ["Seq Scan", "Bitmap Heap Scan"].map(|scan| format!("{scan} on {table}")) {
                assert!(!plan.contains(&whole), "{statement}\n{plan}");
            }
        }
    }
    // What ends early reads no more than it answers.
    for statement in [
        &claim::NEAR[..],
        &claim::WALK,
        &[maintain::OLDEST, lanes::UNKNOWN_LANE],
    ]
    .concat()
    {
        let place = statements.iter().position(|known| *known == statement);
        let plan = plans[place.expect("it is among them")];
        assert!(!plan.contains("Sort"), "{statement}\n{plan}");
    }
}
