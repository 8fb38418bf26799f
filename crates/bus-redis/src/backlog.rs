//! What EdgeX 3's own Store and Forward left in Redis.
//!
//! Owns its keys, reading them a page at a time and removing what somebody has taken over. Does not know what a value
//! means (`edgehold_store::edgex` does). The keys of a service K (SDK `internal/store/db/redis`):
//!
//! | key | type | content |
//! | --- | --- | --- |
//! | `store:idl:K` | set | the ids |
//! | `<id>` | string | the object as JSON |
//! | `store:ask:<id>` | hash, field `ASK` | K |

use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use crate::{
    ConnectionError, ConnectionSettings,
    connection::Connection,
    resp::{Value, write_command},
};

/// How many ids are asked for at once; Redis answers about so many, and all of a small set.
const PAGE: usize = 256;
/// Bytes of values at which a page ends.
const PAGE_BYTES: i64 = 8 << 20;

/// A member of the set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftBehind {
    /// The id, as it is in the set.
    pub id: Bytes,
    /// The value of the key of that name; none when there is none, none that is a string, or one that is larger than the
    /// connection takes ([`ConnectionSettings::max_message_bytes`]).
    pub json: Option<Bytes>,
}

/// What the original keeps for one service.
pub struct Backlog {
    connection: Connection,
    service_key: String,
    limit: Duration,
    /// Where the scan of the set goes on; none when it has ended.
    cursor: Option<Bytes>,
    /// Ids that the scan has answered and no page has had yet.
    ahead: Vec<Bytes>,
}

impl Backlog {
    /// Connects.
    ///
    /// # Errors
    /// [`ConnectionError`].
    pub async fn open(settings: &ConnectionSettings, service_key: &str) -> Result<Self, ConnectionError> {
        Ok(Self {
            connection: Connection::open(settings).await?,
            service_key: service_key.to_owned(),
            limit: settings.connect_timeout,
            cursor: Some(Bytes::from_static(b"0")),
            ahead: Vec::new(),
        })
    }

    fn set(&self) -> Vec<u8> {
        format!("store:idl:{}", self.service_key).into_bytes()
    }

    /// Says commands at once; one answer for each.
    async fn say(&mut self, commands: &[Vec<&[u8]>]) -> Result<Vec<Value>, ConnectionError> {
        let mut out = Vec::new();
        for command in commands {
            write_command(command, &mut out);
        }
        self.connection.write(&out).await?;
        let mut answers = Vec::with_capacity(commands.len());
        for _ in commands {
            let next = timeout(self.limit, self.connection.next()).await;
            answers.push(next.unwrap_or(Err(ConnectionError::TimedOut(self.limit)))?);
        }
        Ok(answers)
    }

    /// As [`Backlog::say`]; none of the answers is an error.
    async fn ask(&mut self, commands: &[Vec<&[u8]>]) -> Result<Vec<Value>, ConnectionError> {
        let answers = self.say(commands).await?;
        match answers.iter().find_map(Value::as_error) {
            Some(text) => Err(ConnectionError::Refused(text.into())),
            None => Ok(answers),
        }
    }

    async fn ask_one(&mut self, command: Vec<&[u8]>) -> Result<Value, ConnectionError> {
        let answers = self.ask(&[command]).await?;
        answers.into_iter().next().ok_or(ConnectionError::NotRedis)
    }

    /// How many ids the set has.
    ///
    /// # Errors
    /// [`ConnectionError`].
    pub async fn count(&mut self) -> Result<u64, ConnectionError> {
        let set = self.set();
        match self.ask_one(vec![b"SCARD", &set]).await? {
            Value::Integer(count) => Ok(u64::try_from(count).unwrap_or(0)),
            _ => Err(ConnectionError::NotRedis),
        }
    }

    /// The next members, in no order, nothing when there are no more. Each that is there all the time comes at least once.
    ///
    /// # Errors
    /// [`ConnectionError`].
    pub async fn next_page(&mut self) -> Result<Vec<LeftBehind>, ConnectionError> {
        while self.scan().await? {
            let page = self.read().await?;
            // All of it may have gone away since it was scanned, which is not the end.
            if !page.is_empty() {
                return Ok(page);
            }
        }
        Ok(Vec::new())
    }

