//! The one task that writes.
//!
//! Requests arrive through a bounded channel. Whatever has queued up while the last transaction was committed goes into
//! the next one: appends as columns of one statement, verdicts merged, one commit, then the answers. When such a group
//! fails as a whole, each of its requests is tried in a transaction of its own, so that one cannot fail the others.

use std::sync::Arc;

use edgehold_core::{StoredObjectId, retry::Verdict};
use edgehold_store::{ErrorPage, Evicted, Eviction, Moved, Room, StoreError, Sweep, semantics};
use sqlx::{Connection as _, PgConnection};
use tokio::sync::{mpsc, oneshot};

use crate::{
    error::refusal,
    insert::{self, Waiting},
    lease::LettingGo,
    link::{Link, run},
    maintain::{self, Damage, Fate},
    row::NewRow,
    settlement::Settlement,
    worker::Shared,
};

/// Requests that may wait for the writer; more wait with their callers.
pub(crate) const QUEUED_REQUESTS: usize = 256;

/// The outcome of a request.
pub(crate) type Answer = Result<Done, StoreError>;

/// What was done.
pub(crate) enum Done {
    /// It is written; there is nothing to tell.
    Written,
    /// One answer for each object.
    Appended(Vec<Result<i64, StoreError>>),
    /// What was removed, in order.
    Evicted(Vec<Evicted>),
    /// So many objects.
    Objects(u64),
    /// A page of the error collection.
    Moved(Moved),
}

/// What the writer is asked for.
pub(crate) enum Request {
    /// Writes something and answers when it is on the disk.
    Write(Work, oneshot::Sender<Answer>),
    /// Finishes what was asked for before, ends the instance and answers.
    Close(oneshot::Sender<()>),
}

/// What is to be written.
pub(crate) enum Work {
    Append(Vec<NewRow>, Room),
    Settle(Vec<Verdict>),
    SetAside(Vec<Damage>),
    Evict(Eviction),
    Sweep(Sweep, usize),
    /// Takes a page out of the error collection.
    LeaveError(ErrorPage, Fate),
}

impl Work {
    /// Whether it is written together with others; what is rare and changes many objects has a transaction of its own.
    fn joins_others(&self) -> bool {
        matches!(self, Self::Append(..) | Self::Settle(_))
    }

    /// The verdicts it brings.
    fn verdicts(&self) -> &[Verdict] {
        match self {
            Self::Settle(verdicts) => verdicts,
            _ => &[],
        }
    }

    /// The objects that it brings verdicts for.
    fn settled(&self) -> impl Iterator<Item = &StoredObjectId> {
        self.verdicts().iter().map(|verdict| &verdict.id)
    }

    /// The objects that it appends, and those that it brings verdicts for.
    fn touches(&self) -> (Vec<StoredObjectId>, Vec<StoredObjectId>) {
        let appended = match self {
            Self::Append(rows, _) => rows.iter().map(|row| StoredObjectId::from_uuid(row.id)).collect(),
            _ => Vec::new(),
        };
        (appended, self.settled().copied().collect())
    }

    /// Whether it is more than one statement.
    fn takes_a_transaction(&self, letting_go: &LettingGo) -> bool {
        match self {
            Self::Append(rows, room) => {
                *room != Room::default() || insert::statements(&rows.iter().collect::<Vec<_>>()) > 1
            }
            Self::Settle(verdicts) => Settlement::of(verdicts).statements(letting_go) > 1,
            Self::LeaveError(..) => false,
            Self::SetAside(_) | Self::Evict(_) | Self::Sweep(..) => true,
        }
    }

    /// Whether it keeps what there is room for.
    fn is_limited(&self) -> bool {
        matches!(self, Self::Append(_, room) if *room != Room::default())
    }

    /// The rows it keeps whatever the room.
    fn unlimited(&self) -> &[NewRow] {
        match self {
            Self::Append(rows, room) if *room == Room::default() => rows,
            _ => &[],
        }
    }

    /// Whether other instances may have something to do because of it.
    fn is_news(&self) -> bool {
        match self {
            Self::Append(rows, _) => rows.iter().any(|row| row.state == 2),
            Self::LeaveError(_, fate) => *fate == Fate::Redrive,
            _ => false,
        }
    }
}

/// A request and where its answer goes.
type Asked = (Work, oneshot::Sender<Answer>);

/// Writes for a queue.
pub(crate) struct Writer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) requests: mpsc::Receiver<Request>,
    pub(crate) link: Link,
}

