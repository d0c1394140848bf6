//! Removing the clsact qdisc that had to be made on a device for filters (before Linux 6.6). Making it is the datapath's,
//! together with the filters.

use super::Error;
use super::netlink::{Netlink, Step};
use super::veth::index;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage};

/// Removes a device's clsact qdisc, in the calling thread's namespace. Everything attached to it goes with it.
///
/// # Errors
/// When the device or its qdisc is not there, or the kernel refuses.
pub fn remove_clsact(name: &str) -> Result<(), Error> {
    let mut message = TcMessage::default();
    message.header.index = i32::try_from(index(name)?).unwrap_or_default();
    message.header.parent = TcHandle::CLSACT;
    message.attributes.push(TcAttribute::Kind("clsact".to_owned()));
    let what = format!("remove the clsact qdisc of {name}");
    Netlink::open()?.apply(vec![Step::change(what, RouteNetlinkMessage::DelQueueDiscipline(message))])
}
