//! Nothing fails and nothing crashes: then every event leaves once, however the settings change meanwhile.

use std::collections::BTreeMap;

use edgehold_store_sqlite::{Options, SqliteQueue};

use crate::*;

const SEED: u64 = 78;
const EVENTS: usize = 1_000;
/// Deliveries that come together at most.
const BURST: usize = 40;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((mixed ^ (mixed >> 31)) % end as u64).unwrap()
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

/// An export to one of two destinations, which take everything, but slower than it comes: many have to wait, some of them in
/// the store. Counts what they get by correlation id.
#[derive(Default)]
struct Counting {
    arrived: Mutex<BTreeMap<String, u32>>,
    calls: AtomicU32,
}

impl Counting {
    async fn take(&self, ctx: &mut Context, data: Data) -> Result<Flow, FunctionError> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        let destination = Destination::new(["a", "b"][call as usize % 2]);
        if let Err(refusal) = ctx.approach(destination, Unsent::Kept).await {
            ctx.set_retry_input(&data);
            return Err(refusal);
        }
        let id = ctx.correlation_id().to_string();
        *self.arrived.lock().unwrap().entry(id).or_default() += 1;
        tokio::time::sleep(Duration::from_millis(u64::from(call % 20))).await;
        Ok(Flow::Continue(data))
    }
}

struct Count(Arc<Counting>);

impl AppFunction for Count {
    fn call<'a>(&'a self, ctx: &'a mut Context, data: Data) -> BoxFuture<'a, Result<Flow, FunctionError>> {
        Box::pin(self.0.take(ctx, data))
    }
}

/// Sends events through a service on this store in bursts, between which settings change.
async fn every_event_leaves_once(queue: Arc<dyn RetryQueue>) {
    let counting = Arc::<Counting>::default();
    let pipeline = pipeline("p", vec![step("A", Count(counting.clone()))]);
    let mut service = Harness::start_on(queue, ENABLED, vec![pipeline], None);
    let mut random = Random(SEED);
    let mut answers = Vec::new();
    while answers.len() < EVENTS {
        // What stands there more than once comes more often.
        service.settings.send_replace(settings(&[
            (
                "Enabled",
                random.pick(&["true", "true", "true", "true", "true", "false"]),
            ),
            ("RetryInterval", random.pick(&["1ms", "1s", "1h"])),
            (
                "Journal",
                random.pick(&["auto", "auto", "auto", "always", "always", "off"]),
            ),
            ("JournalDelay", random.pick(&["0s", "0s", "0s", "1ms"])),
            ("RetryConcurrency", random.pick(&["1", "4", "64"])),
            ("Pipeline/Concurrency", random.pick(&["1", "1", "2", "2", "8"])),
        ]));
        for _ in 0..random.below(BURST) {
            answers.push(service.send_as(&format!("event-{}", answers.len()), EVENT).await);
        }
    }
    service.settings.send_replace(settings(ENABLED));
    let sent = u64::try_from(answers.len()).unwrap();
    for mut answer in answers {
        assert_eq!(answer.recv().await, Some(Disposition::Done));
    }
    service
        .until("all have ended", |service| service.books().completed >= sent)
        .await;
    // What is still being sent, if anything, arrives before the end.
    service.deliveries.take();
    service.shutdown.trigger();
    let tasks = std::mem::take(&mut service.tasks);
    assert!(tasks.drain(wait::LONG).await.is_empty());

    let arrived = std::mem::take(&mut *counting.arrived.lock().unwrap());
    let twice: Vec<_> = arrived.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "of {sent} came more than once: {twice:?}");
    assert_eq!(arrived.len() as u64, sent);
    service.check_books().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_settings_change_every_event_leaves_once_with_the_memory_store() {
    every_event_leaves_once(Arc::new(MemoryQueue::new(service_key()))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_settings_change_every_event_leaves_once_with_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options::new(folder.path().join("app.db"), service_key());
    let (queue, writer) = SqliteQueue::open(options).await.unwrap();
    let queue = Arc::new(queue);
    let end = async {
        every_event_leaves_once(queue.clone()).await;
        queue.close().await;
    };
    tokio::join!(writer.run(), end);
}
