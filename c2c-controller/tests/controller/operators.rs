//! The command line: what operators read when it works, and the one line when it does not.

use crate::harness::{Foundation, Ran, binary, hello, request};
use c2c_controller::pki::Request;
use c2c_proto::tls::{Files, Role};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

fn run(arguments: &[&str]) -> Ran {
    Ran::from(binary().args(arguments).output().unwrap())
}

#[test]
fn access_is_allowed_listed_and_removed() {
    let mut foundation = Foundation::new();
    let _controller = foundation.start();
    let run = |arguments: &[&str]| foundation.run(arguments).ok();
    assert_eq!(run(&["list-access"]), "no access is allowed at revision 0");
    let allow = ["allow-access", "frontend", "backend", "--port", "7000", "--protocol", "tcp"];
    let nobody = "no connected cell hosts either app";
    assert_eq!(run(&allow), format!("frontend -> backend tcp 7000 allowed at revision 1; {nobody}"));
    let already = "frontend -> backend tcp 7000 was allowed already; nothing changed at revision 1; ";
    assert_eq!(run(&allow), format!("{already}{nobody}"));
    let range = ["allow-access", "backend", "db", "--port", "5432-5433", "--protocol", "UDP", "--json"];
    let json = foundation.run(&range).json();
    assert_eq!((json["changed"].as_bool(), json["revision"].as_u64()), (Some(true), Some(2)));
    assert_eq!((json["protocol"].as_str(), json["ports"].as_str()), (Some("udp"), Some("5432-5433")));
    let table = "\
source    destination  protocol  ports      source tag  destination tag
backend   db           udp       5432-5433  2           3
frontend  backend      tcp       7000       1           2";
    assert_eq!(run(&["list-access"]), table);
    assert_eq!(run(&["list-access", "--app", "db"]).lines().count(), 2);
    assert_eq!(run(&["list-access", "--app", "nobody"]), "no access is allowed at revision 2");
    let listed = foundation.run(&["list-access", "--app", "frontend", "--json"]).json();
    let policy = serde_json::json!({
        "source_app": "frontend", "destination_app": "backend", "protocol": "tcp",
        "port_start": 7000, "port_end": 7000, "source_tag": 1, "destination_tag": 2,
    });
    assert_eq!(listed, serde_json::json!({ "revision": 2, "policies": [policy] }));
    let remove = ["remove-access", "frontend", "backend", "--port", "7000"];
    assert_eq!(run(&remove), format!("frontend -> backend tcp 7000 removed at revision 3; {nobody}"));
    let not = "frontend -> backend tcp 7000 was not allowed; nothing changed at revision 3; ";
    assert_eq!(run(&remove), format!("{not}{nobody}"));
}

#[tokio::test]
async fn leases_are_listed_with_their_cells() {
    let mut foundation = Foundation::new();
    let _controller = foundation.start();
    let mut agent = foundation.connect(1, hello(1, &[])).await;
    let block = agent.grant().await.lease.unwrap().overlay_block;
    let table = foundation.run(&["leases"]).ok();
    let [header, row] = table.lines().collect::<Vec<_>>()[..] else { panic!("{table}") };
    assert_eq!(header.split_whitespace().next(), Some("cell"));
    assert!(row.starts_with("cell-1") && row.contains(&block) && row.contains("at revision 0 of 1"), "{row}");
    assert!(row.contains("in 6 d") || row.contains("in 7 d"), "{row}");
    assert_eq!(foundation.run(&["evict", "192.0.2.1", "--json"]).json()["evicted"]["cell"], "cell-1");
    let unknown = foundation.run(&["evict", "cell-1"]).failed(1);
    assert_eq!(
        unknown,
        "error: cell: no lease is held by \"cell-1\"; expected a cell's name or underlay address, see `leases`"
    );
}

