//! An agent that answers as a test tells it, on a real socket, and the shim's real process.

use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::unistd::gettid;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{IoSliceMut, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use tempfile::TempDir;

/// What the agent was asked: the request, and the inode of the namespace that came with it.
type Asked = Vec<(Value, Option<u64>)>;

/// An agent. Its socket, and everything else of a test, is in a directory that goes with it.
pub(crate) struct Agent {
    dir: TempDir,
    asked: Arc<Mutex<Asked>>,
}

impl Agent {
    /// An agent that answers each request so; `None`: it takes the request and stays silent.
    pub(crate) fn answering(answer: impl Fn(&Value) -> Option<Value> + Send + 'static) -> Self {
        let agent = Self { dir: TempDir::new().unwrap(), asked: Arc::default() };
        let listener = UnixListener::bind(agent.socket()).unwrap();
        let asked = Arc::clone(&agent.asked);
        thread::spawn(move || {
            let mut silent = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let (request, netns) = receive(&stream);
                let reply = answer(&request);
                asked.lock().unwrap().push((request, netns));
                match reply {
                    Some(reply) => _ = writeln!(stream, "{reply}"),
                    None => silent.push(stream),
                }
            }
        });
        agent
    }

    /// No agent at all.
    pub(crate) fn away() -> Self {
        Self { dir: TempDir::new().unwrap(), asked: Arc::default() }
    }

    /// Where it listens.
    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("agent.sock")
    }

    /// Where DELs are left for it.
    pub(crate) fn pending(&self) -> PathBuf {
        self.dir.path().join("pending")
    }

    /// The DELs that are left for it.
    pub(crate) fn left(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.pending()) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// A file beside its socket.
    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// What it was asked since this was called last.
    pub(crate) fn asked(&self) -> Asked {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

/// The shim, with nothing of this process's environment.
pub(crate) fn shim() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_c2c-cni"));
    command.env_clear();
    command
}

/// Runs a command that says nothing before it has read its input.
pub(crate) fn run(mut command: Command, stdin: &str) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let written = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    let output = child.wait_with_output().unwrap();
    assert!(written.is_ok() || stdin == "null", "only `down` may leave its input alone");
    output
}

/// What a container's wiring is answered with.
pub(crate) fn added(more: &Value) -> Value {
    let mut added = json!({
        "host": {"name": "s-010255077002", "mac": "aa:aa:0a:ff:4d:02"},
        "container": {"name": "eth0", "mac": "ee:ee:0a:ff:4d:02"},
        "address": "10.255.77.2",
        "gateway": "169.254.0.1",
        "mtu": 1450,
        "cell_address": "10.0.16.4",
    });
    added.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({ "ok": added })
}

/// A thread in a network namespace of its own, which stands for a container's process.
pub(crate) struct Process {
    /// Its thread id, which `/proc` knows as well as a process id.
    pub(crate) pid: i32,
    _end: mpsc::Sender<()>,
}

impl Process {
    pub(crate) fn new() -> Self {
        let (say, said) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace; these tests need root");
            say.send(gettid().as_raw()).unwrap();
            _ = ended.recv();
        });
        Self { pid: said.recv().unwrap(), _end: end }
    }

    /// The path of its namespace.
    pub(crate) fn netns(&self) -> String {
        format!("/proc/{}/ns/net", self.pid)
    }

    /// Which namespace that is.
    pub(crate) fn inode(&self) -> u64 {
        inode(Path::new(&self.netns()))
    }
}

fn inode(path: &Path) -> u64 {
    File::open(path).unwrap().metadata().unwrap().ino()
}

/// One line, and the inode of what came with it.
fn receive(stream: &UnixStream) -> (Value, Option<u64>) {
    let (mut line, mut netns) = (Vec::new(), None);
    while line.last() != Some(&b'\n') {
        let mut chunk = [0; 65_536];
        let mut space = nix::cmsg_space!([RawFd; 1]);
        let mut parts = [IoSliceMut::new(&mut chunk)];
        let received =
            recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty()).unwrap();
        for message in received.cmsgs().unwrap() {
            if let ControlMessageOwned::ScmRights(descriptors) = message {
                netns = descriptors.first().map(|descriptor| inode_of(*descriptor));
            }
        }
        let count = received.bytes;
        assert!(count > 0, "a request ends with a newline");
        line.extend_from_slice(&chunk[..count]);
    }
    (serde_json::from_slice(&line).unwrap(), netns)
}

fn inode_of(descriptor: RawFd) -> u64 {
    // SAFETY: the kernel has just made this descriptor for this process, and nobody else knows it.
    File::from(unsafe { OwnedFd::from_raw_fd(descriptor) }).metadata().unwrap().ino()
}
