//! The bundle: all that an instance needs and that user data must not hold, in one SSM SecureString.

use std::fmt;
use std::io::{Read, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use crate::Redacted;
use crate::config::digest;
use crate::name::Scope;

/// What a standard SSM parameter can hold, in bytes.
pub const MAX_ENCODED_BYTES: usize = 4096;

/// The version that this code writes.
pub const VERSION: u32 = 1;

/// What a decompressed bundle may measure at most: far above any real one, far below what hurts.
const MAX_DECODED_BYTES: u64 = 256 * 1024;

/// In front of the compressed form.
const GZIP_PREFIX: &str = "gz1:";

/// What the operator tells one instance. Fields that this version does not know are ignored, so that a newer operator can add some.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bundle {
    /// Version of this document; a reader refuses what is newer than itself only when `minReader` says so.
    pub version: u32,
    /// The oldest reader version that can make sense of this bundle.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub min_reader: u32,
    /// The gateway token.
    pub token: Redacted,
    /// The token before the last rotation, as long as it is still accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_token: Option<Redacted>,
    /// Certificate and key that nginx presents on 443.
    pub tls: Tls,
    /// The EBS data volume of the agent, `vol-...`.
    pub volume_id: String,
    /// The config document, without secrets: they are references to files that bootstrap writes on tmpfs.
    pub config: Value,
    /// SHA-256 over the canonical JSON of `config`, lowercase hex.
    pub config_sha256: String,
    /// The human whom the agent serves.
    #[serde(default)]
    pub owner: Owner,
    /// Devices that are paired from the start: the operator's own key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<PairedDevice>,
    /// May the agent's user become root on its machine?
    #[serde(default, skip_serializing_if = "is_false")]
    pub sudo: bool,
}

/// Certificate and private key, PEM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// The certificate (chain).
    pub certificate: String,
    /// The private key.
    pub key: Redacted,
}

/// Facts for USER.md.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    /// How the owner is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Where the owner is reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// IANA name of the owner's time zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
}

/// A device that may connect with its key, and what it may ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PairedDevice {
    /// Ed25519 public key: base64url without padding, of the raw 32 bytes.
    pub public_key: String,
    /// The scopes it may ask for.
    pub scopes: Vec<Scope>,
    /// What people call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// The bundle does not fit into a parameter even when compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "the bundle is {encoded} bytes when compressed, {MAX_ENCODED_BYTES} fit: shorten spec.gateway.config, or what was put into the agent's Secret by hand"
)]
pub struct TooLarge {
    /// What the compressed form measures.
    pub encoded: usize,
}

/// Why a parameter value is not a bundle. No variant carries any of its content.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The part after the prefix is not base64.
    #[error("the compressed bundle is not base64")]
    Base64,
    /// The compressed part is damaged.
    #[error("the compressed bundle is not gzip")]
    Gzip,
    /// The decompressed form is larger than any bundle.
    #[error("the bundle is larger than {MAX_DECODED_BYTES} bytes when decompressed")]
    Bomb,
    /// Not JSON, or a field is missing or of the wrong type.
    #[error("the bundle is not valid: line {line} column {column} ({kind})")]
    Json {
        /// Line in the JSON text.
        line: usize,
        /// Column in the JSON text.
        column: usize,
        /// What kind of fault: syntax, data, eof.
        kind: &'static str,
    },
    /// Written for a newer reader.
    #[error("the bundle needs reader version {needed}, this koi-gateway reads {VERSION}: install a newer koi-gateway")]
    TooNew {
        /// The version it asks for.
        needed: u32,
    },
    /// The digest in the bundle is not that of its config.
    #[error("the bundle's config has digest {actual}, but configSha256 says {stated}")]
    Digest {
        /// The digest of what is there.
        actual: String,
        /// The digest that the bundle states.
        stated: String,
    },
}

impl Bundle {
    /// The value of the parameter: plain JSON when that fits, otherwise `gz1:` and base64 of gzip. The same bundle always gives the
    /// same bytes.
    ///
    /// # Errors
    /// [`TooLarge`] when not even the compressed form fits.
    pub fn encode(&self) -> Result<String, TooLarge> {
        let plain = digest::canonical(&serde_json::to_value(self).unwrap_or_default());
        if plain.len() <= MAX_ENCODED_BYTES {
            return Ok(plain);
        }
        let packed = format!("{GZIP_PREFIX}{}", STANDARD.encode(gzip(plain.as_bytes())));
        if packed.len() <= MAX_ENCODED_BYTES {
            Ok(packed)
        } else {
            Err(TooLarge { encoded: packed.len() })
        }
    }

    /// Reads a parameter value.
    ///
    /// # Errors
    /// [`DecodeError`]; none of its messages repeats content.
    pub fn decode(text: &str) -> Result<Self, DecodeError> {
        let text = text.trim();
        let bundle: Self = match text.strip_prefix(GZIP_PREFIX) {
            Some(packed) => from_json(&gunzip(&STANDARD.decode(packed).map_err(|_| DecodeError::Base64)?)?)?,
            None => from_json(text.as_bytes())?,
        };
        bundle.checked()
    }

    fn checked(self) -> Result<Self, DecodeError> {
        if self.min_reader > VERSION {
            return Err(DecodeError::TooNew {
                needed: self.min_reader,
            });
        }
        let actual = digest::sha256(&self.config);
        if actual != self.config_sha256 {
            return Err(DecodeError::Digest {
                actual,
                stated: self.config_sha256,
            });
        }
        Ok(self)
    }
}

impl fmt::Display for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "bundle v{} for {} with config {}",
            self.version, self.volume_id, self.config_sha256
        )
    }
}

fn one() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_one(version: &u32) -> bool {
    *version == 1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    // No name and no time in the header: the bytes depend on the content alone. Writing to a Vec cannot fail.
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    let _ = encoder.write_all(plain);
    encoder.finish().unwrap_or_default()
}

fn gunzip(packed: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let mut plain = Vec::new();
    GzDecoder::new(packed)
        .take(MAX_DECODED_BYTES + 1)
        .read_to_end(&mut plain)
        .map_err(|_| DecodeError::Gzip)?;
    if plain.len() as u64 > MAX_DECODED_BYTES {
        Err(DecodeError::Bomb)
    } else {
        Ok(plain)
    }
}

fn from_json(bytes: &[u8]) -> Result<Bundle, DecodeError> {
    serde_json::from_slice(bytes).map_err(|error| DecodeError::Json {
        line: error.line(),
        column: error.column(),
        kind: match error.classify() {
            serde_json::error::Category::Data => "a field is missing or of the wrong type",
            serde_json::error::Category::Eof => "it ends early",
            _ => "not JSON",
        },
    })
}

#[cfg(test)]
mod tests;
