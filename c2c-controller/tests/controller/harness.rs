//! A foundation on this machine's loopback: certificates, the controller's own binary, agents that speak the protocol.

use c2c_controller::pki::{self, Issued, Request};
use c2c_proto::MAX_MESSAGE_BYTES;
use c2c_proto::tls::{self, Files, Identity, Role};
use c2c_proto::v1;
use c2c_proto::v1::agent_message::Message as ToController;
use c2c_proto::v1::controller_message::Message as FromController;
use c2c_proto::v1::fabric_client::FabricClient;
use c2c_proto::v1::operator_client::OperatorClient;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::future::Future;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant, SystemTime};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

/// Longer than anything here takes on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// Certificates and a data directory; the controller runs when it is told to.
pub(crate) struct Foundation {
    directory: TempDir,
    pub(crate) controller: Files,
    pub(crate) operator: Files,
    port: u16,
}

impl Foundation {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        pki::init(&directory.path().join("pki"), SystemTime::now()).unwrap();
        let issue = |role, name| {
            issue(directory.path(), &Request { addresses: vec![LOOPBACK.into()], ..request(role, name) })
        };
        let (controller, operator) = (issue(Role::Controller, "controller"), issue(Role::Operator, "admin"));
        Self { directory, controller, operator, port: 0 }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.path().join("data")
    }

    pub(crate) fn address(&self) -> String {
        format!("https://{LOOPBACK}:{}", self.port)
    }

    /// The controller is one that the test itself made.
    pub(crate) fn is_at(&mut self, port: u16) {
        self.port = port;
    }

    /// A certificate of the foundation's own CA.
    pub(crate) fn issue(&self, request: &Request) -> Files {
        issue(self.path(), request)
    }

    /// A cell's certificate, for the underlay address 192.0.2.`number`.
    pub(crate) fn cell(&self, number: u8) -> Files {
        let name = format!("cell-{number}");
        let existing = self.path().join("pki").join(format!("{name}.crt"));
        if existing.exists() {
            let pki = self.path().join("pki");
            return Files { ca: pki.join("ca.crt"), cert: existing, key: pki.join(format!("{name}.key")) };
        }
        self.issue(&Request { addresses: vec![underlay(number)], ..request(Role::Cell, &name) })
    }

    /// Starts the controller, on the port that it had before if it ran before.
    pub(crate) fn start(&mut self) -> Controller {
        self.start_with(&[])
    }

    pub(crate) fn start_with(&mut self, flags: &[&str]) -> Controller {
        let listen = format!("{LOOPBACK}:{}", self.port);
        let mut command = self.serve_command();
        command.args(["--listen", &listen]).args(flags);
        let controller = Controller::start(command);
        self.port = controller.port;
        controller
    }

    /// `serve` without `--listen`.
    pub(crate) fn serve_command(&self) -> Command {
        let mut command = binary();
        command.args(["serve", "--data-dir"]).arg(self.data_dir());
        command.arg("--ca").arg(&self.controller.ca);
        command.arg("--certificate").arg(&self.controller.cert).arg("--key").arg(&self.controller.key);
        command
    }

    /// Runs an operator's command to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        self.run_as(&self.operator, arguments)
    }

    pub(crate) fn run_as(&self, files: &Files, arguments: &[&str]) -> Ran {
        let mut command = binary();
        command.args(arguments).arg("--controller").arg(self.address());
        command.arg("--ca").arg(&files.ca).arg("--certificate").arg(&files.cert).arg("--key").arg(&files.key);
        Ran::from(command.output().unwrap())
    }

    /// Runs an operator's command beside agents that are to answer meanwhile.
    pub(crate) async fn run_beside(&self, arguments: &[&str]) -> Ran {
        let mut command = tokio::process::Command::from(binary());
        command.args(arguments).arg("--controller").arg(self.address());
        let files = &self.operator;
        command.arg("--ca").arg(&files.ca).arg("--certificate").arg(&files.cert).arg("--key").arg(&files.key);
        Ran::from(within(command.output()).await.unwrap())
    }

    pub(crate) fn operator(&self) -> OperatorClient<Channel> {
        self.operator_as(&self.operator)
    }

    pub(crate) fn operator_as(&self, files: &Files) -> OperatorClient<Channel> {
        let identity = Identity::load(files).unwrap();
        OperatorClient::new(tls::channel(&self.address(), identity).unwrap())
    }

    /// Opens a stream as a cell and says hello.
    pub(crate) async fn connect(&self, number: u8, hello: v1::Hello) -> Agent {
        self.connect_as(&self.cell(number), hello).await.unwrap()
    }

    pub(crate) async fn connect_as(&self, files: &Files, hello: v1::Hello) -> Result<Agent, Status> {
        let channel = tls::channel(&self.address(), Identity::load(files).unwrap()).unwrap();
        let (say, said) = mpsc::channel(16);
        say.send(v1::AgentMessage { message: Some(ToController::Hello(hello)) }).await.unwrap();
        let mut client = FabricClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let stream = within(client.sync(ReceiverStream::new(said))).await?;
        Ok(Agent { say, heard: stream.into_inner() })
    }
}

