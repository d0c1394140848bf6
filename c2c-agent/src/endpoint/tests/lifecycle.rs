//! ADD, DEL, CHECK and GC.

use super::{Cell, add, attachment, descriptor, ip, path};
use crate::host::{Netns, testing};
use c2c_proto::agent_api::{Check, code};
use std::collections::BTreeSet;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;

const BLOCK: &str = "10.255.1.0/24";

/// Connects from the cell to a listener in the container: addresses, neighbours and routes of both ends at work.
fn connect(cell: &Cell, container: &Netns, address: Ipv4Addr) {
    let listener = container.run(|| Ok(TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap())).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut stream = cell.home.run(|| Ok(TcpStream::connect((address, port)).unwrap())).unwrap();
    stream.write_all(b"hello").unwrap();
    let (_, peer) = listener.accept().unwrap();
    assert_eq!(peer.ip(), Ipv4Addr::new(169, 254, 0, 1));
}

#[tokio::test]
async fn add_connects_and_del_leaves_nothing() {
    let (cell, container) = (Cell::new(BLOCK), testing::namespace());
    let added = cell.add("one", &container).await.unwrap();
    assert_eq!((added.address, added.mtu), (Ipv4Addr::new(10, 255, 1, 2), 1450));
    assert_eq!((added.host.name.as_str(), added.host.mac.as_str()), ("s-010255001002", "aa:aa:0a:ff:01:02"));
    assert_eq!((added.container.name.as_str(), added.container.mac.as_str()), ("eth0", "ee:ee:0a:ff:01:02"));
    connect(&cell, &container, added.address);
    assert_eq!((cell.files(), cell.wire.entered()), (vec!["one@eth0.json".to_owned()], vec![added.address]));
    assert_eq!(cell.links()[0].alias, "c2c one eth0 frontend");
    cell.del("one").await.unwrap();
    cell.assert_nothing_is_left();
    cell.del("one").await.unwrap();
}

#[tokio::test]
async fn a_second_add_is_refused_and_the_first_keeps_working() {
    let (cell, container) = (Cell::new(BLOCK), testing::namespace());
    let added = cell.add("one", &container).await.unwrap();
    let before = (cell.manager.list(), cell.links());
    for other in [&container, &testing::namespace()] {
        let error = cell.add("one", other).await.unwrap_err();
        assert_eq!(error.code, code::EXISTS, "{error:?}");
    }
    assert_eq!((cell.manager.list(), cell.links()), before);
    connect(&cell, &container, added.address);
}

#[tokio::test]
async fn add_refuses_a_namespace_that_has_the_interface() {
    let (cell, container) = (Cell::new(BLOCK), testing::namespace());
    cell.add("one", &container).await.unwrap();
    let error = cell.add("two", &container).await.unwrap_err();
    assert!(
        error.code == code::EXISTS && error.details.contains("eth0 exists already in the container"),
        "{error:?}"
    );
    assert_eq!((cell.names().len(), cell.files().len(), cell.wire.entered().len()), (1, 1, 1));
}

#[tokio::test]
async fn an_interface_of_somebody_else_is_left_alone() {
    let (cell, container) = (Cell::new(BLOCK), testing::namespace());
    ip(&cell.home, "link add s-010255001002 up type veth peer name other");
    let before = cell.links();
    let error = cell.add("one", &container).await.unwrap_err();
    assert!(error.details.contains("s-010255001002 exists already on the cell"), "{error:?}");
    assert_eq!((cell.links(), cell.manager.list()), (before, vec![]));
    let added = cell.add("one", &container).await.unwrap();
    assert_eq!(added.address, Ipv4Addr::new(10, 255, 1, 3), "the next address");
}

#[tokio::test]
async fn del_works_without_the_namespace() {
    let (cell, container) = (Cell::new(BLOCK), testing::namespace());
    cell.add("one", &container).await.unwrap();
    ip(&container, "link del eth0");
    drop(container);
    cell.del("one").await.unwrap();
    cell.assert_nothing_is_left();
}

#[tokio::test]
async fn what_the_datapath_refuses_is_undone() {
    let (cell, container) = (Cell::new(BLOCK), testing::namespace());
    cell.refuse(Some("add"));
    let error = cell.add("one", &container).await.unwrap_err();
    assert_eq!((error.code, error.details.as_str()), (code::DATAPATH, "map ENDPOINTS is full (64 entries)"));
    cell.assert_nothing_is_left();
    cell.refuse(None);
    cell.add("one", &container).await.unwrap();
}

#[tokio::test]
async fn a_del_that_failed_goes_on_where_it_was() {
    let (cell, container) = (Cell::new(BLOCK), testing::namespace());
    cell.add("one", &container).await.unwrap();
    cell.refuse(Some("remove"));
    assert_eq!(cell.del("one").await.unwrap_err().code, code::DATAPATH);
    assert_eq!((cell.names().len(), cell.files().len()), (0, 1), "the rest is removed, the record is kept");
    cell.refuse(None);
    cell.del("one").await.unwrap();
    cell.assert_nothing_is_left();
}

#[tokio::test]
async fn an_add_that_could_not_be_undone_makes_room_for_the_next() {
    let (cell, container) = (Cell::new(BLOCK), testing::namespace());
    cell.add("one", &container).await.unwrap();
    cell.refuse(Some("remove"));
    cell.del("one").await.unwrap_err();
    assert_eq!(cell.add("one", &container).await.unwrap_err().code, code::DATAPATH);
    cell.refuse(None);
    cell.add("one", &container).await.unwrap();
}

