//! What is to be known of a line of a transcript without keeping what is said in it.
//!
//! The walk over a line is lenient: a key of an unexpected type is as good as none, so that a line counts as broken only when it is no
//! JSON object. Whether a line shows up in the history depends on the line alone.

use std::borrow::Cow;
use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::Why;
use super::entry::{Cost, Usage};
use super::key::SessionKey;

/// What the notes of this gateway in a transcript are called.
pub(super) const OWN: &str = "skykoi.session";

/// How much of a text is kept for lists.
const SNIPPET: usize = 120;

/// A line, in short.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Glance {
    /// What sort of line it is.
    pub(super) sort: Sort,
    /// Id of the entry.
    pub(super) id: Option<String>,
    /// When, in milliseconds since the epoch.
    pub(super) at_ms: Option<i64>,
    /// It does not keep the session fresh.
    pub(super) background: bool,
}

/// What sort of line it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Sort {
    /// White space.
    Blank,
    /// No JSON object.
    #[default]
    Broken,
    /// The first line.
    Header,
    /// Somebody said something.
    Said(Said),
    /// A note of this gateway.
    Own(Box<Note>),
    /// A summary of what came before.
    Compaction,
    /// A note that is shown.
    Shown,
    /// Anything else.
    Hidden,
}

/// Who said something, in short.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Said {
    pub(super) role: String,
    pub(super) snippet: String,
    pub(super) model: String,
    pub(super) provider: String,
    pub(super) usage: Option<Usage>,
}

/// A note of this gateway: what is known of the session beside what was said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "camelCase")]
pub(super) enum Note {
    /// The session belongs to this key.
    #[serde(rename_all = "camelCase")]
    Begin {
        /// Which.
        key: SessionKey,
        /// How many sessions the key had before.
        ordinal: u32,
        /// How many rows of history came before.
        base: u64,
        /// Why there is a new one.
        why: Why,
        /// What holds for the session.
        #[serde(default, skip_serializing_if = "Map::is_empty")]
        meta: Map<String, Value>,
    },
    /// What holds for the session changes; a null removes.
    Patch {
        /// What.
        meta: Map<String, Value>,
    },
    /// The gateway itself asked a model something, for instance for a summary.
    Spent {
        /// What it took.
        usage: Usage,
    },
    /// The session counts as begun at this time: the clock went back.
    #[serde(rename_all = "camelCase")]
    Anchor {
        /// When.
        started_at: i64,
    },
}

impl Glance {
    /// Looks at a line without its end.
    pub(super) fn of(line: &[u8]) -> Self {
        let trimmed = line.trim_ascii();
        if trimmed.is_empty() {
            return Self {
                sort: Sort::Blank,
                ..Self::default()
            };
        }
        // Serde would take an array for an object, and bytes in what it skips for text.
        if trimmed.first() != Some(&b'{') || std::str::from_utf8(trimmed).is_err() {
            return Self::default();
        }
        let Ok(light) = serde_json::from_slice::<Light<'_>>(trimmed) else {
            return Self::default();
        };
        let own = &*light.kind.0 == "custom" && light.custom_type.0 == OWN;
        let mut glance = Self::from(light);
        if own && let Ok(line) = serde_json::from_slice::<OwnLine>(trimmed) {
            glance.sort = Sort::Own(Box::new(line.data));
        }
        glance
    }

    /// Does the history show the line?
    pub(super) fn is_row(&self) -> bool {
        match &self.sort {
            Sort::Broken | Sort::Said(_) | Sort::Compaction | Sort::Shown => true,
            Sort::Own(note) => note.is_boundary(),
            Sort::Blank | Sort::Header | Sort::Hidden => false,
        }
    }
}

impl Note {
    /// Does a new session begin here, after another one?
    pub(super) fn is_boundary(&self) -> bool {
        matches!(self, Self::Begin { ordinal, .. } if *ordinal > 0)
    }
}

impl From<Light<'_>> for Glance {
    fn from(light: Light<'_>) -> Self {
        let said = light.message.0.unwrap_or_default();
        let said_at = said.timestamp.0;
        let sort = match &*light.kind.0 {
            "session" => Sort::Header,
            "message" => Sort::Said(said.into()),
            "compaction" => Sort::Compaction,
            "custom_message" if light.display.0 => Sort::Shown,
            _ => Sort::Hidden,
        };
        Self {
            sort,
            id: light.id.text(),
            at_ms: light.timestamp.0.or(said_at),
            background: light.background.0,
        }
    }
}

