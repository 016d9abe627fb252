//! The series of single agents: whether each is ready, and what its models cost.
//!
//! Written as text by ourselves: the library keeps each series with its own description and labels, some six hundred bytes, and an agent has
//! six of them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use koi_wire::health::Usage;

pub(super) const READY: (&str, &str) = ("koi_agent_ready", "1 when the agent is ready.");
pub(super) const TOKENS: (&str, &str) = (
    "koi_agent_tokens_total",
    "Tokens of the models by kind (input, output, cache_read, cache_write), as the agent's gateway reports them.",
);
pub(super) const COST: (&str, &str) = (
    "koi_agent_cost_usd_total",
    "Cost of the models in US dollars, as the agent's gateway reports it.",
);
const KINDS: [&str; 4] = ["input", "output", "cache_read", "cache_write"];

/// Namespace and name.
type Key = (Box<str>, Box<str>);

/// All agents.
#[derive(Debug, Default)]
pub(super) struct EachAgent(Mutex<BTreeMap<Key, Entry>>);

#[derive(Debug, Default)]
struct Entry {
    ready: Option<bool>,
    spent: Option<Box<Spent>>,
}

/// What was spent, and what the gateway said last.
#[derive(Debug, Default)]
struct Spent {
    said: Usage,
    tokens: [u64; 4],
    cost_usd: f64,
}

impl EachAgent {
    pub(super) fn set_ready(&self, namespace: &str, name: &str, ready: bool) {
        self.lock().entry(key(namespace, name)).or_default().ready = Some(ready);
    }

    /// What the models of an agent cost so far. Numbers that are smaller than before began anew.
    pub(super) fn set_usage(&self, namespace: &str, name: &str, usage: &Usage) {
        let mut agents = self.lock();
        let spent = agents
            .entry(key(namespace, name))
            .or_default()
            .spent
            .get_or_insert_default();
        let before = std::mem::replace(&mut spent.said, *usage);
        let grown = tokens(usage).into_iter().zip(tokens(&before));
        for (total, (now, before)) in spent.tokens.iter_mut().zip(grown) {
            *total = total.saturating_add(now.checked_sub(before).unwrap_or(now));
        }
        let grown = if usage.cost_usd >= before.cost_usd {
            usage.cost_usd - before.cost_usd
        } else {
            usage.cost_usd
        };
        // What a gateway says is not trusted: a counter takes neither negative numbers nor ones that are none.
        if grown.is_finite() && grown >= 0.0 {
            spent.cost_usd += grown;
        }
    }

    pub(super) fn keep(&self, there: impl Fn(&str, &str) -> bool) {
        self.lock().retain(|(namespace, name), _| there(namespace, name));
    }

    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    /// The series of one family.
    pub(super) fn write(&self, family: &str, text: &mut String) {
        for ((namespace, name), entry) in self.lock().iter() {
            let of = format_args!("name=\"{name}\",namespace=\"{namespace}\"");
            // Writing to a String cannot fail.
            let _ = match (family, entry.ready, &entry.spent) {
                (family, Some(ready), _) if family == READY.0 => writeln!(text, "{family}{{{of}}} {}", u8::from(ready)),
                (family, _, Some(spent)) if family == COST.0 => writeln!(text, "{family}{{{of}}} {}", spent.cost_usd),
                (family, _, Some(spent)) if family == TOKENS.0 => KINDS
                    .iter()
                    .zip(spent.tokens)
                    .try_for_each(|(kind, total)| writeln!(text, "{family}{{kind=\"{kind}\",{of}}} {total}")),
                _ => Ok(()),
            };
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(namespace: &str, name: &str) -> Key {
    (namespace.into(), name.into())
}

/// In the order of [`KINDS`].
fn tokens(usage: &Usage) -> [u64; 4] {
    [
        usage.input_tokens,
        usage.output_tokens,
        usage.cache_read_tokens,
        usage.cache_write_tokens,
    ]
}