#[tokio::test]
async fn add_needs_a_lease_and_an_address() {
    let cell = Cell::new("10.255.1.0/30");
    let (first, second) = (testing::namespace(), testing::namespace());
    assert_eq!(cell.manager.ready(), Ok(()));
    cell.add("one", &first).await.unwrap();
    let error = cell.add("two", &second).await.unwrap_err();
    assert!(error.code == code::NO_ADDRESS && error.msg.contains("10.255.1.0/30"), "{error:?}");
    assert_eq!(cell.manager.ready().unwrap_err().code, code::UNAVAILABLE);
    *cell.wire.lease.lock().unwrap() = None;
    assert_eq!(cell.add("two", &second).await.unwrap_err().code, code::TRY_AGAIN);
    assert_eq!(cell.manager.ready().unwrap_err().code, code::UNAVAILABLE);
    cell.del("one").await.unwrap();
    cell.assert_nothing_is_left();
}

#[tokio::test]
async fn what_is_no_containers_namespace_is_refused() {
    let cell = Cell::new(BLOCK);
    let own = cell.add("one", &cell.home).await.unwrap_err();
    assert!(own.code == code::INVALID && own.msg.contains("the cell's own"), "{own:?}");
    let file: OwnedFd = tempfile::tempfile().unwrap().into();
    let error = cell.manager.add(add("one", &cell.home), file).await.unwrap_err();
    assert_eq!(error.code, code::INVALID, "{error:?}");
    cell.assert_nothing_is_left();
}

#[tokio::test]
async fn records_that_cannot_be_written_stop_an_add_before_it_begins() {
    let (cell, container) = (Cell::new(BLOCK), testing::namespace());
    std::fs::remove_dir_all(cell.dir.path().join("endpoints")).unwrap();
    let error = cell.add("one", &container).await.unwrap_err();
    assert_eq!(error.code, code::STATE, "{error:?}");
    assert_eq!((cell.names(), cell.wire.entered(), cell.manager.list()), (vec![], vec![], vec![]));
}

#[tokio::test]
async fn check_tells_what_is_missing() {
    let (cell, container) = (Cell::new(BLOCK), testing::namespace());
    let address = cell.add("one", &container).await.unwrap().address;
    let check = async |id: &str, address| {
        cell.manager.check(Check { attachment: attachment(id), address }, Some(descriptor(&container))).await
    };
    check("one", address).await.unwrap();
    assert_eq!(check("two", address).await.unwrap_err().code, code::UNKNOWN_CONTAINER);
    let error = check("one", Ipv4Addr::new(10, 255, 1, 9)).await.unwrap_err();
    assert!(error.code == code::DRIFTED && error.details.contains("prevResult says 10.255.1.9"), "{error:?}");
    ip(&container, "link set eth0 address 02:00:00:00:00:01");
    ip(&container, "link add bwp0 type ifb");
    check("one", address).await.unwrap(); // plugins after us may do that
    ip(&container, "route del default");
    ip(&cell.home, "neigh flush dev s-010255001002 nud permanent");
    let details = check("one", address).await.unwrap_err().details;
    assert!(details.contains("in the container the default route is missing"), "{details}");
    assert!(details.contains("on the cell the permanent neighbour is missing"), "{details}");
}

#[tokio::test]
async fn gc_keeps_what_is_listed() {
    let cell = Cell::new(BLOCK);
    let containers: Vec<_> = (0..3).map(|_| testing::namespace()).collect();
    for (id, container) in ["a", "b", "c"].iter().zip(&containers) {
        cell.add(id, container).await.unwrap();
    }
    cell.manager.gc(vec![attachment("b"), attachment("unknown")]).await.unwrap();
    assert_eq!(
        (cell.files(), cell.names()),
        (vec!["b@eth0.json".to_owned()], vec!["s-010255001003".to_owned()])
    );
    cell.refuse(Some("remove"));
    assert_eq!(cell.manager.gc(vec![]).await.unwrap_err().code, code::DATAPATH);
    cell.refuse(None);
    cell.manager.gc(vec![]).await.unwrap();
    cell.assert_nothing_is_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_at_once_come_and_go() {
    let cell = Arc::new(Cell::new(BLOCK));
    let containers: Vec<_> = (0..50).map(|_| Arc::new(testing::namespace())).collect();
    let come = containers.iter().enumerate().map(|(number, container)| {
        let (cell, container) = (Arc::clone(&cell), Arc::clone(container));
        tokio::spawn(async move { cell.add(&format!("c{number}"), &container).await.unwrap().address })
    });
    let addresses = futures::future::join_all(come).await;
    let addresses: BTreeSet<_> = addresses.into_iter().map(Result::unwrap).collect();
    assert_eq!((addresses.len(), cell.names().len(), cell.wire.entered().len()), (50, 50, 50));
    for (record, container) in cell.manager.list().iter().zip(&containers).take(3) {
        assert!(path(container).starts_with("/proc") && record.ifindex > 0);
    }
    let go = (0..50).map(|number| {
        let cell = Arc::clone(&cell);
        tokio::spawn(async move { cell.del(&format!("c{number}")).await.unwrap() })
    });
    futures::future::join_all(go).await.into_iter().for_each(Result::unwrap);
    cell.assert_nothing_is_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_container_is_served_one_call_at_a_time() {
    let (cell, container) = (Arc::new(Cell::new(BLOCK)), Arc::new(testing::namespace()));
    let calls = (0..30).map(|number| {
        let (cell, container) = (Arc::clone(&cell), Arc::clone(&container));
        tokio::spawn(async move {
            if number % 2 == 0 {
                cell.add("one", &container).await.map(drop).or_else(|error| match error.code {
                    code::EXISTS => Ok(()),
                    _ => Err(error),
                })
            } else {
                cell.del("one").await
            }
        })
    });
    for result in futures::future::join_all(calls).await {
        result.unwrap().unwrap();
    }
    cell.del("one").await.unwrap();
    cell.assert_nothing_is_left();
}
