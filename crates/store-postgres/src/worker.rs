//! What works behind a queue: the writer, whoever claims, and the pulse.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use edgehold_core::{ServiceKey, StoredObject};
use edgehold_store::{Claim, StoreError};
use sqlx::{PgPool, postgres::PgListener};
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};

use crate::{
    claim::{Taken, Taking, Wanted},
    instance::{self, BEAT, Ended, Identity},
    lease::{ClaimedPage, Claims},
    link::{Link, run},
    maintain::Damage,
    row::ReadRow,
    writer::{Answer, Request, Work, Writer},
};

/// Claims that may wait to be made; more wait with their callers.
pub(crate) const QUEUED_CLAIMS: usize = 64;

/// Heartbeats without a gap after which this instance may say of others that they have ended.
const SURE_AFTER: u32 = 6;
/// A gap: a heartbeat or two did not come through.
const GAP: Duration = Duration::from_millis(2_500);

/// How often others are told of what is new, at most.
const TELL_PAUSE: Duration = Duration::from_secs(1);
/// How often others may have something new that nobody told of.
const POLL: Duration = Duration::from_secs(10);

/// Over this channel instances of a service tell each other that something may be done; its payload is the schema.
pub(crate) const CHANNEL: &str = "edgehold";

const TELL: &str = "SELECT pg_notify('edgehold', current_schema())";

/// What the queue and everything behind it share.
pub(crate) struct Shared {
    pub(crate) service_key: ServiceKey,
    pub(crate) limit: Duration,
    pub(crate) identity: Identity,
    pub(crate) claims: Claims,
    instance: AtomicI64,
    /// How many other instances there were at the last heartbeat.
    others: AtomicU64,
    /// There is something to tell the others.
    news: Notify,
    /// How often something has become worth looking at that this process does not know of.
    changes: watch::Sender<u64>,
}

impl Shared {
    pub(crate) fn new(service_key: ServiceKey, limit: Duration, identity: Identity, instance: i64) -> Self {
        Self {
            service_key,
            limit,
            identity,
            claims: Claims::default(),
            instance: AtomicI64::new(instance),
            others: AtomicU64::new(0),
            news: Notify::new(),
            changes: watch::Sender::new(0),
        }
    }

    /// The id of this instance.
    pub(crate) fn instance(&self) -> i64 {
        self.instance.load(Ordering::Acquire)
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(crate) fn changed(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Tells the others, if there are any, that there is something to do.
    pub(crate) fn tell_others(&self) {
        if self.others.load(Ordering::Relaxed) > 0 {
            self.news.notify_one();
        }
    }

    /// Joins anew after another instance has taken over what this one, `before`, had in hand.
    pub(crate) async fn rejoin(&self, link: &mut Link, before: i64) -> Result<(), StoreError> {
        if self.instance() != before {
            return Ok(());
        }
        let name = self.identity.name.as_str();
        let id = run!(link, async |connection| instance::join(connection, name).await)?;
        if self
            .instance
            .compare_exchange(before, id, Ordering::AcqRel, Ordering::Acquire)
            .is_err()
        {
            // Somebody else here was quicker.
            return run!(link, async |connection| instance::leave(connection, id).await);
        }
        self.claims.forget_all();
        tracing::warn!(
            service_key = %self.service_key,
            "this instance was not heard for too long, so another one has taken over what it had in hand"
        );
        self.changed();
        Ok(())
    }
}

/// A claim, and where its page goes.
pub(crate) type Claiming = (Claim, oneshot::Sender<Result<ClaimedPage, StoreError>>);

/// Works for a [`PostgresQueue`](crate::PostgresQueue): nothing that it is asked to write or to hand out is answered,
/// and other instances take it for dead, unless [`Worker::run`] is being driven.
pub struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) writer: Writer,
    pub(crate) claims: mpsc::Receiver<Claiming>,
    pub(crate) to_writer: mpsc::WeakSender<Request>,
    pub(crate) claim_link: Link,
    pub(crate) pulse_link: Link,
    pub(crate) readers: PgPool,
}

