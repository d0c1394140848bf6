//! The offload self-test: finds out whether the underlay device computes checksums and cuts large packets rightly when
//! they are tunnelled, by sending some to other cells, as a container's packets go, and hearing what arrived. Where it
//! does not, the kernel is told to do it instead.
//!
//! `machine` decides (time is an argument), `frame` is the packets as bytes, `rig` sends, `fallback` switches offloads and
//! remembers which, `task` puts them together. Every cell answers, also one that does not test itself. Nothing waits for a
//! test, and no container's packet is touched by one.

pub mod fallback;
pub mod frame;
pub mod machine;
mod rig;
mod task;

pub use rig::remove_left_over;
pub use task::SelfTest;

use frame::Kind;
use machine::Verdict;
use std::collections::BTreeSet;

/// What the self-test may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Test, and switch off what is broken.
    #[default]
    Fix,
    /// Test, and say what is broken.
    Report,
    /// Nothing but answer other cells.
    Off,
}

impl Mode {
    /// As in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fix => "fix",
            Self::Report => "report",
            Self::Off => "off",
        }
    }
}

/// What can be told about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// What it may do.
    pub mode: Mode,
    /// The device that is tested.
    pub device: String,
    /// What was found, since the agent started.
    pub verdict: Verdict,
    /// Features of the device that this or an earlier agent switched off.
    pub off: BTreeSet<String>,
    /// Why it cannot go on, if it cannot.
    pub failure: Option<String>,
}

/// The verdicts, as in metrics and pages.
pub const VERDICTS: [&str; 4] = ["unknown", "sound", "broken_checksum", "broken_segmentation"];

impl View {
    /// The verdict in a word.
    #[must_use]
    pub fn verdict(&self) -> &'static str {
        let [unknown, sound, checksum, segmentation] = VERDICTS;
        match self.verdict {
            Verdict::Unknown | Verdict::Broken(Kind::Plain) => unknown,
            Verdict::Sound => sound,
            Verdict::Broken(Kind::Checksum) => checksum,
            Verdict::Broken(Kind::Segmentation) => segmentation,
        }
    }

    /// What an operator types to have back what was switched off, if anything was.
    #[must_use]
    pub fn undo(&self) -> Option<String> {
        (!self.off.is_empty()).then(|| fallback::command(&self.device, &self.off, "on"))
    }

    /// What the operator has to know: that tunnelled packets are broken and nothing was done about it.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        let Verdict::Broken(kind) = self.verdict else { return None };
        let advice = match self.mode {
            Mode::Fix => "switching offloads off did not help".to_owned(),
            Mode::Report | Mode::Off => {
                let names =
                    fallback::names(machine::Step::against(kind)).into_iter().map(str::to_owned).collect();
                format!("try: {}", fallback::command(&self.device, &names, "off"))
            }
        };
        Some(format!("tunnelled packets leave {} broken ({}): {advice}", self.device, kind.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_broken_and_stays_so_is_told_with_what_may_help() {
        let view = View { mode: Mode::Report, device: "eth0".to_owned(), ..View::default() };
        assert_eq!((view.warning(), view.undo(), view.verdict()), (None, None, "unknown"));
        let view = View { verdict: Verdict::Broken(Kind::Segmentation), ..view };
        let said = "tunnelled packets leave eth0 broken (segmentation): try: ethtool --features eth0 \
                    tx-udp_tnl-csum-segmentation off tx-udp_tnl-segmentation off";
        assert_eq!((view.warning().as_deref(), view.verdict()), (Some(said), "broken_segmentation"));
        let hopeless = View { mode: Mode::Fix, ..view };
        assert!(hopeless.warning().unwrap().ends_with("switching offloads off did not help"));
    }

    #[test]
    fn what_was_switched_off_comes_with_the_way_back() {
        let off = ["tx-udp_tnl-segmentation".to_owned()].into();
        let view = View { device: "eth0".to_owned(), verdict: Verdict::Sound, off, ..View::default() };
        assert_eq!(view.undo().unwrap(), "ethtool --features eth0 tx-udp_tnl-segmentation on");
        assert_eq!((view.warning(), view.verdict()), (None, "sound"));
    }
}
