//! A store that is away: at start, in the middle, silent and refusing. Nothing is lost, nothing is held back.

use std::sync::atomic::{AtomicU8, AtomicU64};

use edgehold_core::Disposition;
use tokio::sync::mpsc;

use super::*;

const THERE: u8 = 0;
const AWAY: u8 = 1;
const HUNG: u8 = 2;

/// The shelf behind a line that can be cut.
#[derive(Clone, Default)]
struct Distant {
    shelf: Shelf,
    line: Arc<AtomicU8>,
}

impl Distant {
    fn set(&self, line: u8) {
        self.line.store(line, Ordering::SeqCst);
    }

    async fn call<T>(&self, call: BoxFuture<'_, T>) -> Result<T, StoreError> {
        match self.line.load(Ordering::SeqCst) {
            AWAY => Err(StoreError::unavailable("the line is cut", "test")),
            HUNG => std::future::pending().await,
            _ => Ok(call.await),
        }
    }

    /// The devices of what it keeps, in the order of appending.
    fn devices(&self) -> Vec<String> {
        let shelf = self.shelf.0.lock().unwrap();
        let mut objects: Vec<_> = shelf.values().collect();
        objects.sort_by_key(|object| object.seq);
        objects
            .iter()
            .map(|object| object.context["devicename"].clone())
            .collect()
    }
}

impl StoreClient for Distant {
    fn store<'a>(
        &'a self,
        objects: &'a [StoredObject],
    ) -> BoxFuture<'a, Vec<Result<StoredObjectId, StoreError>>> {
        Box::pin(async move {
            match self.call(self.shelf.store(objects)).await {
                Ok(answers) => answers,
                Err(error) => error.for_each(objects.len()),
            }
        })
    }

    fn retrieve_from_store<'a>(
        &'a self,
        service_key: &'a ServiceKey,
        after: Option<StoredObjectId>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<StoredObject>, StoreError>> {
        Box::pin(async move {
            self.call(self.shelf.retrieve_from_store(service_key, after, limit))
                .await?
        })
    }

    fn update<'a>(&'a self, objects: &'a [StoredObject]) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move { self.call(self.shelf.update(objects)).await? })
    }

    fn remove_from_store<'a>(&'a self, ids: &'a [StoredObjectId]) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move { self.call(self.shelf.remove_from_store(ids)).await? })
    }

    fn disconnect(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// Delivers an event of each pump whose number it is given.
struct Pumps {
    numbers: mpsc::Receiver<u64>,
    acknowledged: Arc<AtomicU64>,
}

impl Trigger for Pumps {
    fn run(
        mut self: Box<Self>,
        deliveries: DeliverySender,
        mut shutdown: ShutdownSignal,
    ) -> BoxFuture<'static, Result<(), TriggerError>> {
        Box::pin(async move {
            loop {
                let number = tokio::select! {
                    Some(number) = self.numbers.recv() => number,
                    () = shutdown.recv() => return Ok(()),
                };
                let acknowledged = self.acknowledged.clone();
                let delivery = edgehold::Delivery {
                    topic: format!("edgex/events/device/d/Pump/pump-{number}/Level"),
                    received: edgehold::Received::Message {
                        payload: EVENT.replace("pump-1", &format!("pump-{number}")).into(),
                        form: edgehold::PayloadForm::Bytes,
                        content_type: "application/json".to_owned(),
                        correlation_id: edgehold::CorrelationId::new(&format!("corr-{number}")),
                    },
                    ack: edgehold::Ack::new(move |disposition| {
                        if disposition == Disposition::Done {
                            acknowledged.fetch_add(1, Ordering::SeqCst);
                        }
                    }),
                    permit: edgehold::BytePermit::none(),
                };
                if deliveries.send(delivery).await.is_err() {
                    return Ok(());
                }
            }
        })
    }
}

/// A running service with the distant store.
struct Plant {
    running: Running,
    pumps: mpsc::Sender<u64>,
    acknowledged: Arc<AtomicU64>,
}

impl Plant {
    async fn start(bench: &Bench, distant: &Distant) -> Self {
        let (pumps, numbers) = mpsc::channel(1);
        let acknowledged = Arc::new(AtomicU64::new(0));
        let trigger = Pumps {
            numbers,
            acknowledged: acknowledged.clone(),
        };
        let client = distant.clone();
        let factory: CustomStoreFactory = Arc::new(move |_, _| {
            let client = client.clone();
            Box::pin(async move {
                client.call(Box::pin(std::future::ready(()))).await?;
                Ok(Arc::new(client) as Arc<dyn StoreClient>)
            })
        });
        let service = bench.service().with_custom_store("shelf", factory).unwrap();
        let built = service
            .with_trigger(trigger)
            .build(&bench.invocation())
            .await
            .unwrap();
        Self {
            running: built.spawn(),
            pumps,
            acknowledged,
        }
    }

    /// Delivers these, one after the other, each acknowledged before the next.
    async fn pump(&self, numbers: std::ops::Range<u64>) {
        for number in numbers {
            let before = self.acknowledged.load(Ordering::SeqCst);
            self.pumps.send(number).await.unwrap();
            wait::until("it is acknowledged", wait::LONG, async || {
                self.acknowledged.load(Ordering::SeqCst) > before
            })
            .await;
        }
    }

    /// `started + carried over = completed + waiting + error collection + dropped + in flight`
    /// The books and the store are two looks: while something moves from one to the other they may differ.
    async fn assert_balance(&self) {
        wait::until("the books to balance", wait::LONG, async || {
            let status = self.running.status().await;
            let (books, store) = (status.books, status.store.unwrap());
            let begun = books.started + books.carried_over;
            let ended =
                books.completed + store.waiting() + store.error.objects + books.dropped + books.in_flight;
            (begun == ended)
                .then_some(())
                .ok_or_else(|| format!("{books:?} {store:?}"))
        })
        .await;
    }
}

