//! What is said again and again in an outage is said a few times, then counted.
//!
//! Records are of one *kind* when they come from the same place in the code with the same message and the same fields,
//! but for those that differ each time: numbers, and the ids in [`PER_RECORD`].
//!
//! ```text
//! first of a kind ─▶ a window opens: the first 5 pass, the others are counted, the last of them is held
//! window over     ─▶ the held one is written with the number of the others; the kind is forgotten
//! ```
//!
//! So every record is either a line or in the number of one. Memory is bounded: by kinds in all, where the one that was
//! quiet for longest makes room, and by the length of what is held. A place whose messages differ each time has only so
//! many kinds; what it says beyond them in one window counts as one more.
//!
//! Owns the counting. Reads no clock and writes nothing: records come in with the time, what is to be written comes out.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::{BuildHasher, Hash, Hasher},
    time::Duration,
};

use tokio::time::Instant;
use tracing::callsite::Identifier;

use super::record::Record;

/// How long the records of a kind are counted together.
const WINDOW: Duration = Duration::from_secs(10);
/// How many of a kind pass in a window.
const PASSING: u32 = 5;
/// How many kinds are known at once.
const MAX_KINDS: usize = 256;
/// How many of them come from one place in the code, before what else it says is one kind.
const MAX_KINDS_OF_PLACE: usize = 64;
/// How much is held of each text of a record.
const MAX_HELD_BYTES: usize = 2048;
/// Fields that differ from record to record of the same trouble.
const PER_RECORD: [&str; 2] = ["correlation_id", "stored_object_id"];

/// The kinds seen lately.
#[derive(Default)]
pub(super) struct Repeats {
    /// By the hash of what makes a kind. Two that share one would be counted together, which 64 bits make unlikely and
    /// harmless.
    kinds: HashMap<u64, Kind>,
    hasher: RandomState,
}

struct Kind {
    place: Identifier,
    opened: Instant,
    last_seen: Instant,
    passed: u32,
    /// How many have not passed, the held one among them.
    counted: u64,
    held: Option<Record>,
}

impl Repeats {
    /// Takes a record in. Answers what is to be written now, in this order.
    pub(super) fn take(&mut self, record: Record, now: Instant) -> Vec<Record> {
        let place = record.metadata.callsite();
        let mut key = self.key(&record);
        let mut ready = Vec::new();
        if !self.kinds.get(&key).is_some_and(|kind| kind.is_open(now)) {
            ready = self.over(now);
            let of_place = self.kinds.values().filter(|kind| kind.place == place).count();
            if of_place >= MAX_KINDS_OF_PLACE {
                key = self.hasher.hash_one(&place);
            }
            if self.kinds.len() >= MAX_KINDS && !self.kinds.contains_key(&key) {
                ready.extend(self.forget_quietest(now));
            }
        }
        let kind = self.kinds.entry(key).or_insert_with(|| Kind::new(place, now));
        ready.extend(kind.take(record, now));
        ready
    }

    /// What windows that are over by now have held, the quietest first.
    pub(super) fn over(&mut self, now: Instant) -> Vec<Record> {
        self.close(now, |kind| !kind.is_open(now))
    }

    /// Everything held, the quietest first.
    pub(super) fn all(&mut self, now: Instant) -> Vec<Record> {
        self.close(now, |_| true)
    }

    fn close(&mut self, now: Instant, which: impl Fn(&Kind) -> bool) -> Vec<Record> {
        let mut closed: Vec<Kind> = self
            .kinds
            .extract_if(|_, kind| which(kind))
            .map(|(_, kind)| kind)
            .collect();
        closed.sort_by_key(|kind| kind.last_seen);
        closed.into_iter().filter_map(|kind| kind.sum_up(now)).collect()
    }

    fn forget_quietest(&mut self, now: Instant) -> Option<Record> {
        let (&key, _) = self.kinds.iter().min_by_key(|(_, kind)| kind.last_seen)?;
        self.kinds.remove(&key)?.sum_up(now)
    }

    fn key(&self, record: &Record) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        record.metadata.callsite().hash(&mut hasher);
        record.message.hash(&mut hasher);
        for field in &record.fields {
            if !field.is_json && !PER_RECORD.contains(&field.name) {
                (field.name, &field.text).hash(&mut hasher);
            }
        }
        hasher.finish()
    }
}