#[test]
fn bad_input_is_one_line_that_names_the_field_and_changes_nothing() {
    let mut foundation = Foundation::new();
    let _controller = foundation.start();
    let port = "expected a port from 1 to 65535, or a range such as 7000-7010";
    let name = "expected 1 to 255 characters of A-Z a-z 0-9 _ . -";
    let long = "x".repeat(256);
    let cases: [(&[&str], String); 17] = [
        (&["a", "b", "--port", "0"], format!("port: \"0\" is not a port; {port}")),
        (&["a", "b", "--port", "70000"], format!("port: \"70000\" is not a port; {port}")),
        (&["a", "b", "--port", "9-8"], format!("port: the range \"9-8\" ends below its start; {port}")),
        (&["a", "b", "--port", "abc"], format!("port: \"abc\" is not a port; {port}")),
        (&["a", "b", "--port", ""], format!("port: \"\" is not a port; {port}")),
        (&["a", "b", "--port", "-5"], format!("port: \"\" in \"-5\" is not a port; {port}")),
        (&["a", "b", "--port", "1-70000"], format!("port: \"70000\" in \"1-70000\" is not a port; {port}")),
        (
            &["a", "b", "--port", "1", "--protocol", "icmp"],
            "protocol: \"icmp\" is not supported; expected tcp or udp".into(),
        ),
        (
            &["a", "b", "--port", "1", "--protocol", ""],
            "protocol: \"\" is not supported; expected tcp or udp".into(),
        ),
        (&["", "b", "--port", "1"], format!("source app: is empty; {name}")),
        (&["a", "", "--port", "1"], format!("destination app: is empty; {name}")),
        (&[&long, "b", "--port", "1"], format!("source app: is 256 bytes long; {name}")),
        (&["a", "b c", "--port", "1"], format!("destination app: \"b c\" holds ' '; {name}")),
        (
            &["a", "b\u{1b}[2J", "--port", "1"],
            format!("destination app: \"b\\u{{1b}}[2J\" holds '\\u{{1b}}'; {name}"),
        ),
        (
            &["a", "b"],
            "the following required arguments were not provided: --port <PORT[-PORT]> (see --help)".into(),
        ),
        (
            &["a", "b", "--port", "1", "--wait", "x"],
            "invalid value 'x' for '--wait <SECONDS>': invalid digit found in string (see --help)".into(),
        ),
        (
            &["a", "b", "--port", "1", "--prot", "tcp"],
            "unexpected argument '--prot' found (see --help)".into(),
        ),
    ];
    for (arguments, message) in &cases {
        for command in ["allow-access", "remove-access"] {
            let error = foundation.run(&[&[command], *arguments].concat()).failed(2);
            assert_eq!(error, format!("error: {message}"));
        }
    }
    let app = foundation.run(&["list-access", "--app", "a b"]).failed(2);
    assert_eq!(app, format!("error: app: \"a b\" holds ' '; {name}"));
    assert_eq!(foundation.run(&["list-access"]).ok(), "no access is allowed at revision 0");
    let nothing = run(&[]).failed(2);
    assert_eq!(
        nothing,
        "error: a command is missing; expected one such as `leases` or `pki init` (see --help)"
    );
    assert!(run(&["frobnicate"]).failed(2).starts_with("error: unrecognized subcommand 'frobnicate'"));
}

#[test]
fn the_controller_checks_again_what_the_client_checked() {
    use c2c_proto::v1::AccessRequest;
    let mut foundation = Foundation::new();
    let _controller = foundation.start();
    let request = |source: &str, protocol: &str, ports: &str| AccessRequest {
        source_app: source.to_owned(),
        destination_app: "b".to_owned(),
        protocol: protocol.to_owned(),
        ports: ports.to_owned(),
        wait_milliseconds: 0,
    };
    let cases = [
        (request("", "tcp", "1"), "source app: is empty"),
        (request("a", "sctp", "1"), "protocol: \"sctp\" is not supported"),
        (request("a", "tcp", "0"), "port: \"0\" is not a port"),
        (request("a", "tcp", "9-8"), "port: the range \"9-8\" ends below its start"),
    ];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut client = foundation.operator();
        for (request, message) in cases {
            let status = client.allow_access(request).await.unwrap_err();
            assert_eq!(status.code(), tonic::Code::InvalidArgument);
            assert!(status.message().starts_with(message), "{}", status.message());
        }
    });
    assert_eq!(foundation.run(&["list-access"]).ok(), "no access is allowed at revision 0");
}

