//! User data: the script of a machine's first boot, made from the recorded launch and the claim alone.
//!
//! It installs the gateway's binary and nginx where they are missing, and enables the unit that runs `koi-gateway bootstrap` on every
//! boot. Configuration, workspace and secrets are not in it, so it never changes while a launch lasts.

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::api::LaunchStatus;

/// Version of the template: part of the recorded launch. Grows with every change of the rendered bytes.
pub const RENDERER: i32 = 1;

/// EC2's limit, in raw bytes.
pub const LIMIT: usize = 16_384;

const SCRIPT: &str = include_str!("../../templates/user-data.sh");
const DOWNLOAD: &str = include_str!("../../templates/user-data-download.sh");
const BAKED: &str = include_str!("../../templates/user-data-baked.sh");

/// Who the machine is to be.
#[derive(Clone, Copy, Debug)]
pub struct Home<'a> {
    /// Id of the installation.
    pub cluster_id: &'a str,
    /// UID of the KoiAgent.
    pub agent_uid: &'a str,
    /// The region that the machine runs in.
    pub region: &'a str,
}

/// The script is larger than EC2 takes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "user data has {size} bytes, EC2 takes at most {LIMIT}: shorten the artifact URL or use an image with koi-gateway in it"
)]
pub struct TooLarge {
    /// The size in raw bytes.
    pub size: usize,
}

/// Where the binary comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// `https://...`.
    pub url: String,
    /// SHA-256 of the file, hex.
    pub sha256: String,
}

/// The user data of a recorded launch.
///
/// # Errors
/// When it is larger than EC2 takes.
pub fn user_data(launch: &LaunchStatus, home: Home<'_>) -> Result<String, TooLarge> {
    let artifact = launch.artifact.as_ref().map(|artifact| Artifact {
        url: artifact.url.clone(),
        sha256: artifact.sha256.clone(),
    });
    script(artifact.as_ref(), home)
}

/// The script of an artifact (or of an image that has the binary) and a home.
///
/// # Errors
/// When it is larger than EC2 takes.
pub fn script(artifact: Option<&Artifact>, home: Home<'_>) -> Result<String, TooLarge> {
    let bootstrap = json!({"agentUid": home.agent_uid, "cluster": home.cluster_id, "region": home.region});
    let (need_curl, binary) = match artifact {
        Some(artifact) => (
            "command -v curl >/dev/null || need=\"$need curl ca-certificates\"\n",
            DOWNLOAD
                .replace("@URL@", &quoted(&artifact.url))
                .replace("@SHA256@", &quoted(&artifact.sha256)),
        ),
        None => ("", BAKED.to_owned()),
    };
    let text = SCRIPT
        .replace("@RENDERER@", &RENDERER.to_string())
        .replace("@NEED_CURL@", need_curl)
        .replace("@BOOTSTRAP@", &bootstrap.to_string())
        .replace("@BINARY@", &binary);
    if text.len() > LIMIT {
        Err(TooLarge { size: text.len() })
    } else {
        Ok(text)
    }
}

/// SHA-256 of a text, hex.
#[must_use]
pub fn sha256(text: &str) -> String {
    hex::encode(Sha256::digest(text.as_bytes()))
}

/// A word that the shell takes literally.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests;
