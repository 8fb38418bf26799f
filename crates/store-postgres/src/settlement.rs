//! Verdicts as SQL: `edgehold_store::semantics::apply`, for a page of objects at once.
//!
//! A page becomes a handful of statements however long it is: each column goes in as one array. What another instance
//! has in hand by now is changed by nothing but a removal: it was delivered.

use std::collections::HashSet;

use bytes::Bytes;
use edgehold_core::{
    AttemptError, Destination, ObjectState, StoredObjectId, Timestamp,
    retry::{Action, Failure, Progress, Verdict},
};
use edgehold_store::semantics;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    claim::leased,
    lease::LettingGo,
    row::{bytes_column, context_json, state_column, text},
};

/// Waits, and is in nobody else's hands; with the instance as this parameter. What is bound to claims, and is failed, is in
/// the hands of one of them: these parameters are which objects, and which claims.
macro_rules! ours {
    ($owner:literal, $bound:literal, $claims:literal) => {
        concat!(
            "object.state IN (0, 2, 4) AND (object.state = 2 OR object.owner = ",
            $owner,
            ") AND object.seq NOT IN (SELECT unnest(ARRAY(",
            leased!(),
            " AND owner <> ",
            $owner,
            "))) AND (object.state <> 2 OR object.id NOT IN (SELECT unnest(",
            $bound,
            "::uuid[])) OR object.seq IN (SELECT unnest(ARRAY(",
            leased!(),
            " AND owner = ",
            $owner,
            " AND claim = ANY(",
            $claims,
            ")))))"
        )
    };
}

