//! The binary from outside, where no server is needed: its commands, what the documents say of it, its image.

mod commands;
mod documents;
mod image;
