//! Which claims of this process are good, and which objects they handed out. The leases themselves are rows; this says
//! which of them somebody here still answers for.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use edgehold_core::{
    StoredObject, StoredObjectId,
    retry::{Action, Verdict},
};
use tokio::sync::Notify;

/// The claims of a queue, shared by it and its worker.
#[derive(Clone, Debug, Default)]
pub(crate) struct Claims {
    known: Arc<Mutex<Known>>,
    /// A claim has ended without handing its objects out: they are to be given back.
    pub(crate) given_up: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Known {
    last: i64,
    /// For each claim how many answer for it: whoever is making it, and each object it handed out.
    good: HashMap<i64, usize>,
    handed_out: HashMap<StoredObjectId, HandedOut>,
}

#[derive(Clone, Copy, Debug)]
struct HandedOut {
    claim: i64,
    /// The place of the object.
    seq: i64,
}

/// What verdicts change of leases.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct LettingGo {
    /// Claims of which nothing is left.
    pub(crate) ended: Vec<i64>,
    /// Claims from which objects leave that stay in the store.
    pub(crate) shrunk: Vec<i64>,
    /// The places of those.
    pub(crate) seqs: Vec<i64>,
}

impl LettingGo {
    pub(crate) fn is_nothing(&self) -> bool {
        self.ended.is_empty() && self.shrunk.is_empty()
    }
}

impl Known {
    fn let_go(&mut self, claim: i64) -> bool {
        let Some(count) = self.good.get_mut(&claim) else {
            return false;
        };
        *count -= 1;
        let is_over = *count == 0;
        if is_over {
            self.good.remove(&claim);
        }
        is_over
    }
}

impl Claims {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a claim.
    pub(crate) fn begin(&self) -> Making {
        let mut known = self.known();
        known.last += 1;
        let claim = known.last;
        known.good.insert(claim, 1);
        Making {
            claims: self.clone(),
            number: claim,
            has_leased: false,
        }
    }

    /// The claims that are good, and the last one there was.
    pub(crate) fn good(&self) -> (Vec<i64>, i64) {
        let known = self.known();
        (known.good.keys().copied().collect(), known.last)
    }

    /// The claims that have handed these out.
    pub(crate) fn of<'a>(
        &self,
        ids: impl IntoIterator<Item = &'a StoredObjectId>,
    ) -> Vec<(StoredObjectId, i64)> {
        let known = self.known();
        let ids = ids.into_iter();
        ids.filter_map(|id| Some((*id, known.handed_out.get(id)?.claim)))
            .collect()
    }

    /// What these verdicts change of leases. What is removed may stay in the list of its claim.
    pub(crate) fn letting_go<'a>(&self, verdicts: impl IntoIterator<Item = &'a Verdict>) -> LettingGo {
        let known = self.known();
        let mut claims: HashMap<i64, (HashSet<StoredObjectId>, Vec<i64>)> = HashMap::new();
        for Verdict { id, action } in verdicts {
            if let Some(HandedOut { claim, seq }) = known.handed_out.get(id) {
                let (settled, staying) = claims.entry(*claim).or_default();
                settled.insert(*id);
                if *action != Action::Remove {
                    staying.push(*seq);
                }
            }
        }
        let mut letting_go = LettingGo::default();
        for (claim, (settled, staying)) in claims {
            if known.good.get(&claim).is_none_or(|left| *left <= settled.len()) {
                letting_go.ended.push(claim);
            } else if !staying.is_empty() {
                letting_go.shrunk.push(claim);
                letting_go.seqs.extend(staying);
            }
        }
        letting_go
    }

    /// For these nobody answers any more, as far as they were handed out by these claims.
    pub(crate) fn end(&self, ended: impl IntoIterator<Item = (StoredObjectId, i64)>) {
        let mut known = self.known();
        for (id, claim) in ended {
            if known
                .handed_out
                .get(&id)
                .is_some_and(|found| found.claim == claim)
            {
                known.handed_out.remove(&id);
                known.let_go(claim);
            }
        }
    }

    /// Another instance has taken everything over.
    pub(crate) fn forget_all(&self) {
        let mut known = self.known();
        known.good.clear();
        known.handed_out.clear();
    }
}

