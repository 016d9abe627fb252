//! Places in a document: the path of a field, and where it stands in the text.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Key(String),
    /// A key that people chose.
    Entry(String),
    Index(usize),
}

/// The path of a field, shown as the API server shows it: `spec.model.fallbacks[1]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Path(Vec<Segment>);

impl Path {
    /// The field below this one.
    pub(super) fn key(&self, key: &str) -> Self {
        self.with(Segment::Key(key.to_owned()))
    }

    /// The element of this list.
    pub(super) fn index(&self, index: usize) -> Self {
        self.with(Segment::Index(index))
    }

    fn with(&self, segment: Segment) -> Self {
        let mut path = self.0.clone();
        path.push(segment);
        Self(path)
    }

    /// This path below another.
    pub(super) fn below(&self, parent: &Self) -> Self {
        Self(parent.0.iter().chain(&self.0).cloned().collect())
    }

    /// The entry of this map, as the API server shows it where a rule was broken: `spec.tags[team]`.
    pub(super) fn entry(&self, key: &str) -> Self {
        self.with(Segment::Entry(key.to_owned()))
    }

    /// Whether it is the document as a whole.
    pub(super) fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads what [`fmt::Display`] shows. A key with a dot in it is taken for two, and then only its parent is found in a text.
    pub(super) fn parse(text: &str) -> Self {
        let mut path = Self::default();
        for part in text.split('.').filter(|part| !part.is_empty()) {
            let (key, indices) = part.split_once('[').unwrap_or((part, ""));
            if !key.is_empty() {
                path = path.key(key);
            }
            for index in indices.split('[').filter_map(|index| index.strip_suffix(']')) {
                path = match index.parse() {
                    Ok(index) => path.index(index),
                    Err(_) => path.key(index),
                };
            }
        }
        path
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Index(index) => write!(f, "[{index}]")?,
                Segment::Entry(key) => write!(f, "[{key}]")?,
                Segment::Key(key) => write!(f, "{}{key}", if position == 0 { "" } else { "." })?,
            }
        }
        Ok(())
    }
}

/// Line and column, from 1, of a field in a text of one YAML document; of the nearest field around it where it is not there.
pub(super) fn locate(text: &str, path: &Path) -> (usize, usize) {
    let found = (0..=path.0.len()).rev().find_map(|length| {
        let path = path.0.get(..length).unwrap_or_default();
        let document = serde_yaml::Deserializer::from_str(text);
        let error = Here(path).deserialize(document).err()?;
        // The reader itself complains of what it was not asked for.
        let location = error.location().filter(|_| error.to_string().contains(HERE))?;
        Some((location.line(), location.column()))
    });
    found.unwrap_or((1, 1))
}

/// Fails at the place that it looks for: the YAML reader then says where that is.
struct Here<'a>(&'a [Segment]);

const HERE: &str = "this is the place that is looked for";

fn here<E: Error>() -> E {
    E::custom(HERE)
}

impl Here<'_> {
    /// What cannot be entered is the place, or there is no such place.
    fn end<E: Error>(&self) -> Result<(), E> {
        if self.0.is_empty() { Err(here()) } else { Ok(()) }
    }
}

impl<'de> DeserializeSeed<'de> for Here<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Here<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((Segment::Key(wanted) | Segment::Entry(wanted), rest)) = self.0.split_first() else {
            return self.end();
        };
        while let Some(found) = map.next_key_seed(IsKey {
            wanted,
            is_end: rest.is_empty(),
        })? {
            if found {
                return map.next_value_seed(Here(rest));
            }
            map.next_value::<IgnoredAny>()?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Some((Segment::Index(wanted), rest)) = self.0.split_first() else {
            return self.end();
        };
        for _ in 0..*wanted {
            if list.next_element::<IgnoredAny>()?.is_none() {
                return Ok(());
            }
        }
        list.next_element_seed(Here(rest)).map(drop)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        self.end()
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        self.end()
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        self.end()
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        self.end()
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        self.end()
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.end()
    }
}

/// Whether a key is the wanted one; fails there when it is the end of the path.
struct IsKey<'a> {
    wanted: &'a str,
    is_end: bool,
}

impl<'de> DeserializeSeed<'de> for IsKey<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for IsKey<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<bool, E> {
        match (key == self.wanted, self.is_end) {
            (true, true) => Err(here()),
            (found, _) => Ok(found),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Path, locate};

    const TEXT: &str = "kind: KoiAgent\nspec:\n  model:\n    fallbacks:\n      - a\n      - b\n  colour: {deep: red}\n";

    #[test]
    fn fields_are_found_where_they_stand_and_missing_ones_beside_their_parent() {
        let cases = [
            ("", (1, 1)),
            ("kind", (1, 1)),
            ("spec", (2, 1)),
            ("spec.model", (3, 3)),
            ("spec.model.fallbacks[1]", (6, 9)),
            ("spec.model.fallbacks[7]", (4, 5)),
            ("spec.model.fallbacks.x", (4, 5)),
            ("spec.colour.deep", (7, 12)),
            ("spec.model.id", (3, 3)),
            ("metadata.name", (1, 1)),
        ];
        for (path, place) in cases {
            assert_eq!(locate(TEXT, &Path::parse(path)), place, "{path}");
        }
    }

    #[test]
    fn paths_are_read_as_they_are_shown() {
        for text in [
            "",
            "spec",
            "spec.model.fallbacks[1]",
            "items[0].spec.tags.a",
            "a[1][2].b",
        ] {
            assert_eq!(Path::parse(text).to_string(), text);
        }
    }
}
