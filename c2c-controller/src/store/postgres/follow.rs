//! How a controller hears of what others wrote: it listens on a connection of its own. A notification says the revision;
//! one that is missed costs time and nothing else, because nobody relies on them alone.

use super::session::{Droppable, connect};
use super::url::PostgresUrl;
use crate::domain::{Change, Commit, GroupName, GroupRules, Revision, SecurityGroup};
use postgres::Client;
use postgres::fallible_iterator::FallibleIterator;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The connection that listens.
#[derive(Debug, Default)]
pub(super) struct Follower {
    listening: Mutex<Option<Droppable>>,
}

impl Follower {
    /// Waits for a revision after the one that is known, or as long as is said. A connection that is made again may have
    /// missed some, so it waits for nothing.
    pub(super) fn wait(&self, url: &PostgresUrl, known: Revision, patience: Duration) {
        let mut listening = self.listening.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(client) = listening.as_mut() else {
            *listening = listen(url).ok().map(Droppable::new);
            if listening.is_none() {
                thread::sleep(patience);
            }
            return;
        };
        if let Some(Err(error)) = client.with(|client| hear(client, known, patience)) {
            tracing::warn!(%error, store = %url, "the connection that listens to the database was lost; it is made again");
            *listening = None;
        }
    }
}

fn listen(url: &PostgresUrl) -> Result<Client, postgres::Error> {
    let mut client = connect(url)?;
    client.batch_execute("LISTEN c2c")?;
    Ok(client)
}

fn hear(client: &mut Client, known: Revision, patience: Duration) -> Result<(), postgres::Error> {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let Some(heard) = client.notifications().timeout_iter(left).next()? else {
            // The iterator also ends with the connection, and only using it says which.
            return client.simple_query("").map(drop);
        };
        // What cannot be read is looked at, too.
        if heard.payload().parse().map_or(true, |revision| Revision::new(revision) > known) {
            return Ok(());
        }
    }
}

/// Whether a commit changed rules of a security group, which the log leaves out.
pub(super) fn lacks_rules(commit: &Commit) -> bool {
    commit.changes.iter().any(|change| matches!(change, Change::GroupRulesChanged(_)))
}

/// The log leaves the rules of security groups out; they are put in as they are after the last commit. A group that is gone
/// by then had some that nobody can read any more, and needs none.
pub(super) fn with_rules(commits: Vec<Commit>, groups: Vec<SecurityGroup>) -> Vec<Commit> {
    let groups: BTreeMap<GroupName, SecurityGroup> =
        groups.into_iter().map(|group| (group.name.clone(), group)).collect();
    let whole = |change: Change| {
        let Change::GroupRulesChanged(name) = change else { return change };
        let group = groups.get(&name);
        let rules = group.map_or_else(GroupRules::none, |group| group.rules.clone());
        Change::GroupSet { name, guid: group.and_then(|group| group.guid.clone()), rules }
    };
    let each =
        |Commit { revision, changes }| Commit { revision, changes: changes.into_iter().map(whole).collect() };
    commits.into_iter().map(each).collect()
}
