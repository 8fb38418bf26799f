//! Tests over the whole workspace, in one binary. Each module is a suite of its own and says what it holds.

mod architecture;

// End to end: the real binary against the real servers.
mod at_rest;
mod bad_input;
mod batch;
mod bounce;
mod buses;
mod configuration_weaknesses;
mod consul;
mod copies;
mod disk;
mod edits;
mod exports;
mod external_mqtt;
mod faults;
mod files;
mod http_trigger;
mod keeper;
mod kill;
mod main_job;
mod messages;
mod moving_in;
mod pairs;
mod postgres;
mod profiles;
mod random;
mod redrive;
mod rest;
mod secrets;
mod sessions;
mod settings;
mod shell;
mod store_and_forward;
mod support;
mod takeover;
mod tap;
mod telemetry;
mod weaknesses;
