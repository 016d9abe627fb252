//! Settings of a queue: the config's, a session's own, and how `/queue` words them.

use koi_wire::config::{Queue, QueueDrop, QueueMode};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

/// What holds for a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// What a message does that comes during a run.
    pub(crate) mode: QueueMode,
    /// Quiet before a further turn.
    pub(crate) debounce_ms: i64,
    /// How many may wait.
    pub(crate) cap: usize,
    /// What happens beyond that.
    pub(crate) drop: QueueDrop,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mode: QueueMode::Collect,
            debounce_ms: 1000,
            cap: 20,
            drop: QueueDrop::Summarize,
        }
    }
}

/// The longest quiet that is kept, and the longest queue.
const MOST_DEBOUNCE_MS: u32 = 60_000;
const MOST_CAP: u32 = 1000;

/// What a session sets for itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Overrides {
    /// See [`Settings`].
    pub(crate) mode: Option<QueueMode>,
    /// See [`Settings`].
    pub(crate) debounce_ms: Option<u32>,
    /// See [`Settings`].
    pub(crate) cap: Option<u32>,
    /// See [`Settings`].
    pub(crate) drop: Option<QueueDrop>,
}

impl Settings {
    /// The config's settings; what it does not say is as built in.
    pub(crate) fn from_config(queue: Option<&Queue>) -> Self {
        let built_in = Self::default();
        let Some(queue) = queue else { return built_in };
        built_in.with(Overrides {
            mode: queue.mode,
            debounce_ms: queue.debounce_ms,
            cap: queue.cap,
            drop: queue.drop,
        })
    }

    /// The same, where a session says otherwise.
    pub(crate) fn with(self, overrides: Overrides) -> Self {
        Self {
            mode: overrides.mode.unwrap_or(self.mode),
            debounce_ms: overrides.debounce_ms.map_or(self.debounce_ms, i64::from),
            cap: overrides
                .cap
                .and_then(|cap| usize::try_from(cap).ok())
                .unwrap_or(self.cap),
            drop: overrides.drop.unwrap_or(self.drop),
        }
    }
}

/// The mode of this name.
pub(crate) fn parse_mode(name: &str) -> Option<QueueMode> {
    Some(match name {
        "steer" => QueueMode::Steer,
        "followup" => QueueMode::Followup,
        // `queue` is what the oldest clients say.
        "collect" | "queue" => QueueMode::Collect,
        "steer-backlog" => QueueMode::SteerBacklog,
        "interrupt" => QueueMode::Interrupt,
        _ => return None,
    })
}

/// The name of a mode.
pub(crate) fn mode_name(mode: QueueMode) -> &'static str {
    match mode {
        QueueMode::Steer => "steer",
        QueueMode::Followup => "followup",
        QueueMode::Collect => "collect",
        QueueMode::SteerBacklog => "steer-backlog",
        QueueMode::Interrupt => "interrupt",
    }
}

/// The name of what happens beyond the cap.
pub(crate) fn drop_name(drop: QueueDrop) -> &'static str {
    match drop {
        QueueDrop::Old => "old",
        QueueDrop::New => "new",
        QueueDrop::Summarize => "summarize",
    }
}

/// Where a session keeps them.
const META: [&str; 4] = ["queueMode", "queueDebounceMs", "queueCap", "queueDrop"];

impl Overrides {
    /// As a session keeps them; what makes no sense there does not count.
    pub(crate) fn from_meta(meta: &Map<String, Value>) -> Self {
        fn read<T: DeserializeOwned>(value: Option<&Value>) -> Option<T> {
            T::deserialize(value?).ok()
        }
        let [mode, debounce_ms, cap, drop] = META.map(|name| meta.get(name));
        Self {
            mode: mode.and_then(Value::as_str).and_then(parse_mode),
            debounce_ms: read(debounce_ms).filter(|ms| *ms <= MOST_DEBOUNCE_MS),
            cap: read(cap).filter(|cap| (1..=MOST_CAP).contains(cap)),
            drop: read(drop),
        }
    }

    /// For a session to keep; a null removes.
    pub(crate) fn to_meta(self) -> Map<String, Value> {
        let values = [
            json!(self.mode.map(mode_name)),
            json!(self.debounce_ms),
            json!(self.cap),
            json!(self.drop.map(drop_name)),
        ];
        META.map(str::to_owned).into_iter().zip(values).collect()
    }

    /// The same, where newer ones say otherwise.
    pub(crate) fn with(self, newer: Self) -> Self {
        Self {
            mode: newer.mode.or(self.mode),
            debounce_ms: newer.debounce_ms.or(self.debounce_ms),
            cap: newer.cap.or(self.cap),
            drop: newer.drop.or(self.drop),
        }
    }

    /// Reads `<mode> debounce:0.5s cap:25 drop:old`, in any order; every word is optional.
    ///
    /// # Errors
    /// What is wrong with a word, and what is allowed.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut overrides = Self::default();
        for word in text.split_whitespace() {
            let lower = word.to_ascii_lowercase();
            match lower.split_once(':') {
                None => {
                    overrides.mode = Some(parse_mode(&lower).ok_or_else(|| {
                        format!("{word:?} is no queue mode; use steer, followup, collect, steer-backlog or interrupt")
                    })?);
                }
                Some(("debounce", value)) => overrides.debounce_ms = Some(milliseconds(value)?),
                Some(("cap", value)) => {
                    let cap = value.parse().ok().filter(|cap| (1..=MOST_CAP).contains(cap));
                    overrides.cap = Some(cap.ok_or_else(|| format!("cap:{value}: use 1 to 1000"))?);
                }
                Some(("drop", "old")) => overrides.drop = Some(QueueDrop::Old),
                Some(("drop", "new")) => overrides.drop = Some(QueueDrop::New),
                Some(("drop", "summarize")) => overrides.drop = Some(QueueDrop::Summarize),
                Some(("drop", value)) => return Err(format!("drop:{value}: use old, new or summarize")),
                Some((key, _)) => return Err(format!("{key:?} is not known; use debounce:, cap: or drop:")),
            }
        }
        Ok(overrides)
    }
}

fn milliseconds(text: &str) -> Result<u32, String> {
    let fault = || format!("debounce:{text}: use a number with ms or s, at most 60s");
    let (number, factor) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(number), _) => (number, 1.0),
        (None, Some(number)) => (number, 1000.0),
        (None, None) => (text, 1.0),
    };
    let value = number.parse::<f64>().map_err(|_| fault())? * factor;
    if !(0.0..=f64::from(MOST_DEBOUNCE_MS)).contains(&value) {
        return Err(fault());
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the range was looked at just now"
    )]
    Ok(value.round() as u32)
}
