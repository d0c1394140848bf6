//! The certificates that the controller shows: read again when their files change or when we are told to, and what is
//! wrong with them.

use crate::domain::Timestamp;
use c2c_proto::tls::{FileWatch, Identity, ServerCertificate, TlsError};
use std::error::Error;
use std::path::PathBuf;

/// All of them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Certificates {
    /// What agents and operators are shown.
    pub identity: Identity,
    /// What clients of the HTTP APIs are shown, each with the API's name.
    pub servers: Vec<(&'static str, ServerCertificate)>,
}

impl Certificates {
    /// Reads them again. Those that cannot be used are logged, and what was read before stays.
    pub fn reload(&self) {
        report("controller", self.identity.reload());
        for (name, certificate) in &self.servers {
            report(name, certificate.reload());
        }
    }

    /// Reads them again whenever one of their files changes; never ends. `watch` watches [`Certificates::files`].
    pub async fn follow(self, mut watch: FileWatch) {
        loop {
            watch.changed().await;
            self.reload();
        }
    }

    /// Where they are read from.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let files = self.identity.files();
        let servers = self.servers.iter().flat_map(|(_, certificate)| certificate.files());
        [&files.ca, &files.cert, &files.key].into_iter().cloned().chain(servers.map(PathBuf::from)).collect()
    }

    /// When those in use end, in seconds since 1970, and who shows them.
    pub fn expiry(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let servers = self.servers.iter().map(|(name, certificate)| (*name, certificate.expires()));
        std::iter::once(("controller", self.identity.expires())).chain(servers)
    }

    /// Those that nobody accepts any more, a line each.
    #[must_use]
    pub fn problems(&self, now: Timestamp) -> Vec<String> {
        let over = self.expiry().filter(|(_, at)| *at < now.0);
        let line =
            |(by, at)| format!("the certificate of {by} expired {} s ago", Timestamp(at).seconds_until(now));
        over.map(line).collect()
    }
}

fn report(whose: &str, reloaded: Result<(), TlsError>) {
    match reloaded {
        Ok(()) => tracing::info!(whose, "certificates were read again"),
        Err(error) => {
            let error = &error as &dyn Error;
            tracing::error!(error, whose, "the certificates cannot be used; those read before stay in use");
        }
    }
}