/// A claim that is being made. Unless it hands something out, what it has leased is given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Making {
    claims: Claims,
    pub(crate) number: i64,
    /// There may be leases by it.
    pub(crate) has_leased: bool,
}

impl Making {
    /// A page to be handed out: from now on each of its objects answers for the claim.
    pub(crate) fn page(self, objects: Vec<StoredObject>) -> ClaimedPage {
        let mut known = self.claims.known();
        if known.good.contains_key(&self.number) {
            for object in &objects {
                let handed_out = HandedOut {
                    claim: self.number,
                    seq: object.seq,
                };
                if let Some(before) = known.handed_out.insert(object.id, handed_out) {
                    known.let_go(before.claim);
                }
            }
            if let Some(count) = known.good.get_mut(&self.number) {
                *count += objects.len();
            }
        }
        drop(known);
        ClaimedPage {
            objects,
            making: self,
        }
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        let is_over = self.claims.known().let_go(self.number);
        if is_over && self.has_leased {
            self.claims.given_up.notify_one();
        }
    }
}

/// Objects on their way to whoever claimed them. Dropped on the way, they are given back.
#[derive(Debug)]
pub(crate) struct ClaimedPage {
    objects: Vec<StoredObject>,
    making: Making,
}

impl ClaimedPage {
    /// They have arrived.
    pub(crate) fn take(mut self) -> Vec<StoredObject> {
        std::mem::take(&mut self.objects)
    }
}

impl Drop for ClaimedPage {
    fn drop(&mut self) {
        if !self.objects.is_empty() {
            let claim = self.making.number;
            let objects = self.objects.iter();
            self.making.claims.end(objects.map(|object| (object.id, claim)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgehold_store::conformance::{id, object};

    #[test]
    fn a_claim_is_good_until_its_last_object_is_settled() {
        let claims = Claims::default();
        let making = claims.begin();
        assert_eq!(claims.good(), (vec![1], 1));
        let objects = making.page(vec![object(1), object(2)]).take();
        assert_eq!(objects.len(), 2);
        claims.end(claims.of([&id(1), &id(7)]));
        assert_eq!(claims.good(), (vec![1], 1));
        claims.end(claims.of([&id(2)]));
        assert_eq!(claims.good(), (vec![], 1));
    }

    #[test]
    fn a_verdict_ends_no_claim_that_was_made_after_it() {
        let claims = Claims::default();
        let ended = claims.of([&id(1)]);
        let objects = claims.begin().page(vec![object(1)]).take();
        claims.end(ended);
        assert_eq!(claims.good(), (vec![1], 1), "somebody has {objects:?}");
    }

    #[test]
    fn a_claim_lets_go_of_what_stays_and_ends_with_its_last_object() {
        let claims = Claims::default();
        let numbered = |number| StoredObject {
            seq: i64::try_from(number).unwrap() * 10,
            ..object(number)
        };
        let page = claims.begin().page((1..=3).map(numbered).collect());
        let verdict = |number, action| Verdict {
            id: id(number),
            action,
        };
        let removal = verdict(1, Action::Remove);
        let last = [
            verdict(2, Action::Remove),
            verdict(2, Action::Remove),
            verdict(3, Action::RELEASE),
        ];
        let whole = [removal.clone(), last[0].clone(), last[2].clone()];
        let is_being_made = claims.letting_go(&whole);
        assert_eq!((is_being_made.ended, is_being_made.seqs), (vec![], vec![30]));
        let objects = page.take();
        assert_eq!(objects.len(), 3);
        assert!(
            claims.letting_go([&removal]).is_nothing(),
            "a removal needs no more"
        );
        let released = claims.letting_go(&last);
        assert_eq!(
            (released.ended, released.shrunk, released.seqs),
            (vec![], vec![1], vec![30])
        );
        assert_eq!(claims.letting_go(&whole).ended, [1]);
        claims.end(claims.of([&id(1)]));
        assert_eq!(claims.letting_go(&last).ended, [1]);
    }

    #[test]
    fn a_page_that_is_dropped_on_the_way_is_given_back() {
        let claims = Claims::default();
        drop(claims.begin());
        drop(claims.begin().page(vec![object(1)]));
        assert_eq!(claims.good(), (vec![], 2));
    }
}
