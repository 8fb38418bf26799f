//! Verdicts that were written although nobody has heard of it, and are asked for again.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use edgehold_core::{
    ObjectState, StoredObject, Timestamp,
    retry::{Action, Failure, Verdict},
};
use edgehold_store::{
    RetryQueue, Room, Suspects,
    conformance::{id, object},
};
use edgehold_test_support::wait::{self, LONG};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
};

use super::{instances::claim, *};

fn release() -> [Verdict; 1] {
    [Verdict {
        id: id(1),
        action: Action::RELEASE,
    }]
}

fn failed(attempts: u32) -> [Verdict; 1] {
    [Verdict {
        id: id(1),
        action: Action::RetryLater(Failure {
            attempts,
            at: Timestamp::from_unix_millis(i64::from(attempts)),
            error: format!("failure {attempts}"),
            not_before: None,
            destination: None,
            progress: None,
        }),
    }]
}

/// Has verdicts for the only object written that nobody waits for any more: they are when it waits in nobody's hands. Nothing
/// is written while this is polled: there is one thread.
async fn settle_unheard(database: &Database, queue: &PostgresQueue, verdicts: &[Verdict]) {
    let mut settling = queue.settle(verdicts);
    assert!(futures_util::poll!(&mut settling).is_pending());
    drop(settling);
    wait::until("the verdict to be written", LONG, async || {
        let waits = database.sql("SELECT state, (SELECT count(*) FROM lease) FROM object");
        anyhow::ensure!(waits == "2|0", "it is {waits}");
        Ok(())
    })
    .await;
}

async fn claimed(queue: &PostgresQueue) -> usize {
    queue.claim(claim(Suspects::Exclude, 10)).await.unwrap().len()
}

/// Brings the first object into hand: claimed, or with its run just begun.
async fn take(queue: &PostgresQueue, state: ObjectState) {
    queue
        .append(&[StoredObject { state, ..object(1) }], Room::default())
        .await
        .remove(0)
        .unwrap();
    assert_eq!(claimed(queue).await, usize::from(state == ObjectState::Failed));
}

#[tokio::test]
async fn one_that_is_asked_for_again_ends_no_claim_made_meanwhile() {
    for state in [ObjectState::Failed, ObjectState::New] {
        let database = Database::new().await;
        let queue = open(database.options()).await;
        take(&queue, state).await;
        // Given a verdict that was written, and claims while it is asked for again.
        settle_unheard(&database, &queue, &release()).await;
        let before = claimed(&queue).await;
        queue.settle(&release()).await.unwrap();
        let after = claimed(&queue).await;
        // Then one has it in hand, and the others do not.
        assert_eq!(
            before + after + claimed(&queue).await,
            1,
            "{state:?}: {before}, {after}"
        );
        queue.close().await;
    }
}

#[tokio::test]
async fn one_that_is_asked_for_again_changes_nothing_of_what_another_instance_has_done_since() {
    for state in [ObjectState::Failed, ObjectState::New] {
        let database = Database::new().await;
        let queue = open(database.options()).await;
        let other = open(database.options()).await;
        take(&queue, state).await;
        settle_unheard(&database, &queue, &failed(2)).await;
        // Given another instance that has attempted it as well.
        assert_eq!(claimed(&other).await, 1);
        other.settle(&failed(3)).await.unwrap();
        // When the first one asks again, then nothing is taken back.
        queue.settle(&failed(2)).await.unwrap();
        assert_eq!(
            database.sql("SELECT attempts, last_error FROM object"),
            "3|failure 3",
            "{state:?}"
        );
        // And the first one may have it again.
        assert_eq!(claimed(&queue).await, 1, "{state:?}");
        queue.close().await;
        other.close().await;
    }
}

/// What stands between a store and its server.
struct Between {
    port: u16,
    /// The connection of the next transaction is lost between its commit and the answer.
    loses: AtomicBool,
    /// Whether a new connection comes through.
    is_open: watch::Sender<bool>,
}

