//! Who is asked when: settled gateways evenly over the interval, broken and booting ones often, all of them a few at a time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use koi_core::observed::{Probe, Pushed};
use koi_core::uid::Uid;
use koi_wire::Redacted;
use koi_wire::health::Usage;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::answers::{Answer, Answers};
use super::pin::Sha256;
use super::refusals::{Refusals, SOON};
use super::{Look, Patience, Target, look, talk};
use crate::clock::Clock;
use crate::device::DeviceKey;
use crate::fleet::Fleet;
use crate::metrics::Metrics;

/// At most so many at once.
const AT_ONCE: usize = 64;
/// Of them gateways that do not answer, and those that have not for long.
const UNWELL: usize = 48;
const LONG_UNWELL: usize = 32;
/// While it boots, or has just broken.
const EAGER: Duration = Duration::from_millis(500);
/// For so long.
const EAGER_FOR: Duration = Duration::from_secs(120);
/// Afterwards, while it is broken.
const PATIENT: Duration = Duration::from_secs(5);
/// For so long; later the usual interval is often enough.
const PATIENT_FOR: Duration = Duration::from_secs(900);

/// Below so many silent gateways each of them is its own trouble.
const OUTAGE_FROM: usize = 3;
/// A judgement about all of them is good for so long.
const JUDGED_FOR: Duration = Duration::from_secs(1);
/// A silence counts in it after so long: what was just changed, or starts anew, is none, and nobody can make one of it.
const COUNTS_AFTER: Duration = Duration::from_secs(30);
/// What was asked so soon after an outage may have been asked before the way was open again.
const OPENS: SignedDuration = SignedDuration::from_secs(10);

/// The rounds.
#[derive(Clone)]
pub struct Rounds {
    inner: Arc<Inner>,
}

struct Inner {
    device: DeviceKey,
    clock: Clock,
    metrics: Arc<Metrics>,
    fleet: Fleet,
    interval: Duration,
    book: Mutex<Book>,
    changed: Notify,
    permits: Arc<Semaphore>,
    unwell: Arc<Semaphore>,
    long_unwell: Arc<Semaphore>,
    outage: Mutex<Judgement>,
}

/// What was last said of all of them together.
#[derive(Default)]
struct Judgement {
    made: Option<Instant>,
    is_one: bool,
    /// When it was an outage last.
    last: Option<Timestamp>,
}

/// Whom we ask, and in which order.
#[derive(Default)]
struct Book {
    entries: BTreeMap<Uid, Box<Entry>>,
    /// Everybody by the time of the next question. What an entry no longer says is passed over when its time comes: nobody looks through
    /// ten thousand agents to find the one whose turn it is.
    due: BinaryHeap<Reverse<(Instant, Uid)>>,
    /// Who is due and found no room, in the order in which they came: of those that have been unwell for a while, and of those that have for long.
    lines: [VecDeque<(u64, Uid)>; 2],
    /// Which of them is served first now, and the number of the next who comes.
    turn: (usize, u64),
    answers: Answers,
}

impl Book {
    /// The entry says so now.
    fn plan(&mut self, agent: Uid) {
        if let Some(entry) = self.entries.get_mut(&agent) {
            entry.in_line = None;
            self.due.push(Reverse((entry.schedule.due, agent)));
        }
    }

    /// The agent is asked no more.
    fn forget(&mut self, agent: &Uid) {
        if let Some(last) = self.entries.remove(agent).and_then(|entry| entry.last) {
            self.answers.let_go(last);
        }
    }

    /// The agent's gateway answered.
    fn told(&mut self, agent: &Uid, probe: Probe) {
        let answer = self.answers.keep(probe);
        let past = self.entries.get_mut(agent).and_then(|entry| entry.last.replace(answer));
        if let Some(past) = past {
            self.answers.let_go(past);
        }
    }

