//! The one door to what the verifier guards: packet memory, maps and helper calls. Everything else is safe code.

pub mod action;
pub mod maps;
pub mod packet;
pub mod skb;
