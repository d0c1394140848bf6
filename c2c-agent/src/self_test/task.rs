//! The self-test at work: hears what comes by the kernel's VXLAN device, answers other cells, and does what the machine
//! says.

use super::fallback::{Fallback, FallbackError};
use super::frame::{self, Ends, Heard, Kind, Piece};
use super::machine::{ATTEMPT, Command, Input, Machine, Step, Verdict};
use super::rig::{self, Rig, RigError};
use super::{Mode, View};
use crate::fabric::{Fabric, Tunnels, report_chain};
use crate::host::{self, PacketSocket, RawSocket};
use crate::lease::Tenure;
use crate::policy::saved::Saved;
use crate::stop::Stop;
use c2c_common::addr::{from_ipv4, hardware};
use c2c_common::bucket::{self, Bucket, Limit};
use c2c_common::self_test;
use c2c_common::wire::{Tunnel, source_port};
use std::collections::VecDeque;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::task::block_in_place;
use tokio::time::{sleep, sleep_until};

/// The VXLAN device may be made anew, and the host changes without a word.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// A look takes the fabric's lock and reads every lease, and most changes of the world are of policies: many of them are
/// looked at together. A new cell is known before it has asked twice: one that is not answered thrice gives up for a minute.
const LOOK_PAUSE: Duration = Duration::from_millis(250);
const _: () = assert!(LOOK_PAUSE.as_millis() < ATTEMPT.as_millis());
/// Answers that a cell gives, all others together: five cells that test at once, and no more than a trickle for a flood.
const ANSWERS: Limit = Limit { burst: 400, interval_ns: 10_000_000 };
/// The largest that merging makes of a probe, and a little more.
const BUFFER: usize = 1 << 16;