fn devices(numbers: std::ops::Range<u64>) -> Vec<String> {
    numbers.map(|number| format!("pump-{number}")).collect()
}

fn configure(bench: &Bench, store_and_forward: &str, more: &str) {
    let text = CONFIGURATION
        .replace("Type: Shelf", "Type: Shelf\n  Timeout: 300ms")
        .replace(
            "MaxRetryCount: 0",
            &format!("MaxRetryCount: 0{store_and_forward}"),
        );
    bench.write("configuration.yaml", &format!("{text}{more}"));
}

#[tokio::test]
async fn a_store_that_is_away_loses_nothing() {
    // Given a store that does not answer when the service starts
    let (bench, distant) = (Bench::new(), Distant::default());
    configure(&bench, "", "");
    distant.set(HUNG);
    let plant = Plant::start(&bench, &distant).await;
    // When events fail, they are acknowledged all the same
    plant.pump(10..15).await;
    assert_eq!(waiting(&plant.running).await, 5);
    plant.assert_balance().await;
    // Then they are in the store once that is back, and so is what comes while it is away again, one way or the other
    let arrived = async |until: u64| {
        wait::until("everything is in the store, in order", wait::LONG, async || {
            distant.devices() == devices(10..until)
        })
        .await;
    };
    distant.set(THERE);
    arrived(15).await;
    distant.set(HUNG);
    plant.pump(15..20).await;
    distant.set(AWAY);
    plant.pump(20..25).await;
    distant.set(THERE);
    arrived(25).await;
    plant.pump(25..30).await;
    arrived(30).await;
    plant.assert_balance().await;
    // And everything is delivered once
    bench.up.store(true, Ordering::SeqCst);
    wait::until("nothing waits any more", wait::LONG, async || {
        waiting(&plant.running).await == 0
    })
    .await;
    let mut delivered = bench.delivered.lock().unwrap().clone();
    delivered.sort();
    let expected: Vec<_> = devices(10..30)
        .iter()
        .map(|device| format!("hello {device}"))
        .collect();
    assert_eq!(delivered, expected);
    plant.assert_balance().await;
    plant.running.drain(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn what_is_in_the_spool_at_the_end_moves_in_the_next_run() {
    let (bench, distant) = (Bench::new(), Distant::default());
    configure(&bench, "", "");
    distant.set(AWAY);
    let plant = Plant::start(&bench, &distant).await;
    plant.pump(10..13).await;
    plant.running.drain(Duration::from_secs(5)).await;
    assert_eq!(distant.devices(), Vec::<String>::new());
    // Then the next run carries it over, whether the store is there or not
    let plant = Plant::start(&bench, &distant).await;
    wait::until("it is carried over", wait::LONG, async || {
        waiting(&plant.running).await == 3
    })
    .await;
    distant.set(THERE);
    wait::until("it is in the store", wait::LONG, async || {
        distant.devices() == devices(10..13)
    })
    .await;
    plant.assert_balance().await;
    plant.running.drain(Duration::from_secs(5)).await;
    assert!(bench.folder.path().join("data/app-sdk.spool.db").is_file());
}

#[tokio::test]
async fn the_spool_is_bounded_and_says_what_it_drops() {
    // Given a store that is away, and room for little
    let (bench, distant) = (Bench::new(), Distant::default());
    configure(&bench, "\n    WhenFull: drop-newest", "SpoolMaxBytes: 200KiB\n");
    distant.set(AWAY);
    let plant = Plant::start(&bench, &distant).await;
    // When more comes than fits
    plant.pump(100..400).await;
    let books = plant.running.status().await.books;
    assert!(books.dropped_capacity > 0, "{books:?}");
    let file = bench.folder.path().join("data/app-sdk.spool.db");
    let length = fs::metadata(file).unwrap().len();
    assert!(length <= 200 << 10, "{length}");
    plant.assert_balance().await;
    // Then what fitted is in the store once that is back
    distant.set(THERE);
    let kept = books.stored;
    wait::until("it is in the store", wait::LONG, async || {
        distant.devices().len() as u64 == kept
    })
    .await;
    plant.assert_balance().await;
    plant.running.drain(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn without_a_spool_deliveries_are_held_back() {
    let (bench, distant) = (Bench::new(), Distant::default());
    configure(&bench, "", "SpoolMaxBytes: 0\n");
    let plant = Plant::start(&bench, &distant).await;
    distant.set(AWAY);
    plant.pumps.send(10).await.unwrap();
    wait::until("the event has failed", wait::LONG, async || {
        plant.running.status().await.books.failed_attempts == 1
    })
    .await;
    assert_eq!(plant.acknowledged.load(Ordering::SeqCst), 0);
    distant.set(THERE);
    wait::until("it is in the store", wait::LONG, async || {
        distant.devices() == devices(10..11)
    })
    .await;
    plant.running.drain(Duration::from_secs(5)).await;
    assert!(!bench.folder.path().join("data").exists());
}

#[tokio::test]
async fn a_data_folder_that_cannot_be_written_costs_only_the_spool() {
    let (bench, distant) = (Bench::new(), Distant::default());
    configure(&bench, "", "");
    // Given a file where the folder should be
    bench.write("data", "");
    let plant = Plant::start(&bench, &distant).await;
    plant.pump(10..11).await;
    assert_eq!(distant.devices(), devices(10..11));
    plant.running.drain(Duration::from_secs(5)).await;
}
