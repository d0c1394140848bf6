//! Who follows the state: subscriptions to the ledger's commits, what of them concerns one agent, and which cells are
//! connected and how far each of them is.

mod filter;
mod sessions;
mod subscription;

pub use filter::Filter;
pub use sessions::{Enforcement, Replaced, Session, Sessions};
pub use subscription::{Next, Start, Subscription};
