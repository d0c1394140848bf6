//! Two controllers on one database: each tells what the other took, as soon as that was acknowledged.

use crate::cluster::Cluster;
use crate::harness::Api;

const TAGS: &str = "/networking/v1/internal/tags";
const POLICIES: &str = "/networking/v1/internal/policies";

#[test]
fn what_one_took_the_other_tells_at_once() {
    let cluster = Cluster::start();
    let url = cluster.database("net");
    let replicas = [Api::replica(&url), Api::replica(&url)];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(take_turns(&replicas));
}

async fn take_turns(replicas: &[Api; 2]) {
    let mut last = replicas[0].last_updated().await;
    assert_eq!(replicas[1].last_updated().await, last);
    for turn in 0..10 {
        let [takes, tells] = if turn % 2 == 0 { [0, 1] } else { [1, 0] }.map(|at| &replicas[at]);
        takes.access("a", &format!("b-{turn}"), true).await;
        let changed = tells.last_updated().await;
        assert!(changed > last, "turn {turn}");
        assert_eq!(takes.last_updated().await, changed);
        last = changed;
        let both = [takes.get(POLICIES).await, tells.get(POLICIES).await];
        assert_eq!(both[0].is(), both[1].is());
        assert_eq!(both[0].json()["total_policies"], turn + 1);

        let router = format!(r#"{{"ID":"router-{turn}","Type":"router"}}"#);
        let [given, told] = [takes.put(TAGS, &router).await, tells.put(TAGS, &router).await];
        assert!(given.status == 200 && given.is() == told.is(), "{given:?} {told:?}");

        let acquire = format!(r#"{{"underlay_ip":"10.0.3.{turn}"}}"#);
        let lease = takes.put("/leases/acquire", &acquire).await;
        let listed = tells.get("/leases").await;
        assert!(lease.status == 200 && listed.body.contains(&lease.body), "{lease:?} {listed:?}");
    }
}
