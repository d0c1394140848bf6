//! A second server that follows the first, for tests of a failover.

use super::cluster::{Cluster, command, directory_in, serve};
use std::path::Path;

impl Cluster {
    /// Starts a standby of this cluster, and has this one acknowledge from now on what the standby has, too.
    pub(super) fn standby(&self) -> Self {
        let directory = directory_in(Path::new("/tmp"));
        let mut backup = command(&directory, "pg_basebackup");
        let primary = format!("host={} user=c2c", self.directory.path().display());
        backup.args(["--checkpoint=fast", "--no-sync", "-R", "-d", &primary, "-D"]);
        let made = backup.arg(directory.path().join("data")).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let server = serve(&directory);
        let standby = Self { directory, server };
        standby.client();
        let names = "ALTER SYSTEM SET synchronous_standby_names = '*'";
        let mut client = self.client();
        client.execute(names, &[]).unwrap();
        client.execute("SELECT pg_reload_conf()", &[]).unwrap();
        standby
    }

    /// Where a database is that the cluster has, or else the other one, whichever is the primary.
    pub(super) fn url_of_both(&self, other: &Self, database: &str) -> String {
        let [one, two] = [self, other].map(Self::host);
        format!("postgresql://c2c@{one},{two}/{database}?target_session_attrs=read-write")
    }
}