#[test]
fn certificates_that_will_not_do_are_one_clear_line() {
    let mut foundation = Foundation::new();
    let _controller = foundation.start();
    let (now, day) = (SystemTime::now(), Duration::from_secs(86_400));
    let expired =
        Request { not_before: now - 2 * day, not_after: now - day, ..request(Role::Operator, "expired") };
    let expired = foundation.issue(&expired);
    let foreign = Foundation::new();
    let good = || foundation.operator.clone();
    let other_ca = Files { ca: foreign.operator.ca.clone(), ..good() };
    let both = foundation.path().join("both.crt");
    let cas =
        [&foundation.operator.ca, &foreign.operator.ca].map(|path| std::fs::read_to_string(path).unwrap());
    std::fs::write(&both, cas.concat()).unwrap();
    let foreign_client = Files { ca: both, ..foreign.operator.clone() };
    let missing = Files { cert: foundation.path().join("none.crt"), ..good() };
    let cases = [
        (expired, 2, "expired.crt expired at "),
        (missing, 2, "none.crt: No such file or directory"),
        (other_ca, 2, "was not signed by the CA in "),
        (Files { key: foundation.controller.key.clone(), ..good() }, 2, "does not match the certificate"),
        (foreign.operator.clone(), 1, "cannot be trusted: it was signed by another CA than ours"),
        (foreign_client, 1, "admin.crt: it was signed by another CA"),
        (foundation.controller.clone(), 1, "controller.crt: it is not one that may be used here"),
        (
            foundation.cell(1),
            1,
            "has the role c2c-cell (organizationalUnitName); this call needs c2c-operator",
        ),
    ];
    for (files, code, message) in cases {
        let error = foundation.run_as(&files, &["leases"]).failed(code);
        assert!(error.contains(message), "expected {message}, got {error}");
    }
}

#[test]
fn a_controller_that_is_not_there_is_exit_code_3() {
    let mut foundation = Foundation::new();
    foundation.start().kill();
    let error = foundation.run(&["leases"]).failed(3);
    let expected =
        format!("error: cannot reach {}: Connection refused (os error 111)", &foundation.address()[8..]);
    assert_eq!(error, expected);
}

#[test]
fn what_serve_cannot_run_with_is_one_clear_line() {
    let mut foundation = Foundation::new();
    let file = foundation.path().join("controller.toml");
    std::fs::write(&file, "lisen = '127.0.0.1:0'\n").unwrap();
    let file = file.to_str().unwrap();
    let serve = |foundation: &Foundation, arguments: &[&str]| {
        Ran::from(foundation.serve_command().args(arguments).output().unwrap())
    };
    let cases: [(&[&str], i32, &str); 4] = [
        (
            &["--overlay-network", "10.255.0.0/28"],
            2,
            "overlay_network: 10.255.0.0/28 is smaller than a block of /24",
        ),
        (&["--config", file], 2, "lisen: unknown key in "),
        (&["--udp-port", "70000"], 2, "udp_port: \"70000\" (from --udp-port or C2C_UDP_PORT) cannot be used"),
        (&["--listen", "192.0.2.99:1"], 1, "listen: cannot listen on 192.0.2.99:1: "),
    ];
    for (arguments, code, message) in cases {
        let error = serve(&foundation, arguments).failed(code);
        assert!(error.contains(message), "expected {message}, got {error}");
    }
    foundation.controller = foundation.cell(1);
    let error = serve(&foundation, &["--listen", "127.0.0.1:0"]).failed(1);
    assert!(error.contains("does not have the role (organizationalUnitName) c2c-controller"), "{error}");
    foundation.controller.ca = "/none".into();
    let error = serve(&foundation, &["--listen", "127.0.0.1:0"]).failed(1);
    assert!(error.contains("cannot read the CA certificate /none"), "{error}");
}

