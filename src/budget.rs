//! The API budget at work: calls wait here for their turn, in the order of [`koi_core::budget`].
//!
//! There are two ways to wait. A *step* of an agent takes a [`Turn`]: when it is not the agent's turn its round ends and holds up nobody,
//! and the agent is woken when it is. Everything else (sweeps, look-ups) waits in place, just before its call. Who asks is told once, by
//! [`Budget::on_behalf_of`], and travels with the task: the port to the cloud knows nothing of it.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use koi_core::budget::{self, Asker, Ticket, Urgency, rates};
use koi_core::plan::{self, Step};
use koi_core::refusal::is_throttle;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::cloud::{Answer, CloudError};
use crate::fleet::Fleet;
use crate::gate::Gate;
use crate::metrics::Metrics;

/// Whoever has not come for its turn by then has lost it.
const UNCLAIMED: Duration = Duration::from_secs(10);
/// A call that is not answered by then has arrived all the same: answers may take longer than the bucket would otherwise allow for.
const ARRIVED: Duration = Duration::from_secs(2);

tokio::task_local! {
    static SCOPE: Scope;
}

/// On whose behalf the calls of a task are made.
#[derive(Clone)]
struct Scope {
    budget: Arc<Budget>,
    asker: Asker,
    /// The turn that was taken and not used yet.
    paid: Arc<Mutex<Option<Token>>>,
}

/// What was drawn for a call. It goes to others unless the call is made, whatever becomes of who holds it.
struct Token {
    budget: Arc<Budget>,
    operation: &'static str,
    sent: bool,
}

impl Drop for Token {
    fn drop(&mut self) {
        if self.sent {
            self.budget.landed(self.operation);
        } else {
            self.budget.refund(self.operation);
        }
    }
}

/// The budget of one account and region.
pub struct Budget {
    /// The account, for metrics; with its region where that is not the operator's own.
    account: String,
    /// `None`: nobody waits.
    state: Option<Mutex<State>>,
    began: Instant,
    changed: Notify,
    fleet: Fleet,
    metrics: Arc<Metrics>,
    gate: Gate,
}

struct State {
    lanes: budget::Budget,
    waiting: HashMap<Ticket, Who>,
    turns: HashMap<String, Place>,
}

/// Who waits with a ticket.
enum Who {
    /// The round of this agent.
    Agent(String),
    /// A call.
    Call(oneshot::Sender<()>),
}

/// The one place in line that an agent has: its steps come one after the other.
struct Place {
    operation: &'static str,
    ticket: Ticket,
    since: Instant,
    granted_at: Option<Instant>,
}

/// Whether a step may be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Now.
    Now,
    /// The agent is woken when it is its turn.
    Later,
}

impl Drop for Budget {
    fn drop(&mut self) {
        if let Some(state) = self.state() {
            let buckets = state.lanes.lanes().map(|(bucket, _, _)| bucket);
            self.metrics.forget_buckets(&self.account, buckets);
        }
    }
}

impl Budget {
    /// `scale`: how much of AWS's documented rates is used; `None`: calls are not held back. `gate`: whether changes are allowed.
    #[must_use]
    pub fn new(account: &str, scale: Option<f64>, fleet: Fleet, metrics: Arc<Metrics>, gate: Gate) -> Self {
        let state = |scale| State {
            lanes: budget::Budget::new(scale),
            waiting: HashMap::new(),
            turns: HashMap::new(),
        };
        Self {
            account: account.to_owned(),
            state: scale.map(|scale| Mutex::new(state(scale))),
            began: Instant::now(),
            changed: Notify::new(),
            fleet,
            metrics,
            gate,
        }
    }

    /// Does `work`, with every call of it on behalf of `asker`.
    pub async fn on_behalf_of<T>(self: &Arc<Self>, asker: Asker, work: impl Future<Output = T>) -> T {
        let scope = Scope {
            budget: Arc::clone(self),
            asker,
            paid: Arc::default(),
        };
        SCOPE.scope(scope, work).await
    }

    /// The same for what the operator does for all agents.
    pub async fn on_own_behalf<T>(self: &Arc<Self>, work: impl Future<Output = T>) -> T {
        let asker = Asker {
            tenant: String::new(),
            agent: String::new(),
            urgency: Urgency::Repair,
        };
        self.on_behalf_of(asker, work).await
    }