impl Writer {
    /// Runs until the queue is closed or dropped; answers who waits for that.
    pub(crate) async fn run(&mut self) -> Vec<oneshot::Sender<()>> {
        let mut group = Vec::new();
        let mut closing = Vec::new();
        // Cancel-safe: what was received is handled before the next await that waits for requests.
        while self.requests.recv_many(&mut group, QUEUED_REQUESTS).await > 0 {
            let mut writes = Vec::with_capacity(group.len());
            for request in group.drain(..) {
                match request {
                    Request::Write(work, answer) => writes.push((work, answer)),
                    Request::Close(answer) => {
                        self.requests.close();
                        closing.push(answer);
                    }
                }
            }
            let (group, alone): (Vec<Asked>, Vec<Asked>) =
                writes.into_iter().partition(|(work, _)| work.joins_others());
            // Whoever waits for one request to be done before the next one is asked for does not have both in here.
            // Whoever has given up waiting has: what is asked for an object is done in the order of asking.
            for part in semantics::in_parts(group, |(work, _)| work.touches()) {
                self.commit(part).await;
            }
            for request in alone {
                self.commit(vec![request]).await;
            }
        }
        closing
    }

    async fn commit(&mut self, group: Vec<Asked>) {
        let (works, answers): (Vec<_>, Vec<_>) = group.into_iter().unzip();
        // Looked up before: what a verdict makes claimable may be somebody else's as soon as it is written.
        let claims = &self.shared.claims;
        let ended: Vec<_> = works
            .iter()
            .map(|work| claims.settling(work.verdicts()))
            .collect();
        let mut done = match works.len() {
            0 | 1 => None,
            _ => self.together(&works).await,
        }
        .map(Vec::into_iter);
        let mut is_news = false;
        for ((work, ended), answer) in works.iter().zip(ended).zip(answers) {
            let outcome = match done.as_mut().and_then(|done| done.next().flatten()) {
                Some(done) => Ok(done),
                None => self.alone(work).await,
            };
            let is_written = outcome.is_ok();
            is_news |= is_written && work.is_news();
            // A caller that has gone is no reason not to have written, but will ask for its verdicts again.
            if answer.send(outcome).is_ok() && is_written {
                self.shared.claims.end(ended);
            } else {
                self.shared.claims.doubt(work.settled());
            }
        }
        if is_news {
            self.shared.tell_others();
        }
    }

    /// Writes a group in one transaction, but for what has to be written alone and afterwards: none is answered for it.
    /// None at all when it failed as a whole.
    async fn together(&mut self, works: &[Work]) -> Option<Vec<Option<Done>>> {
        let verdicts = || works.iter().flat_map(Work::verdicts);
        let mut settlement = Settlement::default();
        settlement.extend(verdicts());
        let owner = self.shared.instance();
        let claims = &self.shared.claims;
        let outcome = run!(
            self.link,
            async |connection| {
                let letting_go = claims.letting_go(verdicts());
                write_together(connection, owner, works, &settlement, &letting_go).await
            },
            claims.doubt(works.iter().flat_map(Work::settled))
        );
        outcome.ok()
    }

    /// Writes one request in a transaction of its own.
    async fn alone(&mut self, work: &Work) -> Answer {
        for _ in 0..2 {
            let owner = self.shared.instance();
            let claims = &self.shared.claims;
            let outcome = run!(
                self.link,
                async |connection| {
                    let letting_go = claims.letting_go(work.verdicts());
                    write_alone(connection, owner, work, &letting_go).await
                },
                claims.doubt(work.settled())
            );
            match outcome? {
                Some(done) => return Ok(done),
                // It was taken over: once more as the instance that it is then.
                None => self.shared.rejoin(&mut self.link, owner).await?,
            }
        }
        Err(StoreError::Unavailable {
            reason: "this instance was taken over by another again and again".to_owned(),
            source: None,
        })
    }
}

/// Writes one request; none when this instance was taken over.
async fn write_alone(
    connection: &mut PgConnection,
    owner: i64,
    work: &Work,
    letting_go: &LettingGo,
) -> Result<Option<Done>, sqlx::Error> {
    if !work.takes_a_transaction(letting_go) {
        return write(connection, owner, work, letting_go).await;
    }
    let mut transaction = connection.begin().await?;
    let done = write(&mut transaction, owner, work, letting_go).await?;
    if done.is_some() {
        transaction.commit().await?;
    }
    Ok(done)
}

async fn write(
    connection: &mut PgConnection,
    owner: i64,
    work: &Work,
    letting_go: &LettingGo,
) -> Result<Option<Done>, sqlx::Error> {
    Ok(Some(match work {
        Work::Append(rows, room) if *room == Room::default() => {
            let Some(answers) = append(connection, owner, rows).await? else {
                return Ok(None);
            };
            Done::Appended(answers)
        }
        Work::Append(rows, room) => {
            let Some(answers) = append_one_by_one(connection, owner, rows, *room).await? else {
                return Ok(None);
            };
            Done::Appended(answers)
        }
        Work::Settle(verdicts) => {
            let settlement = Settlement::of(verdicts);
            settlement.write(connection, owner, letting_go).await?;
            Done::Written
        }
        Work::SetAside(damaged) => {
            maintain::set_aside(connection, damaged).await?;
            Done::Written
        }
        Work::Evict(eviction) => Done::Evicted(maintain::evict(connection, eviction).await?),
        Work::Sweep(sweep, limit) => Done::Objects(maintain::sweep(connection, sweep, *limit).await?),
        Work::LeaveError(page, fate) => Done::Moved(maintain::leave_error(connection, page, *fate).await?),
    }))
}