impl Worker {
    /// Runs until the queue is closed or dropped, then ends this instance and lets go of its connections.
    ///
    /// Dropping the future ends it at once, without a word to the server: what it had in hand is taken over as after a
    /// crash. What was not answered may or may not have been written.
    pub async fn run(self) {
        let Self {
            shared,
            mut writer,
            claims,
            to_writer,
            mut claim_link,
            mut pulse_link,
            readers,
        } = self;
        let closing = {
            let claimer = Claimer {
                shared: &shared,
                claims,
                to_writer,
                link: &mut claim_link,
                turns: 0,
            };
            let beside = async {
                tokio::join!(
                    claimer.run(),
                    pulse(&shared, &mut pulse_link),
                    listen(&shared, &readers),
                );
            };
            tokio::select! {
                closing = writer.run() => closing,
                () = beside => Vec::new(),
            }
        };
        let id = shared.instance();
        let left = run!(writer.link, async |connection| instance::leave(connection, id)
            .await);
        match left {
            // A reader may be held up by a server that has just stopped answering.
            Ok(()) => {
                let _ = timeout(shared.limit, readers.close()).await;
            }
            Err(error) => {
                tracing::warn!("other instances will wait for this one for a few seconds: {error}");
            }
        }
        writer.link.close().await;
        claim_link.close().await;
        pulse_link.close().await;
        drop(writer);
        for answer in closing {
            // Whoever asked may have gone.
            let _ = answer.send(());
        }
    }
}

/// Makes claims one after the other, so that none of this process is in the way of another.
struct Claimer<'a> {
    shared: &'a Shared,
    claims: mpsc::Receiver<Claiming>,
    to_writer: mpsc::WeakSender<Request>,
    link: &'a mut Link,
    turns: u32,
}

impl Claimer<'_> {
    async fn run(mut self) {
        while let Some((claim, answer)) = self.claims.recv().await {
            if answer.is_closed() {
                continue;
            }
            let page = self.page(claim).await;
            // A page that nobody waits for is given back when it is dropped.
            let _ = answer.send(page);
        }
        // The writer says when it is over.
        std::future::pending().await
    }

    async fn page(&mut self, mut claim: Claim) -> Result<ClaimedPage, StoreError> {
        loop {
            let mut making = self.shared.claims.begin();
            making.has_leased = true;
            let taking = Taking {
                service_key: &self.shared.service_key,
                owner: self.shared.instance(),
                claim: making.number,
                max_bytes: claim.max_bytes,
            };
            let wanted = Wanted::of(&claim);
            let taken = run!(self.link, async |connection| wanted
                .take(connection, &taking, &mut self.turns)
                .await)?;
            let rows = match taken {
                Taken::Page(rows) => rows,
                Taken::Nobody => {
                    making.has_leased = false;
                    self.shared.rejoin(self.link, taking.owner).await?;
                    continue;
                }
            };
            let Some(last) = rows.last().map(|row| row.object.seq) else {
                making.has_leased = false;
                return Ok(making.page(Vec::new()));
            };
            self.set_aside(&rows).await;
            let objects: Vec<StoredObject> = rows
                .into_iter()
                .filter(|row| row.damage.is_none())
                .map(|row| row.object)
                .collect();
            // A verdict that was just written may not have been heard of yet.
            if self.shared.claims.has_any(&objects) {
                self.ask_writer(Work::Settle(Vec::new())).await;
            }
            let page = making.page(objects);
            if !page.is_empty() {
                return Ok(page);
            }
            // All of them were damaged or left out. Behind them there may be more.
            claim.after_seq = last;
        }
    }

    /// Has the damaged ones of these rows moved to the error collection. What fails is met again with the next page.
    async fn set_aside(&self, rows: &[ReadRow]) {
        if let Some(work) = damaged(rows)
            && let Some(Err(error)) = self.ask_writer(work).await
        {
            tracing::warn!(%error, "damaged rows stay where they are for now");
        }
    }

    /// Has the writer do something, behind what it was asked for before. None when it has ended.
    async fn ask_writer(&self, work: Work) -> Option<Answer> {
        let (answer, answered) = oneshot::channel();
        let request = Request::Write(work, answer);
        self.to_writer.upgrade()?.send(request).await.ok()?;
        answered.await.ok()
    }
}