impl Between {
    async fn start(server: u16) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let between = Arc::new(Self {
            port: listener.local_addr().unwrap().port(),
            loses: AtomicBool::new(false),
            is_open: watch::channel(true).0,
        });
        let all = between.clone();
        run(async move {
            while let Ok((client, _)) = listener.accept().await {
                all.is_open
                    .subscribe()
                    .wait_for(|is_open| *is_open)
                    .await
                    .unwrap();
                let server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                let one = all.clone();
                run(async move { one.pass_on(client, server).await.unwrap_or_default() });
            }
        });
        between
    }

    async fn pass_on(&self, mut client: TcpStream, mut server: TcpStream) -> std::io::Result<()> {
        let (mut asked, mut answered) = (vec![0; 1 << 16], vec![0; 1 << 16]);
        let mut is_last = false;
        loop {
            tokio::select! {
                read = client.read(&mut asked) => {
                    let asked = &asked[..read?];
                    if asked.is_empty() {
                        return Ok(());
                    }
                    let is_commit = asked.windows(6).any(|text| text == b"COMMIT");
                    is_last = is_commit && self.loses.swap(false, Ordering::SeqCst);
                    server.write_all(asked).await?;
                }
                read = server.read(&mut answered) => {
                    let answered = &answered[..read?];
                    if is_last {
                        self.is_open.send_replace(false);
                    }
                    if is_last || answered.is_empty() {
                        return Ok(());
                    }
                    client.write_all(answered).await?;
                }
            }
        }
    }
}

fn run(work: impl Future<Output = ()> + Send + 'static) {
    #[expect(clippy::disallowed_methods, reason = "a test has no service to spawn through")]
    tokio::spawn(work);
}

#[tokio::test]
async fn one_whose_connection_is_lost_after_the_commit_is_written_once() {
    let database = Database::new().await;
    let between = Between::start(database.server.port()).await;
    let options = Options {
        port: between.port,
        ..database.options()
    };
    let queue = open(options).await;
    let other = open(database.options()).await;
    take(&queue, ObjectState::Failed).await;
    between.loses.store(true, Ordering::SeqCst);
    let first = failed(2);
    let settling = queue.settle(&first);
    // Given another instance that has attempted it before the first one has a connection again.
    let meanwhile = async {
        wait::until("the verdict to be written", LONG, async || {
            let written = database.sql("SELECT attempts, (SELECT count(*) FROM lease) FROM object");
            anyhow::ensure!(written == "2|0", "it is {written}");
            Ok(())
        })
        .await;
        assert_eq!(claimed(&other).await, 1);
        other.settle(&failed(3)).await.unwrap();
        // And a claim of the first one, which waits for its own verdict.
        let page = claim(Suspects::Exclude, 10);
        let claiming = queue.claim(page);
        let opening = async {
            between.is_open.send_replace(true);
        };
        tokio::join!(claiming, opening).0.unwrap()
    };
    let (settled, page) = tokio::join!(settling, meanwhile);
    // Then what it had is not written over, and it has the object once.
    settled.unwrap();
    assert_eq!(
        database.sql("SELECT attempts, last_error FROM object"),
        "3|failure 3"
    );
    assert_eq!(page.len() + claimed(&queue).await + claimed(&other).await, 1);
    queue.close().await;
    other.close().await;
}

#[tokio::test]
async fn what_was_taken_over_is_in_hand_until_its_verdict() {
    let database = Database::new().await;
    let queue = open(database.options()).await;
    take(&queue, ObjectState::Failed).await;
    // Given an instance that was taken over by one that has given the object back since.
    database.sql("UPDATE instance SET heartbeat_at = '-infinity'");
    let other = open(database.options()).await;
    assert_eq!(other.claim(claim(Suspects::Only, 10)).await.unwrap().len(), 1);
    other.settle(&failed(3)).await.unwrap();
    // When the first one claims while it still attempts it, then it is not handed out a second time.
    assert_eq!(claimed(&queue).await, 0);
    // And its own verdict is too late to change anything.
    queue.settle(&failed(2)).await.unwrap();
    assert_eq!(database.sql("SELECT attempts FROM object"), "3");
    assert_eq!(claimed(&queue).await, 1);
    queue.close().await;
    other.close().await;
}