/// Appends rows of which some may be there already; none when this instance was taken over.
async fn append(
    connection: &mut PgConnection,
    owner: i64,
    rows: &[NewRow],
) -> Result<Option<Vec<Result<i64, StoreError>>>, sqlx::Error> {
    let kept = insert::all(connection, owner, &rows.iter().collect::<Vec<_>>()).await?;
    let mut answers = Vec::with_capacity(kept.len());
    for (row, kept) in rows.iter().zip(kept) {
        let answer = match kept {
            Some(seq) => Some(Ok(seq)),
            None => insert::find(connection, row).await?,
        };
        match answer {
            Some(answer) => answers.push(answer),
            None => return Ok(None),
        }
    }
    Ok(Some(answers))
}

/// Appends rows of which some may be there already or not fit; none when this instance was taken over.
async fn append_one_by_one(
    connection: &mut PgConnection,
    owner: i64,
    rows: &[NewRow],
    room: Room,
) -> Result<Option<Vec<Result<i64, StoreError>>>, sqlx::Error> {
    let mut waiting = Waiting::Unknown;
    waiting.look(connection).await?;
    let mut answers = Vec::with_capacity(rows.len());
    for row in rows {
        answers.push(match insert::find(connection, row).await? {
            Some(there) => there,
            None => match waiting.admit(row, room) {
                Err(full) => Err(full),
                Ok(()) => match insert::all(connection, owner, &[row]).await?.first() {
                    Some(Some(seq)) => Ok(*seq),
                    _ => return Ok(None),
                },
            },
        });
    }
    Ok(Some(answers))
}

/// Writes a group; none stands for what has to be written alone.
async fn write_together(
    connection: &mut PgConnection,
    owner: i64,
    works: &[Work],
    settlement: &Settlement,
    letting_go: &LettingGo,
) -> Result<Vec<Option<Done>>, sqlx::Error> {
    let unlimited: Vec<&NewRow> = works.iter().flat_map(|work| work.unlimited()).collect();
    let is_limited = works.iter().any(Work::is_limited);
    let statements = insert::statements(&unlimited) + settlement.statements(letting_go);
    let (mut done, kept) = if is_limited || statements > 1 {
        let mut transaction = connection.begin().await?;
        let done = append_limited(&mut transaction, owner, works).await?;
        let kept = insert::all(&mut transaction, owner, &unlimited).await?;
        settlement.write(&mut transaction, owner, letting_go).await?;
        transaction.commit().await?;
        (done, kept)
    } else {
        settlement.write(connection, owner, letting_go).await?;
        let kept = insert::all(connection, owner, &unlimited).await?;
        (works.iter().map(|_| None).collect(), kept)
    };
    let mut kept = kept.into_iter();
    for (work, done) in works.iter().zip(&mut done) {
        let rows = work.unlimited().len();
        if rows > 0 {
            // What was there already is looked at alone.
            let seqs: Vec<_> = kept.by_ref().take(rows).collect();
            let seqs: Option<Vec<i64>> = seqs.into_iter().collect();
            *done = seqs.map(|seqs| Done::Appended(seqs.into_iter().map(Ok).collect()));
        }
        if matches!(work, Work::Settle(_)) {
            *done = Some(Done::Written);
        }
    }
    Ok(done)
}

/// Appends what has a limit and fits, as it stands in the order of the requests; whatever does not fit or is there
/// already is found out alone.
async fn append_limited(
    connection: &mut PgConnection,
    owner: i64,
    works: &[Work],
) -> Result<Vec<Option<Done>>, sqlx::Error> {
    let mut done = Vec::with_capacity(works.len());
    let mut waiting = Waiting::Unknown;
    let mut rows: Vec<&NewRow> = Vec::new();
    let mut counts = Vec::with_capacity(works.len());
    for work in works {
        let before = rows.len();
        if let Work::Append(appended, room) = work
            && *room != Room::default()
        {
            waiting.look(connection).await?;
            let unchanged = waiting;
            match appended.iter().all(|row| waiting.admit(row, *room).is_ok()) {
                true => rows.extend(appended),
                false => waiting = unchanged,
            }
        }
        counts.push(rows.len() - before);
    }
    let kept: Option<Vec<i64>> = insert::all(connection, owner, &rows).await?.into_iter().collect();
    // What was there already has taken room from others for nothing.
    let mut kept = kept.ok_or_else(refusal)?.into_iter();
    for count in counts {
        let seqs: Vec<_> = kept.by_ref().take(count).map(Ok).collect();
        done.push((count > 0).then_some(Done::Appended(seqs)));
    }
    Ok(done)
}
