//! Cloud Controller, as far as policies need it: which apps there are and in which spaces, who is a space developer where,
//! and the security groups. Asked with a token of our own, which the UAA gives for our client's secret.
//!
//! `tokens` has that token, `controller` reads Cloud Controller's lists whole or not at all, and `access` says what somebody may do who is no administrator. `cleaner` removes the policies
//! of apps that are gone; `importer` makes our security groups Cloud Controller's, whose words `groups` reads. Of
//! several controllers one at a time does each of the two, by `turn`.

mod access;
mod cleaner;
mod controller;
pub(crate) mod groups;
mod importer;
mod tokens;
mod turn;

pub(crate) use cleaner::run as run_cleaner;
pub(crate) use controller::{CloudError, Developer};
pub use importer::ImportSettings;
pub(crate) use importer::Importer;
pub(crate) use tokens::basic;

use crate::domain::{AppId, SpaceId};
use crate::https::{Https, Server, SetupError};
use crate::memory::Memory;
use controller::Controller;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokens::Tokens;
use tokio::time::Instant;

/// How long an app is known to be in its space. It never moves to another; one that was deleted is no longer known after
/// this time, and policies that were made for it meanwhile are cleaned like others.
const APP_AGE: Duration = Duration::from_secs(300);
/// Apps that are asked for and remembered at a time: what fits into one request of [`Controller::spaces_of`].
const PIECE: usize = 200;
/// Policies name at most 65,535 apps, because each has a tag. At some 150 bytes each it is 10 MB.
const APPS: usize = 65_536;
/// How long somebody is known to be a space developer: scripts call `cf` every second or two, and who loses the role keeps
/// it here for half a minute.
const ROLE_AGE: Duration = Duration::from_secs(30);
/// Some hundred users in some tens of spaces at once; some 3 MB.
const ROLES: usize = 16_384;

/// Which Cloud Controller, and who we are to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where it is: `https://HOST[:PORT]`.
    pub url: String,
    /// The CAs (PEM) that may sign its certificate.
    pub ca: PathBuf,
    /// Where the UAA is whose tokens it takes.
    pub uaa_url: String,
    /// The CAs (PEM) that may sign that one's certificate.
    pub uaa_ca: PathBuf,
    /// Our client at the UAA.
    pub client: Client,
}

/// A client of the UAA.
#[derive(Clone, PartialEq, Eq)]
pub struct Client {
    /// Its name.
    pub id: String,
    /// Its secret, which is shown nowhere.
    pub secret: String,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Cloud Controller. Cheap to clone; clones share connections, token and memory.
#[derive(Clone, Debug)]
pub struct Cloud {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    controller: Controller,
    spaces: Mutex<Memory<AppId, SpaceId>>,
    developers: Mutex<Memory<(Developer, SpaceId), ()>>,
}

impl Cloud {
    /// Asks nobody yet.
    ///
    /// # Errors
    /// When a URL cannot be one, or a CA file cannot be used.
    pub fn new(settings: &Settings) -> Result<Self, SetupError> {
        let server = |name, url: &str, url_key, ca: &PathBuf, ca_key| {
            Https::new(&Server { name, url: url.to_owned(), url_key, ca: ca.clone(), ca_key, identity: None })
        };
        let uaa = server("the UAA", &settings.uaa_url, "uaa_url", &settings.uaa_ca, "uaa_ca")?;
        let https = server("Cloud Controller", &settings.url, "cc_url", &settings.ca, "cc_ca")?;
        let shared = Shared {
            controller: Controller::new(https, Tokens::new(uaa, &settings.client)),
            spaces: Mutex::new(Memory::new(APPS, APP_AGE)),
            developers: Mutex::new(Memory::new(ROLES, ROLE_AGE)),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The spaces of those of the apps that Cloud Controller knows.
    async fn spaces_of(&self, apps: &BTreeSet<AppId>) -> Result<BTreeMap<AppId, SpaceId>, CloudError> {
        let (mut spaces, unknown) = lock(&self.shared.spaces).recall(apps.iter().cloned(), Instant::now());
        let unknown: Vec<_> = unknown.into_iter().collect();
        // Kept piece by piece: who asks for more than fits into the time of one request has it when he asks again.
        for piece in unknown.chunks(PIECE) {
            let piece = piece.iter().cloned().collect();
            let found = self.shared.controller.spaces_of(&piece).await?;
            lock(&self.shared.spaces).keep(found.clone(), Instant::now());
            spaces.extend(found);
        }
        Ok(spaces)
    }

    /// Those of the spaces in which somebody is a space developer.
    async fn developed(
        &self,
        developer: &Developer,
        spaces: &BTreeSet<SpaceId>,
    ) -> Result<BTreeSet<SpaceId>, CloudError> {
        let pairs = spaces.iter().map(|space| (developer.clone(), space.clone()));
        let (known, unknown) = lock(&self.shared.developers).recall(pairs, Instant::now());
        let mut developed: BTreeSet<SpaceId> = known.into_keys().map(|(_, space)| space).collect();
        if !unknown.is_empty() {
            let unknown = unknown.into_iter().map(|(_, space)| space).collect();
            let found = self.shared.controller.developed(developer, &unknown).await?;
            let kept = found.iter().map(|space| ((developer.clone(), space.clone()), ()));
            lock(&self.shared.developers).keep(kept, Instant::now());
            developed.extend(found);
        }
        Ok(developed)
    }
}

/// What is remembered is whole even when somebody panicked beside it.
fn lock<T>(memory: &Mutex<T>) -> MutexGuard<'_, T> {
    memory.lock().unwrap_or_else(PoisonError::into_inner)
}
