//! Everything that needs sockets, in one binary.

mod bad_input;
mod smoke;
mod support;
mod wire_errors;
