//! The bundle of an instance: what the wish says and what the Secret holds, for one instance and one data volume.

use koi_wire::Redacted;
use koi_wire::bundle::{Bundle, Tls, TooLarge, VERSION};

use crate::desired::DesiredAgent;

/// What the Secret holds. Only the caller ever sees it.
#[derive(Clone, Debug)]
pub struct SecretMaterial {
    /// The gateway token.
    pub token: Redacted,
    /// The token before the last rotation.
    pub previous_token: Option<Redacted>,
    /// The certificate, PEM.
    pub certificate: String,
    /// Its key, PEM.
    pub key: Redacted,
}

/// The bundle of an agent whose instance mounts this data volume.
#[must_use]
pub fn bundle(agent: &DesiredAgent, volume_id: &str, secret: &SecretMaterial) -> Bundle {
    Bundle {
        version: VERSION,
        min_reader: 1,
        token: secret.token.clone(),
        previous_token: secret.previous_token.clone(),
        tls: Tls {
            certificate: secret.certificate.clone(),
            key: secret.key.clone(),
        },
        volume_id: volume_id.into(),
        config: agent.config.value(),
        config_sha256: agent.config_sha256.clone(),
        owner: agent.owner.clone(),
        devices: agent.devices.clone(),
        sudo: agent.tools_sudo,
    }
}

/// The text of the parameter and its SHA-256 (hex), by which a change is known.
///
/// # Errors
/// When it does not fit into a parameter.
pub fn encoded(bundle: &Bundle) -> Result<(String, String), TooLarge> {
    let text = bundle.encode()?;
    let digest = super::user_data::sha256(&text);
    Ok((text, digest))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::desired::{Desired, NamespaceFacts, Settings};

    fn made(plan: &Value) -> Bundle {
        let agent = json!({
            "apiVersion": "skykoi.io/v1alpha1", "kind": "KoiAgent",
            "metadata": {"name": "ada", "namespace": "team", "uid": "uid-1"},
            "spec": {"owner": {"displayName": "Ada"}},
        });
        let plan =
            json!({"apiVersion": "skykoi.io/v1alpha1", "kind": "KoiPlan", "metadata": {"name": "p"}, "spec": plan});
        let (agent, plan) = (
            serde_json::from_value(agent).unwrap(),
            serde_json::from_value(plan).unwrap(),
        );
        let settings = Settings {
            cluster_id: "demo".into(),
            ..Settings::default()
        };
        let wish = Desired::resolve(&agent, Some(&plan), &NamespaceFacts::default(), &settings).unwrap();
        let Desired::Present(agent) = wish else { panic!() };
        let secret = SecretMaterial {
            token: Redacted::new("token"),
            previous_token: None,
            certificate: "certificate".into(),
            key: Redacted::new("key"),
        };
        bundle(&agent, "vol-1", &secret)
    }

    #[test]
    fn root_is_for_agents_whose_plan_says_so() {
        assert!(!made(&json!({})).sudo);
        assert!(!made(&json!({"tools": {"sudo": false}})).sudo);
        let granted = made(&json!({"tools": {"sudo": true}}));
        assert!(granted.sudo);
        assert_ne!(
            encoded(&granted),
            encoded(&made(&json!({}))),
            "a change of it is pushed"
        );
    }

    #[test]
    fn wish_and_secret_are_in_it() {
        let made = made(&json!({}));
        assert_eq!(
            (
                made.volume_id.as_str(),
                made.token.expose(),
                made.owner.display_name.as_deref()
            ),
            ("vol-1", "token", Some("Ada"))
        );
        assert_eq!(made.config_sha256, koi_wire::config::digest::sha256(&made.config));
    }
}
