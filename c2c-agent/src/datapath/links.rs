//! Attaching programs so that they stay when the agent goes: TCX and XDP links pinned by name, or clsact filters, which
//! stay by themselves and are recognised by their priority and handle. Both are replaced atomically.
//!
//! The underlay device, which others use too, gets TCX links where the kernel has them (6.6). An endpoint's device, which
//! is ours alone, gets clsact filters: attaching a TCX link waits for an RCU grace period under the kernel's one lock for
//! all devices (`tcx_entry_sync`), 19 to 23 ms for an endpoint's two programs against 0.3 to 0.5 ms (measured on 6.18);
//! no packet takes longer for it.
//!
//! A pin's name tells its place: `underlay-N`, `vxlan-N`, `shield-native-N` or `shield-generic-N`, where N is the index of the
//! device, and `<device>-in` and `<device>-out` for an endpoint. For a clsact filter a directory of that name on the bpffs
//! stands for the pin.

use std::path::{Path, PathBuf};
use std::{fs, io, mem};

use aya::Ebpf;
use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact,
    qdisc_detach_program,
};
use aya::programs::xdp::XdpLink;
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType, XdpMode};
use aya::sys::SyscallError;
use aya::util::KernelVersion;
use nix::net::if_::if_indextoname;

use super::{Attach, Error, Settings, Shield, load};

/// First among clsact filters: what comes before us could accept what we would refuse.
const PRIORITY: u16 = 1;
/// Recognises our filter on a device. The minor part spells c2c.
const HANDLE: u16 = 0xc2c;
/// TCX came with Linux 6.6 (commit e420bed02507, "bpf: Add fd-based tcx multi-prog infra with link support").
const FIRST_WITH_TCX: KernelVersion = KernelVersion::new(6, 6, 0);

/// Where a program goes.
pub(super) struct Place<'a> {
    pub(super) program: &'a str,
    pub(super) pin: &'a str,
    pub(super) ifindex: u32,
    pub(super) hook: TcAttachType,
}

fn has_tcx(kernel: Option<KernelVersion>, wanted: Attach) -> Result<bool, Error> {
    let has = kernel.is_some_and(|kernel| kernel >= FIRST_WITH_TCX);
    if wanted == Attach::Tcx && !has { Err(Error::NoTcx) } else { Ok(has) }
}

/// The pinned links.
#[derive(Debug)]
pub(super) struct Links {
    directory: PathBuf,
    attach: Attach,
    kernel_has_tcx: bool,
}

impl Links {
    /// Fails when the configuration asks for what this kernel has not.
    pub(super) fn open(settings: &Settings) -> Result<Self, Error> {
        let kernel_has_tcx = has_tcx(KernelVersion::current().ok(), settings.attach)?;
        Ok(Self { directory: load::links_dir(settings), attach: settings.attach, kernel_has_tcx })
    }

    /// Whether a place is to have a TCX link. What is attached there already decides before anything else.
    fn wants_tcx(&self, pin: &str) -> bool {
        let path = self.path(pin);
        let wanted = match self.attach {
            Attach::Auto => self.kernel_has_tcx && !is_endpoint(pin),
            Attach::Tcx => true,
            Attach::Clsact => false,
        };
        path.is_file() || (wanted && !path.is_dir())
    }

    /// Whether there is a pin.
    pub(super) fn is_attached(&self, pin: &str) -> bool {
        self.path(pin).exists()
    }

