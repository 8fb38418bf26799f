//! Which claims of this process are good, and which objects they handed out. The leases themselves are rows; this says
//! which of them somebody here still answers for.
//!
//! *A verdict may be written and nobody hear of it*: the connection is lost before the answer, or whoever asked has stopped
//! waiting. It is asked for again. Until its answer has been heard, its object is in somebody's hands here: a claim that
//! finds it in the tables leaves it out, and holds it until then. The verdict itself changes nothing but what its own claim
//! has leased: what others have made of the object since is theirs.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use edgehold_core::{
    StoredObject, StoredObjectId,
    retry::{Action, Verdict},
};
use tokio::sync::Notify;
use uuid::Uuid;

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
    /// What somebody here has in hand: what was handed out, and whatever a verdict is being written for.
    in_hand: HashMap<StoredObjectId, InHand>,
}

/// The claim of what no claim has handed out: its run has begun with it, or it waits in a batch.
const NO_CLAIM: i64 = 0;

#[derive(Clone, Copy, Debug)]
struct InHand {
    claim: i64,
    /// The place of the object, when it was claimed.
    seq: i64,
    /// Its verdict may have been written.
    in_doubt: bool,
    /// The claim that has found it in nobody's hands since: it was written.
    again: Option<i64>,
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
    /// What may be changed while it is failed only by the claims it belongs to.
    pub(crate) bound: Vec<Uuid>,
    /// Those claims.
    pub(crate) bound_to: Vec<i64>,
}

impl LettingGo {
    pub(crate) fn is_nothing(&self) -> bool {
        self.ended.is_empty() && self.shrunk.is_empty()
    }
}

impl InHand {
    fn by(claim: i64, seq: i64) -> Self {
        Self {
            claim,
            seq,
            in_doubt: false,
            again: None,
        }
    }

    /// The claims that have leased it.
    fn claims(self) -> impl Iterator<Item = i64> {
        let first = (self.claim != NO_CLAIM).then_some(self.claim);
        first.into_iter().chain(self.again)
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

    /// Verdicts are about to be written: their objects are in hand until that has been heard. Answers which, by which
    /// claims. A removal leaves nothing that could be claimed meanwhile.
    pub(crate) fn settling<'a>(
        &self,
        verdicts: impl IntoIterator<Item = &'a Verdict>,
    ) -> Vec<(StoredObjectId, i64)> {
        let mut known = self.known();
        let mut settling = Vec::new();
        for Verdict { id, action } in verdicts {
            let claim = match known.in_hand.get(id) {
                Some(found) => found.claim,
                None if *action == Action::Remove => continue,
                None => {
                    known.in_hand.insert(*id, InHand::by(NO_CLAIM, 0));
                    NO_CLAIM
                }
            };
            settling.push((*id, claim));
        }
        settling
    }