    /// Sees to it that there are ids to read; false when there are no more.
    async fn scan(&mut self) -> Result<bool, ConnectionError> {
        while self.ahead.is_empty() {
            let Some(cursor) = self.cursor.take() else {
                return Ok(false);
            };
            let set = self.set();
            let answer = self
                .ask_one(vec![
                    b"SSCAN",
                    &set,
                    &cursor,
                    b"COUNT",
                    PAGE.to_string().as_bytes(),
                ])
                .await?;
            let (next, ids) = scanned(answer).ok_or(ConnectionError::NotRedis)?;
            self.cursor = (next != b"0"[..]).then_some(next);
            self.ahead = ids;
        }
        Ok(true)
    }

    /// Reads the values of the next ids.
    async fn read(&mut self) -> Result<Vec<LeftBehind>, ConnectionError> {
        let mut page = self.ahead.split_off(self.ahead.len().saturating_sub(PAGE));
        let sizes: Vec<Vec<&[u8]>> = page.iter().map(|id| vec![&b"STRLEN"[..], &id[..]]).collect();
        let sizes = self.say(&sizes).await?;
        let mut bytes = 0_i64;
        let fits = sizes.iter().take_while(|size| {
            let is_inside = bytes < PAGE_BYTES;
            if let Value::Integer(size) = size {
                bytes = bytes.saturating_add(*size);
            }
            is_inside
        });
        let count = fits.count();
        self.ahead.extend(page.drain(count..));
        let command: Vec<&[u8]> = std::iter::once(&b"MGET"[..])
            .chain(page.iter().map(|id| &id[..]))
            .collect();
        let Value::Array(Some(values)) = self.ask_one(command).await? else {
            return Err(ConnectionError::NotRedis);
        };
        let values = values.into_iter().map(|value| match value {
            Value::Bulk(value) => value,
            _ => None,
        });
        let found = page.into_iter().zip(values);
        let found: Vec<_> = found.map(|(id, json)| LeftBehind { id, json }).collect();
        self.members(found).await
    }

    /// Without those that are no members any more: a scan may answer an id again that has been removed since.
    async fn members(&mut self, found: Vec<LeftBehind>) -> Result<Vec<LeftBehind>, ConnectionError> {
        let set = self.set();
        let asked = found.iter().filter(|left| left.json.is_none());
        let commands: Vec<Vec<&[u8]>> = asked
            .map(|left| vec![&b"SISMEMBER"[..], &set, &left.id])
            .collect();
        let mut answers = self.ask(&commands).await?.into_iter();
        let mut is_member =
            |left: &LeftBehind| left.json.is_some() || answers.next() == Some(Value::Integer(1));
        Ok(found.into_iter().filter(|left| is_member(left)).collect())
    }

    /// Removes members with all that belongs to them, as the original does, in one transaction.
    ///
    /// # Errors
    /// [`ConnectionError`]: they may be there or not, but none of them in part.
    pub async fn remove(&mut self, ids: &[Bytes]) -> Result<(), ConnectionError> {
        if ids.is_empty() {
            return Ok(());
        }
        let set = self.set();
        let owners: Vec<Vec<u8>> = ids.iter().map(|id| [b"store:ask:", &id[..]].concat()).collect();
        let mut commands: Vec<Vec<&[u8]>> = vec![vec![b"MULTI"]];
        for (id, owner) in ids.iter().zip(&owners) {
            commands.push(vec![b"UNLINK", id]);
            commands.push(vec![b"SREM", &set, id]);
            commands.push(vec![b"UNLINK", owner]);
        }
        commands.push(vec![b"EXEC"]);
        match self.ask(&commands).await?.pop() {
            Some(Value::Array(Some(_))) => Ok(()),
            _ => Err(ConnectionError::NotRedis),
        }
    }
}

/// The cursor and the members of an answer to `SSCAN`.
fn scanned(answer: Value) -> Option<(Bytes, Vec<Bytes>)> {
    let Value::Array(Some(parts)) = answer else {
        return None;
    };
    let [Value::Bulk(Some(cursor)), Value::Array(Some(members))] = <[Value; 2]>::try_from(parts).ok()? else {
        return None;
    };
    let members = members.into_iter().map(|member| match member {
        Value::Bulk(member) => member,
        _ => None,
    });
    Some((cursor, members.collect::<Option<_>>()?))
}