/// Why the self-test cannot go on.
#[derive(Debug, thiserror::Error)]
enum TaskError {
    #[error(transparent)]
    Fallback(#[from] FallbackError),
    #[error(transparent)]
    Rig(#[from] RigError),
    #[error("cannot prepare to hear other cells")]
    Host(#[from] host::Error),
}

/// The task.
#[derive(Debug)]
pub struct SelfTest {
    mode: Mode,
    fabric: Arc<Fabric>,
    world: watch::Receiver<()>,
    lease: watch::Receiver<Option<Tenure>>,
    view: watch::Sender<View>,
    fallback: Option<Fallback>,
    saved: Saved,
    started: Instant,
    /// When to look next.
    look_at: Instant,
    tunnels: Option<Tunnels>,
    machine: Option<(Machine, u16)>,
    ear: Option<(u32, AsyncFd<PacketSocket>)>,
    mouth: Option<RawSocket>,
    answers: Bucket,
    rig: Option<Rig>,
}

/// What woke the task.
enum Event {
    Heard(Option<Heard>),
    Deaf(io::Error),
    Due,
    Changed,
    Look,
    Stop,
}

impl SelfTest {
    /// One for this device, which has done nothing yet.
    #[must_use]
    pub fn new(
        (mode, device): (Mode, &str),
        fabric: Arc<Fabric>,
        saved: Saved,
        lease: watch::Receiver<Option<Tenure>>,
    ) -> (Self, watch::Receiver<View>) {
        let (view, seen) = watch::channel(View { mode, device: device.to_owned(), ..View::default() });
        let test = Self {
            mode,
            world: fabric.watch_world(),
            fabric,
            lease,
            view,
            fallback: None,
            saved,
            started: Instant::now(),
            look_at: Instant::now(),
            tunnels: None,
            machine: None,
            ear: None,
            mouth: None,
            answers: Bucket::default(),
            rig: None,
        };
        (test, seen)
    }

    /// Until it is told to stop. What fails is told, and tried again at the next look.
    pub async fn run(mut self, mut stop: Stop) {
        loop {
            match self.event(&mut stop).await {
                Event::Stop => return,
                Event::Changed => self.look_within(LOOK_PAUSE),
                Event::Look => self.look(),
                Event::Due => self.feed(Input::Tick),
                Event::Heard(heard) => self.hear(heard),
                Event::Deaf(error) => {
                    tracing::debug!(%error, "the self-test hears nothing by the VXLAN device; opened anew");
                    self.ear = None;
                    self.look_within(LOOK_PAUSE);
                }
            }
        }
    }

    /// Finds what was switched off, and puts it back where nothing may be.
    fn open(&mut self) -> Result<(), TaskError> {
        rig::remove_left_over()?;
        let device = self.view.borrow().device.clone();
        self.fallback = Some(Fallback::open(self.saved.clone(), &device, self.mode == Mode::Fix)?);
        self.show(|_| {});
        Ok(())
    }

    async fn event(&mut self, stop: &mut Stop) -> Event {
        let due = self.machine.as_ref().and_then(|(machine, _)| machine.due());
        let due = due.map_or(Duration::MAX, |due| due.saturating_sub(self.started.elapsed()));
        tokio::select! {
            heard = hear(self.ear.as_ref()) => heard.map_or_else(Event::Deaf, Event::Heard),
            () = sleep(due) => Event::Due,
            Ok(()) = self.world.changed() => Event::Changed,
            Ok(()) = self.lease.changed() => Event::Look,
            () = sleep_until(self.look_at.into()) => Event::Look,
            () = stop.said() => Event::Stop,
        }
    }

    fn look_within(&mut self, pause: Duration) {
        self.look_at = self.look_at.min(Instant::now() + pause);
    }

    /// Which cells there are now, and by which device they are heard.
    fn look(&mut self) {
        self.look_at = Instant::now() + LOOK_AGAIN;
        self.tunnels = self.fabric.tunnels();
        let ready = block_in_place(|| self.prepare());
        let is_ready = ready.is_ok();
        self.note(ready);
        let Some(tunnels) = self.tunnels.as_ref().filter(|_| is_ready && self.mode != Mode::Off) else {
            return;
        };
        let peers = tunnels.others.keys().copied().collect();
        let (fixes, mtu) = (self.mode == Mode::Fix, frame::usable_mtu(tunnels.mtu));
        self.machine.get_or_insert_with(|| (Machine::new(fixes, rand::random(), mtu), mtu));
        self.feed(Input::Peers(peers));
    }

    /// What a test takes, as far as it is not there yet.
    fn prepare(&mut self) -> Result<(), TaskError> {
        if self.fallback.is_none() {
            self.open()?;
        }
        let Some(vxlan) = self.tunnels.as_ref().map(|tunnels| tunnels.vxlan_ifindex) else { return Ok(()) };
        if self.ear.as_ref().is_none_or(|(ifindex, _)| *ifindex != vxlan) {
            self.ear = None;
            let ear = PacketSocket::ear(vxlan, self_test::MARK)?;
            self.mouth = Some(RawSocket::open()?);
            self.ear = Some((vxlan, ear.waited_for()?));
        }
        Ok(())
    }

    fn hear(&mut self, heard: Option<Heard>) {
        match heard {
            Some(Heard::Probe(ends, piece)) => self.answer(ends, piece),
            Some(Heard::Answer(ends, piece)) if self.is_own(ends.destination) => {
                self.feed(Input::Answer(ends.source, piece));
            }
            Some(Heard::Answer(..)) | None => {}
        }
    }

    fn is_own(&self, base: Ipv4Addr) -> bool {
        self.tunnels.as_ref().is_some_and(|tunnels| tunnels.own == base)
    }

    /// One small packet for one that came, to the cell that leases the address it came from, and to no one else.
    fn answer(&mut self, ends: Ends, piece: Piece) {
        let (Some(tunnels), Some(mouth)) = (&self.tunnels, &self.mouth) else { return };
        let now = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let Some(to) = tunnels.others.get(&ends.source).filter(|_| tunnels.own == ends.destination) else {
            return;
        };
        let Some(answers) = bucket::take(self.answers, ANSWERS, now) else { return };
        self.answers = answers;
        let back = Ends { source: ends.destination, destination: ends.source };
        let packet = frame::answer(piece, back, tunnel(tunnels, back.destination, *to, piece.nonce));
        // One that cannot be sent is one that was lost.
        if let Err(error) = mouth.send(&packet, *to) {
            tracing::debug!(%error, %to, "a self-test is not answered");
        }
    }

    /// Tells the machine, and does what it says.
    fn feed(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let now = self.started.elapsed();
            let commands = self.machine.as_mut().map(|(machine, _)| machine.on(input, now));
            for command in commands.into_iter().flatten() {
                inputs.extend(block_in_place(|| self.obey(command)));
            }
        }
        if self.machine.as_ref().is_none_or(|(machine, _)| !machine.is_asking()) && self.rig.is_some() {
            block_in_place(|| self.rig = None);
        }
    }

    fn obey(&mut self, command: Command) -> Option<Input> {
        match command {
            Command::Send { to, kind, nonce } => self.send(to, kind, nonce),
            Command::Switch(step) => return Some(Input::Switched(self.switch_off(step))),
            Command::Restore => self.restore(),
            Command::Tell(verdict) => self.tell(verdict),
        }
        None
    }

    /// What cannot be sent is lost; without any that arrives there is no finding.
    fn send(&mut self, to: Ipv4Addr, kind: Kind, nonce: u32) {
        let (Some(tunnels), Some((_, mtu))) = (&self.tunnels, &self.machine) else { return };
        let (ends, mtu) = (Ends { source: tunnels.own, destination: to }, *mtu);
        if self.rig.is_none() {
            match Rig::build(&self.fabric) {
                Ok(rig) => self.rig = Some(rig),
                Err(error) => return self.note(Err(error.into())),
            }
        }
        if let Some(Err(error)) = self.rig.as_ref().map(|rig| rig.send(kind, nonce, ends, mtu)) {
            tracing::debug!(%error, ?kind, "a probe of the self-test is not sent");
        }
    }

    fn switch_off(&mut self, step: Step) -> bool {
        let switched = self.fallback.as_mut().map_or(Ok(false), |fallback| fallback.switch_off(step));
        match switched {
            Ok(changed) => {
                self.show(|_| {});
                let view = self.view.borrow();
                if let (true, Some(undo)) = (changed, view.undo()) {
                    tracing::warn!(device = view.device, off = ?view.off, undo, "offloads are switched off");
                }
                changed
            }
            Err(error) => {
                self.note(Err(error.into()));
                false
            }
        }
    }

    fn restore(&mut self) {
        let restored = self.fallback.as_mut().map_or(Ok(()), Fallback::restore);
        if restored.is_ok() {
            tracing::error!("without offloads packets are broken as well: they are switched on again");
        }
        self.note(restored.map_err(TaskError::from));
        self.show(|_| {});
    }

    fn tell(&mut self, verdict: Verdict) {
        self.show(|view| view.verdict = verdict);
        let view = self.view.borrow();
        match verdict {
            Verdict::Broken(kind) => tracing::warn!(
                device = view.device,
                broken = kind.as_str(),
                "other cells do not get tunnelled packets whole that leave this to the device"
            ),
            Verdict::Sound | Verdict::Unknown => {
                tracing::info!(device = view.device, off = ?view.off, "tunnelled packets arrive whole");
            }
        }
    }

    fn show(&self, change: impl FnOnce(&mut View)) {
        self.view.send_modify(|view| {
            view.off = self.fallback.as_ref().map(|fallback| fallback.off.clone()).unwrap_or_default();
            change(view);
        });
    }

    /// Tells of what failed, once.
    fn note(&self, done: Result<(), TaskError>) {
        let failure = done.err().map(|error| report_chain(&error));
        if let Some(failure) =
            failure.as_ref().filter(|failure| self.view.borrow().failure.as_ref() != Some(*failure))
        {
            tracing::error!(failure, "the offload self-test cannot go on");
        }
        self.show(|view| view.failure = failure);
    }
}

/// The next packet of a self-test; never without an ear.
async fn hear(ear: Option<&(u32, AsyncFd<PacketSocket>)>) -> io::Result<Option<Heard>> {
    let Some((_, ear)) = ear else { return std::future::pending().await };
    let mut buffer = vec![0; BUFFER];
    loop {
        let mut ready = ear.readable().await?;
        match ready.try_io(|socket| socket.get_ref().receive(&mut buffer).map(frame::read)) {
            Ok(heard) => return heard,
            Err(_would_block) => {}
        }
    }
}

fn tunnel(tunnels: &Tunnels, base: Ipv4Addr, to: Ipv4Addr, nonce: u32) -> Tunnel {
    Tunnel {
        source: from_ipv4(tunnels.underlay),
        destination: from_ipv4(to),
        udp_port: tunnels.udp_port.to_be(),
        source_port: source_port(nonce),
        vni: self_test::vni(tunnels.vni),
        tag: 0,
        inner_destination: hardware(from_ipv4(base)),
        inner_source: hardware(from_ipv4(tunnels.own)),
        id: 0,
        inner_len: 0,
        inner_tos: 0,
    }
}