impl Kind {
    fn new(place: Identifier, now: Instant) -> Self {
        Self {
            place,
            opened: now,
            last_seen: now,
            passed: 0,
            counted: 0,
            held: None,
        }
    }

    fn is_open(&self, now: Instant) -> bool {
        now.duration_since(self.opened) < WINDOW
    }

    fn take(&mut self, mut record: Record, now: Instant) -> Option<Record> {
        self.last_seen = now;
        if self.passed < PASSING {
            self.passed += 1;
            return Some(record);
        }
        cut(&mut record.message);
        for field in &mut record.fields {
            cut(&mut field.text);
        }
        self.counted += 1;
        self.held = Some(record);
        None
    }

    /// The held record, which says how many others it stands for.
    fn sum_up(self, now: Instant) -> Option<Record> {
        let mut record = self.held?;
        let others = self.counted - 1;
        if others > 0 {
            let seconds = now.duration_since(self.opened).as_millis().div_ceil(1000).max(1);
            record.message.push_str(&format!(
                " … (and {others} more like this in the last {seconds} s)"
            ));
        }
        Some(record)
    }
}

fn cut(text: &mut String) {
    if text.len() > MAX_HELD_BYTES {
        text.truncate(text.floor_char_boundary(MAX_HELD_BYTES));
        text.push('…');
        text.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::records, *};

    /// A failed attempt for this pipeline. Each call is another event.
    fn failed(pipeline_id: &str) -> Record {
        let event = uuid::Uuid::new_v4();
        records(|| {
            tracing::error!(
                pipeline_id,
                correlation_id = %event,
                stored_object_id = %event,
                attempts = event.as_fields().0,
                "it is down"
            );
        })
        .remove(0)
    }

    /// Places that all say the same of a pipeline.
    fn places() -> [fn(usize); 5] {
        macro_rules! place {
            () => {
                |number| tracing::error!(pipeline_id = number.to_string(), "it is down")
            };
        }
        [place!(), place!(), place!(), place!(), place!()]
    }

    /// Something another place says.
    fn said(text: &str) -> Record {
        records(|| tracing::warn!("{text}")).remove(0)
    }

    fn messages(records: &[Record]) -> Vec<&str> {
        records.iter().map(|record| record.message.as_str()).collect()
    }

    /// How many records the lines stand for.
    fn told(records: &[Record]) -> u64 {
        let more = |record: &Record| {
            let (_, rest) = record.message.split_once(" … (and ")?;
            rest.split(' ').next()?.parse::<u64>().ok()
        };
        records.iter().map(|record| 1 + more(record).unwrap_or(0)).sum()
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_first_of_a_kind_pass_and_the_others_are_counted_on_the_last_of_them() {
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        for _ in 0..PASSING {
            assert_eq!(messages(&repeats.take(failed("p"), start)), ["it is down"]);
        }
        for _ in 0..1234 {
            assert!(repeats.take(failed("p"), start + SECOND).is_empty());
        }
        let last = failed("p");
        let id = last.fields[1].text.clone();
        assert!(repeats.take(last, start + 2 * SECOND).is_empty());

        assert!(repeats.over(start + WINDOW - SECOND).is_empty());
        let over = repeats.over(start + WINDOW);
        assert_eq!(
            messages(&over),
            ["it is down … (and 1234 more like this in the last 10 s)"]
        );
        assert_eq!(over[0].fields[1].text, id, "it is the last one");
        assert_eq!(*over[0].metadata.level(), tracing::Level::ERROR);

        // Told once, and forgotten.
        assert!(repeats.over(start + 2 * WINDOW).is_empty());
        assert!(repeats.kinds.is_empty());
    }

    #[test]
    fn a_new_window_begins_with_lines_and_after_the_count_of_the_old_one() {
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        for _ in 0..8 {
            repeats.take(failed("p"), start);
        }
        // Nobody has asked for what is over: the next one brings it out.
        let ready = repeats.take(failed("p"), start + WINDOW);
        assert_eq!(
            messages(&ready),
            [
                "it is down … (and 2 more like this in the last 10 s)",
                "it is down"
            ]
        );
        for _ in 1..PASSING {
            assert_eq!(repeats.take(failed("p"), start + WINDOW).len(), 1);
        }
        assert!(repeats.take(failed("p"), start + WINDOW).is_empty());
    }

    #[test]
    fn what_has_not_been_repeated_is_not_told_again_and_one_that_was_held_is_told_without_a_number() {
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        for _ in 0..PASSING {
            repeats.take(failed("few"), start);
        }
        assert!(repeats.all(start + SECOND).is_empty());

        for _ in 0..=PASSING {
            repeats.take(failed("one more"), start);
        }
        assert_eq!(messages(&repeats.all(start + SECOND)), ["it is down"]);
    }

    #[test]
    fn other_pipelines_texts_and_places_are_other_kinds() {
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        for _ in 0..100 {
            repeats.take(failed("p"), start);
            repeats.take(said("it is down"), start);
        }
        for other in [failed("q"), said("it is up"), said("it is down ")] {
            assert_eq!(repeats.take(other, start).len(), 1);
        }
        assert!(repeats.take(failed("p"), start).is_empty());
        assert!(repeats.take(said("it is down"), start).is_empty());
    }

    #[test]
    fn numbers_and_ids_do_not_make_a_kind() {
        let (first, second) = (failed("p"), failed("p"));
        for field in 1..4 {
            assert_ne!(first.fields[field].text, second.fields[field].text);
        }
        let repeats = Repeats::default();
        assert_eq!(repeats.key(&first), repeats.key(&second));
    }

    #[test]
    fn every_record_is_told_whatever_comes() {
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        let (mut lines, mut now, mut most) = (Vec::new(), start, 0);
        // More kinds than are known at once, each many times, over many windows.
        let failures = records(|| {
            let mut random = 1_u64;
            for _ in 0..30_000 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let below = |bits: u32, end: u64| usize::try_from((random >> bits) % end).unwrap();
                // Some often, most now and then.
                places()[below(32, 5)](below(40, 20) * below(48, 20));
            }
        });
        for failure in failures {
            now += Duration::from_millis(7);
            lines.extend(repeats.take(failure, now));
            most = most.max(repeats.kinds.len());
        }
        assert_eq!(most, MAX_KINDS, "some had to make room");
        lines.extend(repeats.all(now));
        assert_eq!(told(&lines), 30_000);
    }

    #[test]
    fn a_place_that_says_something_else_each_time_is_counted_too() {
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        let mut lines = Vec::new();
        let errors = records(|| (0..1000).for_each(|number| tracing::error!("no such thing: {number}")));
        for error in errors {
            lines.extend(repeats.take(error, start));
        }
        assert_eq!(lines.len(), MAX_KINDS_OF_PLACE + PASSING as usize);
        lines.extend(repeats.all(start + SECOND));
        assert_eq!(told(&lines), 1000);
        assert!(
            lines
                .last()
                .unwrap()
                .message
                .starts_with("no such thing: 999 … (and "),
            "{:?}",
            messages(&lines).last()
        );
    }

    #[test]
    fn the_kind_that_was_quiet_for_longest_makes_room_and_is_told() {
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        let places = places();
        for _ in 0..7 {
            repeats.take(failed("the quietest"), start);
        }
        let mut now = start;
        for number in 0..MAX_KINDS - 1 {
            now += Duration::from_millis(1);
            let other = records(|| places[number % places.len()](number)).remove(0);
            assert_eq!(repeats.take(other, now).len(), 1);
        }
        assert_eq!(repeats.kinds.len(), MAX_KINDS);

        let ready = repeats.take(said("one more"), now);
        assert_eq!(
            messages(&ready),
            ["it is down … (and 1 more like this in the last 1 s)", "one more"]
        );
        assert_eq!(repeats.kinds.len(), MAX_KINDS);
    }

    #[test]
    fn what_is_held_is_short() {
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        let long = "ä".repeat(1 << 20);
        for _ in 0..PASSING {
            assert_eq!(repeats.take(said(&long), start)[0].message, long);
        }
        repeats.take(said(&long), start);
        let held = &repeats.all(start)[0].message;
        assert!(held.len() <= MAX_HELD_BYTES + '…'.len_utf8(), "{}", held.len());
        assert!(held.starts_with("ää") && held.ends_with("ä…"));
    }
}
