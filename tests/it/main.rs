//! Everything that needs sockets, in one binary.

mod smoke;
mod support;
