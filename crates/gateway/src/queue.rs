//! The queue of one session: which message runs when, with whom, and which has to go. Pure: time comes in, decisions come out.
//!
//! A session runs one turn at a time. What comes during a run waits, joins the run at a tool boundary, or ends it, by its mode. Every
//! message that came in leaves in exactly one way: as a member of a batch, or by a [`Step::End`].

mod settings;

use std::collections::VecDeque;

use koi_wire::config::{QueueDrop, QueueMode};

pub(crate) use self::settings::{Overrides, Settings, drop_name, mode_name};

/// Summaries that are kept of what was dropped; of more than these only the number is told.
const MOST_SUMMARIES: usize = 50;

/// A message cannot be held back for quiet longer than this many times the debounce.
const MOST_HOLD: i64 = 8;

/// A message, as far as the queue must know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// Its identity.
    pub(crate) id: String,
    /// When it came.
    pub(crate) at_ms: i64,
    /// What it does during a run.
    pub(crate) mode: QueueMode,
    /// It may share a turn with others of the same route.
    pub(crate) route: Option<String>,
    /// One line of it, for when it has to go.
    pub(crate) summary: String,
}

/// What runs as one turn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Batch {
    /// The id of the run: that of its newest message.
    pub(crate) run: String,
    /// Messages whose texts make the turn, oldest first.
    pub(crate) members: Vec<String>,
    /// Messages that had to go, of which the turn is told in a line each; their end is the turn's.
    pub(crate) summarised: Vec<(String, String)>,
    /// How many more had to go.
    pub(crate) forgotten: usize,
}

/// Why a message ends without a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// Too many waited.
    Dropped,
    /// A newer one took its place.
    Interrupted,
    /// Somebody asked for it.
    Aborted,
}

/// A decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Run this now.
    Start(Batch),
    /// Stop the run that goes on; it tells of its end as always.
    Stop(Why),
    /// Ask again then.
    WakeAt(i64),
    /// The message has its end.
    End(String, Why),
}

/// A message that joins the run that goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Steered {
    /// Its identity.
    pub(crate) id: String,
    /// It stays in the queue too, for a turn of its own.
    pub(crate) again: bool,
}

#[derive(Clone, Debug)]
struct Entry {
    message: Waiting,
    /// It runs as soon as the lane is free.
    urgent: bool,
    /// It has joined a run already.
    steered: bool,
}

/// The queue of one session.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lane {
    /// Members of the run that goes on.
    running: Option<Vec<String>>,
    waiting: VecDeque<Entry>,
    summarised: VecDeque<(String, String)>,
    forgotten: usize,
}

impl Lane {
    /// Nothing runs and nothing waits.
    pub(crate) fn is_idle(&self) -> bool {
        self.running.is_none() && self.waiting.is_empty() && self.summarised.is_empty()
    }

    /// Does a run go on?
    #[cfg(test)]
    pub(crate) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// All messages that have their end with the run that goes on.
    pub(crate) fn members(&self) -> &[String] {
        self.running.as_deref().unwrap_or_default()
    }

    /// Is the message part of the run that goes on?
    pub(crate) fn runs(&self, id: &str) -> bool {
        self.running
            .as_ref()
            .is_some_and(|members| members.iter().any(|member| member == id))
    }

    /// A message comes.
    pub(crate) fn arrive(&mut self, message: Waiting, settings: &Settings, now_ms: i64) -> Vec<Step> {
        let mut steps = Vec::new();
        let interrupts = message.mode == QueueMode::Interrupt && message.route.is_some();
        if interrupts {
            self.give_way(&mut steps);
        }
        self.waiting.push_back(Entry {
            message,
            urgent: interrupts,
            steered: false,
        });
        self.shrink(settings, &mut steps);
        // A lane that was idle waits for nothing: quiet is kept before a *further* turn only.
        if self.running.is_none() && self.waiting.len() == 1 && self.summarised.is_empty() {
            steps.extend(self.start());
        } else {
            steps.extend(self.next(settings, now_ms));
        }
        steps
    }

    /// A run that a restart broke off goes on, in a lane where nothing runs.
    pub(crate) fn resume(&mut self, batch: Batch) -> Vec<Step> {
        match self.running {
            Some(_) => Vec::new(),
            None => vec![self.run(batch)],
        }
    }

    /// The run has ended.
    pub(crate) fn ended(&mut self, settings: &Settings, now_ms: i64) -> Vec<Step> {
        self.running = None;
        self.next(settings, now_ms)
    }

    /// Time has passed.
    pub(crate) fn tick(&mut self, settings: &Settings, now_ms: i64) -> Vec<Step> {
        self.next(settings, now_ms)
    }

    /// The run is at a boundary: what joins it.
    pub(crate) fn steer(&mut self) -> Vec<Steered> {
        let Some(members) = &mut self.running else {
            return Vec::new();
        };
        let mut steered = Vec::new();
        for entry in &mut self.waiting {
            let message = &entry.message;
            match message.mode {
                _ if message.route.is_none() || entry.steered => {}
                QueueMode::Steer | QueueMode::SteerBacklog => {
                    entry.steered = true;
                    let again = message.mode == QueueMode::SteerBacklog;
                    if !again {
                        members.push(message.id.clone());
                    }
                    steered.push(Steered {
                        id: message.id.clone(),
                        again,
                    });
                }
                QueueMode::Collect | QueueMode::Followup | QueueMode::Interrupt => {}
            }
        }
        self.waiting
            .retain(|entry| !entry.steered || entry.message.mode == QueueMode::SteerBacklog);
        steered
    }

