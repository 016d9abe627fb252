//! Types for parameters that a hostile client cannot make large: what does not fit is refused while it is read, and the error names the
//! place.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;

use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

/// Values that a [`Tree`] may hold: each of them may cost a hundred times its text.
const MAX_VALUES: usize = 20_000;

/// A string of `MIN` to `MAX` characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Text<const MIN: usize, const MAX: usize>(String);

impl<const MIN: usize, const MAX: usize> Text<MIN, MAX> {
    /// The string.
    pub(crate) fn into_string(self) -> String {
        self.0
    }
}

impl<const MIN: usize, const MAX: usize> Deref for Text<MIN, MAX> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<'de, const MIN: usize, const MAX: usize> Deserialize<'de> for Text<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        // Bytes are never fewer than characters, so most texts need no counting.
        if text.len() > MAX && text.chars().count() > MAX {
            return Err(D::Error::custom(format_args!(
                "must not have more than {MAX} characters"
            )));
        }
        if text.len() < MIN || (text.len() < MIN.saturating_mul(4) && text.chars().count() < MIN) {
            return Err(D::Error::custom(format_args!(
                "must not have fewer than {MIN} characters"
            )));
        }
        Ok(Self(text))
    }
}

/// A list of at most `MAX` items.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct List<T, const MAX: usize>(pub(crate) Vec<T>);

impl<T, const MAX: usize> Default for List<T, MAX> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for List<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items<T, const MAX: usize>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Items<T, MAX> {
            type Value = Vec<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("array")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    if items.len() == MAX {
                        return Err(A::Error::custom(format_args!("must not have more than {MAX} items")));
                    }
                    items.push(item);
                }
                Ok(items)
            }
        }
        deserializer
            .deserialize_seq(Items::<T, MAX>(std::marker::PhantomData))
            .map(Self)
    }
}

/// A structure that is written as an object; serde's own way would take an array of its fields as well.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Object<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("object")
            }

            fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<T, A::Error> {
                T::deserialize(serde::de::value::MapAccessDeserializer::new(entries))
            }
        }
        deserializer.deserialize_map(Fields(std::marker::PhantomData)).map(Self)
    }
}

/// An object of at most `MAX` properties, whatever their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entries<V, const MAX: usize>(pub(crate) BTreeMap<String, V>);

impl<'de, V: Deserialize<'de>, const MAX: usize> Deserialize<'de> for Entries<V, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members<V, const MAX: usize>(std::marker::PhantomData<V>);
        impl<'de, V: Deserialize<'de>, const MAX: usize> Visitor<'de> for Members<V, MAX> {
            type Value = BTreeMap<String, V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
                let mut entries = BTreeMap::new();
                while let Some((name, value)) = members.next_entry::<Text<0, 256>, V>()? {
                    if entries.len() == MAX {
                        return Err(A::Error::custom(format_args!(
                            "must not have more than {MAX} properties"
                        )));
                    }
                    entries.insert(name.into_string(), value);
                }
                Ok(entries)
            }
        }
        deserializer
            .deserialize_map(Members::<V, MAX>(std::marker::PhantomData))
            .map(Self)
    }
}

/// Any JSON, as long as it holds no more than a bounded number of values.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Tree(pub(crate) Value);

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Branch(&Cell::new(MAX_VALUES)).deserialize(deserializer).map(Self)
    }
}

/// A part of a tree; the number is how many more values fit.
#[derive(Clone, Copy)]
struct Branch<'a>(&'a Cell<usize>);

impl Branch<'_> {
    fn take<E: Error>(self) -> Result<(), E> {
        let left = self.0.get().checked_sub(1);
        self.0
            .set(left.ok_or_else(|| E::custom(format_args!("must not hold more than {MAX_VALUES} values")))?);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Branch<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.take()?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Branch<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(self)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            map.insert(key, entries.next_value_seed(self)?);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_does_not_fit_is_refused() {
        let text = |value: &str| serde_json::from_value::<Text<1, 3>>(json!(value)).map_err(|error| error.to_string());
        assert_eq!(text("äöü").map(Text::into_string), Ok("äöü".to_owned()));
        assert_eq!(text("abcd").unwrap_err(), "must not have more than 3 characters");
        assert_eq!(text("").unwrap_err(), "must not have fewer than 1 characters");
        let list = |text: &str| serde_json::from_str::<List<u8, 2>>(text).map(|list| list.0);
        assert_eq!(list("[1,2]").unwrap(), [1, 2]);
        assert!(
            list("[1,2,3]")
                .unwrap_err()
                .to_string()
                .starts_with("must not have more than 2 items")
        );
        let value = json!({"a": [1, -1, 0.5, "x", null, true, {"b": {}}]});
        assert_eq!(serde_json::from_str::<Tree>(&value.to_string()).unwrap(), Tree(value));
        let many = format!("[{}0]", "0,".repeat(MAX_VALUES));
        assert!(serde_json::from_str::<Tree>(&many).is_err());
    }
}
