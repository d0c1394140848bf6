//! Who is asked, what follows from the answers, and what is switched off: a sans-IO machine. Time is an argument (since
//! any beginning), and sending, hearing and switching are commands.
//!
//! ```text
//!                another cell is known            sound, or nothing more to switch off
//!   Resting ------------------------> Asking ------------------------------> Done
//!      ^                              |    ^
//!      +---- nobody answers, a tie ---+    +---- broken: Switching the next of `Step`
//! ```
//!
//! A *trial* is one cell asked some times for each kind of probe. It finds a kind broken when not one of them arrived
//! whole while most plain ones did; packets that are lost now and then make no finding. Up to three cells are asked and the
//! majority is believed, so that a cell that cannot hear does not pass for this one not being able to speak.

use super::frame::{Kind, Piece};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

/// Probes of each kind in a trial.
pub const ATTEMPTS: u32 = 8;
/// A kind that arrived whole this often is sound: once could be an accident.
const SOUND: u32 = 2;
/// Plain probes that must have arrived for a kind that never did to be broken.
const MOST: u32 = 6;
/// A cell that has answered none of so many is away, or speaks no self-test.
const PATIENCE: u32 = 3;
/// From one attempt to the next. Far longer than a round trip between cells.
pub(super) const ATTEMPT: Duration = Duration::from_millis(300);
/// Cells that are believed: with two that agree there is a majority.
const BELIEVED: usize = 2;
/// Cells asked in one round.
const ASKED: usize = 8;
/// Without a finding it is tried again after this, and after twice as long each time up to the last.
const FIRST_REST: Duration = Duration::from_secs(60);
const LAST_REST: Duration = Duration::from_secs(3600);
/// Pieces of one probe that are kept; a NIC makes three.
const PIECES: usize = 8;

/// What is switched off on the underlay device, the lesser first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// Cutting tunnelled packets. The kernel cuts them instead.
    Segmentation,
    /// Checksums of whatever is sent, and with them all cutting.
    Checksum,
}

impl Step {
    /// What is tried first against a kind that is broken.
    #[must_use]
    pub fn against(kind: Kind) -> Self {
        if kind == Kind::Segmentation { Self::Segmentation } else { Self::Checksum }
    }
}

/// What is known of the underlay device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing: no other cell is known, or none has answered.
    #[default]
    Unknown,
    /// What it is asked to do it does, with what was switched off before.
    Sound,
    /// It breaks what it is to do for such probes.
    Broken(Kind),
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The other cells are these, by the first address of their blocks.
    Peers(BTreeSet<Ipv4Addr>),
    /// A cell answered.
    Answer(Ipv4Addr, Piece),
    /// What a step asked for is done; whether anything was on that is now off.
    Switched(bool),
    /// Time passed.
    Tick,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Send a probe.
    Send {
        /// To this cell.
        to: Ipv4Addr,
        /// Of this kind.
        kind: Kind,
        /// With this name.
        nonce: u32,
    },
    /// Switch off, and say [`Input::Switched`].
    Switch(Step),
    /// Put back all that was switched off since the start: it did not help.
    Restore,
    /// There is a verdict.
    Tell(Verdict),
}

/// The machine.
#[derive(Debug)]
pub struct Machine {
    /// Whether anything may be switched off.
    fixes: bool,
    mtu: u16,
    peers: BTreeSet<Ipv4Addr>,
    nonce: u32,
    rest: Duration,
    state: State,
    steps_left: Vec<Step>,
    verdict: Verdict,
}

#[derive(Debug)]
enum State {
    Resting { until: Duration },
    Asking(Round),
    Switching,
    Done,
}

/// Some cells asked one after the other.
#[derive(Debug)]
struct Round {
    left: Vec<Ipv4Addr>,
    trial: Trial,
    sound: usize,
    broken: Vec<Kind>,
}

/// One cell asked.
#[derive(Debug)]
struct Trial {
    peer: Ipv4Addr,
    attempts: u32,
    due: Duration,
    sent: BTreeMap<u32, Probe>,
    whole: BTreeMap<Kind, u32>,
}

/// A probe that was sent: the pieces that arrived whole, by their offset.
#[derive(Debug)]
struct Probe {
    kind: Kind,
    pieces: BTreeMap<u32, u32>,
}

/// What a trial has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finding {
    Open,
    Sound,
    Broken(Kind),
    Nothing,
}