    /// What everybody that was well said last, without what is too young to count; `now` and `at` are the same moment. Who was well before
    /// this process began and was not asked yet said that longest ago.
    fn words(&self, now: Instant, at: Timestamp) -> Vec<Word> {
        let since = |asked: Timestamp| Duration::try_from(at.duration_since(asked)).unwrap_or_default();
        let known = self.entries.values().filter(|entry| entry.was_well);
        let words = known.map(|entry| match (entry.schedule.broken_since, &entry.last) {
            // One that says that it is not well is not silent, nor one that is to be asked anew.
            (_, Some(answer)) if answer.outcome.is_ok() => (since(answer.at), false),
            (Some(fell), _) => (now.saturating_duration_since(fell), true),
            (None, _) => (Duration::MAX, false),
        });
        words
            .filter(|(ago, is_silent)| !is_silent || *ago >= COUNTS_AFTER)
            .collect()
    }

    /// The next one whose time has come; else when it comes.
    fn next(&mut self, now: Instant) -> Result<Uid, Option<Instant>> {
        while let Some(Reverse((due, uid))) = self.due.peek() {
            let entry = self.entries.get(uid);
            if entry.is_some_and(|entry| !entry.asking && entry.in_line.is_none() && entry.schedule.due == *due) {
                if *due > now {
                    return Err(Some(*due));
                }
                return Ok(uid.clone());
            }
            self.due.pop();
        }
        Err(None)
    }

    /// One that is due waits until somebody who is asked now makes room.
    fn stand_in_line(&mut self, agent: Uid, line: usize) {
        if let Some(entry) = self.entries.get_mut(&agent) {
            self.turn.1 += 1;
            entry.in_line = Some(self.turn.1);
            self.lines[line].push_back((self.turn.1, agent));
        }
    }

    /// The first in a line that still waits there, with its number.
    fn first_in(&mut self, line: usize, now: Instant) -> Option<(u64, Uid)> {
        while let Some((number, agent)) = self.lines[line].pop_front() {
            let entry = self.entries.get(&agent);
            // Whoever was planned anew meanwhile, or forgotten, has left the line.
            let Some(entry) = entry.filter(|entry| entry.in_line == Some(number)) else {
                continue;
            };
            match entry.schedule.line(now) {
                Some(other) if other == line => return Some((number, agent)),
                Some(other) => self.stand_in_line(agent, other),
                None => self.plan(agent),
            }
        }
        None
    }
}

struct Entry {
    target: Target,
    last: Option<Answer>,
    schedule: Schedule,
    asking: bool,
    /// It is due and waits for room, with this number.
    in_line: Option<u64>,
    /// What is being asked was asked before the gateway took another config: the answer tells of the past.
    outdated: bool,
    /// It answered to this process at least once.
    was_well: bool,
    /// What its models cost so far.
    usage: Option<Usage>,
    /// Since when it does not answer although it did; `None` also where this process never saw an answer.
    silent_since: Option<Timestamp>,
    /// Since when it does not answer this process.
    failing_since: Option<Timestamp>,
    /// When it refused our token.
    refusals: Refusals,
    /// It has what a handover is to bring it.
    has_taken: bool,
}

impl Entry {
    /// A question that is due at once, or as soon as the token may be shown again.
    fn soonest(&self, now: Instant) -> Instant {
        let waits = !self.target.in_handover;
        self.refusals
            .next(false)
            .filter(|_| waits)
            .map_or(now, |next| next.max(now))
    }

    /// A gateway that says no more than that it was asked too often has told the cause before: that is worth more.
    fn keep_cause(&self, probe: &mut Probe) {
        let cause = self.last.as_ref().and_then(|last| {
            let failure = last.outcome.as_ref().err()?;
            (last.launch_time == probe.launch_time && talk::is_refused(failure)).then_some(failure)
        });
        if let (Err(told), Some(cause)) = (&mut probe.outcome, cause)
            && talk::is_lockout(told)
        {
            told.clone_from(cause);
        }
    }

    /// Keeps when it fell silent, if it had answered in the same boot before.
    fn note_silence(&mut self, probe: &Probe) {
        let answered = |last: &Answer| last.launch_time == probe.launch_time && last.outcome.is_ok();
        if probe.outcome.is_ok() {
            (self.silent_since, self.failing_since) = (None, None);
            return;
        }
        self.failing_since.get_or_insert(probe.at);
        if self.last.as_ref().is_some_and(answered) {
            self.silent_since = Some(probe.at);
        }
    }

