//! What happens to a world, all of it decided before it begins: a list that can be printed, repeated and shortened.

use std::fmt;

use super::random::Random;

/// Rounds in which things go wrong, in each of the two phases.
pub(crate) const CHAOS: u32 = 40;

/// One whole schedule.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Schedule {
    pub(crate) seed: u64,
    pub(crate) agents: Vec<Start>,
    /// So many seconds listings are late.
    pub(crate) lag: i64,
    pub(crate) events: Vec<Event>,
}

/// How an agent begins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Start {
    /// In which round it is created.
    pub(crate) round: u32,
    pub(crate) suspended: bool,
    pub(crate) own_identity: bool,
    pub(crate) deletion_policy: &'static str,
    /// The plan is gone when it is deleted.
    pub(crate) plan_goes: bool,
}

/// Something that happens in a round.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Event {
    /// 0: while agents are wanted, 1: while they go.
    pub(crate) phase: u8,
    pub(crate) round: u32,
    pub(crate) what: What,
}

/// The things that happen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum What {
    /// The operator dies and comes back with nothing in memory.
    Crash,
    /// A second operator believes to lead, until the phase ends.
    SecondLeader,
    /// From now on listings may tell what was before a change; or no more.
    LateReads(bool),
    /// The next listings leave this agent's things out.
    Hide(usize),
    /// The next sweeps fail.
    NoSweep(u8),
    /// The credentials belong to another account for so many rounds.
    OtherAccount(u8),
    /// The `nth` step from now on of this agent goes wrong.
    Fault { agent: usize, nth: u8, fault: Fault },
    /// Somebody touches the agent's things in the cloud.
    Outside { agent: usize, deed: Deed },
    /// Somebody edits the agent.
    Edit { agent: usize, edit: Edit },
}

