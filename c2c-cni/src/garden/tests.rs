//! Guardian's calls as a function of arguments and stdin. What is printed byte for byte is tried with the real process
//! (`tests/garden.rs`); here is what an agent or an input can do to a call.

use crate::tests::{Asked, Fake, added, refusal, unreachable};
use crate::{Outcome, run_garden};
use c2c_proto::agent_api::{Request, code};
use c2c_proto::agent_socket::CallError;
use serde_json::{Value, json};
use std::fs;
use std::io::{self, Cursor, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

type Answer<'a> = &'a dyn Fn(&Request) -> Result<Value, CallError>;

/// A configuration file of the test's own, and the directory of pending DELs beside it.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new(more: Value) -> Self {
        let place = Self { dir: TempDir::new().unwrap() };
        let mut config = json!({"log_prefix": "cfnetworking", "pendingDir": place.pending(), "cni_plugin_dir": "/x", "start_port": 61000});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        fs::write(place.config(), config.to_string()).unwrap();
        place
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("adapter.json")
    }

    fn pending(&self) -> PathBuf {
        self.dir.path().join("pending")
    }

    fn left(&self) -> usize {
        fs::read_dir(self.pending()).map_or(0, Iterator::count)
    }

    fn call(&self, action: &str, stdin: &str, answer: Answer<'_>) -> (Asked, String) {
        let mut printed = Vec::new();
        let asked = self.call_printing(action, stdin, answer, &mut printed);
        (asked, String::from_utf8(printed).unwrap())
    }

    fn call_printing(&self, action: &str, stdin: &str, answer: Answer<'_>, out: &mut dyn Write) -> Asked {
        let fake = Fake::new(answer);
        let stdin = Box::new(Cursor::new(stdin.to_owned().into_bytes()));
        let outcome = run_garden(&arguments(&self.config(), action), stdin, out, &fake);
        fake.asked(outcome)
    }

    /// Fails with one line, and prints nothing.
    fn fails(&self, action: &str, stdin: &str, answer: Answer<'_>, expected: &str) -> Asked {
        let (asked, printed) = self.call(action, stdin, answer);
        assert!(!asked.outcome.ok && printed.is_empty(), "{action} {stdin}: {printed}");
        let [line] = &asked.outcome.log[..] else { panic!("{:?}", asked.outcome.log) };
        assert!(
            line.starts_with("cfnetworking: ") && line.contains(expected),
            "{line:?}, expected {expected:?}"
        );
        assert!(!line.contains('\n'), "{line:?}");
        asked
    }
}

fn arguments(config: &Path, action: &str) -> Vec<String> {
    let config = format!("--configFile={}", config.display());
    [&config, "--action", action, "--handle", "handle"].map(ToOwned::to_owned).to_vec()
}

/// An agent that does what it is asked.
fn willing(request: &Request) -> Result<Value, CallError> {
    if let Request::NetIn(net_in) = request {
        return Ok(json!({"host_port": 61001, "container_port": net_in.port.container_port}));
    }
    Ok(if let Request::Add(_) = request { json!(added()) } else { Value::Null })
}

#[test]
fn up_that_fails_in_any_way_leaves_nothing() {
    let place = Place::new(json!({}));
    let thread = Parked::new();
    let input = json!({ "Pid": thread.tid }).to_string();
    let late = || CallError::Deadline { socket: "/x".into(), timeout: Duration::from_secs(10) };
    let fails_first = |later: fn() -> Result<Value, CallError>| {
        move |request: &Request| if let Request::Add(_) = request { Err(late()) } else { later() }
    };
    let asked = place.fails("up", &input, &fails_first(|| Ok(Value::Null)), "did not answer within 10 s");
    assert_eq!((asked.later.len(), place.left()), (1, 0), "the agent was asked for the DEL");
    let agent_gone = fails_first(|| Err(unreachable()));
    let asked = place.fails("up", &input, &agent_gone, "the DEL is left for it in");
    assert_eq!((asked.later.len(), place.left()), (1, 1));
    let place = Place::new(json!({}));
    let asked = place.call_printing("up", &input, &willing, &mut Closed);
    assert!(!asked.outcome.ok && asked.outcome.log[0].contains("cannot write the answer"), "{asked:?}");
    assert_eq!(asked.later, [json!({"request": "del", "container_id": "handle", "ifname": "eth0"})]);
}

