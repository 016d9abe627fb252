//! What nodes publish of themselves while they are connected: skills, and tools of their plugins. It goes when they go.

use std::collections::BTreeMap;

use serde_json::Value;

/// Nodes that publish something at the same time.
const MAX_NODES: usize = 32;

/// Bytes that one of them may publish of either kind.
pub(crate) const MAX_BYTES: usize = 1024 * 1024;

/// A skill of a node: how to do something there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Skill {
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) content: String,
}

/// A tool of a node.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tool {
    pub(crate) plugin: String,
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) parameters: Option<Value>,
    pub(crate) command: Option<String>,
}

/// All that one node publishes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Offer {
    pub(crate) node: String,
    pub(crate) skills: Vec<Skill>,
    pub(crate) tools: Vec<Tool>,
}

/// Too much is published already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

/// By connection.
#[derive(Debug, Default)]
pub(crate) struct Published(BTreeMap<String, Offer>);

impl Published {
    /// The offer of a node on this connection, to be changed.
    ///
    /// # Errors
    /// [`Full`].
    pub(crate) fn of(&mut self, connection: &str, node: &str) -> Result<&mut Offer, Full> {
        if self.0.len() >= MAX_NODES && !self.0.contains_key(connection) {
            return Err(Full);
        }
        let offer = self.0.entry(connection.to_owned()).or_default();
        node.clone_into(&mut offer.node);
        Ok(offer)
    }

    /// All offers.
    pub(crate) fn all(&self) -> Vec<Offer> {
        self.0.values().cloned().collect()
    }

    /// The node is gone, and what it offered with it.
    pub(crate) fn gone(&mut self, connection: &str) {
        self.0.remove(connection);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offers_are_few_and_go_with_their_node() {
        let mut published = Published::default();
        for number in 0..MAX_NODES {
            published.of(&number.to_string(), "n").unwrap();
        }
        assert_eq!(published.of("one more", "n"), Err(Full));
        published.of("0", "n").unwrap();
        published.gone("0");
        published.of("one more", "n").unwrap();
        assert_eq!(published.all().len(), MAX_NODES);
    }
}
