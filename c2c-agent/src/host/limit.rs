//! Limiting how fast an end sends: a token bucket (`sch_tbf`) as its root qdisc. Both ends of a pair have one, so each
//! direction is limited where it leaves its sender, and no IFB device is needed.
//!
//! What an end that is not limited has at its root is not looked at: it has none of ours, and pays nothing.

use super::netlink::Step;
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcOption};
use rtnetlink::packet_core::{DefaultNla, Nla};

/// The qdisc's name in the kernel.
const KIND: &str = "tbf";
/// Our qdisc's handle. `0xc2c:`; the kernel gives its own from 0x8000 on.
const HANDLE: TcHandle = TcHandle { major: 0xc2c, minor: 0 };
/// What the kernel counts of a packet beside its MTU: Ethernet's header, in bytes.
const ETHERNET: u64 = 14;
/// What of a packet's MTU are headers of IPv4 and TCP, in bytes. A rate is that of what full packets carry: with it in
/// the kernel's own terms, an app would get 4.5 % less, and a little less again of what TCP loses in finding the rate.
const HEADERS: u64 = 40;
/// A burst is never below this, in bytes: the largest GSO packet, and 16 KiB for the headers of its segments (122 of them
/// when each carries 536 bytes, with headers of at most 134). A packet that does not fit is cut into its segments, and one
/// that came through the tunnel bears marks by which the kernel would cut it at the wrong place.
const MIN_BURST: u64 = (64 + 16) << 10;
/// How long a packet may wait, in milliseconds. That of CNI's bandwidth plugin, which adds the whole burst to the queue;
/// here it is the smallest burst, or a burst of a gigabit would be a queue of one.
const LATENCY: u64 = 25;
/// In the unit of `struct tc_ratespec`: the qdisc needs no table of rates when it knows the link (`TC_LINKLAYER_ETHERNET`).
const LINKLAYER_ETHERNET: u8 = 1;

/// Attributes of `sch_tbf` (Linux, `include/uapi/linux/pkt_sched.h`).
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
/// `struct tc_tbf_qopt`: two `tc_ratespec` of 12 bytes, then limit, buffer and mtu.
const QOPT_BYTES: usize = 36;
const QOPT_RATE: usize = 8;
const QOPT_LIMIT: usize = 24;

/// How fast an end may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// In bits per second that full TCP segments carry.
    pub rate: u64,
    /// What may be sent at once, in bits.
    pub burst: u64,
}

/// A limit as the kernel has it, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bucket {
    rate: u64,
    burst: u32,
    queue: u32,
}

impl Limit {
    /// Puts the limit on an interface, in place of whatever its root qdisc was.
    pub(super) fn step(&self, name: &str, ifindex: u32, mtu: u32) -> Step {
        let mut message = TcMessage::default();
        message.header.index = i32::try_from(ifindex).unwrap_or_default();
        message.header.parent = TcHandle::ROOT;
        message.header.handle = HANDLE;
        message.attributes =
            vec![TcAttribute::Kind(KIND.to_owned()), TcAttribute::Options(self.bucket(mtu).options())];
        Step::put(format!("limit the interface {name}"), Message::NewQueueDiscipline(message))
    }

    /// Whether this message of the kernel shows the limit on that interface.
    pub(super) fn is(&self, message: &Message, ifindex: u32, mtu: u32) -> bool {
        let Message::NewQueueDiscipline(found) = message else { return false };
        let here = i64::from(found.header.index) == i64::from(ifindex);
        let root = found.header.parent == TcHandle::ROOT;
        let kind = found.attributes.contains(&TcAttribute::Kind(KIND.to_owned()));
        let want = self.bucket(mtu);
        here && root && kind && parameters(found) == Some((want.rate, want.queue))
    }

    fn bucket(&self, mtu: u32) -> Bucket {
        let mtu = u64::from(mtu);
        let carried = mtu.saturating_sub(HEADERS).max(1);
        let rate = scaled(self.rate / 8, mtu + ETHERNET, carried).max(1);
        let queue = scaled(rate, LATENCY, 1000).saturating_add(MIN_BURST);
        let burst = (self.burst / 8).max(MIN_BURST);
        Bucket { rate, burst: clamped(burst), queue: clamped(queue) }
    }
}

/// All qdiscs of the calling thread's namespace.
pub(super) fn all() -> Message {
    Message::GetQueueDiscipline(TcMessage::default())
}

/// Refuses a limit that the kernel would refuse or misunderstand.
///
/// # Errors
/// With one line that says what is wrong.
pub fn check_limit(rate: u64, burst: u64) -> Result<Option<Limit>, &'static str> {
    match (rate, burst) {
        (0, 0) => Ok(None),
        (0, _) => Err("a burst without a rate, expected both or neither"),
        (_, 0) => Err("a rate without a burst, expected both or neither"),
        (..8, _) => Err("a rate below 8 bits per second"),
        (_, burst) if burst / 8 > u64::from(u32::MAX) => Err("a burst of 4 GiB or more"),
        (rate, burst) => Ok(Some(Limit { rate, burst })),
    }
}

impl Bucket {
    fn options(self) -> Vec<TcOption> {
        let option = |kind, value: &[u8]| TcOption::Other(DefaultNla::new(kind, value.to_vec()));
        vec![
            option(TCA_TBF_PARMS, &self.qopt()),
            option(TCA_TBF_RATE64, &self.rate.to_ne_bytes()),
            option(TCA_TBF_BURST, &self.burst.to_ne_bytes()),
        ]
    }