/// Rows are found one by one ([`claim`](crate::claim)) and then taken by where they are.
pub(crate) const REPLACE_PAYLOAD: &str = concat!(
    "UPDATE payload SET bytes = change.bytes
     FROM (SELECT change.bytes, found.place
           FROM unnest($1::uuid[], $2::bytea[]) AS change (id, bytes)
           CROSS JOIN LATERAL (SELECT seq FROM object WHERE object.id = change.id AND ",
    ours!("$3", "$4", "$5"),
    "      OFFSET 0) AS object
           CROSS JOIN LATERAL (SELECT ctid AS place FROM payload WHERE payload.seq = object.seq OFFSET 0) AS found
          ) AS change
     WHERE payload.ctid = change.place"
);

/// What was journaled or batched waits; the others among these do so already.
pub(crate) const RELEASE: &str = concat!(
    "UPDATE object SET state = 2, crashes = 0
     WHERE id = ANY($1) AND (state <> 2 OR crashes > 0) AND ",
    ours!("$2", "$3", "$4")
);

/// Claims end, and others no longer have these places.
pub(crate) const LET_GO: &str = "
    WITH ended AS (DELETE FROM lease WHERE owner = $1 AND claim = ANY($2))
    UPDATE lease SET seqs = ARRAY(SELECT seq FROM unnest(seqs) AS seq WHERE seq <> ALL($4))
    WHERE owner = $1 AND claim = ANY($3)";

/// A counted failure joins the first four and the last twelve errors, once (`AttemptErrors::push`).
///
/// A failure replaces times and wait, a release adds to them; a destination stays unless there is another or another
/// function comes next. What joins a batch belongs to this instance, unless it was taken over.
pub(crate) const CHANGE: &str = concat!(
    "WITH me AS MATERIALIZED (SELECT id FROM instance WHERE id = $18 FOR KEY SHARE)
     UPDATE object SET
        state = change.state,
        owner = CASE change.state WHEN 4 THEN $18 ELSE object.owner END,
        crashes = 0,
        attempts = coalesce(change.attempts, object.attempts),
        last_attempt_at = coalesce(change.at, object.last_attempt_at),
        last_error = coalesce(change.error, object.last_error),
        errors = CASE
            WHEN change.attempt_error IS NULL OR object.errors -> -1 = change.attempt_error::jsonb THEN object.errors
            WHEN jsonb_array_length(object.errors) >= 16 THEN (object.errors - 4) || change.attempt_error::jsonb
            ELSE coalesce(object.errors, '[]') || change.attempt_error::jsonb END,
        not_before = CASE WHEN change.counted THEN change.not_before
                          ELSE coalesce(change.not_before, object.not_before) END,
        destination = CASE WHEN change.moved THEN change.destination
                           ELSE coalesce(change.destination, object.destination) END,
        reason = coalesce(change.reason, object.reason),
        ended_at = coalesce(change.ended_at, object.ended_at),
        version = coalesce(change.version, object.version),
        pipeline_position = coalesce(change.position, object.pipeline_position),
        context_data = coalesce(change.context_data, object.context_data),
        device = CASE WHEN change.moved THEN change.device ELSE object.device END,
        input_kind = coalesce(change.input_kind, object.input_kind),
        input_content_type = CASE WHEN change.moved THEN NULL ELSE object.input_content_type END,
        input_topic = CASE WHEN change.moved THEN NULL ELSE object.input_topic END,
        payload_bytes = coalesce(change.payload_bytes, object.payload_bytes)
     FROM (SELECT change.*, found.place
           FROM unnest($1::uuid[], $2::smallint[], $3::bigint[], $4::bigint[], $5::text[], $6::bigint[], $7::boolean[],
                       $8::boolean[], $9::text[], $10::text[], $11::bigint[], $12::text[], $13::bigint[], $14::text[],
                       $15::text[], $16::text[], $17::bigint[], $19::text[])
                AS change (id, state, attempts, at, error, not_before, counted, moved, destination, reason, ended_at,
                           version, position, context_data, device, input_kind, payload_bytes, attempt_error)
           CROSS JOIN LATERAL (SELECT ctid AS place FROM object WHERE object.id = change.id OFFSET 0) AS found
          ) AS change
     WHERE object.ctid = change.place AND (change.state <> 4 OR EXISTS (SELECT 1 FROM me)) AND ",
    ours!("$18", "$20", "$21")
);

/// Payloads leave with their objects, and claims with the last of them.
pub(crate) const REMOVE: &str = "
    WITH ended AS (DELETE FROM lease WHERE owner = $2 AND claim = ANY($3))
    DELETE FROM object WHERE id = ANY($1)";

/// What a verdict changes of a row.
#[derive(Debug, Default)]
struct Change {
    id: Uuid,
    state: i16,
    failure: Option<Failure>,
    /// Of a release only.
    not_before: Option<i64>,
    last_error: Option<String>,
    destination: Option<String>,
    /// A fresh count.
    starts_anew: bool,
    reason: Option<&'static str>,
    ended_at: Option<i64>,
    progress: Option<Progress>,
}

impl Change {
    fn counted(&self) -> bool {
        self.starts_anew || self.failure.is_some()
    }

    fn attempts(&self) -> Option<i64> {
        let of_failure = self.failure.as_ref().map(|failure| failure.attempts.into());
        of_failure.or(self.starts_anew.then_some(0))
    }

    fn failed_at(&self) -> Option<i64> {
        self.failure.as_ref().map(|failure| failure.at.as_unix_millis())
    }

    /// What joins the errors of the object, as JSON.
    fn attempt_error(&self) -> Option<String> {
        let failure = self.failure.as_ref()?;
        let error = AttemptError::new(failure.attempts, failure.at, &text(&failure.error));
        Some(error.to_value().to_string())
    }

    fn error(&self) -> Option<String> {
        let error = match &self.failure {
            Some(failure) => Some(&failure.error),
            None => self.last_error.as_ref(),
        };
        error.map(|error| text(error).into_owned())
    }
}

/// Verdicts of which no two are for the same object, so that their order does not matter.
#[derive(Debug, Default)]
struct Step {
    ids: HashSet<StoredObjectId>,
    changes: Vec<Change>,
    releases: Vec<Uuid>,
    removals: Vec<Uuid>,
}

/// Verdicts to write, in order.
#[derive(Debug, Default)]
pub(crate) struct Settlement {
    steps: Vec<Step>,
}

impl Settlement {
    /// These verdicts.
    pub(crate) fn of(verdicts: &[Verdict]) -> Self {
        let mut settlement = Self::default();
        settlement.extend(verdicts);
        settlement
    }

    /// Adds verdicts behind those that are there.
    pub(crate) fn extend<'a>(&mut self, verdicts: impl IntoIterator<Item = &'a Verdict>) {
        for verdict in verdicts {
            if self
                .steps
                .last()
                .is_none_or(|step| step.ids.contains(&verdict.id))
            {
                self.steps.push(Step::default());
            }
            let step = self.steps.last_mut().expect("one was pushed if there was none");
            step.add(verdict);
        }
    }

    /// What is all there is to it, if that is removing objects.
    fn only_removals(&self) -> Option<&[Uuid]> {
        match &self.steps[..] {
            [step] if step.changes.is_empty() && step.releases.is_empty() => Some(&step.removals),
            _ => None,
        }
    }

    /// How many statements it takes.
    pub(crate) fn statements(&self, letting_go: &LettingGo) -> usize {
        match self.only_removals() {
            Some(_) => 1,
            None => {
                let steps: usize = self.steps.iter().map(Step::statements).sum();
                steps + usize::from(!letting_go.is_nothing())
            }
        }
    }

    /// Writes it for this instance.
    pub(crate) async fn write(
        &self,
        connection: &mut PgConnection,
        owner: i64,
        letting_go: &LettingGo,
    ) -> Result<(), sqlx::Error> {
        if let Some(removals) = self.only_removals() {
            return remove(connection, owner, removals, &letting_go.ended).await;
        }
        for step in &self.steps {
            step.write(connection, owner, letting_go).await?;
        }
        if letting_go.is_nothing() {
            return Ok(());
        }
        sqlx::query(LET_GO)
            .bind(owner)
            .bind(&letting_go.ended)
            .bind(&letting_go.shrunk)
            .bind(&letting_go.seqs)
            .execute(connection)
            .await
            .map(drop)
    }
}

