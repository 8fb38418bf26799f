//! What the demo shows: an introduction, a table that grows, and a balance. Text only; printing is the caller's.

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use edgehold::RunningStatus;

use super::destination::{DOWN, Destination, Phase, UNLUCKY_PERCENT, UP};

/// After so many lines the names of the columns are repeated.
const LINES_BETWEEN_HEADS: u32 = 20;

/// The introduction.
pub(super) struct Guide {
    pub(super) broker_port: u16,
    pub(super) destination_url: String,
    pub(super) rest: SocketAddr,
    pub(super) store_file: PathBuf,
    pub(super) settings_file: PathBuf,
    pub(super) log_file: PathBuf,
    pub(super) left_by_an_earlier_run: u64,
}

impl fmt::Display for Guide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (up, down) = (UP.as_secs(), DOWN.as_secs());
        writeln!(
            f,
            "\nThe edgehold demo: everything in this process, nothing else needed.\n"
        )?;
        writeln!(
            f,
            "  five virtual devices, 10 events/s  ──▶  MQTT broker, 127.0.0.1:{}",
            self.broker_port
        )?;
        writeln!(
            f,
            "  ──▶  edgehold: filter, HTTP export  ──▶  destination, {}",
            self.destination_url
        )?;
        writeln!(
            f,
            "       The destination is up for {up} s, down for {down} s, and fails {UNLUCKY_PERCENT} % while up.\n"
        )?;
        writeln!(f, "  received   events taken from the broker")?;
        writeln!(
            f,
            "  filtered   ended by the filter, which drops one device's events"
        )?;
        writeln!(
            f,
            "  exported   accepted by the destination, at once or on a retry"
        )?;
        writeln!(
            f,
            "  waiting    not accepted yet: kept in {}, retried every 2 s",
            self.store_file.display()
        )?;
        writeln!(f, "             and as soon as the destination answers again")?;
        writeln!(
            f,
            "  errors     set aside after too many retries (0 here: the demo retries without end)"
        )?;
        writeln!(f, "  dropped    lost (0 here)")?;
        writeln!(f, "  refused    attempts that failed, retries included")?;
        writeln!(
            f,
            "  arrived    what the destination itself has counted since the start\n"
        )?;
        writeln!(f, "  settings   {}", self.settings_file.display())?;
        writeln!(f, "  log        {}", self.log_file.display())?;
        writeln!(f, "  REST       http://{}/api/v3/ping\n", self.rest)?;
        match self.left_by_an_earlier_run {
            0 => writeln!(f, "Nothing waits from an earlier run.")?,
            left => writeln!(f, "Resuming with {left} events that an earlier run left waiting.")?,
        }
        write!(f, "Ctrl-C stops; the next start goes on with what waits then.")
    }
}

/// The status lines.
#[derive(Default)]
pub(super) struct Table {
    lines: u32,
}

impl Table {
    /// The next line, below the names of the columns where they are due.
    pub(super) fn line(
        &mut self,
        elapsed: Duration,
        status: &RunningStatus,
        destination: &Destination,
    ) -> String {
        let mut text = String::new();
        if self.lines.is_multiple_of(LINES_BETWEEN_HEADS) {
            text.push_str(
                "\n  time  received  filtered  exported   waiting  errors  dropped  refused │ destination  arrived\n",
            );
        }
        self.lines += 1;
        text + &row(elapsed, status, destination.phase(), destination.arrived())
    }
}

fn row(elapsed: Duration, status: &RunningStatus, phase: Phase, arrived: u64) -> String {
    let RunningStatus { books, .. } = status;
    let Stored { waiting, errors } = Stored::of(status);
    let seconds = elapsed.as_secs();
    format!(
        "{:>3}:{:02}  {:>8}  {:>8}  {:>8}  {waiting:>8}  {errors:>6}  {:>7}  {:>7} │ {phase:<11}  {arrived:>7}",
        seconds / 60,
        seconds % 60,
        books.received,
        books.filtered,
        books.completed,
        books.dropped,
        books.failed_attempts,
    )
}

struct Stored {
    waiting: u64,
    errors: u64,
}

impl Stored {
    fn of(status: &RunningStatus) -> Self {
        status.store.map_or(
            Self {
                waiting: 0,
                errors: 0,
            },
            |store| Self {
                waiting: store.waiting(),
                errors: store.error.objects,
            },
        )
    }
}

/// The books as one equation: what came in, and what became of it.
struct Books {
    came: u64,
    went: u64,
}

impl Books {
    fn of(status: &RunningStatus) -> Self {
        let books = &status.books;
        let Stored { waiting, errors } = Stored::of(status);
        Self {
            came: books.started + books.carried_over,
            went: books.completed
                + books.filtered
                + books.batched
                + waiting
                + errors
                + books.dropped
                + books.in_flight,
        }
    }
}

/// Whether every event is accounted for.
pub(super) fn add_up(status: &RunningStatus) -> bool {
    let Books { came, went } = Books::of(status);
    came == went
}

/// Every event accounted for: what came in on one side, what became of it on the other.
pub(super) fn balance(status: &RunningStatus, arrived: u64) -> String {
    let books = &status.books;
    let Stored { waiting, errors } = Stored::of(status);
    let Books { came, went } = Books::of(status);
    let verdict = match came == went {
        true => "They add up.",
        false => "THEY DO NOT ADD UP: please report this with the log.",
    };
    format!(
        "\nThe books\n  \
         in  {came:>8} = {} received + {} left by an earlier run\n  \
         out {went:>8} = {} exported + {} filtered + {waiting} waiting + {errors} errors + {} dropped + {} in flight\n  \
         {verdict} The destination has counted {arrived} arrivals.",
        books.started, books.carried_over, books.completed, books.filtered, books.dropped, books.in_flight
    )
}

/// What the next start will find.
pub(super) fn farewell(waiting: u64, store_file: &Path) -> String {
    match waiting {
        0 => "\nNothing is left waiting.".to_owned(),
        waiting => format!(
            "\n{waiting} events wait in {}. The next start goes on with them.",
            store_file.display()
        ),
    }
}

#[cfg(test)]
mod tests {
    use edgehold::BooksSnapshot;

    use super::*;

    #[test]
    fn books_that_miss_an_event_are_called_out() {
        let mut status = RunningStatus {
            books: BooksSnapshot {
                started: 3,
                completed: 2,
                filtered: 1,
                ..BooksSnapshot::default()
            },
            store: None,
        };
        assert!(balance(&status, 2).contains("They add up"));

        status.books.started = 4;
        assert!(balance(&status, 2).contains("DO NOT ADD UP"));
    }

    #[test]
    fn a_row_stands_below_its_heads() {
        let status = RunningStatus::default();
        let row = row(Duration::from_secs(62), &status, Phase::Down, 7);
        assert_eq!(
            row,
            "  1:02         0         0         0         0       0        0        0 │ DOWN               7"
        );
    }
}
