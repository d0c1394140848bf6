//! The whole plugin as a function: environment, stdin and an agent that answers as told, in; one document and an exit
//! code, out. Here: a call made of good defaults that a test changes.

mod actions;
mod input;
mod wishes;

use crate::{Agent, Outcome, run};
use c2c_proto::agent_api::{Added, ApiError, Interface, Request};
use c2c_proto::agent_socket::CallError;
use nix::sched::{CloneFlags, unshare};
use serde_json::{Map, Value, json};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Cursor;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What the agent answers to a request.
type Replies<'a> = Box<dyn Fn(&Request) -> Result<Value, CallError> + 'a>;

/// One call of the plugin.
struct Plugin {
    environment: BTreeMap<String, String>,
    conf: Map<String, Value>,
    stdin: Option<String>,
    replies: Replies<'static>,
    netns: File,
}

/// What came of a call.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) outcome: Outcome,
    pub(crate) request: Option<Value>,
    /// What was asked after that.
    pub(crate) later: Vec<Value>,
    pub(crate) socket: Option<PathBuf>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) netns: Option<u64>,
}

/// What the agent made.
pub(crate) fn added() -> Added {
    let interface = |name: &str, mac: &str| Interface { name: name.to_owned(), mac: mac.to_owned() };
    Added {
        host: interface("s-010255001002", "aa:aa:0a:ff:01:02"),
        container: interface("eth0", "ee:ee:0a:ff:01:02"),
        address: "10.255.1.2".parse().unwrap(),
        gateway: "169.254.0.1".parse().unwrap(),
        mtu: 1450,
        cell_address: "192.0.2.7".parse().unwrap(),
        ports: Vec::new(),
        dns_servers: None,
        search_domains: None,
    }
}

/// The one document that was printed.
fn parsed(outcome: &Outcome) -> Value {
    serde_json::from_str(outcome.stdout.as_ref().expect("a document on stdout"))
        .expect("exactly one document")
}

impl Plugin {
    /// A call with all variables set, a configuration of version 1.1.0, and an agent that does what it is asked.
    fn new(command: &str) -> Self {
        let netns = namespace();
        let path = format!("/proc/self/fd/{}", netns.as_raw_fd());
        let mut plugin = Self { netns, ..Self::bare(command) };
        for (name, value) in
            [("CONTAINERID", "handle"), ("NETNS", &path), ("IFNAME", "eth0"), ("PATH", "/opt/cni/bin")]
        {
            plugin = plugin.env(&format!("CNI_{name}"), value);
        }
        plugin
    }

    /// A call with nothing but its command.
    fn bare(command: &str) -> Self {
        let conf =
            json!({"cniVersion": "1.1.0", "name": "c2c", "type": "c2c-cni", "unknown": {"is": "tolerated"}});
        Self {
            environment: BTreeMap::from([("CNI_COMMAND".to_owned(), command.to_owned())]),
            conf: conf.as_object().unwrap().clone(),
            stdin: None,
            replies: Box::new(|request| {
                Ok(if let Request::Add(_) = request { json!(added()) } else { Value::Null })
            }),
            netns: File::open("/proc/self/ns/net").unwrap(),
        }
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    fn conf(mut self, key: &str, value: Value) -> Self {
        self.conf.insert(key.to_owned(), value);
        self
    }

    fn stdin(mut self, text: &str) -> Self {
        self.stdin = Some(text.to_owned());
        self
    }

    fn agent<'a>(self, replies: impl Fn(&Request) -> Result<Value, CallError> + 'a) -> Call<'a> {
        Call { plugin: self, replies: Box::new(replies) }
    }

    fn netns(&self) -> String {
        self.environment["CNI_NETNS"].clone()
    }

    fn netns_inode(&self) -> u64 {
        self.netns.metadata().unwrap().ino()
    }

    fn outcome(&self) -> Asked {
        self.ask(&*self.replies)
    }

    fn ask(&self, replies: &dyn Fn(&Request) -> Result<Value, CallError>) -> Asked {
        let stdin = self.stdin.clone().unwrap_or_else(|| Value::from(self.conf.clone()).to_string());
        let fake = Fake::new(replies);
        let environment = |name: &str| self.environment.get(name).cloned();
        let outcome = run(&environment, Box::new(Cursor::new(stdin.into_bytes())), &fake);
        fake.asked(outcome)
    }

    /// Fails with this code and these words, in one document, and returns it.
    fn fails_with(self, code: u32, expected: &str) -> Value {
        self.outcome().fails_with(code, expected)
    }

    /// Succeeds with a document.
    fn succeeds(self) -> Value {
        let outcome = self.outcome().outcome;
        assert!(outcome.ok, "{outcome:?}");
        parsed(&outcome)
    }

    /// Succeeds without a word.
    fn says_nothing(self) {
        let outcome = self.outcome().outcome;
        assert_eq!(outcome, Outcome { stdout: None, log: vec![], ok: true });
    }

    /// Succeeds without a word, and returns what the agent was asked.
    fn quietly_asks(self) -> Value {
        let asked = self.outcome();
        assert_eq!(asked.outcome, Outcome { stdout: None, log: vec![], ok: true });
        asked.request.expect("the agent was asked")
    }

    /// Succeeds with a document, and returns what the agent was asked.
    fn succeeds_asking(self) -> Value {
        let asked = self.outcome();
        assert!(asked.outcome.ok, "{asked:?}");
        asked.request.expect("the agent was asked")
    }
}

