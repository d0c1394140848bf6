//! What can go wrong between the agent and the kernel's eBPF side.

use std::io;
use std::path::PathBuf;

use aya::maps::MapError;
use aya::programs::ProgramError;
use aya::programs::links::LinkError;
use aya::sys::SyscallError;

/// Why the datapath could not do it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The pin directory cannot be used.
    #[error(
        "cannot keep pins in {}: it must be a directory on a bpffs \
         (mount one with: mount -t bpf bpf /sys/fs/bpf)", path.display()
    )]
    PinDirectory {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The kernel is too old for the way of attaching that the configuration asks for.
    #[error("attach = \"tcx\" needs Linux 6.6 or later; with \"auto\" an earlier kernel gets clsact filters")]
    NoTcx,
    /// The embedded object does not load.
    #[error("cannot load the eBPF object; it needs Linux 5.15 or later, root, and BTF")]
    Object(#[source] Box<aya::EbpfError>),
    /// The object lacks a map or program that this agent was built for, or it is of another type.
    #[error("the eBPF object has no {0}; agent and object were not built together")]
    Missing(String),
    /// A pinned map has another shape than this agent's.
    #[error("the pinned map {name} has {found}, but this agent needs {wanted}; remove {} while no container runs", path.display())]
    Layout {
        /// The map.
        name: String,
        /// What is there.
        found: String,
        /// What must be.
        wanted: String,
        /// Its pin.
        path: PathBuf,
    },
    /// A map took no more entries. What was there keeps working.
    #[error(
        "map {name} is full ({capacity} entries): the new entry was refused, what was there keeps working; \
         raise map_capacity.{name} and restart the agent after draining the cell"
    )]
    Full {
        /// The map.
        name: String,
        /// Its capacity in entries.
        capacity: u32,
    },
    /// A map operation was refused.
    #[error("map {name} refused an operation")]
    Map {
        /// The map.
        name: String,
        /// What the kernel said.
        #[source]
        source: Box<MapError>,
    },
    /// A program was refused by the verifier or could not be attached.
    #[error("program {program} cannot be loaded or attached ({pin})")]
    Program {
        /// The program.
        program: String,
        /// The pin's name, which tells the place.
        pin: String,
        /// What the kernel said.
        #[source]
        source: Box<ProgramError>,
    },
    /// A pinned link cannot be used.
    #[error("the pinned link {pin} cannot be opened or taken over")]
    Link {
        /// The pin's name, which tells the place.
        pin: String,
        /// What the kernel said.
        #[source]
        source: Box<LinkError>,
    },
    /// A device is gone.
    #[error("no interface has index {ifindex}; it was removed while its programs were being attached")]
    NoDevice {
        /// Its index.
        ifindex: u32,
    },
    /// A pin cannot be made or removed.
    #[error("cannot write the pin {}", path.display())]
    Pin {
        /// The pin.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The programs' messages cannot be read.
    #[error("cannot read what the programs trace; tracing stays off")]
    Trace(#[source] io::Error),
}

impl Error {
    pub(super) fn map(name: &str, source: MapError) -> Self {
        Self::Map { name: name.to_owned(), source: Box::new(source) }
    }

    pub(super) fn link(pin: &str, source: LinkError) -> Self {
        Self::Link { pin: pin.to_owned(), source: Box::new(source) }
    }

    pub(super) fn program(program: &str, pin: &str, source: impl Into<ProgramError>) -> Self {
        let (program, pin) = (program.to_owned(), pin.to_owned());
        Self::Program { program, pin, source: Box::new(source.into()) }
    }
}

/// Whether the kernel said that the map has no room (E2BIG; ENOMEM under memory pressure for maps without
/// preallocation is another matter).
pub(super) fn is_full(error: &MapError) -> bool {
    let MapError::SyscallError(SyscallError { io_error, .. }) = error else { return false };
    matches!(io_error.raw_os_error(), Some(nix::libc::E2BIG | nix::libc::ENOSPC))
}
