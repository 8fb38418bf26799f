//! Faults that the crash suite has to find. Never in what ships: only a build with the feature `fail-points` has them, and
//! only those that `EDGEHOLD_FAIL_POINT` names act in it.

use edgehold_core::{Ack, Delivery};

/// `acknowledge-early`: a delivery is acknowledged before anybody has it.
pub(crate) fn acknowledge_early(delivery: Delivery) -> Delivery {
    if std::env::var("EDGEHOLD_FAIL_POINT").is_ok_and(|name| name == "acknowledge-early") {
        delivery.ack.done();
        return Delivery {
            ack: Ack::none(),
            ..delivery
        };
    }
    delivery
}