/// A call to an agent of the test's own.
struct Call<'a> {
    plugin: Plugin,
    replies: Replies<'a>,
}

impl Call<'_> {
    fn outcome(&self) -> Asked {
        self.plugin.ask(&*self.replies)
    }

    fn fails_with(&self, code: u32, expected: &str) -> Value {
        self.outcome().fails_with(code, expected)
    }
}

impl Asked {
    fn fails_with(&self, code: u32, expected: &str) -> Value {
        assert!(!self.outcome.ok, "{:?}", self.outcome);
        let document = parsed(&self.outcome);
        let msg = document["msg"].as_str().unwrap();
        assert!(
            document["code"] == code && msg.contains(expected),
            "{document}, expected {code} {expected:?}"
        );
        document
    }
}

/// The agent answers, and refuses.
pub(crate) fn refusal(code: u32) -> CallError {
    CallError::Refused(ApiError { code, msg: "because".to_owned(), details: "of that".to_owned() })
}

/// The agent is not there.
pub(crate) fn unreachable() -> CallError {
    CallError::Unreachable {
        socket: "/run/c2c/agent.sock".into(),
        source: std::io::ErrorKind::NotFound.into(),
    }
}

/// One request: what, where, how long, with which namespace.
type Seen = (Value, PathBuf, Duration, Option<u64>);

pub(crate) struct Fake<'a> {
    replies: &'a dyn Fn(&Request) -> Result<Value, CallError>,
    seen: RefCell<Vec<Seen>>,
}

impl<'a> Fake<'a> {
    pub(crate) fn new(replies: &'a dyn Fn(&Request) -> Result<Value, CallError>) -> Self {
        Self { replies, seen: RefCell::default() }
    }

    pub(crate) fn asked(self, outcome: Outcome) -> Asked {
        let mut seen = self.seen.into_inner().into_iter();
        let (request, socket, timeout, netns) = seen
            .next()
            .map_or((None, None, None, None), |first| (Some(first.0), Some(first.1), Some(first.2), first.3));
        let later = seen.map(|(request, ..)| request).collect();
        Asked { outcome, request, later, socket, timeout, netns }
    }
}

impl Agent for Fake<'_> {
    fn ask(
        &self,
        socket: &Path,
        timeout: Duration,
        request: &Request,
        netns: Option<BorrowedFd<'_>>,
    ) -> Result<Value, CallError> {
        let inode =
            netns.map(|fd| std::fs::metadata(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap().ino());
        self.seen.borrow_mut().push((json!(request), socket.to_owned(), timeout, inode));
        (self.replies)(request)
    }
}

/// A network namespace of the test's own, which ends with its descriptor.
fn namespace() -> File {
    let make = || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace; these tests need root");
        File::open("/proc/thread-self/ns/net").unwrap()
    };
    std::thread::spawn(make).join().unwrap()
}
