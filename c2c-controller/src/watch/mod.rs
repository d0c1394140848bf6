//! Who follows the state: subscriptions to the ledger's commits, what of them concerns one agent, and which cells are
//! connected and how far each of them is.

mod filter;
mod hosted;
mod places;
mod sessions;
mod subscription;

pub use filter::{Filter, GroupNews};
pub use hosted::{Audience, Hosted, Moves};
pub use sessions::{Enforcement, Progress, Replaced, Session, Sessions};
pub use subscription::{News, Next, Start, Subscription};
