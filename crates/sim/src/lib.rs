//! An AWS account in memory: deterministic, with a time of its own and with the manners that an operator meets.
//!
//! Each call of the port is a method here. What it refuses, how long things are in transit and how late listings are is the same as in
//! the test world; `tests/conformance/table.json` is run against both. Nothing here waits: time passes when [`Account::advance`] says so.

pub mod bucket;
mod group;
mod iam;
mod instance;
mod outside;
mod parameter;
mod read;
mod volume;

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use koi_core::observed::{Place, Snapshot, Subnet};

use bucket::Buckets;
pub use group::GroupRecord;
pub use iam::{Profile, Role};
pub use instance::{Machine, Wanted};
pub use parameter::Parameter;
pub use read::Sight;
pub use volume::Disk;

/// AWS's code and message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The code.
    pub code: &'static str,
    /// The message.
    pub message: String,
}

/// What a call comes to.
pub type Answer<T = ()> = Result<T, Refused>;

fn refuse<T>(code: &'static str, message: impl Into<String>) -> Answer<T> {
    Err(Refused {
        code,
        message: message.into(),
    })
}

/// How slow and how late the account is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manners {
    /// From pending to running and the like.
    pub transit: SignedDuration,
    /// So long listings may miss what is new and tell what was before a change.
    pub read_lag: SignedDuration,
    /// So long EC2 does not know a new instance profile or the role in it.
    pub iam_lag: SignedDuration,
    /// So long terminated instances are listed.
    pub terminated: SignedDuration,
    /// How long a snapshot takes.
    pub snapshot: SignedDuration,
    /// Between two snapshots of one volume.
    pub snapshot_interval: SignedDuration,
    /// How many instances may run; 0: any number.
    pub instance_limit: usize,
}

impl Default for Manners {
    fn default() -> Self {
        Self {
            transit: SignedDuration::from_secs(2),
            read_lag: SignedDuration::ZERO,
            iam_lag: SignedDuration::from_secs(4),
            terminated: SignedDuration::from_hours(1),
            snapshot: SignedDuration::from_secs(20),
            snapshot_interval: SignedDuration::from_secs(15),
            instance_limit: 0,
        }
    }
}

/// One answered call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// When.
    pub at: Timestamp,
    /// AWS's name of the operation.
    pub action: &'static str,
    /// What it was about.
    pub target: String,
    /// The code of a refusal.
    pub code: Option<&'static str>,
}

/// One account in one region.
#[derive(Clone, Debug)]
pub struct Account {
    /// How slow and how late it is; may be changed at any time.
    pub manners: Manners,
    /// Which account and region.
    pub place: Place,
    /// The networks that there are.
    pub subnets: Vec<Subnet>,
    /// Token buckets; `None`: never throttled.
    pub buckets: Option<Buckets>,
    /// Zones in which no capacity is left.
    pub full_zones: BTreeSet<String>,
    /// Operations that are refused, each with the code that it is told.
    pub denied: BTreeMap<&'static str, &'static str>,
    now: Timestamp,
    machines: BTreeMap<String, Machine>,
    turns: BTreeSet<(Timestamp, String)>,
    disks: BTreeMap<String, Disk>,
    snapshots: BTreeMap<String, SnapshotRecord>,
    groups: BTreeMap<String, GroupRecord>,
    roles: BTreeMap<String, Role>,
    profiles: BTreeMap<String, Profile>,
    parameters: BTreeMap<String, Parameter>,
    tokens: BTreeMap<String, (Wanted, String)>,
    log: Vec<Call>,
    next_id: u64,
}

/// A snapshot, whose it is and when it is done.
#[derive(Clone, Debug)]
struct SnapshotRecord {
    facts: Snapshot,
    tags: BTreeMap<String, String>,
    begun: Timestamp,
    done: Timestamp,
}

impl Account {
    /// An account with two zones and nothing in it.
    #[must_use]
    pub fn new(place: Place, now: Timestamp) -> Self {
        let subnet = |number: u8, zone: &str| Subnet {
            id: format!("subnet-{number:017x}"),
            vpc_id: "vpc-00000000000000001".into(),
            zone: format!("{}{zone}", place.region),
            vpc_cidrs: vec!["172.31.0.0/16".into()],
        };
        Self {
            manners: Manners::default(),
            subnets: vec![subnet(1, "a"), subnet(2, "b")],
            place,
            buckets: None,
            full_zones: BTreeSet::new(),
            denied: BTreeMap::new(),
            now,
            machines: BTreeMap::new(),
            turns: BTreeSet::new(),
            disks: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            groups: BTreeMap::new(),
            roles: BTreeMap::new(),
            profiles: BTreeMap::new(),
            parameters: BTreeMap::new(),
            tokens: BTreeMap::new(),
            log: Vec::new(),
            next_id: 0,
        }
    }

    /// The time of this account.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// Time passes: what is in transit by then has arrived, in order.
    pub fn advance(&mut self, now: Timestamp) {
        while let Some((at, id)) = self.turns.first().filter(|(at, _)| *at <= now).cloned() {
            self.turns.remove(&(at, id.clone()));
            self.now = self.now.max(at);
            self.turn(&id, at);
        }
        self.now = self.now.max(now);
    }

    /// When something arrives next.
    #[must_use]
    pub fn next_turn(&self) -> Option<Timestamp> {
        self.turns.first().map(|(at, _)| *at)
    }

    /// All answered calls that may change something, oldest first.
    #[must_use]
    pub fn log(&self) -> &[Call] {
        &self.log
    }

    /// Operations of successful changes, oldest first.
    #[must_use]
    pub fn changes(&self) -> Vec<&'static str> {
        let done = self.log.iter().filter(|call| call.code.is_none());
        done.map(|call| call.action).collect()
    }

    fn id(&mut self, kind: &str) -> String {
        self.next_id += 1;
        format!("{kind}-{:017x}", self.next_id)
    }

    fn later(&self, gap: SignedDuration) -> Timestamp {
        later(self.now, gap)
    }

    /// Throttles, and keeps the books.
    fn call<T>(
        &mut self,
        action: &'static str,
        target: impl Into<String>,
        deed: impl FnOnce(&mut Self) -> Answer<T>,
    ) -> Answer<T> {
        let answer = match self.buckets.as_mut().map(|buckets| buckets.draw(action, self.now)) {
            Some(Err(refused)) => Err(refused),
            _ => match self.denied.get(action) {
                Some(code) => refuse(code, "as it was told to"),
                None => deed(self),
            },
        };
        self.log.push(Call {
            at: self.now,
            action,
            target: target.into(),
            code: answer.as_ref().err().map(|refused| refused.code),
        });
        answer
    }
}

fn later(at: Timestamp, gap: SignedDuration) -> Timestamp {
    at.saturating_add(gap).unwrap_or(at)
}

/// The claim of the installation `cluster_id`.
fn claimed(tags: &BTreeMap<String, String>, cluster_id: &str) -> bool {
    tags.get(koi_core::names::TAG_CLUSTER)
        .is_some_and(|cluster| cluster == cluster_id)
}