    /// Serves those who wait until the task is dropped.
    pub async fn serve_forever(self: Arc<Self>) {
        loop {
            let next = self.serve();
            tokio::select! {
                () = sleep_until(next) => {}
                () = self.changed.notified() => {}
            }
        }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn state(&self) -> Option<MutexGuard<'_, State>> {
        let state = self.state.as_ref()?;
        Some(state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Gives out what there is; says when to look again.
    fn serve(&self) -> Option<Instant> {
        let mut state = self.state()?;
        state.expire(self.now());
        let woken = state.grant(self.now());
        let (next, expiry) = (state.lanes.next().map(|next| self.began + next), state.next_expiry());
        for (bucket, waiting, share) in state.lanes.lanes() {
            self.metrics.set_bucket(&self.account, bucket, waiting, share);
        }
        drop(state);
        for agent in woken {
            self.fleet.wake_agent(&agent);
        }
        [next, expiry].into_iter().flatten().min()
    }

    /// Whether it is the turn of this agent for this operation.
    fn turn(&self, operation: &'static str, asker: &Asker) -> Turn {
        let Some(mut state) = self.state() else {
            return Turn::Now;
        };
        let now = self.now();
        match state.turns.get(&asker.agent) {
            Some(place) if place.operation != operation => state.leave(&asker.agent, now),
            _ => {}
        }
        if !state.turns.contains_key(&asker.agent) {
            let place = Place {
                operation,
                ticket: state.lanes.ask(operation, asker, now),
                since: Instant::now(),
                granted_at: None,
            };
            state.waiting.insert(place.ticket, Who::Agent(asker.agent.clone()));
            state.turns.insert(asker.agent.clone(), place);
        }
        let woken = state.grant(now);
        let granted = state
            .turns
            .get(&asker.agent)
            .is_some_and(|place| place.granted_at.is_some());
        let place = if granted {
            state.turns.remove(&asker.agent)
        } else {
            None
        };
        drop(state);
        for agent in woken.into_iter().filter(|agent| *agent != asker.agent) {
            self.fleet.wake_agent(&agent);
        }
        let Some(place) = place else {
            self.changed.notify_one();
            return Turn::Later;
        };
        self.metrics.observe_wait(rates::of(operation).0, place.since.elapsed());
        Turn::Now
    }

    /// Waits in place.
    async fn admit(&self, operation: &'static str, asker: &Asker) {
        let began = Instant::now();
        let (sender, receiver) = oneshot::channel();
        let ticket = {
            let Some(mut state) = self.state() else { return };
            let ticket = state.lanes.ask(operation, asker, self.now());
            state.waiting.insert(ticket, Who::Call(sender));
            ticket
        };
        let mut waiting = Waiting {
            budget: self,
            operation,
            ticket,
            served: false,
        };
        // Whoever is served by this look is woken by it; the next moment is the business of the serving task.
        self.serve();
        self.changed.notify_one();
        // The other end is kept until it is served: it does not go away.
        let _ = receiver.await;
        waiting.served = true;
        self.metrics.observe_wait(rates::of(operation).0, began.elapsed());
    }

    /// What became of a call.
    fn answered(&self, operation: &'static str, error: Option<&CloudError>) {
        if error.is_some_and(|error| is_throttle(&error.code))
            && let Some(mut state) = self.state()
        {
            let now = self.now();
            state.lanes.throttled(operation, now);
        }
    }

    /// A call has arrived at AWS, or was given up on its way.
    fn landed(&self, operation: &'static str) {
        if let Some(mut state) = self.state() {
            let now = self.now();
            state.lanes.landed(operation, now);
        }
        self.changed.notify_one();
    }

    fn refund(&self, operation: &'static str) {
        if let Some(mut state) = self.state() {
            let now = self.now();
            state.lanes.refund(operation, now);
        }
        self.changed.notify_one();
    }

    /// A round has ended: what it was granted and did not use goes to others, and unless it `waits` its place in line, too.
    fn leave(&self, agent: &str, waits: bool) {
        if waits {
            return;
        }
        if let Some(mut state) = self.state() {
            let now = self.now();
            state.leave(agent, now);
        }
    }
}

impl State {
    /// Everybody whose turn it is: calls are let go, agents are named.
    fn grant(&mut self, now: Duration) -> Vec<String> {
        let mut woken = Vec::new();
        for ticket in self.lanes.grant(now) {
            match self.waiting.remove(&ticket) {
                Some(Who::Agent(agent)) => {
                    if let Some(place) = self.turns.get_mut(&agent) {
                        place.granted_at = Some(Instant::now());
                    }
                    woken.push(agent);
                }
                // One that went away meanwhile gives its token back when it is dropped.
                Some(Who::Call(sender)) => drop(sender.send(())),
                None => {}
            }
        }
        woken
    }

    fn leave(&mut self, agent: &str, now: Duration) {
        let Some(place) = self.turns.remove(agent) else {
            return;
        };
        if place.granted_at.is_some() {
            self.lanes.refund(place.operation, now);
        } else {
            self.lanes.cancel(place.ticket);
            self.waiting.remove(&place.ticket);
        }
    }

    fn expire(&mut self, now: Duration) {
        let late = |place: &Place| place.granted_at.is_some_and(|at| at.elapsed() >= UNCLAIMED);
        let late: Vec<String> = self
            .turns
            .iter()
            .filter(|(_, place)| late(place))
            .map(|(agent, _)| agent.clone())
            .collect();
        for agent in late {
            self.leave(&agent, now);
        }
    }

    fn next_expiry(&self) -> Option<Instant> {
        let granted = self.turns.values().filter_map(|place| place.granted_at);
        granted.min().map(|at| at + UNCLAIMED)
    }
}

/// A call in line: when its task is dropped, so is its place.
struct Waiting<'a> {
    budget: &'a Budget,
    operation: &'static str,
    ticket: Ticket,
    served: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.served {
            return;
        }
        let in_line = {
            let Some(mut state) = self.budget.state() else { return };
            state.lanes.cancel(self.ticket);
            state.waiting.remove(&self.ticket).is_some()
        };
        if !in_line {
            self.budget.refund(self.operation);
        }
    }
}

