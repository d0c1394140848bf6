//! The agent's Unix socket: who may ask, how a request is read and answered. What the answer is, is the handler's.
//!
//! One connection carries one request and one reply, each one line of JSON; see `c2c_proto::agent_api`.

mod receive;
mod server;
mod socket;

pub use server::Handle;
pub use socket::{BindError, Socket};
