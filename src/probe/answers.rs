//! The last answers of gateways, as they are kept: nearly all of them say the same.

use std::collections::HashSet;
use std::sync::Arc;

use jiff::Timestamp;
use koi_core::observed::{GatewayHealth, Probe, ProbeFailure};

/// The last answer of the instance that is asked now.
pub(super) struct Answer {
    pub(super) at: Timestamp,
    pub(super) launch_time: Option<Timestamp>,
    pub(super) outcome: Result<Arc<GatewayHealth>, Box<ProbeFailure>>,
}

impl Answer {
    /// Whether this says something else.
    pub(super) fn differs(&self, outcome: &Result<GatewayHealth, ProbeFailure>) -> bool {
        match (&self.outcome, outcome) {
            (Ok(known), Ok(told)) => **known != *told,
            (Err(known), Err(told)) => **known != *told,
            _ => true,
        }
    }

    /// As the planner knows answers: of this instance.
    pub(super) fn of(&self, instance_id: &str) -> Probe {
        let outcome = match &self.outcome {
            Ok(health) => Ok(GatewayHealth::clone(health)),
            Err(failure) => Err(ProbeFailure::clone(failure)),
        };
        Probe {
            at: self.at,
            instance_id: instance_id.to_owned(),
            launch_time: self.launch_time,
            outcome,
        }
    }
}

/// What gateways said, each of it once.
#[derive(Default)]
pub(super) struct Answers(HashSet<Arc<GatewayHealth>>);

impl Answers {
    /// An answer as it is kept.
    pub(super) fn keep(&mut self, probe: Probe) -> Answer {
        let outcome = match probe.outcome {
            Ok(health) => Ok(self.share(health)),
            Err(failure) => Err(Box::new(failure)),
        };
        Answer {
            at: probe.at,
            launch_time: probe.launch_time,
            outcome,
        }
    }

    fn share(&mut self, health: GatewayHealth) -> Arc<GatewayHealth> {
        if let Some(known) = self.0.get(&health) {
            return Arc::clone(known);
        }
        let health = Arc::new(health);
        self.0.insert(Arc::clone(&health));
        health
    }

    /// An answer is of no use any more, and what it said neither, when nobody else said it: it and this set are the last to know.
    pub(super) fn let_go(&mut self, answer: Answer) {
        if let Ok(health) = answer.outcome
            && Arc::strong_count(&health) == 2
        {
            self.0.remove(&health);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
