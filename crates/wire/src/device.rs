//! Device identity: ids and the strings that a device signs.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

/// How far `signedAt` may be from the gateway's clock, in milliseconds.
pub const MAX_SKEW_MS: i64 = 120_000;

/// What goes into the signed string beside the version.
#[derive(Clone, Copy, Debug)]
pub struct SignedFacts<'a> {
    /// Lowercase hex SHA-256 of the public key.
    pub device_id: &'a str,
    /// `client.id` of the connect request.
    pub client_id: &'a str,
    /// `client.mode` of the connect request.
    pub client_mode: &'a str,
    /// The role asked for.
    pub role: &'a str,
    /// The scopes asked for, in the order of the request.
    pub scopes: &'a [String],
    /// Milliseconds since the epoch; clients use the challenge's `ts`.
    pub signed_at_ms: i64,
    /// `auth.token`, else `auth.deviceToken`, else `auth.bootstrapToken`, else empty.
    pub token: &'a str,
    /// The nonce of this socket's challenge.
    pub nonce: &'a str,
    /// `client.platform`.
    pub platform: &'a str,
    /// `client.deviceFamily`, or empty.
    pub device_family: &'a str,
}

impl SignedFacts<'_> {
    /// The string that a current client signs.
    #[must_use]
    pub fn payload_v3(&self) -> String {
        let platform = normal(self.platform);
        let family = normal(self.device_family);
        format!("v3|{}|{platform}|{family}", self.common())
    }

    /// The string that an older client signs.
    #[must_use]
    pub fn payload_v2(&self) -> String {
        format!("v2|{}", self.common())
    }

    fn common(&self) -> String {
        [
            self.device_id,
            self.client_id,
            self.client_mode,
            self.role,
            &self.scopes.join(","),
            &self.signed_at_ms.to_string(),
            self.token,
            self.nonce,
        ]
        .join("|")
    }
}

/// The id of a device: lowercase hex SHA-256 of its raw public key.
#[must_use]
pub fn device_id(public_key: &[u8; 32]) -> String {
    hex::encode(Sha256::digest(public_key))
}

/// The public key as it travels: base64url without padding.
#[must_use]
pub fn encode_public_key(public_key: &[u8; 32]) -> String {
    URL_SAFE_NO_PAD.encode(public_key)
}

/// The raw public key: from base64url of the 32 bytes, or from a PEM block, whose last 32 bytes are the key.
#[must_use]
pub fn decode_public_key(text: &str) -> Option<[u8; 32]> {
    if text.contains("BEGIN PUBLIC KEY") {
        return decode_pem(text);
    }
    URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok()?.try_into().ok()
}

/// A signature as it travels, decoded.
#[must_use]
pub fn decode_signature(text: &str) -> Option<[u8; 64]> {
    URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok()?.try_into().ok()
}

/// A signature as it travels, encoded.
#[must_use]
pub fn encode_signature(signature: &[u8; 64]) -> String {
    URL_SAFE_NO_PAD.encode(signature)
}

fn normal(text: &str) -> String {
    text.trim().to_ascii_lowercase()
}

/// DER header of an Ed25519 SubjectPublicKeyInfo; the key follows.
const SPKI_HEADER: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

fn decode_pem(text: &str) -> Option<[u8; 32]> {
    let body: String = text
        .lines()
        .filter(|line| !line.starts_with("-----"))
        .map(str::trim)
        .collect();
    let der = base64::engine::general_purpose::STANDARD.decode(body).ok()?;
    der.strip_prefix(&SPKI_HEADER)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(scopes: &[String]) -> SignedFacts<'_> {
        SignedFacts {
            device_id: "d",
            client_id: "cli",
            client_mode: "probe",
            role: "operator",
            scopes,
            signed_at_ms: 1_700_000_000_123,
            token: "tok",
            nonce: "n",
            platform: " Linux ",
            device_family: "",
        }
    }

    #[test]
    fn payloads_join_the_facts_in_order() {
        let scopes = ["operator.read".to_owned(), "operator.admin".to_owned()];
        assert_eq!(
            facts(&scopes).payload_v3(),
            "v3|d|cli|probe|operator|operator.read,operator.admin|1700000000123|tok|n|linux|"
        );
        assert_eq!(facts(&[]).payload_v2(), "v2|d|cli|probe|operator||1700000000123|tok|n");
    }

    #[test]
    fn keys_are_read_from_base64url_and_from_pem() {
        let key = [7_u8; 32];
        assert_eq!(decode_public_key(&encode_public_key(&key)), Some(key));
        let mut der = SPKI_HEADER.to_vec();
        der.extend_from_slice(&key);
        let pem = format!(
            "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
            base64::engine::general_purpose::STANDARD.encode(der)
        );
        assert_eq!(decode_public_key(&pem), Some(key));
        for bad in [
            "",
            "AAAA",
            "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
            "ΓΓΓ",
        ] {
            assert_eq!(decode_public_key(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn the_id_is_the_hash_of_the_key() {
        assert_eq!(
            device_id(&[0; 32]),
            "66687aadf862bd776c8fc18b8e9f8e20089714856ee233b3902a591d0d5f2925"
        );
    }
}
