//! What must hold for whatever comes from outside: one function for each door, which panics when it does not hold.
//!
//! Owns the properties and the small models they are compared with. Does not own how inputs are made: `tests/fuzz` calls
//! these functions with bytes that libFuzzer grows (`make fuzz`, needs a nightly compiler), and the tests below replay its
//! corpus with every `cargo test`.
//!
//! `tests/fuzz/corpus/<target>` holds the inputs worth keeping. A named file is recorded EdgeX data or written by hand; one
//! whose name is a hash was found by the fuzzer because it reaches further code. An input that broke something is
//! put there, under a name that says what it broke, by the commit that repairs it.

mod cbor;
mod duration;
mod envelope;
mod event;
mod event_model;
mod functions;
mod json_logic;
mod kv_tree;
mod line_protocol;
mod topic_filter;
mod yaml;

pub use cbor::cbor;
pub use duration::duration;
pub use envelope::envelope;
pub use event::event;
pub use json_logic::json_logic;
pub use kv_tree::kv_tree;
pub use line_protocol::line_protocol;
pub use topic_filter::topic_filter;
pub use yaml::yaml;

#[cfg(test)]
mod replay;