/// What is to be done with the damaged ones of these rows.
pub(crate) fn damaged(rows: &[ReadRow]) -> Option<Work> {
    let noted: Vec<_> = rows
        .iter()
        .filter_map(|row| {
            Some(Damage {
                seq: row.object.seq,
                id: row.object.id,
                problem: row.damage.clone()?,
            })
        })
        .collect();
    for Damage { id, problem, .. } in &noted {
        tracing::error!(stored_object_id = %id, %problem, "a damaged row goes to the error collection");
    }
    (!noted.is_empty()).then_some(Work::SetAside(noted))
}

/// Lets this instance be heard, gives back what was claimed and not handed out, and takes over from those that are not
/// heard any more.
async fn pulse(shared: &Shared, link: &mut Link) {
    let mut ticks = interval(BEAT);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut without_gap = 0;
    let mut polled = Instant::now();
    let mut told = Instant::now();
    loop {
        // Both are cancel-safe; a tick that was missed comes at once.
        tokio::select! {
            _ = ticks.tick() => {}
            () = shared.claims.given_up.notified() => {}
            () = shared.news.notified() => {
                sleep(TELL_PAUSE.saturating_sub(told.elapsed())).await;
                told = Instant::now();
                // Whoever is not told looks by itself after a while.
                let _ = run!(link, async |connection| {
                    sqlx::query(TELL).execute(connection).await.map(drop)
                });
            }
        }
        let id = shared.instance();
        let (good, last) = shared.claims.good();
        let beat = run!(link, async |connection| instance::beat(
            connection, id, &good, last
        )
        .await);
        let pulse = match beat {
            Ok(pulse) => pulse,
            Err(error) => {
                without_gap = 0;
                tracing::debug!("a heartbeat did not come through: {error}");
                continue;
            }
        };
        let Some(gap) = pulse.gap else {
            without_gap = 0;
            if let Err(error) = shared.rejoin(link, id).await {
                tracing::debug!("cannot join again: {error}");
            }
            continue;
        };
        without_gap = if gap > GAP { 0 } else { without_gap + 1 };
        shared.others.store(pulse.others, Ordering::Relaxed);
        if pulse.given_back > 0 {
            tracing::debug!(claims = pulse.given_back, "claims were given back");
        }
        if pulse.silent > 0 && without_gap >= SURE_AFTER {
            let name = shared.identity.name.as_str();
            let taken_over = run!(link, async |connection| instance::take_over(
                connection,
                id,
                name,
                Ended::Silent
            )
            .await);
            match taken_over {
                Ok(taken_over) => {
                    taken_over.report(&shared.service_key);
                    if taken_over.is_something() {
                        shared.changed();
                    }
                }
                Err(error) => tracing::warn!("an ended instance cannot be taken over yet: {error}"),
            }
        }
        if pulse.others > 0 && polled.elapsed() >= POLL {
            polled = Instant::now();
            shared.changed();
        }
    }
}

/// Hears what other instances and commands have to tell.
async fn listen(shared: &Shared, readers: &PgPool) {
    loop {
        let heard = async {
            let mut listener = PgListener::connect_with(readers).await?;
            listener.listen(CHANNEL).await?;
            // Something may have been told before.
            shared.changed();
            loop {
                let notification = listener.recv().await?;
                if notification.payload() == shared.service_key.as_str() {
                    shared.changed();
                }
            }
        };
        let ended: Result<(), sqlx::Error> = heard.await;
        if let Err(sqlx::Error::PoolClosed) = ended {
            std::future::pending::<()>().await;
        }
        sleep(POLL).await;
    }
}