/// A line that bears a note of ours.
#[derive(Deserialize)]
struct OwnLine {
    data: Note,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Light<'a> {
    #[serde(rename = "type", default, borrow)]
    kind: Word<'a>,
    #[serde(default, borrow)]
    id: Word<'a>,
    #[serde(default)]
    timestamp: When,
    #[serde(default, borrow)]
    message: Loose<LightMessage<'a>>,
    #[serde(default, borrow)]
    custom_type: Word<'a>,
    #[serde(default)]
    display: Flag,
    #[serde(default)]
    background: Flag,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct LightMessage<'a> {
    #[serde(borrow)]
    role: Word<'a>,
    content: Snippet,
    timestamp: When,
    #[serde(borrow)]
    model: Word<'a>,
    #[serde(borrow)]
    provider: Word<'a>,
    usage: Loose<LightUsage>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct LightUsage {
    input: Amount,
    output: Amount,
    cache_read: Amount,
    cache_write: Amount,
    total_tokens: Amount,
    cost: Loose<LightCost>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct LightCost {
    input: Amount,
    output: Amount,
    cache_read: Amount,
    cache_write: Amount,
    total: Amount,
}

impl From<LightUsage> for Usage {
    fn from(light: LightUsage) -> Self {
        let cost = light.cost.0.unwrap_or_default();
        Self {
            input: light.input.tokens(),
            output: light.output.tokens(),
            cache_read: light.cache_read.tokens(),
            cache_write: light.cache_write.tokens(),
            total_tokens: light.total_tokens.tokens(),
            cost: Cost {
                input: cost.input.0,
                output: cost.output.0,
                cache_read: cost.cache_read.0,
                cache_write: cost.cache_write.0,
                total: cost.total.0,
            },
        }
    }
}

impl From<LightMessage<'_>> for Said {
    fn from(light: LightMessage<'_>) -> Self {
        Self {
            role: light.role.0.into_owned(),
            snippet: light.content.0,
            model: light.model.0.into_owned(),
            provider: light.provider.0.into_owned(),
            usage: light.usage.0.map(Usage::from),
        }
    }
}

/// A short text; empty where there is none.
#[derive(Default)]
struct Word<'a>(Cow<'a, str>);

impl Word<'_> {
    fn text(self) -> Option<String> {
        (!self.0.is_empty()).then(|| self.0.into_owned())
    }
}

/// Milliseconds, from a number or from a date.
#[derive(Default)]
struct When(Option<i64>);

#[derive(Default)]
struct Flag(bool);

/// The beginning of the words in a text or in parts.
#[derive(Default)]
struct Snippet(String);

/// An object; none where something else stands.
struct Loose<T>(Option<T>);

impl<T> Default for Loose<T> {
    fn default() -> Self {
        Self(None)
    }
}

/// A number that counts or costs; nothing where none stands.
#[derive(Default)]
struct Amount(f64);

impl Amount {
    fn tokens(&self) -> u64 {
        // What is negative or no number becomes nothing.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "casts of floats saturate"
        )]
        let tokens = self.0 as u64;
        // No model ever says so much; sums of what is left cannot overflow.
        tokens.min(1 << 40)
    }
}

/// What every lenient visitor does with scalars that it does not expect.
macro_rules! scalars {
    ($($name:ident: $kind:ty),*) => {
        $(fn $name<E>(self, _: $kind) -> Result<Self::Value, E> {
            Ok(Self::Value::default())
        })*

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(Self::Value::default())
        }

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("any value")
        }
    };
}

/// And with lists.
macro_rules! no_list {
    () => {
        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
            while items.next_element::<IgnoredAny>()?.is_some() {}
            Ok(Self::Value::default())
        }
    };
}

/// And with objects.
macro_rules! no_object {
    () => {
        fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
            while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            Ok(Self::Value::default())
        }
    };
}