#[test]
fn settings_come_from_a_file_the_environment_and_flags() {
    let mut foundation = Foundation::new();
    let file = foundation.path().join("controller.toml");
    std::fs::write(&file, "overlay_network = '10.7.0.0/16'\nlease_hours = 1\n").unwrap();
    let _controller = foundation.start_with(&["--config", file.to_str().unwrap()]);
    assert_eq!(foundation.run(&["leases"]).ok(), "no lease of 10.7.0.0/16 at revision 0");
    let files = &foundation.operator;
    let output = binary()
        .arg("leases")
        .env("C2C_CONTROLLER", foundation.address())
        .env("C2C_CA", &files.ca)
        .env("C2C_CERTIFICATE", &files.cert)
        .env("C2C_KEY", &files.key)
        .output();
    assert_eq!(Ran::from(output.unwrap()).ok(), "no lease of 10.7.0.0/16 at revision 0");
}

#[test]
fn pki_makes_what_the_others_need_and_overwrites_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path().join("pki");
    let pki = |arguments: &[&str]| {
        let mut command = binary();
        command.arg("pki").args(arguments).arg("--dir").arg(&dir);
        Ran::from(command.output().unwrap())
    };
    let none = pki(&["issue", "--role", "operator", "--name", "admin"]).failed(1);
    assert!(none.contains("holds no CA that can be used (ca.key: No such file"), "{none}");
    let path = |name: &str| dir.join(name).display().to_string();
    let made = pki(&["init"]).ok();
    assert_eq!(
        made,
        format!("certificate authority {} written; its private key is {}", path("ca.crt"), path("ca.key"))
    );
    let again = pki(&["init"]).failed(1);
    assert!(again.contains("ca.crt exists already; it is never overwritten"), "{again}");
    let issue = ["issue", "--role", "cell", "--name", "cell-1", "--address", "192.0.2.1"];
    let files = pki(&[&issue[..], &["--json"]].concat()).json();
    assert_eq!(files["key"], path("cell-1.key"));
    for key in ["ca.key", "cell-1.key"] {
        assert_eq!(std::fs::metadata(dir.join(key)).unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert!(pki(&issue).failed(1).contains("cell-1.crt exists already"));
    let out = directory.path().join("out");
    pki(&["issue", "--role", "operator", "--name", "admin", "--out", out.to_str().unwrap()]).ok();
    assert!(["ca.crt", "admin.crt", "admin.key"].iter().all(|name| out.join(name).exists()));
    let cases: [(&[&str], i32, &str); 7] = [
        (
            &["issue", "--role", "cell", "--name", "c"],
            1,
            "address: a c2c-cell certificate without one is of no use",
        ),
        (
            &["issue", "--role", "controller", "--name", "c"],
            1,
            "address: a c2c-controller certificate without one",
        ),
        (&["issue", "--role", "operator", "--name", "../x"], 1, "name: \"../x\" cannot be a certificate's"),
        (&["issue", "--role", "operator", "--name", "ca"], 1, "name: \"ca\" cannot be a certificate's"),
        (
            &["issue", "--role", "operator", "--name", "a", "--dns", "a b"],
            1,
            "dns: \"a b\" is not a host name",
        ),
        (
            &["issue", "--role", "operator", "--name", "a", "--days", "0"],
            2,
            "invalid value '0' for '--days <DAYS>'",
        ),
        (&["issue", "--role", "king", "--name", "a"], 2, "invalid value 'king' for '--role <ROLE>'"),
    ];
    for (arguments, code, message) in cases {
        let error = pki(arguments).failed(code);
        assert!(error.contains(message), "expected {message}, got {error}");
    }
}

#[test]
fn help_teaches_with_examples() {
    for command in
        [&["--help"][..], &["allow-access", "--help"], &["evict", "--help"], &["pki", "issue", "--help"]]
    {
        let help = run(command).ok();
        assert!(help.contains("Examples:\n"), "{help}");
    }
    assert!(run(&["--version"]).ok().starts_with("c2c-controller "));
}