async fn remove(
    connection: &mut PgConnection,
    owner: i64,
    removals: &[Uuid],
    ended: &[i64],
) -> Result<(), sqlx::Error> {
    sqlx::query(REMOVE)
        .bind(removals)
        .bind(owner)
        .bind(ended)
        .execute(connection)
        .await
        .map(drop)
}

impl Step {
    fn add(&mut self, verdict: &Verdict) {
        self.ids.insert(verdict.id);
        let id = verdict.id.as_uuid();
        if verdict.action == Action::Remove {
            self.removals.push(id);
            return;
        }
        let mut change = Change {
            id,
            ..Change::default()
        };
        let state = match &verdict.action {
            Action::Remove => return,
            release if *release == Action::RELEASE => {
                self.releases.push(id);
                return;
            }
            Action::Succeed { at } => {
                change.ended_at = Some(at.as_unix_millis());
                ObjectState::Success
            }
            Action::Release {
                not_before,
                last_error,
                destination,
                progress,
            } => {
                change.not_before = not_before.map(Timestamp::as_unix_millis);
                change.last_error.clone_from(last_error);
                change.destination = name(destination.as_ref());
                change.progress.clone_from(progress);
                ObjectState::Failed
            }
            Action::Batch(progress) => {
                change.starts_anew = true;
                change.progress = Some(progress.clone());
                ObjectState::Batched
            }
            Action::RetryLater(failure) => {
                change.failure = Some(failure.clone());
                ObjectState::Failed
            }
            Action::GiveUp { reason, at, failure } => {
                change.reason = Some(reason.as_str());
                change.ended_at = Some(at.as_unix_millis());
                change.failure.clone_from(failure);
                ObjectState::Error
            }
        };
        change.state = state_column(state);
        if let Some(failure) = &mut change.failure {
            change.not_before = failure.not_before.map(Timestamp::as_unix_millis);
            change.destination = name(failure.destination.as_ref());
            change.progress = failure.progress.take();
        }
        self.changes.push(change);
    }

