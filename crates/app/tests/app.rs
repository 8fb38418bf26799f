//! The binary from outside, where no message bus is needed: its commands, what the documents say of it, its image.

mod commands;
mod config_command;
mod documents;
mod image;
