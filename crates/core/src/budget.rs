//! The API budget: token buckets like AWS's own, and who draws from them next.
//!
//! Pure, with a time that the caller tells. One [`Budget`] belongs to one account and region and is shared by all who call there. Whoever
//! wants to call takes a [`Ticket`]; [`Budget::grant`] says whose turn it is:
//!
//! - deletions before repairs before creations, except that each eighth turn goes to whoever has waited longest;
//! - among equals, the namespace that was served least; within a namespace, who came first.
//!
//! AWS draws a token when a call arrives there, and not when it is granted here. What is granted and has not [`landed`](Budget::landed) may yet
//! be drawn from a bucket that was full until then, so that the time in between brought it nothing: our bucket never holds more than what is
//! left of a full one after all calls under way. With that, AWS has a token for each call, however late and however close together they come.
//!
//! A bucket that AWS refuses for is believed to be smaller than documented: its rate is halved, at most once for each burst of refusals,
//! and creeps up again. Only this bucket slows down; whoever was refused waits by a pause of its own.

pub mod rates;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use rates::Rate;

/// How much a call matters, most first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Urgency {
    /// Something is to go: it costs money until it is gone, and frees what others wait for.
    Delete,
    /// Somebody's agent is not as it should be; also the sweeps, which find that out.
    Repair,
    /// Something new.
    Create,
}

/// On whose behalf a call is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asker {
    /// The namespace; empty for the operator itself.
    pub tenant: String,
    /// UID of the agent; empty for the operator itself.
    pub agent: String,
    /// How much it matters.
    pub urgency: Urgency,
}

/// A place in a queue. Later ones are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

/// A bucket that was refused for never gets slower than this part of its documented rate.
const FLOOR: f64 = 1.0 / 16.0;
/// So much of the documented rate comes back in each second.
const CREEP: f64 = 0.02;
/// Refusals within this time are one burst: their calls were under way together.
const BURST: Duration = Duration::from_secs(1);
/// Each so-manieth turn goes to whoever has waited longest.
const ELDEST: u64 = 8;

/// All buckets of one account and region.
#[derive(Clone, Debug)]
pub struct Budget {
    scale: f64,
    lanes: BTreeMap<&'static str, Lane>,
    whose: BTreeMap<Ticket, &'static str>,
    tickets: u64,
}

/// One bucket and those who wait for it.
#[derive(Clone, Debug)]
struct Lane {
    rate: Rate,
    /// The part of the documented rate that AWS seems to grant.
    share: f64,
    tokens: f64,
    /// Granted, and not drawn at AWS for certain.
    under_way: u32,
    at: Duration,
    halved_at: Option<Duration>,
    queues: BTreeMap<Urgency, BTreeMap<String, VecDeque<Ticket>>>,
    places: BTreeMap<Ticket, (Urgency, String)>,
    /// How often each waiting namespace was served, counted from the least served one when it came.
    served: BTreeMap<String, u64>,
    granted: u64,
}

impl Budget {
    /// Full buckets. `scale`: 1 for the documented figures, more for accounts whose quotas were raised.
    #[must_use]
    pub fn new(scale: f64) -> Self {
        Self {
            scale,
            lanes: BTreeMap::new(),
            whose: BTreeMap::new(),
            tickets: 0,
        }
    }

    /// Stands in line for an operation.
    pub fn ask(&mut self, operation: &'static str, asker: &Asker, now: Duration) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let (name, lane) = self.lane(operation, now);
        lane.join(ticket, asker);
        self.whose.insert(ticket, name);
        ticket
    }

    /// Leaves the line.
    pub fn cancel(&mut self, ticket: Ticket) {
        if let Some(lane) = self.whose.remove(&ticket).and_then(|name| self.lanes.get_mut(name)) {
            lane.leave(ticket);
        }
    }

    /// Whose turn it is now: each of them has drawn its token, and is under way until it [`landed`](Self::landed) or is given back.
    pub fn grant(&mut self, now: Duration) -> Vec<Ticket> {
        let mut granted = Vec::new();
        for lane in self.lanes.values_mut() {
            lane.settle(now);
            while lane.tokens >= 1.0
                && let Some(ticket) = lane.next()
            {
                lane.tokens -= 1.0;
                lane.under_way += 1;
                lane.serve(ticket);
                granted.push(ticket);
            }
        }
        for ticket in &granted {
            self.whose.remove(ticket);
        }
        granted
    }

    /// A call that was granted has arrived: AWS has drawn its token.
    pub fn landed(&mut self, operation: &'static str, now: Duration) {
        let (_, lane) = self.lane(operation, now);
        lane.under_way = lane.under_way.saturating_sub(1);
    }

    /// A token that was drawn and not used.
    pub fn refund(&mut self, operation: &'static str, now: Duration) {
        let (_, lane) = self.lane(operation, now);
        lane.under_way = lane.under_way.saturating_sub(1);
        lane.tokens = (lane.tokens + 1.0).min(lane.room());
    }

