//! What is switched off on the underlay device, on disk before it is done, so that whoever comes later can put it back:
//! an agent that may not switch any more, or an uninstall.

use super::machine::Step;
use crate::host::{self, active_features, switch_features};
use crate::policy::saved::{Offloads, Saved, SavedError};
use std::collections::BTreeSet;

/// Why something was not switched.
#[derive(Debug, thiserror::Error)]
pub enum FallbackError {
    /// It could not be written down.
    #[error("cannot write down which offloads are switched off")]
    Saved(#[from] SavedError),
    /// The kernel refused.
    #[error("cannot switch the offloads of {device}")]
    Host {
        /// Which interface.
        device: String,
        /// The kernel's reason.
        source: host::Error,
    },
}

/// The features of a step, as `ethtool --show-features` has them.
#[must_use]
pub fn names(step: Step) -> [&'static str; 2] {
    match step {
        Step::Segmentation => ["tx-udp_tnl-segmentation", "tx-udp_tnl-csum-segmentation"],
        Step::Checksum => ["tx-checksum-ip-generic", "tx-checksum-ipv4"],
    }
}

/// The command that switches them.
#[must_use]
pub fn command(device: &str, names: &BTreeSet<String>, state: &str) -> String {
    names.iter().fold(format!("ethtool --features {device}"), |text, name| text + &format!(" {name} {state}"))
}

/// The underlay device's features.
#[derive(Debug)]
pub(super) struct Fallback {
    saved: Saved,
    device: String,
    /// What is switched off.
    pub(super) off: BTreeSet<String>,
    /// Of these, what was so before this agent.
    before: BTreeSet<String>,
}

impl Fallback {
    /// Finds what an earlier agent switched off and is off still. `keep`: else it is put back, as is what was switched off
    /// on another device.
    pub(super) fn open(saved: Saved, device: &str, keep: bool) -> Result<Self, FallbackError> {
        let found = saved.offloads()?.unwrap_or_default();
        let mut fallback =
            Self { saved, device: device.to_owned(), off: BTreeSet::new(), before: BTreeSet::new() };
        if keep && found.device == device {
            let on = fallback.active(found.off.iter().map(String::as_str).collect::<Vec<_>>().as_slice())?;
            fallback.off = found.off.difference(&on).cloned().collect();
            fallback.before.clone_from(&fallback.off);
            fallback.write_down()?;
        } else {
            put_back(&fallback.saved)?;
        }
        Ok(fallback)
    }

    /// Takes a step. False when it changed nothing.
    pub(super) fn switch_off(&mut self, step: Step) -> Result<bool, FallbackError> {
        let on = self.active(&names(step))?;
        self.off.extend(on.iter().cloned());
        self.write_down()?;
        self.switch(&on, false)?;
        let still_on = self.active(&names(step))?;
        self.off.retain(|name| !still_on.contains(name));
        self.write_down()?;
        Ok(still_on != on)
    }

    /// Puts back what this agent switched off.
    pub(super) fn restore(&mut self) -> Result<(), FallbackError> {
        let own = self.off.difference(&self.before).cloned().collect();
        self.switch(&own, true)?;
        self.off.clone_from(&self.before);
        Ok(self.write_down()?)
    }

    fn active(&self, names: &[&str]) -> Result<BTreeSet<String>, FallbackError> {
        let look = || active_features(index(&self.device)?, names);
        look().map_err(|source| self.refused(source))
    }

    fn switch(&self, names: &BTreeSet<String>, on: bool) -> Result<(), FallbackError> {
        let switch = || switch_features(index(&self.device)?, names, on);
        switch().map_err(|source| self.refused(source))
    }

    fn refused(&self, source: host::Error) -> FallbackError {
        FallbackError::Host { device: self.device.clone(), source }
    }

