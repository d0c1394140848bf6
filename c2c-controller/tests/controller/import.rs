//! An existing foundation's databases, with the incumbents' tables on a real server, become a store.

use crate::cluster::Cluster;
use crate::harness::{Foundation, Ran, binary};
use serde_json::Value;

const SILK: &str = "
    CREATE TABLE subnets (
        id SERIAL PRIMARY KEY, underlay_ip varchar(15) NOT NULL, overlay_subnet varchar(18) NOT NULL,
        overlay_hwaddr varchar(17) NOT NULL, last_renewed_at bigint NOT NULL,
        UNIQUE (underlay_ip), UNIQUE (overlay_subnet), UNIQUE (overlay_hwaddr)
    );
    INSERT INTO subnets (underlay_ip, overlay_subnet, overlay_hwaddr, last_renewed_at) VALUES
        ('192.0.2.11', '10.255.7.0/24', 'ee:ee:0a:ff:07:00', extract(epoch FROM now())::bigint - 60),
        ('192.0.2.12', '10.255.8.0/24', 'ee:ee:0a:ff:08:00', extract(epoch FROM now())::bigint - 60);";

const POLICY: &str = r#"
    CREATE TABLE groups (id SERIAL PRIMARY KEY, guid text UNIQUE, type varchar(255) DEFAULT 'app');
    CREATE TABLE destinations (
        id SERIAL PRIMARY KEY, group_id int REFERENCES groups (id), port int, start_port int, end_port int,
        protocol text, UNIQUE (group_id, start_port, end_port, protocol)
    );
    CREATE TABLE policies (
        id SERIAL PRIMARY KEY, group_id int REFERENCES groups (id), destination_id int REFERENCES destinations (id),
        UNIQUE (group_id, destination_id)
    );
    CREATE TABLE policies_info (id SERIAL PRIMARY KEY, last_updated TIMESTAMP(6) NOT NULL);
    CREATE TABLE security_groups (
        id bigserial PRIMARY KEY, guid varchar(36) NOT NULL UNIQUE, name varchar(255) NOT NULL, rules text,
        staging_default boolean DEFAULT false, running_default boolean DEFAULT false,
        staging_spaces jsonb, running_spaces jsonb
    );
    INSERT INTO groups (guid) SELECT NULL FROM generate_series(1, 65535);
    UPDATE groups SET guid = 'backend' WHERE id = 255;
    UPDATE groups SET guid = 'frontend' WHERE id = 17;
    UPDATE groups SET guid = 'INGRESS_ROUTER', type = 'router' WHERE id = 300;
    INSERT INTO destinations (group_id, port, start_port, end_port, protocol) VALUES
        (255, 8080, 8080, 8090, 'tcp'), (17, 53, NULL, NULL, 'udp');
    INSERT INTO policies (group_id, destination_id) VALUES (17, 1), (255, 2);
    INSERT INTO security_groups (guid, name, rules, staging_default, running_spaces) VALUES
        ('5b3c0a2e-4c6f-4b52-9a43-0d9a4a1f0e77', 'public networks',
         '[{"protocol":"tcp","destination":"0.0.0.0/0","ports":"443","type":0,"code":0,"log":false}]', true, '["s1"]');"#;

/// The incumbents' databases, and where they are.
struct Incumbent {
    cluster: Cluster,
    urls: [String; 2],
}

impl Incumbent {
    fn start() -> Self {
        let cluster = Cluster::start();
        let urls = ["silk", "policy"].map(|name| cluster.database(name));
        cluster.client_of("silk").batch_execute(SILK).unwrap();
        cluster.client_of("policy").batch_execute(POLICY).unwrap();
        Self { cluster, urls }
    }

    fn import(&self, flags: &[&str]) -> Ran {
        let [silk, policy] = &self.urls;
        let mut command = binary();
        command.args(["import", "--silk-database", silk, "--policy-database", policy]).args(flags);
        Ran::from(command.output().unwrap())
    }
}