    /// Names of all pins.
    pub(super) fn pins(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// Attaches a program, or swaps it in where one of ours is attached. A pin whose device is gone is made anew.
    pub(super) fn attach(&self, programs: &mut Ebpf, place: &Place<'_>) -> Result<(), Error> {
        let program = load::classifier(programs, place.program)?;
        if self.wants_tcx(place.pin) {
            self.attach_tcx(program, place)
        } else {
            self.attach_clsact(program, place)
        }
    }

    fn attach_tcx(&self, program: &mut SchedClassifier, place: &Place<'_>) -> Result<(), Error> {
        let path = self.path(place.pin);
        if self.swap_tcx(program, place.program, place.pin)? == Swap::Done {
            return Ok(());
        }
        load::remove_pin(&path)?;
        let options = TcAttachOptions::TcxOrder(LinkOrder::first());
        let failed = |source| Error::program(place.program, place.pin, source);
        let id = program.attach_with_options(&device(place.ifindex)?, place.hook, options).map_err(failed)?;
        let link = program.take_link(id).map_err(failed)?.try_into();
        pin(link.map_err(|source| Error::link(place.pin, source))?, &path)
    }

    /// Puts the program under a pinned link, atomically (`BPF_LINK_UPDATE`): no packet passes without one.
    fn swap_tcx(&self, program: &mut SchedClassifier, name: &str, pin: &str) -> Result<Swap, Error> {
        let failed = |source: ProgramError| Error::program(name, pin, source);
        let Some(old) = self.open_pin(pin)? else { return Ok(Swap::NotThere) };
        let link: SchedClassifierLink = old.try_into().map_err(|source| Error::link(pin, source))?;
        match program.attach_to_link(link) {
            Ok(id) => {
                // The pin keeps the link; what aya holds of it is only a descriptor.
                program.take_link(id).map(drop).map_err(failed)?;
                Ok(Swap::Done)
            }
            // The device behind the link is gone (ENOLINK, docs of bpf_link_update for tcx).
            Err(error) if is_program_error(&error, nix::libc::ENOLINK) => Ok(Swap::NotThere),
            Err(error) => Err(failed(error)),
        }
    }

    fn attach_clsact(&self, program: &mut SchedClassifier, place: &Place<'_>) -> Result<(), Error> {
        let name = device(place.ifindex)?;
        let failed = |source| Error::program(place.program, place.pin, source);
        let is_marked = self.path(place.pin).is_dir();
        // An endpoint's device is ours, so a filter in our place on it is ours too, also when its mark is lost.
        let may_swap = is_marked || is_endpoint(place.pin);
        if may_swap && swap_clsact(program, &name, place.hook).map_err(failed)? == Swap::Done {
            return if is_marked { Ok(()) } else { self.mark(place.pin, &name, false) };
        }
        // "Exists" is what is wanted; any other failure shows when the filter is attached.
        let made = qdisc_add_clsact(&name).is_ok();
        if !is_endpoint(place.pin) {
            // On a device of others, one whose mark is lost is known by its program's name. None is the usual case.
            let _ = qdisc_detach_program(&name, place.hook, place.program);
        }
        add_clsact(program, &name, place.hook).map_err(failed)?;
        self.mark(place.pin, &name, made)
    }

    /// Attaches the shield in the wanted mode, or swaps it in where it is attached so; takes any other off.
    pub(super) fn shield(&self, programs: &mut Ebpf, ifindex: u32, shield: Shield) -> Result<(), Error> {
        let wanted = match shield {
            Shield::Off => None,
            Shield::Native => Some((format!("shield-native-{ifindex}"), XdpMode::Driver)),
            Shield::Generic => Some((format!("shield-generic-{ifindex}"), XdpMode::Skb)),
        };
        for pin in self.pins().iter().filter(|pin| is_shield(pin)) {
            if wanted.as_ref().is_none_or(|(name, _)| name != pin) {
                self.detach(pin)?;
            }
        }
        match wanted {
            Some((pin, _)) if self.swap_shield(programs, &pin)? == Swap::Done => Ok(()),
            Some((pin, mode)) => self.attach_shield(programs, ifindex, &pin, mode),
            None => Ok(()),
        }
    }

    fn attach_shield(
        &self,
        programs: &mut Ebpf,
        ifindex: u32,
        name: &str,
        mode: XdpMode,
    ) -> Result<(), Error> {
        let failed = |source| Error::program("xdp_underlay", name, source);
        load::remove_pin(&self.path(name))?;
        let program = load::shield(programs)?;
        let id = program.attach_to_if_index(ifindex, mode).map_err(failed)?;
        let link = program.take_link(id).map_err(failed)?.try_into();
        pin(link.map_err(|source| Error::link(name, source))?, &self.path(name))
    }

    /// Swaps new programs in wherever ours are attached. Pins whose device is gone are removed.
    pub(super) fn adopt_all(&self, programs: &mut Ebpf) -> Result<(), Error> {
        for pin in self.pins() {
            let swap = match program_of(&pin) {
                None => self.swap_shield(programs, &pin)?,
                Some(name) if self.path(&pin).is_dir() => {
                    self.adopt_clsact(load::classifier(programs, name)?, name, &pin)?
                }
                Some(name) => self.swap_tcx(load::classifier(programs, name)?, name, &pin)?,
            };
            if swap == Swap::NotThere {
                self.detach(&pin)?;
            }
        }
        Ok(())
    }

    fn adopt_clsact(&self, program: &mut SchedClassifier, name: &str, pin: &str) -> Result<Swap, Error> {
        let Some((device, hook)) = self.device_of(pin) else { return Ok(Swap::NotThere) };
        swap_clsact(program, &device, hook).map_err(|source| Error::program(name, pin, source))
    }

    fn swap_shield(&self, programs: &mut Ebpf, pin: &str) -> Result<Swap, Error> {
        let failed = |source: ProgramError| Error::program("xdp_underlay", pin, source);
        let program = load::shield(programs)?;
        let Some(old) = self.open_pin(pin)? else { return Ok(Swap::NotThere) };
        let link: XdpLink = old.try_into().map_err(|source| Error::link(pin, source))?;
        match program.attach_to_link(link) {
            Ok(id) => program.take_link(id).map(|_| Swap::Done).map_err(failed),
            Err(error) if is_program_error(&error, nix::libc::ENOLINK) => Ok(Swap::NotThere),
            Err(error) => Err(failed(error)),
        }
    }

    /// The link behind a pin, if there is one.
    fn open_pin(&self, pin: &str) -> Result<Option<FdLink>, Error> {
        match PinnedLink::from_pin(self.path(pin)) {
            Ok(old) => Ok(Some(old.into())),
            Err(error) if is_link_error(&error, nix::libc::ENOENT) => Ok(None),
            Err(error) => Err(Error::link(pin, error)),
        }
    }

    /// Takes a program off. Nothing is wrong when it, or its device, is gone.
    pub(super) fn detach(&self, pin: &str) -> Result<(), Error> {
        let path = self.path(pin);
        if path.is_dir() { self.detach_clsact(pin) } else { load::remove_pin(&path) }
    }

    /// Takes off what is attached for the same part under another pin than `kept`. A mark whose device has become the kept
    /// one's, by its name, has no filter of its own any more.
    pub(super) fn detach_others(&self, part: &str, kept: &str) -> Result<(), Error> {
        let pins = self.pins().into_iter();
        // Names of before had no device's index.
        let is_part =
            |pin: &str| pin.strip_prefix(part).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
        for pin in pins.filter(|pin| is_part(pin) && !is_endpoint(pin) && pin != kept) {
            let device = self.marked_device(&pin);
            if device.is_some() && device == self.marked_device(kept) {
                self.unmark(&pin)?;
            } else {
                self.detach(&pin)?;
            }
        }
        Ok(())
    }

    /// For an endpoint the filter goes with the device, which is removed right after; for the underlay it is taken off.
    fn detach_clsact(&self, pin: &str) -> Result<(), Error> {
        if let (Some(program), Some((device, hook))) = (program_of(pin), self.device_of(pin)) {
            let _ = qdisc_detach_program(&device, hook, program);
        }
        self.unmark(pin)
    }

    fn device_of(&self, pin: &str) -> Option<(String, TcAttachType)> {
        if let Some(device) = pin.strip_suffix("-in") {
            return Some((device.to_owned(), TcAttachType::Ingress));
        }
        if let Some(device) = pin.strip_suffix("-out") {
            return Some((device.to_owned(), TcAttachType::Egress));
        }
        Some((self.marked_device(pin)?, TcAttachType::Ingress))
    }

    /// Devices, other than endpoints', on which a clsact qdisc was made for a filter of ours.
    pub(super) fn made_qdiscs(&self) -> Vec<String> {
        let pins = self.pins().into_iter().filter(|pin| !is_endpoint(pin));
        let marks = pins.filter_map(|pin| Some((self.marked_device(&pin)?, pin)));
        marks
            .filter(|(device, pin)| self.qdisc_mark(pin, device).is_dir())
            .map(|(device, _)| device)
            .collect()
    }

    fn marked_device(&self, pin: &str) -> Option<String> {
        fs::read_dir(self.path(pin)).ok()?.flatten().next()?.file_name().into_string().ok()
    }

    fn qdisc_mark(&self, pin: &str, device: &str) -> PathBuf {
        self.path(pin).join(device).join("qdisc")
    }

    /// Takes everything off; goes on after an error and reports the first.
    pub(super) fn detach_all(&self) -> Result<(), Error> {
        self.pins().iter().map(|pin| self.detach(pin)).fold(Ok(()), Result::and)
    }

    /// A bpffs holds no files but pins; a directory can stand for a filter, one in it for the filter's device, and one
    /// in that for a qdisc that was made for it.
    fn mark(&self, pin: &str, device: &str, made_qdisc: bool) -> Result<(), Error> {
        let deepest = if made_qdisc { self.qdisc_mark(pin, device) } else { self.path(pin).join(device) };
        fs::create_dir_all(&deepest).map_err(|source| Error::Pin { path: deepest, source })
    }

    fn unmark(&self, pin: &str) -> Result<(), Error> {
        if let Some(device) = self.marked_device(pin) {
            // Not there is as good as removed; anything that stays shows at the last one.
            let _ = fs::remove_dir(self.qdisc_mark(pin, &device));
            let _ = fs::remove_dir(self.path(pin).join(device));
        }
        let path = self.path(pin);
        fs::remove_dir(&path).map_err(|source| Error::Pin { path, source })
    }

    fn path(&self, pin: &str) -> PathBuf {
        self.directory.join(pin)
    }
}

/// Attaches `self_test` to a device that has nothing else, and whose end is the filter's.
pub(super) fn attach_self_test(programs: &mut Ebpf, ifindex: u32) -> Result<(), Error> {
    let (program, name) = (load::classifier(programs, load::SELF_TEST)?, device(ifindex)?);
    // As in `attach_clsact`.
    let _ = qdisc_add_clsact(&name);
    let failed = |source| Error::program(load::SELF_TEST, &name, source);
    add_clsact(program, &name, TcAttachType::Ingress).map_err(failed)
}

/// Adds our filter to a device, and leaves it there.
fn add_clsact(program: &mut SchedClassifier, device: &str, hook: TcAttachType) -> Result<(), ProgramError> {
    let options = NlOptions { priority: PRIORITY, handle: TcHandle::new(0, HANDLE), classid: None };
    let id = program.attach_with_options(device, hook, TcAttachOptions::Netlink(options))?;
    // Dropping the link would take the filter off.
    mem::forget(program.take_link(id)?);
    Ok(())
}

/// Puts the program under our filter, atomically. Any other error than that there is none leaves the filter as it is.
fn swap_clsact(
    program: &mut SchedClassifier,
    device: &str,
    hook: TcAttachType,
) -> Result<Swap, ProgramError> {
    let filter = SchedClassifierLink::attached(device, hook, PRIORITY, TcHandle::new(0, HANDLE), None);
    let swapped = filter.map_err(ProgramError::from).and_then(|filter| program.attach_to_link(filter));
    match swapped {
        Ok(id) => {
            // Dropping the link would take the filter off.
            mem::forget(program.take_link(id)?);
            Ok(Swap::Done)
        }
        Err(error) if is_no_filter(&error) => Ok(Swap::NotThere),
        Err(error) => Err(error),
    }
}

/// No device, no clsact qdisc on it (EINVAL), or no filter in our place (ENOENT): see `tc_new_tfilter`, net/sched/cls_api.c.
fn is_no_filter(error: &ProgramError) -> bool {
    let errno = if let ProgramError::IOError(error) = error {
        error.raw_os_error()
    } else if let ProgramError::TcError(TcError::NetlinkError(error)) = error {
        error.raw_os_error()
    } else {
        None
    };
    matches!(errno, Some(nix::libc::ENODEV | nix::libc::EINVAL | nix::libc::ENOENT))
}

#[derive(PartialEq, Eq)]
enum Swap {
    Done,
    NotThere,
}

fn is_endpoint(pin: &str) -> bool {
    pin.ends_with("-in") || pin.ends_with("-out")
}

fn is_shield(pin: &str) -> bool {
    pin.starts_with("shield-")
}

/// The TC program that belongs under a pin; `None` for the shield.
fn program_of(pin: &str) -> Option<&'static str> {
    match pin {
        _ if is_shield(pin) => None,
        _ if pin.ends_with("-in") => Some("from_container"),
        _ if pin.ends_with("-out") => Some("to_container"),
        _ => Some("from_underlay"),
    }
}

