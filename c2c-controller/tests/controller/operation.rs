//! What those see who operate a controller: its pages, certificates that are rotated, and a configuration that is checked.

use crate::harness::{Foundation, binary, hello, page, within};
use c2c_proto::tls::Files;
use c2c_proto::v1;
use c2c_proto::v1::ListLeasesRequest;
use c2c_proto::v1::agent_message::Message as Say;
use std::path::Path;

/// Puts a file in another's place as those do who rotate certificates: whole, by a rename.
fn rotate(from: &Path, to: &Path) {
    let beside = to.with_extension("new");
    std::fs::copy(from, &beside).unwrap();
    std::fs::rename(&beside, to).unwrap();
}

#[tokio::test]
async fn pages_count_what_goes_by_and_say_what_is_wrong() {
    let mut foundation = Foundation::new();
    let controller = foundation.start();
    let pages = controller.pages;
    assert!(page(pages, "/healthz").await.ends_with("ok\n"));
    let ready = page(pages, "/readyz").await;
    assert!(ready.starts_with("HTTP/1.1 200") && ready.ends_with("ready\n"), "{ready}");
    let mut agent = foundation.connect(1, hello(1, &["a"])).await;
    agent.grant().await;
    agent.snapshot().await;
    let allow = v1::AccessRequest {
        source_app: "a".to_owned(),
        destination_app: "b".to_owned(),
        protocol: "tcp".to_owned(),
        ports: "1".to_owned(),
        wait_milliseconds: 0,
    };
    let mut operator = foundation.operator();
    within(operator.allow_access(allow)).await.unwrap();
    within(operator.list_leases(ListLeasesRequest {})).await.unwrap();
    let text = page(pages, "/metrics").await;
    for line in [
        "c2c_controller_streams 1",
        "c2c_controller_revision 2",
        "c2c_controller_policies 1",
        "c2c_controller_security_groups 0",
        "c2c_controller_leases_total 255",
        "c2c_controller_leases{state=\"held\"} 1",
        "c2c_controller_leases{state=\"expired\"} 0",
        "c2c_controller_leases{state=\"free\"} 254",
        "c2c_controller_tags{state=\"used\"} 2",
        "c2c_controller_store_commit_seconds_count 2",
        "c2c_controller_store_failures_total 0",
        "c2c_controller_grpc_calls_total{method=\"c2c.v1.Operator/AllowAccess\",code=\"Ok\"} 1",
        "c2c_controller_grpc_calls_total{method=\"c2c.v1.Operator/ListLeases\",code=\"Ok\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
    }
    assert!(
        text.contains("c2c_controller_certificate_expiry_timestamp_seconds{by=\"controller\"} "),
        "{text}"
    );
    assert!(text.contains("application/openmetrics-text") && text.ends_with("# EOF\n"), "{text}");
}

/// Without a signal: a bad pair is refused and the old one stays, a good one is shown to who comes, and who is there stays.
#[tokio::test]
async fn certificates_that_are_replaced_are_read() {
    let (mut foundation, other) = (Foundation::new(), Foundation::new());
    let controller = foundation.start();
    let mut agent = foundation.connect(1, hello(1, &["a"])).await;
    agent.grant().await;
    agent.snapshot().await;
    let (ours, theirs) = (&foundation.controller, &other.controller);
    rotate(&theirs.cert, &ours.cert);
    controller.logs("those read before stay in use");
    foundation.run(&["leases"]).ok();
    rotate(&theirs.key, &ours.key);
    rotate(&theirs.ca, &ours.ca);
    controller.logs("certificates were read again");
    foundation.run_as(&other.operator, &["leases"]).ok();
    agent.say(Say::Heartbeat(v1::Heartbeat { applied_revision: 1 })).await;
    assert_eq!(agent.heartbeat_ack().await.revision, 1, "an open stream stays");
}

#[test]
fn a_configuration_is_checked_and_nothing_is_started() {
    let foundation = Foundation::new();
    let check = |files: &Files| {
        let mut command = binary();
        command.args(["serve", "--check-config", "--data-dir"]).arg(foundation.data_dir());
        command.arg("--ca").arg(&files.ca).arg("--certificate").arg(&files.cert).arg("--key").arg(&files.key);
        let output = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let (code, out, error) = check(&foundation.controller);
    assert_eq!((code, error.as_str()), (0, ""));
    assert!(out.lines().any(|line| line.split_whitespace().eq(["listen", "0.0.0.0:4103"])), "{out}");
    let mixed = Files { key: foundation.operator.key.clone(), ..foundation.controller.clone() };
    let (code, out, error) = check(&mixed);
    assert_eq!((code, out.as_str(), error.lines().count()), (1, "", 1), "{error}");
    assert!(error.contains("does not match the certificate"), "{error}");
    let (code, _, error) =
        check(&Files { ca: Path::new("/none").to_owned(), ..foundation.controller.clone() });
    assert!(code == 1 && error.contains("cannot read the CA certificate /none"), "{error}");
    assert!(!foundation.data_dir().exists());
}

#[test]
fn a_configuration_that_is_checked_is_shown_with_all_its_keys_and_files() {
    let foundation = Foundation::new();
    let files = &foundation.controller;
    let check = |cc_key: &Path| {
        let mut command = binary();
        command.args(["serve", "--check-config", "--data-dir"]).arg(foundation.data_dir());
        command.arg("--ca").arg(&files.ca).arg("--certificate").arg(&files.cert).arg("--key").arg(&files.key);
        command.args([
            "--rest-listen",
            "127.0.0.1:0",
            "--rest-cors-origins",
            "https://a.example.org, https://b",
        ]);
        command.args(["--uaa-url", "https://uaa", "--uaa-online-check", "true", "--cc-url", "https://cc"]);
        command.args(["--cc-internal-url", "https://cc:9023", "--cc-internal-key"]).arg(cc_key);
        let output = command.env("C2C_UAA_CLIENT_SECRET", "secret").output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let (code, out, error) = check(&files.key);
    assert_eq!((code, error.as_str()), (0, ""));
    let rows: Vec<Vec<&str>> = out.lines().map(|line| line.split_whitespace().collect()).collect();
    for row in [
        ["lease_hours", "168"],
        ["rest_cors_origins", "https://a.example.org,https://b"],
        ["uaa_online_check", "true"],
        ["uaa_online_check_cache_seconds", "0"],
        ["policy_cleanup_minutes", "60"],
        ["cc_internal_url", "https://cc:9023"],
        ["cc_internal_certificate", files.cert.to_str().unwrap()],
        ["security_group_poll_seconds", "60"],
    ] {
        assert!(rows.iter().any(|found| *found == row), "{row:?} is not in:\n{out}");
    }
    assert!(!out.contains("secret"), "{out}");
    let (code, out, error) = check(&foundation.operator.key);
    assert_eq!((code, out.as_str(), error.lines().count()), (1, "", 1), "{error}");
    assert!(error.contains("cc_internal_certificate: "), "{error}");
}