    fn payloads(&self) -> impl Iterator<Item = (Uuid, &Bytes)> {
        let moved = self
            .changes
            .iter()
            .filter_map(|change| Some((change.id, change.progress.as_ref()?)));
        moved.map(|(id, progress)| (id, &progress.payload))
    }

    fn statements(&self) -> usize {
        let wanted = [
            self.payloads().next().is_some(),
            !self.changes.is_empty(),
            !self.releases.is_empty(),
            !self.removals.is_empty(),
        ];
        wanted.into_iter().filter(|wanted| *wanted).count()
    }

    async fn write(
        &self,
        connection: &mut PgConnection,
        owner: i64,
        letting_go: &LettingGo,
    ) -> Result<(), sqlx::Error> {
        let (ids, payloads): (Vec<_>, Vec<_>) =
            self.payloads().map(|(id, payload)| (id, &payload[..])).unzip();
        if !ids.is_empty() {
            sqlx::query(REPLACE_PAYLOAD)
                .bind(ids)
                .bind(payloads)
                .bind(owner)
                .bind(&letting_go.bound)
                .bind(&letting_go.bound_to)
                .execute(&mut *connection)
                .await?;
        }
        if !self.changes.is_empty() {
            self.change(connection, owner, letting_go).await?;
        }
        if !self.releases.is_empty() {
            sqlx::query(RELEASE)
                .bind(&self.releases)
                .bind(owner)
                .bind(&letting_go.bound)
                .bind(&letting_go.bound_to)
                .execute(&mut *connection)
                .await?;
        }
        if !self.removals.is_empty() {
            remove(connection, owner, &self.removals, &[]).await?;
        }
        Ok(())
    }

    async fn change(
        &self,
        connection: &mut PgConnection,
        owner: i64,
        letting_go: &LettingGo,
    ) -> Result<(), sqlx::Error> {
        let changes = &self.changes;
        let moved = || changes.iter().map(|change| change.progress.as_ref());
        sqlx::query(CHANGE)
            .bind(column(changes, |change| change.id))
            .bind(column(changes, |change| change.state))
            .bind(column(changes, Change::attempts))
            .bind(column(changes, Change::failed_at))
            .bind(column(changes, Change::error))
            .bind(column(changes, |change| change.not_before))
            .bind(column(changes, Change::counted))
            .bind(column(changes, |change| change.progress.is_some()))
            .bind(column(changes, |change| change.destination.as_deref()))
            .bind(column(changes, |change| change.reason))
            .bind(column(changes, |change| change.ended_at))
            .bind(
                moved()
                    .map(|to| to.map(|to| text(to.version.as_str())))
                    .collect::<Vec<_>>(),
            )
            .bind(
                moved()
                    .map(|to| to.map(|to| i64::from(to.position)))
                    .collect::<Vec<_>>(),
            )
            .bind(
                moved()
                    .map(|to| to.map(|to| context_json(&to.context)))
                    .collect::<Vec<_>>(),
            )
            .bind(
                moved()
                    .map(|to| semantics::device_in(&to?.context).map(text))
                    .collect::<Vec<_>>(),
            )
            .bind(
                moved()
                    .map(|to| to.map(|to| to.kind.as_str()))
                    .collect::<Vec<_>>(),
            )
            .bind(
                moved()
                    .map(|to| to.map(|to| bytes_column(semantics::payload_bytes(&to.context, &to.payload))))
                    .collect::<Vec<_>>(),
            )
            .bind(owner)
            .bind(column(changes, Change::attempt_error))
            .bind(&letting_go.bound)
            .bind(&letting_go.bound_to)
            .execute(connection)
            .await
            .map(drop)
    }
}

/// One value of each row.
pub(crate) fn column<'a, R, T>(rows: &'a [R], value: impl Fn(&'a R) -> T) -> Vec<T> {
    rows.iter().map(value).collect()
}

fn name(destination: Option<&Destination>) -> Option<String> {
    destination.map(|to| text(to.as_str()).into_owned())
}