#[test]
fn leases_tags_policies_and_security_groups_are_taken_over_into_either_store() {
    let incumbent = Incumbent::start();
    let mut foundation = Foundation::new();
    let data = foundation.data_dir();
    let here = ["--data-dir", data.to_str().unwrap()];
    let said = incumbent.import(&[&here[..], &["--dry-run"]].concat()).ok();
    assert!(said.ends_with("nothing was written") && !data.exists(), "{said}");
    let said = incumbent.import(&[&here[..], &["--json"]].concat()).json();
    assert_eq!((&said["taken"]["leases"], &said["taken"]["policies"]), (&2.into(), &2.into()), "{said}");
    assert_eq!(said["taken"]["held_tags"], 1, "the router's");
    let refused = incumbent.import(&here).failed(1);
    assert!(refused.starts_with("error: the store is not empty: "), "{refused}");
    let url = incumbent.cluster.database("net");
    incumbent.import(&["--postgres", &url]).ok();

    let seen = [&[][..], &["--postgres", &url]].map(|flags| {
        let controller = foundation.start_with(flags);
        let seen = list(&foundation);
        let backup = foundation.run(&["backup", "-"]).ok();
        assert!(backup.contains(r#"{"held_tag":{"tag":300,"app":"INGRESS_ROUTER"}}"#), "{backup}");
        assert!(!backup.contains("\"policies_changed\":0,"), "who polled sees a change: {backup}");
        controller.kill();
        seen
    });
    assert_eq!(seen[0], seen[1]);
    let [policies, leases, groups] = &seen[0];
    let tags = |policy: &Value| (policy["source_tag"].clone(), policy["destination_tag"].clone());
    assert_eq!(tags(&policies[0]), (255.into(), 17.into()), "backend to frontend");
    assert_eq!(tags(&policies[1]), (17.into(), 255.into()), "frontend to backend");
    assert_eq!((&policies[0]["port_start"], &policies[0]["port_end"]), (&53.into(), &53.into()));
    assert_eq!(
        (&leases[0]["cell"], &leases[0]["overlay_block"]),
        (&"silk/192.0.2.11".into(), &"10.255.7.0/24".into())
    );
    assert_eq!(groups[0]["name"], "public networks");
}

fn list(foundation: &Foundation) -> [Value; 3] {
    let lists: [(&[&str], &str); 3] =
        [(&["list-access"], "policies"), (&["leases"], "leases"), (&["security-groups", "list"], "groups")];
    lists.map(|(list, key)| {
        let mut rows = foundation.run(&[list, &["--json"]].concat()).json()[key].take();
        for row in rows.as_array_mut().unwrap() {
            let row = row.as_object_mut().unwrap();
            row.retain(|key, _| !key.contains("_seconds"));
        }
        rows
    })
}

#[test]
fn a_row_that_cannot_be_taken_stops_the_import_unless_it_may_be_left_out() {
    let incumbent = Incumbent::start();
    let bad = "UPDATE subnets SET overlay_hwaddr = 'ee:ee:0a:ff:09:00' WHERE id = 2";
    incumbent.cluster.client_of("silk").batch_execute(bad).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let here = ["--data-dir", data.to_str().unwrap()];
    let stopped = incumbent.import(&here);
    assert_eq!(stopped.code, Some(1));
    assert!(stopped.err.ends_with("leave them out with --skip-invalid") && !data.exists(), "{}", stopped.err);
    let line = "subnets 2 is not taken: overlay_hwaddr \"ee:ee:0a:ff:09:00\" is not that of 10.255.8.0/24";
    assert!(stopped.out.contains(line), "{}", stopped.out);
    let skipped = incumbent.import(&[&here[..], &["--skip-invalid", "--json"]].concat()).json();
    assert_eq!((&skipped["taken"]["leases"], &skipped["refused"][0]["id"]), (&1.into(), &2.into()));

    incumbent.cluster.client_of("policy").batch_execute("DROP TABLE policies").unwrap();
    let error = incumbent.import(&[&here[..], &["--dry-run"]].concat()).failed(1);
    assert!(error.contains("/policy cannot be read; expected that of policy-server: "), "{error}");
    assert!(error.ends_with("relation \"policies\" does not exist"), "{error}");
    let mut remote = binary();
    let remote = remote.args(["import", "--silk-database", "postgresql://silk:secret@db.example.com/silk"]);
    let error = Ran::from(remote.args(here).output().unwrap()).failed(2);
    assert!(error.contains("?sslmode=disable") && !error.contains("secret"), "{error}");
}
