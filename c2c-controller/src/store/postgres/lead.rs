//! A duty: an advisory lock of a connection that has nothing else to do. The server lets go of it with the connection, and
//! notices within 25 s that the other end is gone.

use super::session::{Droppable, FIRST_DUTY_LOCK, connect, failed};
use super::url::PostgresUrl;
use crate::store::{Duty, Lead, StoreError};

/// Takes the duty, unless another session has it.
pub(super) fn take(url: &PostgresUrl, duty: Duty) -> Result<Option<Box<dyn Lead>>, StoreError> {
    let failed = |error| failed("asked who leads", url, error);
    let mut client = connect(url).map_err(failed)?;
    let number = FIRST_DUTY_LOCK
        + match duty {
            Duty::ImportGroups => 0,
            Duty::CleanPolicies => 1,
        };
    let taken = client.query_one("SELECT pg_try_advisory_lock($1)", &[&number]).map_err(failed)?.get(0);
    Ok(if taken { Some(Box::new(Held(Droppable::new(client)))) } else { None })
}

#[derive(Debug)]
struct Held(Droppable);

impl Lead for Held {
    fn still(&mut self) -> bool {
        self.0.with(|client| client.simple_query("").is_ok()).unwrap_or(false)
    }
}