impl Machine {
    /// One that begins as soon as it knows another cell. `nonce` names the first probe, and is best drawn by lot; `mtu` is
    /// the overlay's.
    #[must_use]
    pub fn new(fixes: bool, nonce: u32, mtu: u16) -> Self {
        Self {
            fixes,
            mtu,
            peers: BTreeSet::new(),
            nonce,
            rest: FIRST_REST,
            state: State::Resting { until: Duration::ZERO },
            steps_left: Vec::new(),
            verdict: Verdict::Unknown,
        }
    }

    /// Takes in what happened, and says what is to be done.
    pub fn on(&mut self, input: Input, now: Duration) -> Vec<Command> {
        match input {
            Input::Peers(peers) => self.meet(peers, now),
            Input::Answer(from, piece) => self.hear(from, piece),
            Input::Switched(changed) => return self.switched(changed, now),
            Input::Tick => {}
        }
        self.proceed(now)
    }

    /// When a [`Input::Tick`] is wanted next, if ever.
    #[must_use]
    pub fn due(&self) -> Option<Duration> {
        match &self.state {
            State::Resting { .. } if self.peers.is_empty() => None,
            State::Resting { until } => Some(*until),
            State::Asking(round) => Some(round.trial.due),
            State::Switching | State::Done => None,
        }
    }

    /// Whether probes are being sent.
    #[must_use]
    pub fn is_asking(&self) -> bool {
        matches!(self.state, State::Asking(_) | State::Switching)
    }

    /// A cell that was not known before may answer where the others did not.
    fn meet(&mut self, peers: BTreeSet<Ipv4Addr>, now: Duration) {
        let is_new = !peers.is_subset(&self.peers);
        self.peers = peers;
        if let State::Resting { until } = &mut self.state
            && is_new
        {
            *until = (*until).min(now);
        }
    }

    fn hear(&mut self, from: Ipv4Addr, piece: Piece) {
        let mtu = self.mtu;
        if let State::Asking(round) = &mut self.state
            && round.trial.peer == from
        {
            round.trial.hear(piece, mtu);
        }
    }

    fn proceed(&mut self, now: Duration) -> Vec<Command> {
        match &mut self.state {
            State::Resting { until } if now >= *until => self.begin(now),
            State::Asking(round) => match round.trial.finding(now) {
                Finding::Open => self.attempt(now),
                finding @ (Finding::Sound | Finding::Broken(_) | Finding::Nothing) => {
                    self.conclude(finding, now)
                }
            },
            State::Resting { .. } | State::Switching | State::Done => Vec::new(),
        }
    }

    /// Starts a round, with the cells that were asked last at its end: who does not answer is not in the way.
    fn begin(&mut self, now: Duration) -> Vec<Command> {
        let many = self.peers.len();
        let first = usize::try_from(self.nonce).unwrap_or(0).checked_rem(many).unwrap_or(0);
        let mut left: Vec<_> = self.peers.iter().copied().cycle().skip(first).take(many.min(ASKED)).collect();
        let Some(peer) = left.pop() else { return Vec::new() };
        let trial = Trial::of(peer, now);
        self.state = State::Asking(Round { left, trial, sound: 0, broken: Vec::new() });
        self.attempt(now)
    }

    /// One probe of each kind, if it is time.
    fn attempt(&mut self, now: Duration) -> Vec<Command> {
        let State::Asking(Round { trial, .. }) = &mut self.state else { return Vec::new() };
        if now < trial.due || trial.attempts == ATTEMPTS {
            return Vec::new();
        }
        (trial.attempts, trial.due) = (trial.attempts + 1, now + ATTEMPT);
        let sends = Kind::ALL.map(|kind| {
            self.nonce = self.nonce.wrapping_add(1);
            trial.sent.insert(self.nonce, Probe { kind, pieces: BTreeMap::new() });
            Command::Send { to: trial.peer, kind, nonce: self.nonce }
        });
        sends.into()
    }

    /// A trial is over: the next cell, or the verdict.
    fn conclude(&mut self, finding: Finding, now: Duration) -> Vec<Command> {
        let State::Asking(round) = &mut self.state else { return Vec::new() };
        match finding {
            Finding::Sound => round.sound += 1,
            Finding::Broken(kind) => round.broken.push(kind),
            Finding::Open | Finding::Nothing => {}
        }
        let decided = round.sound == BELIEVED || round.broken.len() == BELIEVED;
        match round.left.pop().filter(|_| !decided) {
            Some(peer) => {
                round.trial = Trial::of(peer, now);
                self.attempt(now)
            }
            None => {
                let verdict = round.verdict();
                self.judge(verdict, now)
            }
        }
    }