    /// Verdicts for these may have been written, and will be asked for again.
    pub(crate) fn doubt<'a>(&self, ids: impl IntoIterator<Item = &'a StoredObjectId>) {
        let mut known = self.known();
        for id in ids {
            if let Some(found) = known.in_hand.get_mut(id) {
                found.in_doubt = true;
            }
        }
    }

    /// Whether any of these is in somebody's hands.
    pub(crate) fn has_any(&self, objects: &[StoredObject]) -> bool {
        let known = self.known();
        objects
            .iter()
            .any(|object| known.in_hand.contains_key(&object.id))
    }

    /// What these verdicts change of leases. What is removed may stay in the list of its claim.
    pub(crate) fn letting_go<'a>(&self, verdicts: impl IntoIterator<Item = &'a Verdict>) -> LettingGo {
        let known = self.known();
        let mut letting_go = LettingGo::default();
        let mut claims: HashMap<i64, (HashSet<StoredObjectId>, Vec<i64>)> = HashMap::new();
        let mut bound_to = HashSet::new();
        for Verdict { id, action } in verdicts {
            let Some(found) = known.in_hand.get(id) else {
                continue;
            };
            let stays = *action != Action::Remove;
            if stays && (found.claim != NO_CLAIM || found.in_doubt) {
                letting_go.bound.push(id.as_uuid());
                bound_to.insert(found.claim);
            }
            for claim in found.claims() {
                let (settled, staying) = claims.entry(claim).or_default();
                settled.insert(*id);
                if stays {
                    staying.push(found.seq);
                }
            }
        }
        letting_go.bound_to.extend(bound_to);
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

    /// For these nobody answers any more, as far as they are in hand by these claims.
    pub(crate) fn end(&self, ended: impl IntoIterator<Item = (StoredObjectId, i64)>) {
        let mut known = self.known();
        for (id, claim) in ended {
            if let Some(found) = known.in_hand.get(&id).copied()
                && found.claim == claim
            {
                known.in_hand.remove(&id);
                for claim in found.claims() {
                    known.let_go(claim);
                }
            }
        }
    }

    /// Another instance has taken everything over. What is in somebody's hands here stays there until its verdict.
    pub(crate) fn forget_all(&self) {
        self.known().good.clear();
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
    /// A page to be handed out: from now on each of its objects answers for the claim. What is in somebody's hands already
    /// answers for it too, and is left out.
    pub(crate) fn page(self, mut objects: Vec<StoredObject>) -> ClaimedPage {
        let mut known = self.claims.known();
        let leased = objects.len();
        objects.retain(|object| {
            let Some(found) = known.in_hand.get_mut(&object.id) else {
                let in_hand = InHand::by(self.number, object.seq);
                known.in_hand.insert(object.id, in_hand);
                return true;
            };
            found.seq = object.seq;
            if let Some(before) = found.again.replace(self.number) {
                known.let_go(before);
            }
            false
        });
        // None when this instance was taken over meanwhile.
        if let Some(count) = known.good.get_mut(&self.number) {
            *count += leased;
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
    pub(crate) fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

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

    fn verdict(number: u64, action: Action) -> Verdict {
        Verdict {
            id: id(number),
            action,
        }
    }

    #[test]
    fn a_claim_is_good_until_its_last_object_is_settled() {
        let claims = Claims::default();
        let making = claims.begin();
        assert_eq!(claims.good(), (vec![1], 1));
        let objects = making.page(vec![object(1), object(2)]).take();
        assert_eq!(objects.len(), 2);
        let removals = |numbers: &[u64]| {
            numbers
                .iter()
                .map(|number| verdict(*number, Action::Remove))
                .collect::<Vec<_>>()
        };
        claims.end(claims.settling(&removals(&[1, 7])));
        assert_eq!(claims.good(), (vec![1], 1));
        claims.end(claims.settling(&removals(&[2])));
        assert_eq!(claims.good(), (vec![], 1));
    }

    #[test]
    fn what_a_verdict_is_written_for_is_left_out_until_it_is_heard() {
        for claimed in [false, true] {
            // given a verdict that nobody has heard of, for what was claimed, or for what was begun without a claim
            let claims = Claims::default();
            let release = [verdict(1, Action::RELEASE)];
            if claimed {
                claims.begin().page(vec![object(1)]).take();
            }
            let settling = claims.settling(&release);
            assert_eq!(claims.letting_go(&release).bound.len(), usize::from(claimed));
            claims.doubt([&id(1)]);
            // when a claim finds it in the tables
            let later = claims.begin();
            let number = later.number;
            assert_eq!(later.page(vec![object(1)]).take(), []);
            // then the claim holds it until the verdict was heard, which is not the claim's own
            let again = claims.letting_go(&release);
            assert!(again.ended.contains(&number), "{again:?}");
            assert_eq!((again.bound.len(), again.bound_to.contains(&number)), (1, false));
            assert!(claims.good().0.contains(&number));
            claims.end(settling);
            assert_eq!(claims.good().0, Vec::<i64>::new());
            assert_eq!(claims.begin().page(vec![object(1)]).take().len(), 1);
        }
    }

    #[test]
    fn a_verdict_that_was_heard_ends_no_claim_that_was_made_after_it() {
        let claims = Claims::default();
        let ended = claims.settling(&[verdict(1, Action::Remove)]);
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
        claims.end(claims.settling([&removal]));
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
