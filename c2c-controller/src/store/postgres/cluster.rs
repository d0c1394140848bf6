//! A database server of a test's own: a new cluster in a temporary directory, reached by a socket in it, ended with the
//! test. The system's own clusters are neither used nor touched. The server refuses to be root, so for root it is nobody.

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};
use postgres::{Client, NoTls};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

/// A running server.
pub(crate) struct Cluster {
    pub(super) directory: TempDir,
    pub(super) server: Child,
}

impl Cluster {
    /// Makes a cluster and starts it. It ends with this thread.
    pub(crate) fn start() -> Self {
        Self::start_in(Path::new("/tmp"))
    }

    /// With its directory in this one.
    pub(crate) fn start_in(parent: &Path) -> Self {
        let directory = directory_in(parent);
        let mut initdb = command(&directory, "initdb");
        initdb.args(["--auth=trust", "--username=c2c", "--encoding=UTF8", "--locale=C", "--no-sync", "-D"]);
        let made = initdb.arg(directory.path().join("data")).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let server = serve(&directory);
        let cluster = Self { directory, server };
        cluster.client();
        cluster
    }

    /// Where a database of the cluster is.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgresql://c2c@{}/{database}", self.host())
    }

    pub(super) fn host(&self) -> String {
        self.directory.path().to_str().unwrap().replace('/', "%2F")
    }

    /// A connection to the cluster's first database, as soon as it accepts one.
    pub(crate) fn client(&self) -> Client {
        self.client_of("postgres")
    }

    /// A connection to a database.
    pub(crate) fn client_of(&self, database: &str) -> Client {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match Client::connect(&self.url(database), NoTls) {
                Ok(client) => return client,
                Err(error) => {
                    assert!(Instant::now() < deadline, "no connection to the test's database: {error}");
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Makes an empty database and says where it is.
    pub(crate) fn database(&self, name: &str) -> String {
        self.client().batch_execute(&format!("CREATE DATABASE {name}")).unwrap();
        self.url(name)
    }

    /// Ends the server in the middle of whatever it does, as a power failure of its process would.
    pub(crate) fn crash(&mut self) {
        let pid = Pid::from_raw(i32::try_from(self.server.id()).unwrap());
        kill(pid, Signal::SIGQUIT).unwrap();
        self.server.wait().unwrap();
    }

    /// Starts it again.
    pub(crate) fn start_again(&mut self) {
        self.server = serve(&self.directory);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.server.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.crash();
        }
    }
}

/// One that the server may use.
pub(super) fn directory_in(parent: &Path) -> TempDir {
    let directory = tempfile::Builder::new().prefix("c2c-postgres-").tempdir_in(parent).unwrap();
    if geteuid().is_root() {
        let nobody = User::from_name("nobody").unwrap().unwrap();
        chown(directory.path(), Some(nobody.uid.as_raw()), Some(nobody.gid.as_raw())).unwrap();
    }
    directory
}

pub(super) fn serve(directory: &TempDir) -> Child {
    let mut server = command(directory, "postgres");
    server.arg("-D").arg(directory.path().join("data")).arg("-k").arg(directory.path());
    // The tests end processes and not machines, so nothing has to reach a disk.
    server.args(["-c", "listen_addresses=", "-c", "fsync=off"]);
    server.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// One of the server's programs, as a user who may run it. It ends with the thread that starts it.
pub(super) fn command(directory: &TempDir, program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "QUIT"]);
    if geteuid().is_root() {
        command.args(["--reuid", "nobody", "--regid", "nogroup", "--clear-groups"]);
    }
    command.arg("--").arg(programs().join(program)).current_dir(directory.path());
    command.env_remove("PGOPTIONS").stdin(Stdio::null());
    command
}

/// The newest version's, where Debian's packages put them.
fn programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("`cargo xtask setup` installs PostgreSQL");
    let version = |entry: std::io::Result<std::fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse().ok();
    let newest: Option<u32> = versions.filter_map(version).max();
    PathBuf::from(format!("/usr/lib/postgresql/{}/bin", newest.expect("a version of PostgreSQL")))
}