    fn judge(&mut self, verdict: Verdict, now: Duration) -> Vec<Command> {
        match verdict {
            Verdict::Unknown => self.rest(now),
            Verdict::Sound => self.done(verdict),
            Verdict::Broken(kind) if self.fixes => {
                if !matches!(self.verdict, Verdict::Broken(_)) {
                    self.steps_left = steps(kind);
                }
                let mut commands = self.tell(verdict);
                commands.extend(self.next_step());
                commands
            }
            Verdict::Broken(_) => self.done(verdict),
        }
    }

    /// What was switched off stays so until there is a finding.
    fn rest(&mut self, now: Duration) -> Vec<Command> {
        self.state = State::Resting { until: now + self.rest };
        self.rest = (self.rest * 2).min(LAST_REST);
        Vec::new()
    }

    fn next_step(&mut self) -> Vec<Command> {
        if let Some(step) = self.steps_left.pop() {
            self.state = State::Switching;
            return vec![Command::Switch(step)];
        }
        self.state = State::Done;
        vec![Command::Restore]
    }

    /// What was off already needs no test.
    fn switched(&mut self, changed: bool, now: Duration) -> Vec<Command> {
        match &self.state {
            State::Switching if changed => self.begin(now),
            State::Switching => self.next_step(),
            State::Resting { .. } | State::Asking(_) | State::Done => Vec::new(),
        }
    }

    fn done(&mut self, verdict: Verdict) -> Vec<Command> {
        self.state = State::Done;
        self.tell(verdict)
    }

    fn tell(&mut self, verdict: Verdict) -> Vec<Command> {
        self.verdict = verdict;
        vec![Command::Tell(verdict)]
    }
}

/// What may help against a finding, the first to try last.
fn steps(kind: Kind) -> Vec<Step> {
    match kind {
        Kind::Plain => Vec::new(),
        Kind::Checksum => vec![Step::Checksum],
        Kind::Segmentation => vec![Step::Checksum, Step::Segmentation],
    }
}

impl Round {
    /// The majority's; of those who found it broken, whose finding is of the simpler kind.
    fn verdict(&self) -> Verdict {
        let broken = self.broken.iter().min().filter(|_| self.broken.len() > self.sound);
        match broken {
            Some(kind) => Verdict::Broken(*kind),
            None if self.sound > self.broken.len() => Verdict::Sound,
            None => Verdict::Unknown,
        }
    }
}

impl Trial {
    fn of(peer: Ipv4Addr, now: Duration) -> Self {
        Self { peer, attempts: 0, due: now, sent: BTreeMap::new(), whole: BTreeMap::new() }
    }

    fn hear(&mut self, piece: Piece, mtu: u16) {
        let Some(probe) = self.sent.get_mut(&piece.nonce) else { return };
        if !piece.whole || probe.pieces.len() == PIECES {
            return;
        }
        probe.pieces.insert(piece.offset, piece.len);
        if probe.covered() >= probe.kind.len(mtu) {
            *self.whole.entry(probe.kind).or_default() += 1;
            self.sent.remove(&piece.nonce);
        }
    }

    fn whole(&self, kind: Kind) -> u32 {
        self.whole.get(&kind).copied().unwrap_or(0)
    }

    fn finding(&self, now: Duration) -> Finding {
        if Kind::ALL.iter().all(|kind| self.whole(*kind) >= SOUND) {
            return Finding::Sound;
        }
        if now < self.due || self.attempts == 0 {
            return Finding::Open;
        }
        let plain = self.whole(Kind::Plain);
        if plain == 0 && self.attempts >= PATIENCE {
            return Finding::Nothing;
        }
        if self.attempts < ATTEMPTS {
            return Finding::Open;
        }
        let broken = Kind::ALL.into_iter().find(|kind| self.whole(*kind) == 0);
        broken.filter(|_| plain >= MOST).map_or(Finding::Nothing, Finding::Broken)
    }
}

impl Probe {
    /// Bytes from the start that arrived without a gap.
    fn covered(&self) -> u32 {
        self.pieces.iter().fold(
            0,
            |end, (offset, len)| {
                if *offset <= end { end.max(offset.saturating_add(*len)) } else { end }
            },
        )
    }
}

#[cfg(test)]
mod tests;