    /// The last answer, as the planner knows answers.
    fn probe(&self) -> Option<Probe> {
        let last = self.last.as_ref()?;
        Some(last.of(&self.target.instance_id))
    }
}

/// What status tells of a gateway when this process first hears of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Past {
    /// It was not well in this boot yet.
    New,
    /// It was when it was last asked.
    Well,
    /// It had been, and was not when it was last asked.
    Silent,
}

impl Past {
    /// One that was silent is so until it answers: right after a start, most of them at once are an outage of ours.
    fn broken_since(self, now: Instant) -> Option<Instant> {
        match self {
            Self::Well => None,
            Self::New => Some(now),
            Self::Silent => Some(now.checked_sub(COUNTS_AFTER).unwrap_or(now)),
        }
    }
}

/// How long ago a gateway that was well fell silent, or answered last, and whether it is silent.
type Word = (Duration, bool);

/// A question that is being asked: its end makes room, and rings. One that ends in a panic is a mistake of ours, and no reason never to ask
/// again.
struct Asked {
    rounds: Rounds,
    uid: String,
    room: Vec<OwnedSemaphorePermit>,
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.room.clear();
        if std::thread::panicking() {
            let (mut book, agent) = (self.rounds.book(), Uid::from(self.uid.as_str()));
            if let Some(entry) = book.entries.get_mut(&agent) {
                entry.asking = false;
                entry.schedule.due = Instant::now() + PATIENT;
            }
            book.plan(agent);
        }
        self.rounds.inner.changed.notify_one();
    }
}

/// What a look found out about token and certificate.
#[derive(Clone, Copy, Debug, Default)]
struct Found {
    refused: bool,
    has_taken: bool,
}

/// When one gateway is asked next.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Schedule {
    due: Instant,
    /// Since when it does not answer; `None` while it does.
    broken_since: Option<Instant>,
}

impl Schedule {
    /// In which line it waits when there is no room: for a while unwell, or for long. `None`: it is well.
    fn line(self, now: Instant) -> Option<usize> {
        self.broken_since.map(|since| usize::from(now - since >= EAGER_FOR))
    }

    /// After an answer.
    fn after(self, ok: bool, now: Instant, interval: Duration, share: f64) -> Self {
        if ok {
            // The first answer scatters: whoever became healthy together is not asked together for ever.
            let pause = if self.broken_since.is_some() {
                interval.mul_f64(0.5 + share / 2.0)
            } else {
                interval
            };
            return Self {
                due: now + pause,
                broken_since: None,
            };
        }
        let since = self.broken_since.unwrap_or(now);
        let pause = match now - since {
            gone if gone < EAGER_FOR => EAGER,
            gone if gone < PATIENT_FOR => PATIENT,
            _ => interval.max(PATIENT),
        };
        Self {
            due: now + pause.min(interval),
            broken_since: Some(since),
        }
    }
}

