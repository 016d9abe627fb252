//! What would be made for an agent, without a cluster or a cloud: `koi-operator render`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::identity::{role_policy, trust_policy};
use super::user_data::{Home, LIMIT, TooLarge, script};
use crate::desired::DesiredAgent;
use crate::names;
use crate::observed::Place;

/// Everything that is rendered for an agent.
#[derive(Clone, Debug, PartialEq)]
pub struct Preview {
    /// The gateway's config document.
    pub config: Value,
    /// Its digest.
    pub config_sha256: String,
    /// The user data.
    pub user_data: String,
    /// The trust policy of the role, where we make it.
    pub trust_policy: String,
    /// The policy of the role, where we make it.
    pub role_policy: String,
    /// The claim tags of the instance and its volumes.
    pub tags: BTreeMap<String, String>,
}

/// Renders everything for an agent in a place (which may be made up).
///
/// # Errors
/// When the user data is larger than EC2 takes.
pub fn preview(agent: &DesiredAgent, place: &Place) -> Result<Preview, TooLarge> {
    let claim = &agent.claim;
    let home = Home {
        cluster_id: &claim.cluster_id,
        agent_uid: &claim.agent_uid,
        region: &place.region,
    };
    let mut tags = claim.tags(&agent.tags);
    tags.insert(names::TAG_LAUNCH.into(), names::launch_tag(1, 1));
    Ok(Preview {
        config: agent.config.value(),
        config_sha256: agent.config_sha256.clone(),
        user_data: script(agent.artifact.as_ref(), home)?,
        trust_policy: trust_policy(&place.region),
        role_policy: role_policy(&claim.cluster_id, place, &agent.role_models, &agent.identity.scope),
        tags,
    })
}

impl Preview {
    /// For people and scripts: one document.
    #[must_use]
    pub fn to_document(&self) -> Value {
        let parsed = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_default();
        json!({
            "config": self.config,
            "configSha256": self.config_sha256,
            "userData": {"bytes": self.user_data.len(), "limit": LIMIT, "text": self.user_data},
            "trustPolicy": parsed(&self.trust_policy),
            "rolePolicy": parsed(&self.role_policy),
            "tags": self.tags,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_document_holds_all_that_is_rendered() {
        let rendered = Preview {
            config: json!({"agents": {}}),
            config_sha256: "c".into(),
            user_data: "#!/bin/sh\n".into(),
            trust_policy: r#"{"Version": "trust"}"#.into(),
            role_policy: r#"{"Version": "role"}"#.into(),
            tags: BTreeMap::from([("Name".to_owned(), "koi".to_owned())]),
        };
        let expected = json!({
            "config": {"agents": {}},
            "configSha256": "c",
            "userData": {"bytes": 10, "limit": LIMIT, "text": "#!/bin/sh\n"},
            "trustPolicy": {"Version": "trust"},
            "rolePolicy": {"Version": "role"},
            "tags": {"Name": "koi"},
        });
        assert_eq!(rendered.to_document(), expected);
    }
}