    fn write_down(&self) -> Result<(), SavedError> {
        if self.off.is_empty() {
            return self.saved.forget_offloads();
        }
        self.saved.put_offloads(&Offloads { device: self.device.clone(), off: self.off.clone() })
    }
}

fn index(device: &str) -> Result<u32, host::Error> {
    let link = host::find_link(device)?.map(|link| link.ifindex);
    link.ok_or_else(|| host::Error::NoLink { name: device.to_owned() })
}

/// Puts back everything that agents switched off. Nothing is wrong when the device is gone.
///
/// # Errors
/// When the kernel refuses, or what is written down cannot be read; it stays written down then.
pub fn put_back(saved: &Saved) -> Result<(), FallbackError> {
    let Some(found) = saved.offloads()? else { return Ok(()) };
    let switch = || match host::find_link(&found.device)? {
        Some(link) => switch_features(link.ifindex, &found.off, true),
        None => Ok(()),
    };
    switch().map_err(|source| FallbackError::Host { device: found.device.clone(), source })?;
    tracing::info!(device = found.device, offloads = ?found.off, "switched on again");
    Ok(saved.forget_offloads()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{Netns, Pair, create_pair, testing};
    use std::path::Path;

    const DEVICE: &str = "under0";

    /// A namespace with an underlay device, a veth, and the one that its other end is in.
    fn cell() -> (Netns, Netns) {
        let (host, other) = (testing::namespace(), testing::namespace());
        let pair = Pair {
            host_name: DEVICE.to_owned(),
            host_mac: [2, 0, 0, 0, 0, 1],
            container_name: "far".to_owned(),
            container_mac: [2, 0, 0, 0, 0, 2],
            mtu: 1500,
            alias: "c2c test".to_owned(),
        };
        host.run(|| create_pair(&pair, &other)).unwrap();
        (host, other)
    }

    fn in_cell<T: Send>(cell: &Netns, job: impl FnOnce() -> Result<T, FallbackError> + Send) -> T {
        cell.run(|| Ok(job().unwrap())).unwrap()
    }

    fn on(cell: &Netns, step: Step) -> usize {
        let look = || Ok(active_features(index(DEVICE)?, &names(step))?.len());
        cell.run(look).unwrap()
    }

    fn saved(dir: &Path) -> Saved {
        Saved::new(dir)
    }

    #[test]
    fn what_was_switched_off_is_known_to_the_next_agent_and_comes_back() {
        let ((cell, _other), dir) = (cell(), tempfile::tempdir().unwrap());
        let open = |keep| in_cell(&cell, || Fallback::open(saved(dir.path()), DEVICE, keep));
        let before = on(&cell, Step::Segmentation);
        let mut first = open(true);
        assert!(in_cell(&cell, || first.switch_off(Step::Segmentation)));
        assert!(!in_cell(&cell, || first.switch_off(Step::Segmentation)), "it is off already");
        assert_eq!((on(&cell, Step::Segmentation), first.off.len()), (0, before));

        let mut second = open(true);
        assert_eq!(second.off, first.off);
        assert!(in_cell(&cell, || second.switch_off(Step::Checksum)));
        in_cell(&cell, || second.restore());
        assert_eq!((on(&cell, Step::Segmentation), on(&cell, Step::Checksum)), (0, 1), "only its own");

        assert_eq!(open(false).off.len(), 0);
        assert_eq!(on(&cell, Step::Segmentation), before);
        assert_eq!(saved(dir.path()).offloads().unwrap(), None);
    }

    #[test]
    fn what_the_operator_switched_on_again_is_not_ours_any_more() {
        let ((cell, _other), dir) = (cell(), tempfile::tempdir().unwrap());
        let open = || in_cell(&cell, || Fallback::open(saved(dir.path()), DEVICE, true));
        let mut first = open();
        in_cell(&cell, || first.switch_off(Step::Segmentation));
        cell.run(|| switch_features(index(DEVICE)?, &first.off, true)).unwrap();
        assert_eq!(open().off.len(), 0);
        assert_eq!(saved(dir.path()).offloads().unwrap(), None);
    }

    #[test]
    fn a_device_that_is_gone_needs_nothing_back() {
        let (cell, dir) = (testing::namespace(), tempfile::tempdir().unwrap());
        let off = ["tx-checksum-ipv4".to_owned()].into();
        saved(dir.path()).put_offloads(&Offloads { device: DEVICE.to_owned(), off }).unwrap();
        in_cell(&cell, || put_back(&saved(dir.path())));
        assert_eq!(saved(dir.path()).offloads().unwrap(), None);
    }
}