fn device(ifindex: u32) -> Result<String, Error> {
    let name = if_indextoname(ifindex).map_err(|_| Error::NoDevice { ifindex })?;
    name.into_string().map_err(|_| Error::NoDevice { ifindex })
}

fn pin(link: FdLink, path: &Path) -> Result<(), Error> {
    let pinned = link.pin(path);
    pinned.map(drop).map_err(|error| Error::Pin { path: path.to_owned(), source: io::Error::other(error) })
}

fn is_link_error(error: &LinkError, errno: i32) -> bool {
    matches!(error, LinkError::SyscallError(e) if is_errno(e, errno))
}

fn is_program_error(error: &ProgramError, errno: i32) -> bool {
    matches!(error, ProgramError::SyscallError(e) if is_errno(e, errno))
}

fn is_errno(error: &SyscallError, errno: i32) -> bool {
    error.io_error.raw_os_error() == Some(errno)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_tcx_is_not_asked_for_it() {
        let (before, first) = (Some(KernelVersion::new(6, 5, 13)), Some(FIRST_WITH_TCX));
        assert!(!has_tcx(before, Attach::Auto).unwrap());
        assert!(has_tcx(first, Attach::Auto).unwrap());
        assert!(has_tcx(first, Attach::Tcx).unwrap());
        assert!(matches!(has_tcx(before, Attach::Tcx), Err(Error::NoTcx)));
    }
}
