//! A settled config document, as it is kept for each agent.

use std::sync::Arc;

use serde_json::Value;

/// A config document as text: a tree of maps weighs ten times as much, and is read only when the document is written somewhere. Agents
/// with equal documents can share one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Document(Arc<str>);

impl Document {
    /// That of a tree.
    #[must_use]
    pub fn of(document: &Value) -> Self {
        Self(document.to_string().into())
    }

    /// The tree.
    #[must_use]
    pub fn value(&self) -> Value {
        // It was made from a tree.
        serde_json::from_str(&self.0).unwrap_or_default()
    }
}

impl std::fmt::Display for Document {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_tree_comes_back_as_it_was() {
        let tree = json!({ "agents": { "defaults": { "temperature": 0.7, "name": "Zoë \"the\" 1\n" } }, "list": [1, null, true] });
        let document = Document::of(&tree);
        assert_eq!(document.value(), tree);
        assert_eq!(document, Document::of(&tree));
    }
}
