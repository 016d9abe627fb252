//! `tools` and `exec`: what the agent may do on its machine.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Secret, format};

/// Shell commands of the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Exec {
    /// What the agent may run. Default `full`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security: Option<ExecSecurity>,
    /// Where it runs: this machine. Default `gateway`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<ExecHost>,
    /// Seconds that one command may take. Default 1800.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86400))]
    pub timeout_seconds: Option<u32>,
}

/// What the agent may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ExecSecurity {
    /// Nothing.
    Deny,
    /// What is on the list.
    Allowlist,
    /// The whole shell of its user.
    Full,
}

/// Where commands run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ExecHost {
    /// The machine of the gateway.
    Gateway,
    /// The same as gateway.
    Auto,
}

/// Tools of the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tools {
    /// Only these. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128), inner(length(min = 1, max = 128)))]
    pub allow: Option<Vec<String>>,
    /// Not these. Default none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128), inner(length(min = 1, max = 128)))]
    pub deny: Option<Vec<String>>,
    /// Shell commands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec: Option<Exec>,
    /// Commands and tools for files may write to the workspace and to temporary directories only (Landlock), and gain no privileges.
    /// Default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace_only: Option<bool>,
    /// The web.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub web: Option<Web>,
    /// Text to speech.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speech: Option<Speech>,
}

/// The web.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Web {
    /// Searching it. Default: the agent has no `web_search`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search: Option<WebSearch>,
}

/// Searching the web.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("allOf" = json!([
    {"if": {"properties": {"provider": {"const": "searxng"}}, "required": ["provider"]}, "then": {"required": ["baseUrl"]}},
    {"if": {"properties": {"provider": {"const": "brave"}}, "required": ["provider"]}, "then": {"required": ["apiKey"]}},
])))]
pub struct WebSearch {
    /// Who is asked.
    pub provider: SearchProvider,
    /// Its address: of SearXNG the instance's; of Brave, where it is another than Brave's own. Default: Brave's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024), regex(pattern = format::URL))]
    pub base_url: Option<String>,
    /// The key, which Brave wants; read anew for each question. Default none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<Secret>,
}

/// Who searches the web.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names say it, and the schema stays one short list")]
pub enum SearchProvider {
    Searxng,
    Brave,
}

/// Text to speech.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Speech {
    /// Who speaks: Amazon Polly with the instance's own role (it needs `polly:SynthesizeSpeech`), or espeak-ng on the machine. Default
    /// `espeak`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<SpeechProvider>,
    /// The voice. Default: Joanna of Polly, en of espeak-ng.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub voice: Option<String>,
    /// The region of Polly. Default: the instance's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    pub region: Option<String>,
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names say it, and the schema stays one short list")]
pub enum SpeechProvider {
    Polly,
    Espeak,
}
