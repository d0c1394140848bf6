//! A controller that serves cells of Silk, whose certificates are of another CA than ours, and a client that sends exactly
//! the bytes that it is given.

use crate::started::{issue, port_after};
use c2c_controller::pki;
use c2c_proto::tls::{self, Files, Identity, Role};
use c2c_proto::v1;
use c2c_proto::v1::agent_message::Message as ToController;
use c2c_proto::v1::controller_message::Message as FromController;
use c2c_proto::v1::fabric_client::FabricClient;
use c2c_proto::v1::operator_client::OperatorClient;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr};
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
const PATIENCE: Duration = Duration::from_secs(20);

/// A running controller. Killed when dropped.
pub(crate) struct Api {
    directory: TempDir,
    controller: Files,
    /// Of a component of Silk.
    pub(crate) silk: Files,
    child: Option<Child>,
    internal_port: u16,
    port: u16,
    /// Where it keeps its state.
    store: [String; 2],
}

impl Api {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    pub(crate) fn start_with(flags: &[&str]) -> Self {
        Self::start_on(None, flags)
    }

    /// One of several controllers on a database.
    pub(crate) fn replica(database: &str) -> Self {
        Self::start_on(Some(database), &[])
    }

    fn start_on(database: Option<&str>, flags: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for ca in ["pki", "silk"] {
            pki::init(&directory.path().join(ca), SystemTime::now()).unwrap();
        }
        let controller =
            issue(&directory.path().join("pki"), Role::Controller, "controller", Ipv4Addr::LOCALHOST);
        let silk = issue(&directory.path().join("silk"), Role::Operator, "silk-daemon", Ipv4Addr::LOCALHOST);
        let store = match database {
            Some(url) => ["--postgres".to_owned(), url.to_owned()],
            None => ["--data-dir".to_owned(), directory.path().join("data").to_str().unwrap().to_owned()],
        };
        let mut api = Self { directory, controller, silk, child: None, internal_port: 0, port: 0, store };
        api.serve(flags);
        api
    }

    /// Ends the controller at once and starts it again.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.serve(&[]);
    }

    fn serve(&mut self, flags: &[&str]) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_c2c-controller"));
        command.env_clear().stdin(Stdio::null()).stderr(Stdio::piped());
        command
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--metrics-address",
                "127.0.0.1:0",
                "--internal-listen",
                "127.0.0.1:0",
            ])
            .args(flags)
            .args(&self.store);
        for (flag, path) in [
            ("--ca", &self.controller.ca),
            ("--certificate", &self.controller.cert),
            ("--key", &self.controller.key),
            ("--internal-ca", &self.silk.ca),
        ] {
            command.arg(flag).arg(path);
        }
        let mut child = command.spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        self.internal_port = port_after(&mut log, "serving cells that run Silk address=127.0.0.1:");
        self.port = port_after(&mut log, "listening address=127.0.0.1:");
        // A log that nobody reads would stop the controller; shown when a test fails.
        std::thread::spawn(move || log.map_while(Result::ok).for_each(|line| println!("{line}")));
        self.child = Some(child);
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may be gone already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// A certificate of our own CA.
    pub(crate) fn ours(&self, role: Role, name: &str, address: Ipv4Addr) -> Files {
        issue(&self.directory.path().join("pki"), role, name, address)
    }

    /// A connection of a component of Silk, with any version of TLS.
    pub(crate) async fn connect(&self) -> Client {
        self.connect_as(Some(&self.silk), rustls::ALL_VERSIONS).await.unwrap()
    }

    pub(crate) async fn connect_as(
        &self,
        client: Option<&Files>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> std::io::Result<Client> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&self.controller.ca).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
        let config = config.with_root_certificates(roots);
        let config = match client {
            Some(files) => {
                let chain = vec![CertificateDer::from_pem_file(&files.cert).unwrap()];
                config
                    .with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(&files.key).unwrap())
                    .unwrap()
            }
            None => config.with_no_client_auth(),
        };
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.internal_port)).await?;
        let name = ServerName::from(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let stream = within(TlsConnector::from(Arc::new(config)).connect(name, stream)).await?;
        Ok(Client { stream })
    }

    /// One request on a connection of its own.
    pub(crate) async fn send(&self, method: &str, path: &str, body: &str) -> Reply {
        self.connect().await.send(method, path, body).await.unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, "").await
    }

    pub(crate) async fn put(&self, path: &str, body: &str) -> Reply {
        self.send("PUT", path, body).await
    }

    pub(crate) fn operator(&self) -> OperatorClient<Channel> {
        OperatorClient::new(self.channel(&self.ours(Role::Operator, "admin", Ipv4Addr::LOCALHOST)))
    }

    fn channel(&self, files: &Files) -> Channel {
        tls::channel(&format!("https://127.0.0.1:{}", self.port), Identity::load(files).unwrap()).unwrap()
    }

    /// What a c2c agent of this cell, which holds nothing, is told first.
    pub(crate) async fn hello(&self, cell: &str, underlay: Ipv4Addr) -> FromController {
        let files = self.ours(Role::Cell, &format!("agent-{underlay}"), underlay);
        let hello = v1::Hello {
            cell: cell.to_owned(),
            underlay_address: underlay.to_string(),
            protocol: 2,
            ..v1::Hello::default()
        };
        let hello = v1::AgentMessage { message: Some(ToController::Hello(hello)) };
        let (_open, messages) = tokio::sync::mpsc::channel::<v1::AgentMessage>(1);
        let messages = tokio_stream::StreamExt::chain(
            tokio_stream::iter([hello]),
            tokio_stream::wrappers::ReceiverStream::new(messages),
        );
        let mut fabric = FabricClient::new(self.channel(&files));
        let mut stream = within(fabric.sync(messages)).await.unwrap().into_inner();
        within(stream.message()).await.unwrap().unwrap().message.unwrap()
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A connection.
pub(crate) struct Client {
    stream: TlsStream<TcpStream>,
}

impl Client {
    /// A request with the headers that Go's client sends.
    pub(crate) async fn send(&mut self, method: &str, path: &str, body: &str) -> std::io::Result<Reply> {
        let length = match body {
            "" => String::new(),
            _ => format!("Content-Length: {}\r\n", body.len()),
        };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: silk-controller.service.cf.internal:4103\r\n\
             User-Agent: Go-http-client/1.1\r\n{length}Accept-Encoding: gzip\r\n\r\n{body}"
        );
        self.exchange(&request).await
    }

    /// A request of exactly these bytes.
    pub(crate) async fn exchange(&mut self, request: &str) -> std::io::Result<Reply> {
        within(self.stream.write_all(request.as_bytes())).await?;
        within(self.stream.flush()).await?;
        within(self.reply()).await
    }

    async fn reply(&mut self) -> std::io::Result<Reply> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.stream.read_u8().await?);
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        let header =
            |name: &str| head.split("\r\n").find_map(|line| line.strip_prefix(name)).map(str::to_owned);
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let length = header("content-length: ").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await?;
        Ok(Reply { status, body: String::from_utf8(body).unwrap(), head })
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: String,
    /// Status line and headers, in lower case.
    pub(crate) head: String,
}

impl Reply {
    /// Status and body.
    pub(crate) fn is(&self) -> (u16, &str) {
        (self.status, &self.body)
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// Fails the test instead of hanging.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("nothing happened for a long time")
}
