//! The operator's own device key: Ed25519, in one Secret of its namespace, made once.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signer as _, SigningKey};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use koi_core::names;
use koi_wire::device;
use kube::api::{Api, PostParams};

/// Name of the Secret.
pub const SECRET: &str = "koi-operator-device";
/// Its one key: the seed, base64url without padding.
const FIELD: &str = "ed25519-seed";

/// A key that gateways know from their bundle.
#[derive(Clone)]
pub struct DeviceKey(SigningKey);

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum DeviceKeyError {
    /// The Secret cannot be read or made.
    #[error("Secret {SECRET}: {0}")]
    Kube(#[from] kube::Error),
    /// The Secret holds something else.
    #[error(
        "Secret {SECRET}: data.{FIELD} must be the base64url text of 32 bytes; delete the Secret and a new one is made"
    )]
    Malformed,
    /// The system has no randomness.
    #[error("no randomness from the system: {0}")]
    Random(getrandom::Error),
}

impl DeviceKey {
    /// The key of this seed.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The key of this installation; made when there is none. Two who make one at the same time end with the same.
    ///
    /// # Errors
    /// When the Secret cannot be read or made, or holds something else.
    pub async fn load_or_create(api: &Api<Secret>) -> Result<Self, DeviceKeyError> {
        if let Some(found) = api.get_opt(SECRET).await? {
            return Self::read(&found);
        }
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(DeviceKeyError::Random)?;
        match api.create(&PostParams::default(), &secret(&seed)).await {
            Ok(made) => Self::read(&made),
            Err(kube::Error::Api(status)) if status.is_already_exists() => Self::read(&api.get(SECRET).await?),
            Err(error) => Err(error.into()),
        }
    }

    fn read(secret: &Secret) -> Result<Self, DeviceKeyError> {
        let bytes = secret
            .data
            .as_ref()
            .and_then(|data| data.get(FIELD))
            .ok_or(DeviceKeyError::Malformed)?;
        let text = std::str::from_utf8(&bytes.0).map_err(|_| DeviceKeyError::Malformed)?;
        let seed = URL_SAFE_NO_PAD
            .decode(text.trim())
            .map_err(|_| DeviceKeyError::Malformed)?;
        let seed: [u8; 32] = seed.try_into().map_err(|_| DeviceKeyError::Malformed)?;
        Ok(Self::from_seed(&seed))
    }

    /// The public key as it travels.
    #[must_use]
    pub fn public_key(&self) -> String {
        device::encode_public_key(self.0.verifying_key().as_bytes())
    }

    /// The device id: what the public key hashes to.
    #[must_use]
    pub fn id(&self) -> String {
        device::device_id(self.0.verifying_key().as_bytes())
    }

    /// Signs a text.
    #[must_use]
    pub fn sign(&self, text: &str) -> String {
        device::encode_signature(&self.0.sign(text.as_bytes()).to_bytes())
    }
}

fn secret(seed: &[u8; 32]) -> Secret {
    let text = URL_SAFE_NO_PAD.encode(seed).into_bytes();
    Secret {
        metadata: ObjectMeta {
            name: Some(SECRET.to_owned()),
            labels: Some([("app.kubernetes.io/managed-by".to_owned(), names::MANAGER.to_owned())].into()),
            ..ObjectMeta::default()
        },
        type_: Some("Opaque".to_owned()),
        data: Some([(FIELD.to_owned(), ByteString(text))].into()),
        ..Secret::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_key_is_the_same_key() {
        let key = DeviceKey::from_seed(&[7; 32]);
        let read = DeviceKey::read(&secret(&[7; 32])).unwrap();
        assert_eq!(
            (read.public_key(), read.id(), read.sign("x")),
            (key.public_key(), key.id(), key.sign("x"))
        );
        assert!(matches!(
            DeviceKey::read(&Secret::default()),
            Err(DeviceKeyError::Malformed)
        ));
    }
}