pub(crate) fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_c2c-controller"));
    // Several run at the same time.
    command.env_clear().env("C2C_METRICS_ADDRESS", "127.0.0.1:0").stdin(Stdio::null());
    command
}

pub(crate) fn request(role: Role, name: &str) -> Request {
    Request::for_days(role, name, 1, SystemTime::now())
}

pub(crate) fn issue(directory: &Path, request: &Request) -> Files {
    let pki = directory.join("pki");
    let Issued { ca, certificate, key } = pki::issue(&pki, &pki, request).unwrap();
    Files { ca, cert: certificate, key }
}

pub(crate) fn underlay(number: u8) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, number).into()
}

/// The hello of cell `number`, which has nothing yet.
pub(crate) fn hello(number: u8, apps: &[&str]) -> v1::Hello {
    v1::Hello {
        cell: format!("cell-{number}"),
        underlay_address: underlay(number).to_string(),
        apps: apps.iter().map(|app| (*app).to_owned()).collect(),
        protocol: 2,
        ..v1::Hello::default()
    }
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap().trim_end().to_owned();
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

impl Ran {
    /// What it printed, when it succeeded.
    pub(crate) fn ok(self) -> String {
        assert_eq!((self.code, self.err.as_str()), (Some(0), ""), "{}", self.out);
        self.out
    }

    pub(crate) fn json(self) -> Value {
        serde_json::from_str(&self.ok()).unwrap()
    }

    /// Its one line about a failure, when it failed with this code and printed nothing else.
    pub(crate) fn failed(self, code: i32) -> String {
        assert_eq!((self.code, self.out.as_str()), (Some(code), ""), "{}", self.err);
        assert_eq!(self.err.lines().count(), 1, "{}", self.err);
        self.err
    }
}

/// A running controller; killed when dropped.
pub(crate) struct Controller {
    child: Child,
    port: u16,
    /// Where its pages are.
    pub(crate) pages: SocketAddr,
    log: std::sync::mpsc::Receiver<String>,
}

impl Controller {
    fn start(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut seen = Vec::new();
        let (port, pages) = loop {
            let Some(Ok(line)) = log.next() else {
                panic!("the controller did not start:\n{}", seen.join("\n"))
            };
            if let Some((_, rest)) = line.split_once("listening address=127.0.0.1:") {
                let pages = rest.split(' ').find_map(|word| word.strip_prefix("metrics="));
                let port = rest.split(' ').next().unwrap().parse().unwrap();
                break (port, pages.unwrap().parse().unwrap());
            }
            seen.push(line);
        };
        // A log that nobody reads would stop the controller; shown when a test fails.
        let (told, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in log.map_while(Result::ok) {
                println!("{line}");
                // Most tests do not ask.
                let _ = told.send(line);
            }
        });
        Self { child, port, pages, log: lines }
    }

    /// Waits until it logs this.
    pub(crate) fn logs(&self, expected: &str) {
        while !self.log.recv_timeout(PATIENCE).unwrap().contains(expected) {}
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    /// As `kill -9`.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// As systemd stops it.
    pub(crate) fn terminate(mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait()
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.child.try_wait().unwrap() {
                Some(status) => return status,
                None => assert!(Instant::now() < deadline, "the controller does not stop"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The other end of a stream.
pub(crate) struct Agent {
    say: mpsc::Sender<v1::AgentMessage>,
    heard: Streaming<v1::ControllerMessage>,
}

impl Agent {
    pub(crate) async fn say(&self, message: ToController) {
        assert!(self.try_say(message).await, "the stream has ended");
    }

    /// Whether there was still a stream to say it on.
    pub(crate) async fn try_say(&self, message: ToController) -> bool {
        within(self.say.send(v1::AgentMessage { message: Some(message) })).await.is_ok()
    }

    pub(crate) async fn applied(&self, revision: u64) {
        self.say(ToController::Applied(v1::Applied { revision })).await;
    }

    /// The next message, or how the stream ended: `None` when in order.
    pub(crate) async fn next(&mut self) -> Result<Option<FromController>, Status> {
        Ok(within(self.heard.message()).await?.map(|message| message.message.unwrap()))
    }

    async fn expect(&mut self) -> FromController {
        self.next().await.unwrap().expect("the stream ended")
    }

    pub(crate) async fn grant(&mut self) -> v1::LeaseGrant {
        let FromController::LeaseGrant(grant) = self.expect().await else { panic!("not a grant") };
        grant
    }

    pub(crate) async fn snapshot(&mut self) -> v1::Snapshot {
        let FromController::Snapshot(snapshot) = self.expect().await else { panic!("not a snapshot") };
        snapshot
    }

    pub(crate) async fn delta(&mut self) -> v1::Delta {
        let message = self.expect().await;
        let FromController::Delta(delta) = message else { panic!("not a delta: {message:?}") };
        delta
    }

    /// The delta that reaches a revision, with all changes on the way.
    pub(crate) async fn delta_to(&mut self, revision: u64) -> v1::Delta {
        let mut sum = self.delta().await;
        while sum.to_revision < revision {
            let next = self.delta().await;
            assert_eq!(next.from_revision, sum.to_revision);
            sum.to_revision = next.to_revision;
            sum.changes.extend(next.changes);
        }
        sum
    }

    pub(crate) async fn view(&mut self) -> v1::AppsView {
        let FromController::AppsView(view) = self.expect().await else { panic!("not a view") };
        view
    }

    pub(crate) async fn heartbeat_ack(&mut self) -> v1::HeartbeatAck {
        let FromController::HeartbeatAck(ack) = self.expect().await else { panic!("not an ack") };
        ack
    }

    pub(crate) async fn refused(&mut self) -> v1::LeaseRefused {
        let FromController::LeaseRefused(refused) = self.expect().await else { panic!("not refused") };
        assert!(matches!(self.next().await, Ok(None)), "a refusal ends the stream");
        refused
    }
}

/// Fails the test instead of hanging.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("nothing happened for a long time")
}

/// Status line, headers and body of a page.
pub(crate) async fn page(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let get = format!("GET {path} HTTP/1.1\r\nHost: c2c\r\nConnection: close\r\n\r\n");
    stream.write_all(get.as_bytes()).await.unwrap();
    let mut said = String::new();
    within(stream.read_to_string(&mut said)).await.unwrap();
    said
}

/// Waits until the controller says that it is ready, or that it is not and why.
pub(crate) async fn readiness_becomes(pages: SocketAddr, status: &str, reason: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let said = page(pages, "/readyz").await;
        if said.starts_with(&format!("HTTP/1.1 {status}")) && said.contains(reason) {
            return;
        }
        assert!(Instant::now() < deadline, "expected {status} and {reason:?}: {said}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
