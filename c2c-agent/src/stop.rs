//! How a task is told to stop: it holds a [`Stop`], and waits for it beside its work.

use tokio::sync::watch;

/// Told when to stop.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

/// Tells when to stop; dropping it tells too.
#[derive(Debug)]
pub struct Stopper(watch::Sender<bool>);

/// A pair of them.
#[must_use]
pub fn channel() -> (Stopper, Stop) {
    let (tell, told) = watch::channel(false);
    (Stopper(tell), Stop(told))
}

impl Stopper {
    /// Says stop.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Stop {
    /// Ready once stop was said. When nobody is left who could say it, that is stop too.
    pub async fn said(&mut self) {
        drop(self.0.wait_for(|stop| *stop).await);
    }

    /// Whether stop was said.
    #[must_use]
    pub fn is_said(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }
}
