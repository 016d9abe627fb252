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
        config: agent.config.clone(),
        config_sha256: agent.config_sha256.clone(),
        owner: agent.owner.clone(),
        devices: agent.devices.clone(),
        sudo: false,
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
