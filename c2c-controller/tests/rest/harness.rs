//! A controller with the policy API, and a client that sends exactly the bytes that it is given.

use crate::cc::{CloudController, World};
use crate::started::{issue, port_after};
use crate::uaa::{SECRET, Uaa};
use c2c_controller::backup::{self, Header};
use c2c_controller::domain::{Parts, Timestamp};
use c2c_controller::pki;
use c2c_controller::store::StoreId;
use c2c_proto::tls::{self, Files, Identity, Role};
use c2c_proto::v1::ListAccessRequest;
use c2c_proto::v1::operator_client::OperatorClient;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::Channel;

/// Longer than anything here takes on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A running controller with its UAA. Killed when dropped.
pub(crate) struct Api {
    pub(crate) uaa: Uaa,
    pub(crate) cc: CloudController,
    pub(crate) directory: TempDir,
    pub(crate) rest: Files,
    child: Child,
    rest_port: u16,
    port: u16,
}

impl Api {
    /// Without Cloud Controller: for administrators alone.
    pub(crate) async fn start() -> Self {
        Self::start_with(|_, _| {}).await
    }

    /// With Cloud Controller, and these flags.
    pub(crate) async fn with_cloud(flags: &[&str]) -> Self {
        Self::start_with(|command, cc| {
            command.args(["--cc-url", &cc.url]).args(flags).env("C2C_UAA_CLIENT_SECRET", SECRET);
        })
        .await
    }

    /// With security groups from Cloud Controller, which has this world at first.
    pub(crate) async fn importing(world: impl FnOnce(&mut World)) -> Self {
        Self::start_with(|command, cc| {
            world(&mut cc.world());
            let flags =
                ["--security-group-poll-seconds", "1", "--cc-internal-url", &cc.url, "--cc-url", &cc.url];
            command.args(flags).env("C2C_UAA_CLIENT_SECRET", SECRET);
        })
        .await
    }

    /// Over a store that was restored from a backup of this.
    pub(crate) async fn restored(parts: &Parts) -> Self {
        Self::start_with(|command, _| {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            let header = Header::new(&StoreId::from("0123"), Timestamp(0), parts);
            backup::write(&mut file, &header, parts).unwrap();
            let mut restore = Command::new(command.get_program());
            restore.arg("restore").arg(file.path());
            restore.args(command.get_args().skip_while(|flag| *flag != "--data-dir").take(2));
            assert!(restore.output().unwrap().status.success());
        })
        .await
    }

    async fn start_with(more: impl FnOnce(&mut Command, &CloudController)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        pki::init(&directory.path().join("pki"), SystemTime::now()).unwrap();
        let issue = |role, name| issue(&directory.path().join("pki"), role, name, Ipv4Addr::LOCALHOST);
        let uaa = Uaa::start(&issue(Role::Controller, "uaa")).await;
        let cc = CloudController::start(&issue(Role::Controller, "cc")).await;
        let (files, rest) = (issue(Role::Controller, "controller"), issue(Role::Controller, "rest"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_c2c-controller"));
        command.env_clear().stdin(Stdio::null()).stderr(Stdio::piped());
        command.args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--rest-listen",
            "127.0.0.1:0",
            "--metrics-address",
            "127.0.0.1:0",
        ]);
        command.args(["--rest-cors-origins", "https://apps.example.org", "--uaa-url", &uaa.url]);
        let data_dir = directory.path().join("data");
        for (flag, path) in [
            ("--data-dir", &data_dir),
            ("--ca", &files.ca),
            ("--certificate", &files.cert),
            ("--key", &files.key),
            ("--rest-certificate", &rest.cert),
            ("--rest-key", &rest.key),
        ] {
            command.arg(flag).arg(path);
        }
        more(&mut command, &cc);
        let mut child = command.spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let rest_port = port_after(&mut log, "serving the external policy API address=127.0.0.1:");
        let port = port_after(&mut log, "listening address=127.0.0.1:");
        // A log that nobody reads would stop the controller; shown when a test fails.
        std::thread::spawn(move || log.map_while(Result::ok).for_each(|line| println!("{line}")));
        Self { uaa, cc, directory, rest, child, rest_port, port }
    }

    /// A certificate for this machine's loopback; a new one each time.
    pub(crate) fn issue(&self, role: Role, name: &str) -> Files {
        issue(&self.directory.path().join("pki"), role, name, Ipv4Addr::LOCALHOST)
    }

    /// A connection, with any version of TLS.
    pub(crate) async fn connect(&self) -> Client {
        self.connect_with(rustls::ALL_VERSIONS).await
    }

    pub(crate) async fn connect_with(&self, versions: &[&'static SupportedProtocolVersion]) -> Client {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&self.rest.ca).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.rest_port)).await.unwrap();
        let name = ServerName::from(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST));
        let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
        Client { stream: within(connecting).await.unwrap() }
    }

    /// One request on a connection of its own, as an administrator.
    pub(crate) async fn admin(&self, method: &str, path: &str, body: &str) -> Reply {
        self.send(method, path, &[("Authorization", &self.uaa.bearer(&["network.admin"]))], body).await
    }

    pub(crate) async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        self.connect().await.send(method, path, headers, body).await
    }

    pub(crate) fn operator(&self) -> OperatorClient<Channel> {
        let operator = Identity::load(&self.issue(Role::Operator, "admin")).unwrap();
        OperatorClient::new(tls::channel(&format!("https://127.0.0.1:{}", self.port), operator).unwrap())
    }

    /// The store's revision and how many policies it has, as an operator sees them.
    pub(crate) async fn revision_and_policies(&self) -> (u64, usize) {
        let list = self.operator().list_access(ListAccessRequest::default()).await.unwrap();
        let list = list.into_inner();
        (list.revision, list.policies.len())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    pub(crate) fn wait(&mut self) -> bool {
        self.child.wait().unwrap().success()
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection to the policy API.
pub(crate) struct Client {
    stream: TlsStream<TcpStream>,
}

impl Client {
    pub(crate) fn certificate(&self) -> Vec<u8> {
        self.stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    }

    pub(crate) async fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Reply {
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: api.example.org\r\n");
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() {
            request.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        request.push_str("\r\n");
        request.push_str(body);
        self.send_bytes(request.as_bytes()).await
    }

    /// Sends these bytes and reads one reply.
    pub(crate) async fn send_bytes(&mut self, request: &[u8]) -> Reply {
        within(self.stream.write_all(request)).await.unwrap();
        within(self.stream.flush()).await.unwrap();
        within(self.reply()).await
    }

    async fn reply(&mut self) -> Reply {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        let (first, rest) = head.split_once("\r\n").unwrap();
        let header = |line: &str| {
            let (name, value) = line.split_once(": ").unwrap();
            (name.to_ascii_lowercase(), value.to_owned())
        };
        let headers: Vec<_> = rest.trim_end().split("\r\n").map(header).collect();
        let status = first.split(' ').nth(1).unwrap().parse().unwrap();
        let mut reply = Reply { status, headers, body: String::new() };
        let length = reply.header("content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await.unwrap();
        reply.body = String::from_utf8(body).unwrap();
        reply
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Status and body.
    pub(crate) fn is(&self) -> (u16, &str) {
        (self.status, &self.body)
    }
}

/// Fails the test instead of hanging.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("nothing happened for a long time")
}