async fn sleep_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// One call, in its turn. Outside of any [`Budget::on_behalf_of`] it does not wait.
pub(crate) async fn called<T>(operation: &'static str, call: impl Future<Output = Answer<T>>) -> Answer<T> {
    let Ok(scope) = SCOPE.try_with(Clone::clone) else {
        return call.await;
    };
    let token = scope.token(operation).await;
    // Last of all: whoever waited may have lost the Lease meanwhile. A step of several calls is held to it at each of them.
    if changes(operation) && !scope.budget.gate.is_open() {
        return Err(CloudError::withheld(operation));
    }
    let answer = arriving(token, call).await;
    scope.budget.answered(operation, answer.as_ref().err());
    answer
}

impl Scope {
    /// For one call: of the turn that was taken for it, else in line for another.
    async fn token(&self, operation: &'static str) -> Token {
        let taken = {
            let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
            paid.take_if(|paid| paid.operation == operation)
        };
        if let Some(token) = taken {
            return token;
        }
        self.budget.admit(operation, &self.asker).await;
        self.drawn(operation)
    }

    fn drawn(&self, operation: &'static str) -> Token {
        Token {
            budget: Arc::clone(&self.budget),
            operation,
            sent: false,
        }
    }
}

/// The call, which is under way until it is answered, or surely has arrived.
async fn arriving<T>(mut token: Token, call: impl Future<Output = Answer<T>>) -> Answer<T> {
    token.sent = true;
    let mut call = std::pin::pin!(call);
    let answer = tokio::time::timeout(ARRIVED, call.as_mut()).await;
    drop(token);
    match answer {
        Ok(answer) => answer,
        Err(_) => call.await,
    }
}

/// Whether a call may change anything: all but those that AWS names as reads, and the look for credentials.
fn changes(operation: &str) -> bool {
    let reads = ["Describe", "Get", "List", "AssumeRole"];
    !reads.iter().any(|read| operation.starts_with(read))
}

/// Takes the turn of a step; its call is then made without waiting again.
pub(crate) fn take_turn(step: &Step) -> Turn {
    let scope = if step.changes_cloud() {
        SCOPE.try_with(Clone::clone).ok()
    } else {
        None
    };
    let Some(scope) = scope else { return Turn::Now };
    let operation = plan::operation(step.name());
    let turn = scope.budget.turn(operation, &scope.asker);
    if turn == Turn::Now {
        *scope.paid.lock().unwrap_or_else(PoisonError::into_inner) = Some(scope.drawn(operation));
    }
    turn
}

/// The step is done: a turn that it did not need goes to others.
pub(crate) fn end_turn() {
    let _ = SCOPE.try_with(|scope| {
        let unused = scope.paid.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(unused);
    });
}

/// The round is over. `waits`: for its turn.
pub(crate) fn end_round(waits: bool) {
    let _ = SCOPE.try_with(|scope| scope.budget.leave(&scope.asker.agent, waits));
}

#[cfg(test)]
mod tests;
