//! The operator around the pure core, as the controller is: what it remembers, how a reconcile goes, what a crash wipes out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use koi_core::api::{KoiAgent, KoiAgentStatus, LaunchStatus};
use koi_core::desired::Desired;
use koi_core::fleet::Index;
use koi_core::launch_calls::LaunchCalls;
use koi_core::observed::{Identity, Observed, OwnerRecord, Probe, Pushed};
use koi_core::plan::{Plan, Step, Why, blocked, plan};
use koi_core::refusal::{Refusal, Standing};
use koi_core::status::{self, Report};
use koi_sim::Account;

use super::cluster::{CLUSTER, Object};
use super::schedule::Fault;

/// As many plans may follow each other within one reconcile.
const PASSES: usize = 6;

/// One operator process.
pub(crate) struct Operator {
    pub(crate) index: Index,
    pub(crate) memories: BTreeMap<usize, Memory>,
    pub(crate) identities: BTreeMap<String, (Identity, Timestamp)>,
    pub(crate) owner: Option<(OwnerRecord, Timestamp)>,
    pub(crate) unused: BTreeMap<String, u32>,
    pub(crate) next_sweep: Timestamp,
    pub(crate) sweeps: u32,
}

/// What it remembers of one agent.
pub(crate) struct Memory {
    /// The object as the watch last showed it, or as our own last write left it.
    pub(crate) seen: Option<Seen>,
    pub(crate) refused: Standing,
    pub(crate) launches: LaunchCalls,
    pub(crate) tried_launch: Option<Box<LaunchStatus>>,
    pub(crate) probe: Option<Probe>,
    pub(crate) console: Option<(String, String, Timestamp)>,
    pub(crate) pushed: Option<Pushed>,
    pub(crate) bundles_deleted: BTreeSet<String>,
    pub(crate) volume_deleted: Option<String>,
    pub(crate) next_at: Timestamp,
    pub(crate) last: Option<Plan>,
    /// What it shares with others; `None`: not looked at yet.
    pub(crate) uses: Option<BTreeSet<String>>,
    wish: Option<(WishKey, Wish)>,
    generation: Option<i64>,
}

/// A settled wish, as often handed around as there are passes.
pub(crate) type Wish = Result<Arc<Desired>, Why>;
type WishKey = (Option<i64>, Option<BTreeMap<String, String>>, bool);

/// A copy of an object.
#[derive(Clone)]
pub(crate) struct Seen {
    pub(crate) agent: KoiAgent,
    pub(crate) finalizer: bool,
    pub(crate) version: u64,
}

/// How a reconcile goes on.
pub(crate) enum Outcome {
    /// Look again when the plan says.
    Wait,
    /// The operator died.
    Died,
}

enum Progress {
    Done,
    GoOn,
    LookAgain,
    Died,
}

/// Everything that one reconcile touches.
pub(crate) struct Round<'a> {
    pub(crate) operator: &'a mut Operator,
    pub(crate) object: &'a mut Object,
    pub(crate) account: &'a mut Account,
    pub(crate) index: usize,
    pub(crate) now: Timestamp,
    pub(crate) told: &'a mut Vec<String>,
    pub(crate) status: KoiAgentStatus,
}

/// What was decided, with what it was decided from.
pub(crate) struct Decision {
    pub(crate) wish: Wish,
    pub(crate) observed: Observed,
    pub(crate) plan: Plan,
}

impl Operator {
    pub(crate) fn new(now: Timestamp) -> Self {
        Self {
            index: Index::new(CLUSTER),
            memories: BTreeMap::new(),
            identities: BTreeMap::new(),
            owner: None,
            unused: BTreeMap::new(),
            next_sweep: now,
            sweeps: 0,
        }
    }

    pub(crate) fn memory(&mut self, agent: usize) -> &mut Memory {
        self.memories.entry(agent).or_default()
    }

    /// The agent is looked at in the next round.
    pub(crate) fn wake(&mut self, agent: usize) {
        self.memory(agent).next_at = Timestamp::MIN;
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            seen: None,
            refused: Standing::default(),
            launches: LaunchCalls::default(),
            tried_launch: None,
            probe: None,
            console: None,
            pushed: None,
            bundles_deleted: BTreeSet::new(),
            volume_deleted: None,
            next_at: Timestamp::MIN,
            last: None,
            uses: None,
            wish: None,
            generation: None,
        }
    }
}