    /// `struct tc_tbf_qopt`. The buffer is left to `TCA_TBF_BURST`, which is in bytes and not in ticks of the rate.
    fn qopt(self) -> [u8; QOPT_BYTES] {
        let rate = clamped(self.rate).to_ne_bytes();
        let queue = self.queue.to_ne_bytes();
        let mut bytes = [0; QOPT_BYTES];
        let at = [(1, &[LINKLAYER_ETHERNET][..]), (QOPT_RATE, &rate), (QOPT_LIMIT, &queue)];
        for (offset, value) in at {
            for (byte, value) in bytes.iter_mut().skip(offset).zip(value) {
                *byte = *value;
            }
        }
        bytes
    }
}

/// Rate and queue of a bucket that the kernel shows. It shows the 64 bits of a rate only when 32 are too few.
fn parameters(message: &TcMessage) -> Option<(u64, u32)> {
    let options = message.attributes.iter().find_map(options)?;
    let qopt = find(&options, TCA_TBF_PARMS)?;
    let word = |at: usize| qopt.get(at..at + 4).and_then(|word| word.try_into().ok()).map(u32::from_ne_bytes);
    let wide = find(&options, TCA_TBF_RATE64).and_then(|rate| rate.try_into().ok()).map(u64::from_ne_bytes);
    Some((wide.or_else(|| word(QOPT_RATE).map(u64::from))?, word(QOPT_LIMIT)?))
}

/// The bytes of a qdisc's options. The crate does not know this qdisc, and hands over all of them as one.
fn options(attribute: &TcAttribute) -> Option<Vec<u8>> {
    let TcAttribute::Options(options) = attribute else { return None };
    let nest = options.first()?;
    let mut bytes = vec![0; nest.value_len()];
    nest.emit_value(&mut bytes);
    Some(bytes)
}

/// Walks attributes: length (with its own 4 bytes), kind, value, all padded to 4 bytes.
fn find(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let (length, rest) = attributes.split_first_chunk::<2>()?;
        let (found, _) = rest.split_first_chunk::<2>()?;
        let length = usize::from(u16::from_ne_bytes(*length));
        if u16::from_ne_bytes(*found) == kind {
            return attributes.get(4..length);
        }
        attributes = attributes.get(length.max(4).next_multiple_of(4)..)?;
    }
}

fn scaled(value: u64, by: u64, over: u64) -> u64 {
    let scaled = u128::from(value) * u128::from(by) / u128::from(over);
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

fn clamped(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MBIT: u64 = 1_000_000;

    fn bucket(rate: u64, burst: u64, mtu: u32) -> Bucket {
        Limit { rate, burst }.bucket(mtu)
    }

    #[test]
    fn a_rate_is_what_full_segments_carry() {
        let packets = bucket(100 * MBIT, 8, 1450).rate / 1464;
        let carried = packets * 1410 * 8;
        assert!((99_900_000..=100_000_000).contains(&carried), "{carried}");
        assert!(bucket(100 * MBIT, 8, 8950).rate < bucket(100 * MBIT, 8, 1450).rate);
    }

    #[test]
    fn a_whole_gso_packet_always_fits() {
        for burst in [1, 8, 80_000, 8 << 20] {
            let Bucket { burst, queue, .. } = bucket(MBIT, burst, 1450);
            assert!(burst >= 65_536 + 122 * 134 && queue >= burst.min(81_920), "{burst} {queue}");
        }
        assert_eq!(bucket(MBIT, 8 << 20, 1450).burst, 1 << 20);
        assert_eq!(bucket(MBIT, u64::from(u32::MAX) * 8, 1450).queue, bucket(MBIT, 8, 1450).queue);
    }

    #[test]
    fn rate_and_burst_come_together() {
        assert_eq!(check_limit(0, 0), Ok(None));
        assert_eq!(check_limit(8, 1), Ok(Some(Limit { rate: 8, burst: 1 })));
        for (rate, burst) in [(0, 1), (8, 0), (7, 8), (8, 8 << 32)] {
            assert!(check_limit(rate, burst).is_err(), "{rate} {burst}");
        }
    }

    proptest! {
        /// What is written is what is read back, whatever the numbers are.
        #[test]
        fn a_bucket_reads_as_it_is_written(rate in 8_u64.., burst in 1_u64..=(u64::from(u32::MAX) * 8), mtu: u32) {
            let bucket = bucket(rate, burst, mtu);
            let mut nest = Vec::new();
            for option in bucket.options() {
                let mut value = vec![0; option.value_len()];
                option.emit_value(&mut value);
                nest.extend(u16::try_from(value.len() + 4).unwrap().to_ne_bytes());
                nest.extend(option.kind().to_ne_bytes());
                nest.extend(&value);
            }
            let mut message = TcMessage::default();
            message.attributes = vec![TcAttribute::Options(vec![TcOption::Other(DefaultNla::new(2, nest))])];
            prop_assert_eq!(parameters(&message), Some((bucket.rate, bucket.queue)));
        }

        #[test]
        fn no_bytes_are_too_odd_to_be_walked(bytes: Vec<u8>, kind: u16) {
            find(&bytes, kind);
        }
    }
}