impl<'de: 'a, 'a> Deserialize<'de> for Word<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Walk;
        impl<'de> Visitor<'de> for Walk {
            type Value = Word<'de>;
            scalars!(visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64);
            no_list!();
            no_object!();

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Word<'de>, E> {
                Ok(Word(Cow::Borrowed(clip(text, 256))))
            }

            fn visit_str<E>(self, text: &str) -> Result<Word<'de>, E> {
                Ok(Word(Cow::Owned(clip(text, 256).to_owned())))
            }
        }
        deserializer.deserialize_any(Walk)
    }
}

impl<'de> Deserialize<'de> for When {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Walk;
        impl<'de> Visitor<'de> for Walk {
            type Value = When;
            scalars!(visit_bool: bool);
            no_list!();
            no_object!();

            fn visit_i64<E>(self, number: i64) -> Result<When, E> {
                Ok(When(Some(number)))
            }

            fn visit_u64<E>(self, number: u64) -> Result<When, E> {
                Ok(When(i64::try_from(number).ok()))
            }

            fn visit_f64<E>(self, number: f64) -> Result<When, E> {
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "a time that does not fit is none worth keeping"
                )]
                Ok(When(Some(number as i64)))
            }

            fn visit_str<E>(self, text: &str) -> Result<When, E> {
                let time = text.parse::<jiff::Timestamp>();
                Ok(When(time.ok().map(jiff::Timestamp::as_millisecond)))
            }
        }
        deserializer.deserialize_any(Walk)
    }
}

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Walk;
        impl<'de> Visitor<'de> for Walk {
            type Value = Flag;
            scalars!(visit_i64: i64, visit_u64: u64, visit_f64: f64, visit_str: &str);
            no_list!();
            no_object!();

            fn visit_bool<E>(self, flag: bool) -> Result<Flag, E> {
                Ok(Flag(flag))
            }
        }
        deserializer.deserialize_any(Walk)
    }
}

impl<'de> Deserialize<'de> for Snippet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Walk;
        impl<'de> Visitor<'de> for Walk {
            type Value = Snippet;
            scalars!(visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64);

            fn visit_str<E>(self, text: &str) -> Result<Snippet, E> {
                Ok(Snippet(snippet(text)))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Snippet, A::Error> {
                let mut found = Snippet::default();
                while let Some(part) = items.next_element::<Snippet>()? {
                    if found.0.is_empty() {
                        found = part;
                    }
                }
                Ok(found)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Snippet, A::Error> {
                let mut found = Snippet::default();
                while let Some(key) = entries.next_key::<Word<'_>>()? {
                    if key.0 == "text" {
                        found = entries.next_value()?;
                    } else {
                        entries.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(found)
            }
        }
        deserializer.deserialize_any(Walk)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Loose<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Walk<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Walk<T> {
            type Value = Loose<T>;
            scalars!(visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64, visit_str: &str);
            no_list!();

            fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<Loose<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(entries)).map(|value| Loose(Some(value)))
            }
        }
        deserializer.deserialize_any(Walk(std::marker::PhantomData))
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Walk;
        impl<'de> Visitor<'de> for Walk {
            type Value = Amount;
            scalars!(visit_bool: bool, visit_str: &str);
            no_list!();
            no_object!();

            #[expect(clippy::cast_precision_loss, reason = "no such number of tokens")]
            fn visit_i64<E>(self, number: i64) -> Result<Amount, E> {
                Ok(Amount(number as f64))
            }

            #[expect(clippy::cast_precision_loss, reason = "no such number of tokens")]
            fn visit_u64<E>(self, number: u64) -> Result<Amount, E> {
                Ok(Amount(number as f64))
            }

            fn visit_f64<E>(self, number: f64) -> Result<Amount, E> {
                Ok(Amount(number))
            }
        }
        deserializer.deserialize_any(Walk)
    }
}

fn clip(text: &str, most: usize) -> &str {
    let mut end = most.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

/// The beginning of a text on one line.
fn snippet(text: &str) -> String {
    // Four bytes are the most that a character takes; white space is counted in twice over.
    let head = clip(text, SNIPPET * 8);
    let words = head.split_whitespace().flat_map(|word| [" ", word]).skip(1);
    words
        .collect::<String>()
        .chars()
        .filter(|c| !c.is_control())
        .take(SNIPPET)
        .collect()
}

#[cfg(test)]
mod tests;
