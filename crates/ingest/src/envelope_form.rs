//! Which of its two encodings a bus has. Strict in both directions: a message in the other one is no envelope.

use edgehold_contracts::{EnvelopeError, Generation, MessageEnvelope};

/// How the envelopes of a message bus are encoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EnvelopeForm {
    /// JSON, as EdgeX has it unless told otherwise.
    #[default]
    Json,
    /// CBOR, payload and all (`EDGEX_MSG_CBOR_ENCODE=true`, EdgeX 4 only).
    Cbor,
}

impl EnvelopeForm {
    pub(crate) fn open(self, message: &[u8]) -> Result<MessageEnvelope, EnvelopeError> {
        match self {
            Self::Json => MessageEnvelope::from_json(message),
            Self::Cbor => MessageEnvelope::from_cbor(message),
        }
    }

    pub(crate) fn write(
        self,
        envelope: &MessageEnvelope,
        generation: Generation,
    ) -> Result<Vec<u8>, EnvelopeError> {
        match self {
            Self::Json => Ok(envelope.to_json(generation)),
            Self::Cbor => envelope.to_cbor(),
        }
    }
}
