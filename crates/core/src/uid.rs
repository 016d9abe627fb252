//! The UID of an object as tables are keyed by it: a UUID in sixteen bytes, without a piece of the heap for each.

use std::fmt;

use uuid::Uuid;

/// A UID. Kubernetes makes UUIDs; whatever else somebody says is one is kept as it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uid(Form);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Form {
    Uuid(Uuid),
    Other(Box<str>),
}

impl From<&str> for Uid {
    fn from(text: &str) -> Self {
        // One UUID can be written in several ways, and two different texts are two UIDs.
        let usual = |uuid: &Uuid| uuid.hyphenated().encode_lower(&mut Uuid::encode_buffer()) == text;
        let uuid = Uuid::try_parse(text).ok().filter(usual);
        Self(uuid.map_or_else(|| Form::Other(text.into()), Form::Uuid))
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Form::Uuid(uuid) => uuid.fmt(f),
            Form::Other(text) => f.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_comes_back_as_it_was_and_different_ones_differ() {
        let texts = [
            "0a1b2c3d-1111-4222-8333-444455556666",
            "0A1B2C3D-1111-4222-8333-444455556666",
            "0a1b2c3d111142228333444455556666",
            "{0a1b2c3d-1111-4222-8333-444455556666}",
            "urn:uuid:0a1b2c3d-1111-4222-8333-444455556666",
            "u-1",
            "",
        ];
        let uids: std::collections::BTreeSet<Uid> = texts.into_iter().map(Uid::from).collect();
        assert_eq!(uids.len(), texts.len());
        for text in texts {
            assert_eq!(Uid::from(text).to_string(), text);
        }
        assert!(size_of::<Uid>() <= 24);
    }
}