/// How a step goes wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    /// The cloud says this and does nothing.
    Refused(&'static str),
    /// The cloud does it and the answer is lost.
    LostAnswer,
    /// The operator dies before the effect.
    CrashBefore,
    /// The operator dies after the effect and before the answer.
    CrashAfter,
    /// Somebody else wrote the object first.
    Conflict,
    /// The launch is accepted and dies with this reason.
    Doom(&'static str),
}

/// What others do to things in the cloud and in the cluster.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Deed {
    Stop,
    Terminate,
    LoseLaunchTag,
    LoseClaim,
    LoseProfile,
    Retire,
    OpenPort,
    CloseGroup,
    Detach,
    DropBundle,
    SwapRole(Option<&'static str>),
    Impair(&'static str),
    Copy,
    BreakGateway,
    MendGateway,
    DeleteSecret,
    EditSecret,
    EditConfig,
    AgeCertificate,
    /// Status is gone; `hidden`: a fresh operator's first list leaves the agent's things out, too.
    LoseStatus {
        hidden: bool,
    },
    /// Somebody writes the status of another agent over this one's.
    CopyStatus,
    /// Somebody writes something into one field of status that leads elsewhere.
    Forge(Forged),
}

/// A field of status that somebody else wrote.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Forged {
    /// The type of the recorded launch.
    Type,
    /// Its groups.
    Groups,
    /// Its tags: the claim of another agent.
    Claim,
    /// The volume that it takes over: another agent's.
    KeptVolume,
    /// The data volume: another agent's.
    Volume,
    /// The type to go back to.
    PreviousType,
    /// Every time in it: a year from now.
    Times,
}

/// What people change in the spec.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Edit {
    Power(&'static str),
    Type(&'static str),
    Ingress(&'static str),
    Volume(i32),
    Config(u32),
    Pause(bool),
    RotateToken(u32),
    Delete,
}

const CODES: &[&str] = &[
    "RequestLimitExceeded",
    "RequestLimitExceeded",
    "InternalError",
    "InsufficientInstanceCapacity",
    "UnauthorizedOperation",
    "VcpuLimitExceeded",
    "ThrottlingException",
    "ServiceUnavailable",
];
const DOOMS: &[&str] = &[
    "Server.InternalError: Internal error on launch",
    "Server.InsufficientInstanceCapacity: Insufficient capacity",
    "Client.VolumeLimitExceeded: Volume limit exceeded",
];

impl Schedule {
    /// The schedule of a seed.
    pub(crate) fn of(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let count = random.pick(&[1, 1, 1, 1, 1, 1, 2, 2, 3, 5]);
        let agents: Vec<Start> = (0..count).map(|index| start(index, &mut random)).collect();
        let lag = random.pick(&[0, 0, 3, 15]);
        let mut events = Vec::new();
        for phase in 0..2 {
            for _ in 0..random.below(20) {
                let round = u32::try_from(random.below(CHAOS.into())).unwrap_or_default();
                let what = what(count, phase, &mut random);
                events.push(Event { phase, round, what });
            }
        }
        events.sort_by_key(|event| (event.phase, event.round));
        Self {
            seed,
            agents,
            lag,
            events,
        }
    }

    /// Agents, lag and nothing that goes wrong.
    pub(crate) fn quiet(agents: usize) -> Self {
        let agent = |_| Start {
            round: 0,
            suspended: false,
            own_identity: false,
            deletion_policy: "Delete",
            plan_goes: false,
        };
        Self {
            seed: 0,
            agents: (0..agents).map(agent).collect(),
            lag: 0,
            events: Vec::new(),
        }
    }

    /// Schedules with less in them, those that leave out most first.
    pub(crate) fn smaller(&self) -> Vec<Self> {
        let mut found = Vec::new();
        let mut part = self.events.len() / 2;
        while part > 0 {
            for from in (0..self.events.len()).step_by(part) {
                let mut less = self.clone();
                less.events.drain(from..(from + part).min(self.events.len()));
                found.push(less);
            }
            part /= 2;
        }
        if self.agents.len() > 1 {
            let last = self.agents.len() - 1;
            let mut less = self.clone();
            less.agents.pop();
            less.events.retain(|event| event.what.agent() != Some(last));
            found.insert(0, less);
        }
        if self.lag > 0 {
            found.push(Self { lag: 0, ..self.clone() });
        }
        found
    }
}

impl What {
    fn agent(self) -> Option<usize> {
        match self {
            Self::Hide(agent) | Self::Fault { agent, .. } | Self::Outside { agent, .. } | Self::Edit { agent, .. } => {
                Some(agent)
            }
            _ => None,
        }
    }
}

fn start(index: u64, random: &mut Random) -> Start {
    Start {
        round: if index == 0 {
            0
        } else {
            u32::try_from(random.below(12)).unwrap_or_default()
        },
        suspended: random.chance(1, 5),
        own_identity: random.chance(1, 3),
        deletion_policy: random.pick(&["Delete", "Retain", "Snapshot"]),
        plan_goes: random.chance(1, 2),
    }
}

fn what(agents: u64, phase: u8, random: &mut Random) -> What {
    let agent = usize::try_from(random.below(agents)).unwrap_or_default();
    let nth = u8::try_from(random.below(6)).unwrap_or_default();
    match random.below(20) {
        0 => What::Crash,
        1 => What::LateReads(random.chance(2, 3)),
        2 => What::Hide(agent),
        3 => What::NoSweep(nth),
        4 if phase == 0 && random.chance(1, 3) => What::OtherAccount(nth),
        5 if random.chance(1, 3) => What::SecondLeader,
        6..=11 => What::Fault {
            agent,
            nth,
            fault: fault(random),
        },
        // A copy of what is gone already is an orphan, which is the reaper's; so is what a list leaves out when nothing else tells of it.
        12..=16 => match deed(random) {
            Deed::Copy | Deed::LoseStatus { .. } | Deed::CopyStatus | Deed::Forge(_) if phase == 1 => What::Crash,
            deed => What::Outside { agent, deed },
        },
        _ if phase == 1 => What::Crash,
        _ => What::Edit {
            agent,
            edit: edit(random),
        },
    }
}

fn fault(random: &mut Random) -> Fault {
    match random.below(8) {
        0 => Fault::CrashBefore,
        1 | 2 => Fault::CrashAfter,
        3 => Fault::LostAnswer,
        4 => Fault::Conflict,
        5 if random.chance(1, 3) => Fault::Doom(random.pick(DOOMS)),
        _ => Fault::Refused(random.pick(CODES)),
    }
}

/// What others do, the likelier the more often it stands here.
const DEEDS: &[Deed] = &[
    Deed::Stop,
    Deed::Stop,
    Deed::Terminate,
    Deed::LoseLaunchTag,
    Deed::LoseClaim,
    Deed::LoseProfile,
    Deed::Retire,
    Deed::DropBundle,
    Deed::Impair("system"),
    Deed::Impair("instance"),
    Deed::OpenPort,
    Deed::CloseGroup,
    Deed::Detach,
    Deed::SwapRole(None),
    Deed::SwapRole(Some("somebody")),
    Deed::Copy,
    Deed::BreakGateway,
    Deed::BreakGateway,
    Deed::MendGateway,
    Deed::DeleteSecret,
    Deed::EditSecret,
    Deed::EditConfig,
    Deed::AgeCertificate,
    Deed::LoseStatus { hidden: false },
    Deed::LoseStatus { hidden: true },
    Deed::CopyStatus,
    Deed::Forge(Forged::Type),
    Deed::Forge(Forged::Groups),
    Deed::Forge(Forged::Claim),
    Deed::Forge(Forged::KeptVolume),
    Deed::Forge(Forged::Volume),
    Deed::Forge(Forged::PreviousType),
    Deed::Forge(Forged::Times),
];

fn deed(random: &mut Random) -> Deed {
    random.pick(DEEDS)
}

fn edit(random: &mut Random) -> Edit {
    match random.below(14) {
        0..=3 => Edit::Power(random.pick(&["Running", "Suspended"])),
        4 | 5 => Edit::Type(random.pick(&["t3.small", "t3.large"])),
        6 | 7 => Edit::Ingress(random.pick(&["10.0.0.0/8", "192.0.2.0/24"])),
        8 => Edit::Volume(random.pick(&[40, 80])),
        9 | 10 => Edit::Config(u32::try_from(random.below(3)).unwrap_or_default()),
        11 => Edit::Pause(random.chance(1, 2)),
        12 => Edit::RotateToken(u32::try_from(random.below(3)).unwrap_or_default()),
        _ => Edit::Delete,
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "seed {}: listings {} s late", self.seed, self.lag)?;
        for (index, agent) in self.agents.iter().enumerate() {
            writeln!(out, "  agent {index}: {agent:?}")?;
        }
        for event in &self.events {
            let phase = if event.phase == 0 { "wanted" } else { "going" };
            writeln!(out, "  {phase}, round {}: {:?}", event.round, event.what)?;
        }
        Ok(())
    }
}