    /// AWS refused an operation because of its rate.
    pub fn throttled(&mut self, operation: &'static str, now: Duration) {
        let (_, lane) = self.lane(operation, now);
        lane.tokens = lane.tokens.min(0.0);
        if lane.halved_at.is_none_or(|at| now.saturating_sub(at) >= BURST) {
            lane.share = (lane.share / 2.0).max(FLOOR);
            lane.halved_at = Some(now);
        }
    }

    /// When [`Self::grant`] is worth asking again if nothing lands until then; `None` while nobody waits.
    #[must_use]
    pub fn next(&self) -> Option<Duration> {
        // Where there is no room, no time brings a token: a landing does.
        let waits = |lane: &&Lane| !lane.places.is_empty() && lane.room() >= 1.0;
        let waiting = self.lanes.values().filter(waits);
        waiting.map(Lane::ready_at).min()
    }

    /// Each bucket's name, how many wait for it, and the part of its documented rate that it has.
    pub fn lanes(&self) -> impl Iterator<Item = (&'static str, usize, f64)> + '_ {
        self.lanes
            .iter()
            .map(|(name, lane)| (*name, lane.places.len(), lane.share))
    }

    fn lane(&mut self, operation: &'static str, now: Duration) -> (&'static str, &mut Lane) {
        let (name, rate) = rates::of(operation);
        let scale = self.scale;
        let lane = self.lanes.entry(name).or_insert_with(|| Lane::full(rate, scale, now));
        lane.settle(now);
        (name, lane)
    }
}

impl Lane {
    fn full(rate: Rate, scale: f64, now: Duration) -> Self {
        let rate = Rate {
            capacity: (rate.capacity * scale).max(1.0),
            refill: rate.refill * scale,
        };
        Self {
            rate,
            share: 1.0,
            tokens: rate.capacity,
            under_way: 0,
            at: now,
            halved_at: None,
            queues: BTreeMap::new(),
            places: BTreeMap::new(),
            served: BTreeMap::new(),
            granted: 0,
        }
    }

    fn capacity(&self) -> f64 {
        (self.rate.capacity * self.share).max(1.0)
    }

    /// What a full bucket has left once all calls under way have drawn from it.
    fn room(&self) -> f64 {
        (self.capacity() - f64::from(self.under_way)).max(0.0)
    }

    /// What the time since the last look brought.
    fn settle(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.share = (self.share + passed * CREEP).min(1.0);
        self.tokens = (self.tokens + passed * self.rate.refill * self.share).min(self.room());
    }

    /// A moment at which there is a token if nobody draws until then.
    fn ready_at(&self) -> Duration {
        let missing = (1.0 - self.tokens).max(0.0);
        // A hair later, so that rounding does not make it a hair too early.
        let wait = missing / (self.rate.refill * self.share) + 1e-6;
        self.at + Duration::try_from_secs_f64(wait).unwrap_or(Duration::from_secs(60))
    }

    fn join(&mut self, ticket: Ticket, asker: &Asker) {
        let least = self.served.values().min().copied().unwrap_or_default();
        self.served.entry(asker.tenant.clone()).or_insert(least);
        let queue = self.queues.entry(asker.urgency).or_default();
        queue.entry(asker.tenant.clone()).or_default().push_back(ticket);
        self.places.insert(ticket, (asker.urgency, asker.tenant.clone()));
    }

    fn next(&self) -> Option<Ticket> {
        let eldest = self.places.keys().next().copied()?;
        if self.granted % ELDEST == ELDEST - 1 {
            return Some(eldest);
        }
        let (_, tenants) = self.queues.first_key_value()?;
        let served = |tenant: &str| self.served.get(tenant).copied().unwrap_or_default();
        let first = tenants
            .iter()
            .filter_map(|(tenant, queue)| Some((served(tenant), *queue.front()?)));
        first.min().map(|(_, ticket)| ticket)
    }

    fn serve(&mut self, ticket: Ticket) {
        self.granted += 1;
        if let Some((_, tenant)) = self.places.get(&ticket)
            && let Some(served) = self.served.get_mut(tenant)
        {
            *served += 1;
        }
        self.leave(ticket);
    }

    fn leave(&mut self, ticket: Ticket) {
        let Some((urgency, tenant)) = self.places.remove(&ticket) else {
            return;
        };
        let Some(tenants) = self.queues.get_mut(&urgency) else {
            return;
        };
        if let Some(queue) = tenants.get_mut(&tenant) {
            queue.retain(|other| *other != ticket);
            if queue.is_empty() {
                tenants.remove(&tenant);
            }
        }
        if tenants.is_empty() {
            self.queues.remove(&urgency);
        }
        if !self.queues.values().any(|tenants| tenants.contains_key(&tenant)) {
            self.served.remove(&tenant);
        }
    }
}

#[cfg(test)]
mod tests;