impl Memory {
    /// At first sight the pace of an earlier operator is taken over; a changed wish may be tried at once.
    fn meet(&mut self, agent: &KoiAgent, now: Timestamp) {
        let generation = agent.metadata.generation.unwrap_or_default();
        match self.generation {
            None => {
                let status = agent.status.as_ref();
                self.launches
                    .found(status.and_then(|status| status.launch.as_ref()), now);
                let told = status.and_then(|status| status::restored_refusal(status, generation, now));
                self.refused = Standing::restored(told);
            }
            Some(before) if before != generation => self.refused.try_now(now),
            Some(_) => {}
        }
        self.generation = Some(generation);
    }

    pub(crate) fn refuse(&mut self, step: &Step, refusal: Refusal, now: Timestamp) {
        self.refused
            .refuse(step.name(), step.about(), step.refused(refusal), now);
    }

    fn succeed(&mut self, step: &Step, now: Timestamp) {
        self.refused.succeed(step.name(), step.about().as_deref());
        if let Step::RestoreInstanceType { instead_of, .. } = step {
            self.refused.blame_type(instead_of, now);
        }
    }
}

impl Round<'_> {
    /// validate, observe, plan, apply, report.
    pub(crate) fn run(mut self) -> Outcome {
        let seen = self.newest();
        self.status = seen.agent.status.clone().unwrap_or_default();
        for _ in 0..PASSES {
            let decision = self.decide();
            match self.apply(&decision) {
                Progress::Done => {
                    self.report(&decision);
                    return self.wait(decision.plan.check_again.try_into().unwrap());
                }
                Progress::GoOn => {}
                Progress::LookAgain => return self.wait(SignedDuration::from_secs(1)),
                Progress::Died => return Outcome::Died,
            }
        }
        self.wait(SignedDuration::from_secs(1))
    }

    fn newest(&mut self) -> Seen {
        let object = &*self.object;
        let fresh = Seen {
            agent: object.agent.clone(),
            finalizer: object.finalizer,
            version: object.version(),
        };
        let now = self.now;
        let memory = self.operator.memory(self.index);
        let seen = memory.seen.get_or_insert(fresh).clone();
        memory.meet(&seen.agent, now);
        seen
    }

    fn wait(&mut self, pause: SignedDuration) -> Outcome {
        let next_at = self
            .now
            .saturating_add(pause.max(SignedDuration::from_secs(1)))
            .unwrap();
        self.operator.memory(self.index).next_at = next_at;
        Outcome::Wait
    }

    fn decide(&mut self) -> Decision {
        let wish = self.wish();
        let mut observed = self.observe(&wish);
        let plan = match &wish {
            Ok(desired) => plan(desired, &observed, self.now),
            Err(why) => blocked(why.clone()),
        };
        let memory = self.operator.memory(self.index);
        if memory.last.as_ref() != Some(&plan) {
            let names: Vec<&str> = plan.steps.iter().map(Step::name).collect();
            self.told
                .push(format!("agent {} {names:?} {:?}", self.index, plan.verdict));
        }
        memory.last = Some(plan.clone());
        if plan.is_at_rest() {
            memory.refused.clear();
            (observed.refusal, observed.refused_before) = (None, Vec::new());
        }
        Decision { wish, observed, plan }
    }

    /// Of the object as this operator knows it, settled once for each change.
    fn wish(&mut self) -> Wish {
        let memory = self.operator.memory(self.index);
        let metadata = &memory.seen.as_ref().unwrap().agent.metadata;
        let key = (
            metadata.generation,
            metadata.annotations.clone(),
            metadata.deletion_timestamp.is_some(),
        );
        if let Some((_, wish)) = memory.wish.as_ref().filter(|(known, _)| *known == key) {
            return wish.clone();
        }
        let wish = self.object.settle(&memory.seen.as_ref().unwrap().agent).map(Arc::new);
        memory.wish = Some((key, wish.clone()));
        wish
    }

    fn apply(&mut self, decision: &Decision) -> Progress {
        let Ok(desired) = &decision.wish else {
            return Progress::Done;
        };
        for step in &decision.plan.steps {
            let fault = self.object.next_fault();
            if let Some(fault) = fault {
                self.told
                    .push(format!("agent {}: {fault:?} at {}", self.index, step.name()));
            }
            let done = match fault {
                Some(Fault::CrashBefore) => return Progress::Died,
                Some(Fault::Conflict) if !step.changes_cloud() => return Progress::LookAgain,
                Some(Fault::Refused(code)) if step.changes_cloud() => Err((code.to_owned(), String::new())),
                _ => self.perform(step, desired, decision),
            };
            if fault == Some(Fault::CrashAfter) {
                return Progress::Died;
            }
            let done = match (fault, done) {
                (Some(Fault::LostAnswer), Ok(true)) if step.changes_cloud() => Err((String::new(), "cut off".into())),
                (_, done) => done,
            };
            if let (Some(Fault::Doom(reason)), Step::RunInstances { .. }, Ok(true)) = (fault, step, &done) {
                self.doom(reason);
            }
            match done {
                Ok(true) => self.operator.memory(self.index).succeed(step, self.now),
                Ok(false) => return Progress::LookAgain,
                Err((code, message)) => {
                    self.refused(step, &code, &message);
                    return Progress::GoOn;
                }
            }
            if !self.object.exists {
                return Progress::LookAgain;
            }
        }
        if decision.plan.steps.is_empty() {
            Progress::Done
        } else {
            Progress::GoOn
        }
    }

    fn doom(&mut self, reason: &str) {
        let Some(id) = self.status.instance.as_ref().map(|instance| instance.id.clone()) else {
            return;
        };
        self.account.dooms(&id, reason);
    }

    pub(crate) fn report_of<'d>(&'d self, decision: &'d Decision) -> Report<'d> {
        let seen = self.operator.memories[&self.index].seen.as_ref().unwrap();
        Report {
            previous: &self.status,
            generation: seen.agent.metadata.generation.unwrap_or_default(),
            name: seen.agent.metadata.name.as_deref().unwrap_or_default(),
            desired: decision.wish.as_deref(),
            observed: &decision.observed,
            plan: &decision.plan,
            now: self.now,
        }
    }

    fn report(&mut self, decision: &Decision) {
        let fresh = status::report(&self.report_of(decision));
        self.check_report(&fresh, decision);
        self.write_status(fresh, false);
    }

    /// The same input gives the same report, a second report says the same, and the API server gives back what it got. Costs as much as a
    /// round, so some rounds do without.
    fn check_report(&self, fresh: &KoiAgentStatus, decision: &Decision) {
        if self.now.as_second() % 7 != 0 {
            return;
        }
        let report = self.report_of(decision);
        let again = status::report(&Report {
            previous: fresh,
            ..report
        });
        assert_eq!(*fresh, again, "a second report of the same differs");
        let back: KoiAgentStatus = serde_json::from_value(serde_json::to_value(fresh).unwrap()).unwrap();
        assert_eq!(back, *fresh, "status does not survive the API server");
    }

    /// False: somebody else wrote first.
    pub(crate) fn write_status(&mut self, status: KoiAgentStatus, conditional: bool) -> bool {
        let memory = self.operator.memory(self.index);
        let seen = memory.seen.as_mut().unwrap();
        if seen.agent.status.clone().unwrap_or_default() == status {
            self.status = status;
            return true;
        }
        if conditional && seen.version != self.object.version() {
            return false;
        }
        let changed = difference(seen.agent.status.as_ref(), &status);
        self.told.push(format!("agent {} status {changed}", self.index));
        self.object.agent.status = Some(status.clone());
        self.object.bump();
        self.object.writes += 1;
        self.status = status;
        self.wrote();
        true
    }

    /// Our write was answered with the object as it is now.
    pub(crate) fn wrote(&mut self) {
        let seen = Seen {
            agent: self.object.agent.clone(),
            finalizer: self.object.finalizer,
            version: self.object.version(),
        };
        self.operator.memory(self.index).seen = Some(seen);
    }
}

/// What a write of status changes, for traces.
fn difference(before: Option<&KoiAgentStatus>, after: &KoiAgentStatus) -> String {
    let Some(before) = before else { return "first".into() };
    let fields = [
        ("conditions", before.conditions != after.conditions),
        ("cloud", before.cloud != after.cloud),
        ("resolved", before.resolved != after.resolved),
        ("launch", before.launch != after.launch),
        ("instance", before.instance != after.instance),
        ("volume", before.volume != after.volume),
        ("securityGroupId", before.security_group_id != after.security_group_id),
        ("instanceProfile", before.instance_profile != after.instance_profile),
        ("gateway", before.gateway != after.gateway),
        ("bundle", before.bundle != after.bundle),
        ("workspace", before.workspace != after.workspace),
        ("plannedAction", before.planned_action != after.planned_action),
        ("refusal", before.refusal != after.refusal),
    ];
    let changed = fields.iter().filter(|(_, changed)| *changed).map(|(name, _)| *name);
    changed.collect::<Vec<_>>().join(", ")
}
