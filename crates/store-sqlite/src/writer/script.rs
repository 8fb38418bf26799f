//! Statements that are written one after the other, in as few calls of the driver as they take.
//!
//! The driver runs its statements in a thread of its own. What a short transaction takes is not its statements but the way
//! there and back, so it is one call, from its beginning to its end.

use sqlx::{Arguments, AssertSqlSafe, Encode, Sqlite, SqliteConnection, Type, sqlite::SqliteArguments};

/// Statements in order. Their parameters are `?` and nothing else: the driver counts them through a whole call.
#[derive(Default)]
pub(crate) struct Script {
    calls: Vec<Call>,
    /// It has more than one statement.
    is_long: bool,
}

#[derive(Default)]
struct Call {
    text: String,
    arguments: SqliteArguments,
    /// Nothing joins it.
    alone: bool,
}

/// What a statement is given, in the order of its parameters.
pub(crate) struct Given<'s>(&'s mut SqliteArguments);

impl Given<'_> {
    pub(crate) fn with<'q>(self, value: impl Encode<'q, Sqlite> + Type<Sqlite>) -> Self {
        self.0
            .add(value)
            .expect("numbers, texts and bytes can be given to every statement");
        self
    }
}

impl Script {
    pub(crate) fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// Adds a statement, or some with a semicolon between them.
    pub(crate) fn add(&mut self, statement: &str) -> Given<'_> {
        self.is_long = !self.is_empty() || statement.contains(';');
        if self.calls.last().is_none_or(|call| call.alone) {
            self.calls.push(Call::default());
        }
        let call = self.calls.last_mut().expect("one was pushed if there was none");
        call.text.push_str(statement);
        call.text.push(';');
        Given(&mut call.arguments)
    }

    /// Adds statements in a call of their own. The driver keeps a call's statements, by its text: large ones are not to be
    /// kept with all that they can come together with.
    pub(crate) fn add_alone(&mut self, statements: &str) -> Given<'_> {
        self.is_long = true;
        self.calls.push(Call {
            text: statements.to_owned(),
            alone: true,
            ..Call::default()
        });
        let call = self.calls.last_mut().expect("it was just pushed");
        Given(&mut call.arguments)
    }

    /// Runs it in the transaction of the connection.
    pub(crate) async fn run(self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        for Call { text, arguments, .. } in self.calls {
            sqlx::query_with(AssertSqlSafe(text), arguments)
                .execute(&mut *connection)
                .await?;
        }
        Ok(())
    }

    /// Runs it as a transaction. After a failure it may not have ended.
    pub(crate) async fn commit(mut self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        const BEGIN: &str = "BEGIN IMMEDIATE;";
        // A statement is a transaction of its own.
        if !self.is_long {
            return self.run(connection).await;
        }
        match self.calls.first_mut() {
            Some(first) if !first.alone => first.text.insert_str(0, BEGIN),
            _ => {
                let text = BEGIN.to_owned();
                self.calls.insert(
                    0,
                    Call {
                        text,
                        ..Call::default()
                    },
                );
            }
        }
        self.add("COMMIT");
        self.run(connection).await
    }
}