#[test]
fn a_second_up_is_refused_and_the_first_is_left_alone() {
    let (place, thread) = (Place::new(json!({})), Parked::new());
    let input = json!({ "Pid": thread.tid }).to_string();
    for code in [code::EXISTS, code::NO_PORT, code::NO_ADDRESS] {
        let asked = place.fails("up", &input, &|_| Err(refusal(code)), "because: of that");
        assert_eq!((asked.later.len(), place.left()), (0, 0));
    }
}

#[test]
fn down_of_what_can_never_have_been_up_succeeds() {
    let place = Place::new(json!({}));
    let config = format!("--configFile={}", place.config().display());
    let arguments = [&config, "--action", "down", "--handle", "bad/handle"].map(ToOwned::to_owned);
    let fake = Fake::new(&willing);
    let outcome = run_garden(&arguments, Box::new(Silent), &mut Vec::new(), &fake);
    let asked = fake.asked(outcome);
    assert!(asked.outcome.ok && asked.request.is_none() && place.left() == 0, "{asked:?}");
}

#[test]
fn down_succeeds_whoever_is_away_and_reads_nothing() {
    let place = Place::new(json!({}));
    for stdin in ["null", "", "garbage"] {
        for (answer, left) in [(&willing as Answer<'_>, 0), (&|_: &Request| Err(unreachable()), 1)] {
            let (asked, printed) = place.call("down", stdin, answer);
            assert!(asked.outcome.ok && printed.is_empty(), "{asked:?}");
            assert_eq!((asked.outcome.log.len(), place.left()), (left, left));
            _ = fs::remove_dir_all(place.pending());
        }
    }
    place.fails("down", "null", &|_| Err(refusal(code::DATAPATH)), "because: of that");
    let open = Box::new(Silent);
    let fake = Fake::new(&willing);
    assert!(run_garden(&arguments(&place.config(), "down"), open, &mut Vec::new(), &fake).ok);
}

#[test]
fn a_container_that_is_a_health_check_is_wired_without_an_app() {
    let (place, thread) = (Place::new(json!({})), Parked::new());
    let input = json!({"Pid": thread.tid, "Properties": {"healthcheck": "true"}}).to_string();
    let (asked, printed) = place.call("up", &input, &willing);
    assert!(asked.outcome.ok && printed.contains("container-ip"), "{asked:?}");
    let request = asked.request.unwrap();
    assert_eq!(
        (&request["metadata"], &request["ports"], &request["egress"]),
        (&json!({"healthcheck": "true"}), &json!([]), &json!([]))
    );
}

#[test]
fn inputs_that_cannot_be_change_nothing() {
    let (place, thread) = (Place::new(json!({})), Parked::new());
    let tid = thread.tid;
    let own = std::process::id();
    let rows = [
        ("up", String::new(), "no JSON object"),
        ("up", "null".to_owned(), "no JSON object"),
        ("up", "[]".to_owned(), "no JSON object"),
        ("up", "{".to_owned(), "no JSON object"),
        ("up", "{}".to_owned(), "Pid is absent"),
        ("up", r#"{"Pid":"7"}"#.to_owned(), "Pid is \"7\", expected a whole number"),
        ("up", r#"{"Pid":-1}"#.to_owned(), "Pid is -1, expected a process id"),
        ("up", r#"{"Pid":2147483646}"#.to_owned(), "the network namespace of Pid 2147483646 is"),
        ("up", format!(r#"{{"Pid":{own}}}"#), "the plugin's own network namespace"),
        (
            "up",
            format!(r#"{{"Pid":{tid},"Properties":{{"ports":8080}}}}"#),
            "Properties.ports is 8080, expected a string",
        ),
        ("up", format!(r#"{{"Pid":{tid},"Properties":[]}}"#), "Properties is []"),
        (
            "up",
            format!(r#"{{"Pid":{tid},"netin":[{{"host_port":-1,"container_port":1}}]}}"#),
            "cannot allocate port -1",
        ),
        (
            "up",
            format!(r#"{{"Pid":{tid},"netin":[{{"host_port":0}}]}}"#),
            "netin[0].container_port is absent",
        ),
        (
            "up",
            format!(r#"{{"Pid":{tid},"netout_rules":[{{"protocol":"tcp"}}]}}"#),
            "netout_rules[0].protocol is \"tcp\"",
        ),
        ("net-in", "null".to_owned(), "no JSON object"),
        ("net-in", "{}".to_owned(), "container_port is absent"),
        ("net-in", r#"{"HostPort":-7,"ContainerPort":80}"#.to_owned(), "cannot allocate port -7"),
        ("net-out", "{}".to_owned(), "netout_rule is absent"),
        ("net-out", r#"{"netout_rule":[]}"#.to_owned(), "netout_rule is []"),
        ("net-out", r#"{"netout_rule":{"ports":7}}"#.to_owned(), "netout_rule.ports is 7, expected a list"),
        ("bulk-net-out", r#"{"netout_rules":{}}"#.to_owned(), "netout_rules is {}"),
        ("stat", "null".to_owned(), "unrecognized action: stat"),
    ];
    for (action, stdin, expected) in rows {
        let asked = place.fails(action, &stdin, &willing, expected);
        assert_eq!((asked.request, place.left()), (None, 0), "{action} {stdin}: the agent is not asked");
    }
}

#[test]
fn what_the_agent_refuses_of_a_wired_container_is_told() {
    let place = Place::new(json!({"timeoutSeconds": 0.12}));
    let rows = [
        ("net-in", r#"{"HostPort":80,"ContainerPort":80}"#),
        ("net-out", r#"{"netout_rule":{}}"#),
        ("bulk-net-out", r#"{"netout_rules":[]}"#),
    ];
    for (action, stdin) in rows {
        let asked =
            place.fails(action, stdin, &|_| Err(refusal(code::UNKNOWN_CONTAINER)), "because: of that");
        assert_eq!(asked.later.len(), 0);
        place.fails(action, stdin, &|_| Err(unreachable()), "cannot reach the agent");
    }
    place.fails("net-in", rows[0].1, &|_| Ok(json!({})), "its answer to NET-IN cannot be read");
}

#[test]
fn an_input_that_does_not_end_is_not_waited_for() {
    let place = Place::new(json!({"timeoutSeconds": 0.05}));
    let fake = Fake::new(&willing);
    let outcome = run_garden(&arguments(&place.config(), "up"), Box::new(Silent), &mut Vec::new(), &fake);
    let asked = fake.asked(outcome);
    assert_eq!((asked.outcome.ok, asked.request), (false, None));
    assert!(asked.outcome.log[0].contains("did not end within 0.05 s"), "{:?}", asked.outcome);
}

#[test]
fn the_configuration_file_is_checked_and_named() {
    let place = Place::new(json!({}));
    let call = |config: &Path| {
        let fake = Fake::new(&willing);
        run_garden(&arguments(config, "down"), Box::new(io::empty()), &mut Vec::new(), &fake)
    };
    let fails = |text: Option<&str>, expected: &str| {
        if let Some(text) = text {
            fs::write(place.config(), text).unwrap();
        }
        let Outcome { log, ok, .. } = call(&place.config());
        assert!(!ok && log[0].starts_with("c2c-cni: parse args: configFile /"), "{log:?}");
        assert!(log[0].contains(expected), "{log:?}");
    };
    fails(Some("{"), "EOF");
    fails(Some("[]"), "expected a map");
    fails(Some(r#"{"log_prefix":7}"#), "log_prefix is 7, expected a string");
    fails(Some(r#"{"search_domains":"a"}"#), "search_domains is \"a\", expected a list");
    fails(Some(r#"{"search_domains":[1]}"#), "search_domains is 1");
    fails(Some(r#"{"agentSocket":"run/x"}"#), "agentSocket is \"run/x\", expected an absolute path");
    fails(Some(r#"{"timeoutSeconds":0}"#), "timeoutSeconds is 0");
    fs::remove_file(place.config()).unwrap();
    fails(None, "No such file");
}

#[test]
fn where_the_agent_is_and_how_long_it_may_take_is_configured() {
    let place = Place::new(json!({"agentSocket": "/tmp/a.sock", "timeoutSeconds": 4}));
    let (asked, _) = place.call("net-out", r#"{"netout_rule":{}}"#, &willing);
    assert_eq!(asked.socket.as_deref(), Some(Path::new("/tmp/a.sock")));
    let timeout = asked.timeout.unwrap();
    assert!(timeout <= Duration::from_secs(4) && timeout > Duration::from_secs(3), "{timeout:?}");
}

/// Somebody who hung up.
struct Closed;

impl Write for Closed {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Somebody who neither speaks nor hangs up, until the test is over.
struct Silent;

impl Read for Silent {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        loop {
            std::thread::park();
        }
    }
}

/// A thread in a network namespace of its own, for a process of Garden's.
struct Parked {
    tid: i32,
    _end: std::sync::mpsc::Sender<()>,
}

impl Parked {
    fn new() -> Self {
        use nix::sched::{CloneFlags, unshare};
        let (say, said) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace; these tests need root");
            say.send(nix::unistd::gettid().as_raw()).unwrap();
            _ = ended.recv();
        });
        Self { tid: said.recv().unwrap(), _end: end }
    }
}
