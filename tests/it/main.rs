//! Everything that needs sockets, in one binary.

mod smoke;
mod support;
mod wire_errors;