impl Rounds {
    /// Nobody is asked yet.
    #[must_use]
    pub fn new(device: DeviceKey, clock: Clock, metrics: Arc<Metrics>, fleet: Fleet, interval: Duration) -> Self {
        let inner = Inner {
            device,
            clock,
            metrics,
            fleet,
            interval,
            book: Mutex::default(),
            changed: Notify::new(),
            permits: Arc::new(Semaphore::new(AT_ONCE)),
            unwell: Arc::new(Semaphore::new(UNWELL)),
            long_unwell: Arc::new(Semaphore::new(LONG_UNWELL)),
            outage: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// This is the gateway of the agent now; `None`: it has none that could answer. A changed one is asked at once; one that was well
    /// when the operator started waits for its turn.
    pub fn aim(&self, agent_uid: &str, target: Option<Target>, past: Past) {
        let was_healthy = past != Past::New;
        let (mut book, agent) = (self.book(), Uid::from(agent_uid));
        let Some(target) = target else {
            book.forget(&agent);
            return;
        };
        let (now, mut let_go) = (Instant::now(), None);
        match book.entries.get_mut(&agent) {
            Some(entry) if entry.target.same(&target) => return,
            Some(entry) => {
                let another = entry.target.instance_id != target.instance_id;
                let_go = entry.last.take_if(|_| another);
                let another_boot = another || entry.target.launch_time != target.launch_time;
                if another_boot {
                    (entry.silent_since, entry.failing_since) = (None, None);
                    entry.refusals.forget();
                }
                entry.target = target;
                entry.has_taken = false;
                entry.schedule = Schedule {
                    due: entry.soonest(now),
                    broken_since: Some(now),
                };
            }
            None => {
                let wait = if past == Past::Well {
                    self.inner.interval.mul_f64(share(agent_uid))
                } else {
                    Duration::ZERO
                };
                let schedule = Schedule {
                    due: now + wait,
                    broken_since: past.broken_since(now),
                };
                let entry = Entry {
                    target,
                    last: None,
                    schedule,
                    asking: false,
                    in_line: None,
                    outdated: false,
                    was_well: was_healthy,
                    usage: None,
                    silent_since: None,
                    failing_since: None,
                    refusals: Refusals::default(),
                    has_taken: false,
                };
                book.entries.insert(agent.clone(), Box::new(entry));
            }
        }
        if let Some(answer) = let_go {
            book.answers.let_go(answer);
        }
        book.plan(agent);
        drop(book);
        self.inner.changed.notify_one();
    }

    /// Ask this one now: something about it was changed.
    pub fn hurry(&self, agent_uid: &str) {
        let (mut book, agent) = (self.book(), Uid::from(agent_uid));
        if let Some(entry) = book.entries.get_mut(&agent) {
            let now = Instant::now();
            entry.schedule = Schedule {
                due: entry.soonest(now),
                broken_since: entry.schedule.broken_since.or(Some(now)),
            };
        }
        book.plan(agent);
        drop(book);
        self.inner.changed.notify_one();
    }

    /// The gateway of this instance said that it has this config, and starts anew after `pause` with it: its next answer is not asked for
    /// before that. Without a pause it is asked at once, for its own word on its health.
    pub fn configured(&self, agent_uid: &str, pushed: &Pushed, restart_sha256: &str, pause: Option<Duration>) {
        let (mut book, agent) = (self.book(), Uid::from(agent_uid));
        let mut told = None;
        if let Some(entry) = book.entries.get_mut(&agent) {
            entry.schedule.due = Instant::now() + pause.unwrap_or_default();
            entry.outdated = entry.asking;
            told = entry.probe().filter(|last| last.instance_id == pushed.instance_id);
        }
        if let Some(mut probe) = told
            && let Ok(health) = &mut probe.outcome
        {
            health.config_sha256 = Some(pushed.sha256.clone());
            health.config_restart_sha256 = Some(restart_sha256.to_owned());
            book.told(&agent, probe);
        }
        book.plan(agent);
        drop(book);
        self.inner.changed.notify_one();
    }

    /// Whether the gateway was seen to have what a handover is to bring it: this token, and the certificate with this digest.
    #[must_use]
    pub fn has_taken(&self, agent_uid: &str, token: &Redacted, certificate: Sha256) -> bool {
        let book = self.book();
        let entry = book.entries.get(&agent_uid.into());
        let entry = entry.filter(|entry| entry.has_taken);
        entry.is_some_and(|entry| entry.target.token == *token && entry.target.pin.sha256() == certificate)
    }

    /// Whether the agent's gateway may be shown a token beside the rounds.
    #[must_use]
    pub fn may_show(&self, agent_uid: &str) -> bool {
        let book = self.book();
        let entry = book.entries.get(&agent_uid.into());
        entry.is_none_or(|entry| entry.refusals.allow(true, Instant::now()))
    }

    /// It was, and refused it.
    pub fn refused(&self, agent_uid: &str) {
        if let Some(entry) = self.book().entries.get_mut(&agent_uid.into()) {
            entry.refusals.note(Instant::now());
        }
    }

    /// The last answer.
    #[must_use]
    pub fn last(&self, agent_uid: &str) -> Option<Probe> {
        self.book().entries.get(&agent_uid.into())?.probe()
    }

    /// Since when the gateway does not answer that had answered before, and since when it fails at all.
    #[must_use]
    pub fn silent_since(&self, agent_uid: &str) -> (Option<Timestamp>, Option<Timestamp>) {
        let book = self.book();
        let entry = book.entries.get(&agent_uid.into());
        entry.map_or((None, None), |entry| (entry.silent_since, entry.failing_since))
    }

    /// Whether so many gateways that were well fell silent that the fault of one that was asked then is more likely in what they have in
    /// common: our network, our proxy, our clock, a version, a setting. That holds until it was asked again after all that.
    #[must_use]
    pub fn outage(&self, asked: Timestamp) -> bool {
        let (now, at) = (Instant::now(), self.inner.clock.now());
        let mut judged = self.inner.outage.lock().unwrap_or_else(PoisonError::into_inner);
        if judged.made.is_none_or(|made| now - made >= JUDGED_FOR) {
            let words = self.book().words(now, at);
            judged.made = Some(now);
            judged.is_one = is_outage(words);
            // A clock that was ahead was set right.
            judged.last = if judged.is_one {
                Some(at)
            } else {
                judged.last.map(|last| last.min(at))
            };
        }
        let opens = judged.last.map(|last| last.saturating_add(OPENS).unwrap_or(last));
        judged.is_one || opens.is_some_and(|opens| asked < opens)
    }

    /// The agent is gone.
    pub fn forget(&self, agent_uid: &str) {
        self.book().forget(&agent_uid.into());
    }

    /// What the models of each agent cost so far, as far as their gateways say.
    #[must_use]
    pub fn usages(&self) -> Vec<(String, Usage)> {
        let book = self.book();
        let told = book
            .entries
            .iter()
            .filter_map(|(uid, entry)| Some((uid.to_string(), entry.usage?)));
        told.collect()
    }

    /// The agents that are asked.
    #[must_use]
    pub fn agents(&self) -> Vec<String> {
        self.book().entries.keys().map(ToString::to_string).collect()
    }

    /// Asks for ever.
    pub async fn run(self) {
        loop {
            let next = self.start_due(Instant::now());
            tokio::select! {
                () = sleep_until(next) => {}
                () = self.inner.changed.notified() => {}
            }
        }
    }

    /// Starts what is due, as far as there are permits; answers when to look again.
    fn start_due(&self, now: Instant) -> Option<Instant> {
        let mut book = self.book();
        // In turn: neither line waits until the other one is empty.
        book.turn.0 = 1 - book.turn.0;
        for line in [book.turn.0, 1 - book.turn.0] {
            while let Some((number, uid)) = book.first_in(line, now) {
                if self.start(&mut book, &uid, now).is_err() {
                    book.lines[line].push_front((number, uid));
                    break;
                }
            }
        }
        loop {
            let uid = match book.next(now) {
                Ok(uid) => uid,
                Err(next) => return next,
            };
            // Whoever finishes makes room and rings.
            if self.inner.permits.available_permits() == 0 {
                return None;
            }
            if let Err(line) = self.start(&mut book, &uid, now) {
                book.stand_in_line(uid, line);
            }
        }
    }

    /// Asks one, if there is room; else in which line it is to wait.
    fn start(&self, book: &mut Book, uid: &Uid, now: Instant) -> Result<(), usize> {
        let Some(entry) = book.entries.get_mut(uid) else {
            return Ok(());
        };
        let room = self
            .room(&entry.schedule, now)
            .ok_or(entry.schedule.line(now).unwrap_or(0))?;
        (entry.asking, entry.in_line) = (true, None);
        let patience = if entry.schedule.broken_since.is_some() {
            Patience::BOOTING
        } else {
            Patience::SETTLED
        };
        let show = entry.refusals.allow(true, now);
        let (rounds, target) = (self.clone(), entry.target.clone());
        let asked = Asked {
            rounds: rounds.clone(),
            uid: uid.to_string(),
            room,
        };
        tokio::spawn(async move { rounds.visit(&asked.uid, &target, patience, show).await });
        Ok(())
    }

    /// Who does not answer takes long to ask, and may be a whole network: it leaves room for who does, and who has not answered for long leaves
    /// room for who boots. `None`: there is no room now.
    fn room(&self, schedule: &Schedule, now: Instant) -> Option<Vec<OwnedSemaphorePermit>> {
        let line = schedule.line(now);
        let unwell = line.map(|_| &self.inner.unwell);
        let long = line.filter(|line| *line == 1).map(|_| &self.inner.long_unwell);
        let rooms = std::iter::once(&self.inner.permits).chain(unwell).chain(long);
        rooms.map(|room| Arc::clone(room).try_acquire_owned().ok()).collect()
    }

    async fn visit(&self, uid: &str, target: &Target, patience: Patience, show: bool) {
        let (at, began) = (self.inner.clock.now(), Instant::now());
        let Look {
            outcome,
            refused,
            has_taken,
        } = look(target, &self.inner.device, patience, show).await;
        let (outcome, usage) = match outcome {
            Ok(seen) => (Ok(seen.health), seen.usage),
            Err(failure) => (Err(failure), None),
        };
        let found = Found { refused, has_taken };
        let ok = outcome.as_ref().is_ok_and(|health| health.ok);
        self.inner.metrics.observe_probe(began.elapsed(), ok);
        tracing::debug!(uid, instance = target.instance_id, ?outcome, "asked the gateway");
        let probe = Probe {
            at,
            instance_id: target.instance_id.clone(),
            launch_time: target.launch_time,
            outcome,
        };
        if self.take(uid, target, probe, usage, found) {
            self.inner.fleet.wake_agent(uid);
        }
    }

    /// Keeps the answer; says whether it is news.
    fn take(&self, uid: &str, asked: &Target, mut probe: Probe, usage: Option<Usage>, found: Found) -> bool {
        let now = Instant::now();
        let ok = probe.outcome.as_ref().is_ok_and(|health| health.ok);
        let (mut book, agent) = (self.book(), Uid::from(uid));
        let Some(entry) = book.entries.get_mut(&agent) else {
            return false;
        };
        entry.asking = false;
        entry.usage = usage.or(entry.usage);
        if found.refused {
            entry.refusals.note(now);
        } else if found.has_taken {
            entry.refusals.forget();
        }
        let outdated = std::mem::take(&mut entry.outdated);
        if outdated || !entry.target.same(asked) {
            // The question changed meanwhile, or what it is about did: this answers another one, and the new one is due.
            book.plan(agent);
            return false;
        }
        entry.schedule = entry.schedule.after(ok, now, self.inner.interval, share(uid));
        let hands_over = entry.target.in_handover && !found.has_taken;
        if hands_over {
            entry.schedule.due = entry.schedule.due.min(now + SOON);
        } else if found.refused {
            entry.schedule.due = entry.schedule.due.max(entry.soonest(now));
        }
        entry.keep_cause(&mut probe);
        entry.note_silence(&probe);
        let taken = entry.target.in_handover && found.has_taken && !entry.has_taken;
        entry.has_taken = found.has_taken;
        let news = entry.last.as_ref().is_none_or(|last| last.differs(&probe.outcome));
        entry.was_well |= ok;
        book.told(&agent, probe);
        book.plan(agent);
        news || taken
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.inner.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Of those that were well and have been asked since some moment, most are silent. Whoever was not asked since then says nothing: with
/// thousands of them it takes minutes until everybody was.
fn is_outage(mut words: Vec<Word>) -> bool {
    words.sort_unstable();
    let mut heard = (0_usize, 0_usize);
    words.into_iter().any(|(_, is_silent)| {
        heard.0 += usize::from(is_silent);
        heard.1 += usize::from(!is_silent);
        heard.0 >= OUTAGE_FROM && heard.0 > heard.1
    })
}

async fn sleep_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// A number from 0 to 1 that is the agent's own: spreads agents evenly, without randomness.
fn share(agent_uid: &str) -> f64 {
    let mut hasher = DefaultHasher::new();
    agent_uid.hash(&mut hasher);
    f64::from(u32::try_from(hasher.finish() >> 32).unwrap_or_default()) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests;
