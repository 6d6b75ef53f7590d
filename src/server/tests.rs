//! Tests that look into the server.

mod links;