    /// Somebody stops one message, or everything.
    pub(crate) fn cancel(&mut self, id: Option<&str>) -> Vec<Step> {
        let mut steps = Vec::new();
        if self.running.is_some() && id.is_none_or(|id| self.runs(id)) {
            steps.push(Step::Stop(Why::Aborted));
        }
        let gone = |candidate: &str| id.is_none_or(|id| id == candidate);
        self.waiting.retain(|entry| {
            let gone = gone(&entry.message.id);
            if gone {
                steps.push(Step::End(entry.message.id.clone(), Why::Aborted));
            }
            !gone
        });
        self.summarised.retain(|(candidate, _)| {
            let gone = gone(candidate);
            if gone {
                steps.push(Step::End(candidate.clone(), Why::Aborted));
            }
            !gone
        });
        steps
    }

    /// The run that goes on and what people have waiting end, for something newer.
    fn give_way(&mut self, steps: &mut Vec<Step>) {
        if self.running.is_some() {
            steps.push(Step::Stop(Why::Interrupted));
        }
        self.waiting.retain(|entry| {
            let stays = entry.message.route.is_none();
            if !stays {
                steps.push(Step::End(entry.message.id.clone(), Why::Interrupted));
            }
            stays
        });
    }

    /// Drops what is too much. What runs alone is nobody's chatter: it is neither counted nor dropped here.
    fn shrink(&mut self, settings: &Settings, steps: &mut Vec<Step>) {
        let shared = self
            .waiting
            .iter()
            .filter(|entry| entry.message.route.is_some())
            .count();
        if shared <= settings.cap {
            return;
        }
        let mut places = self
            .waiting
            .iter()
            .enumerate()
            .filter(|(_, entry)| entry.message.route.is_some());
        let place = match settings.drop {
            QueueDrop::New => places.next_back(),
            QueueDrop::Old | QueueDrop::Summarize => places.next(),
        };
        let Some(entry) = place
            .map(|(place, _)| place)
            .and_then(|place| self.waiting.remove(place))
        else {
            return;
        };
        if settings.drop != QueueDrop::Summarize {
            return steps.push(Step::End(entry.message.id, Why::Dropped));
        }
        self.summarised.push_back((entry.message.id, entry.message.summary));
        if self.summarised.len() > MOST_SUMMARIES
            && let Some((id, _)) = self.summarised.pop_front()
        {
            self.forgotten += 1;
            steps.push(Step::End(id, Why::Dropped));
        }
    }

    /// What can be done now.
    fn next(&mut self, settings: &Settings, now_ms: i64) -> Vec<Step> {
        if self.running.is_some() {
            return Vec::new();
        }
        match self.due(settings) {
            Some(due) if due > now_ms => vec![Step::WakeAt(due)],
            Some(_) => self.start(),
            None => self.leftovers(),
        }
    }

    /// When the next turn may begin.
    fn due(&self, settings: &Settings) -> Option<i64> {
        let first = self.waiting.front()?;
        if first.urgent || first.message.route.is_none() {
            return Some(i64::MIN);
        }
        let last = self.waiting.iter().map(|entry| entry.message.at_ms).max()?;
        let quiet = last.saturating_add(settings.debounce_ms);
        let patience = first
            .message
            .at_ms
            .saturating_add(settings.debounce_ms.saturating_mul(MOST_HOLD));
        Some(quiet.min(patience))
    }

    /// Summaries without a turn to tell them in: their messages end.
    fn leftovers(&mut self) -> Vec<Step> {
        self.forgotten = 0;
        let gone = self.summarised.drain(..);
        gone.map(|(id, _)| Step::End(id, Why::Dropped)).collect()
    }

    fn start(&mut self) -> Vec<Step> {
        let Some(first) = self.waiting.pop_front() else {
            return Vec::new();
        };
        let mut batch = Batch::default();
        let merges = |entry: &Entry| {
            !matches!(entry.message.mode, QueueMode::Followup | QueueMode::SteerBacklog)
                && entry.message.route.is_some()
                && entry.message.route == first.message.route
        };
        if merges(&first) {
            let more = self.waiting.iter().take_while(|entry| merges(entry)).count();
            batch.members = std::iter::once(first.message.id.clone())
                .chain(self.waiting.drain(..more).map(|entry| entry.message.id))
                .collect();
        } else {
            batch.members.push(first.message.id);
        }
        if first.message.route.is_some() {
            batch.summarised = self.summarised.drain(..).collect();
            batch.forgotten = std::mem::take(&mut self.forgotten);
        }
        batch.run = batch.members.last().cloned().unwrap_or_default();
        vec![self.run(batch)]
    }

    fn run(&mut self, batch: Batch) -> Step {
        let summarised = batch.summarised.iter().map(|(id, _)| id);
        self.running = Some(batch.members.iter().chain(summarised).cloned().collect());
        Step::Start(batch)
    }
}

#[cfg(test)]
mod tests;
