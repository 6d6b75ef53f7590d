//! The clients against this server.

mod connection;
mod overhead;
