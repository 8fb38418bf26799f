//! The trigger `http`: deliveries come in by `POST /api/v3/trigger`, and their responses are its answers.

use edgehold_core::Inlet;

use super::Ingress;

pub(super) fn build() -> Ingress {
    let (inlet, trigger) = Inlet::new();
    Ingress {
        inlet: Some(inlet),
        ..Ingress::alone(Box::new(trigger))
    }
}
