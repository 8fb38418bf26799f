//! The conformance suite: against the providers in memory and over files, and against ones that are wrong.

#[path = "providers/behind.rs"]
mod behind;
#[path = "providers/faulty.rs"]
mod faulty;

mod memory {
    use super::behind::memory;

    edgehold_config::provider_conformance!(memory);
    edgehold_config::key_value_conformance!(memory);
}

mod files {
    use super::behind::files;

    edgehold_config::provider_conformance!(files);
}
