//! `speech`: a text as sound, by Amazon Polly or by espeak-ng on the machine.

use std::time::{Duration, SystemTime};

use aws_config::{BehaviorVersion, Region};
use aws_credential_types::provider::ProvideCredentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use koi_hands::text;
use koi_wire::config::{self, SpeechProvider};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use super::Inner;
use crate::agent::http::Caller;
use crate::agent::tool::CallSite;

/// Characters that are spoken; Polly takes no more at once.
const MOST: usize = 3000;

/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes of a sound.
const MOST_SOUND: usize = 16 * 1024 * 1024;

/// One who speaks.
pub(super) struct Speech {
    provider: SpeechProvider,
    voice: Option<String>,
    region: Option<String>,
    /// Who speaks on the machine.
    pub(super) program: &'static str,
    /// Where Polly is asked, where that is another place than AWS's own.
    endpoint: Option<String>,
    caller: Caller,
    aws: OnceCell<aws_config::SdkConfig>,
}

#[derive(Deserialize)]
struct Wish {
    text: String,
    #[serde(default)]
    path: Option<String>,
}

impl Speech {
    pub(super) fn new(config: &config::Speech, endpoint: Option<String>) -> Self {
        Self {
            provider: config.provider.unwrap_or(SpeechProvider::Espeak),
            voice: config.voice.clone(),
            region: config.region.clone(),
            program: "espeak-ng",
            endpoint,
            caller: Caller::default(),
            aws: OnceCell::new(),
        }
    }

    /// Speaks into a file.
    pub(super) async fn speak(&self, inner: &Inner, arguments: Value, site: &CallSite) -> Result<String, String> {
        let wish: Wish = super::read(arguments)?;
        let count = wish.text.chars().count();
        if wish.text.trim().is_empty() || count > MOST || wish.text.contains('\0') {
            return Err(format!("text must have 1 to {MOST} characters; it has {count}"));
        }
        let ending = if self.provider == SpeechProvider::Polly {
            "mp3"
        } else {
            "wav"
        };
        let nonce = uuid::Uuid::new_v4().simple().to_string();
        let path = wish
            .path
            .unwrap_or_else(|| format!("speech/{}.{ending}", nonce.get(..8).unwrap_or_default()));
        match self.provider {
            SpeechProvider::Polly => {
                let sound = tokio::time::timeout(PATIENCE, self.ask_polly(&wish.text)).await;
                let sound = sound.map_err(|_| "Amazon Polly did not answer in time.".to_owned())??;
                let arguments = json!({"path": path, "content": STANDARD.encode(sound), "encoding": "base64"});
                let written = inner.hands("write", arguments, site).await;
                if written.is_error {
                    Err(written.text)
                } else {
                    Ok(written.text)
                }
            }
            SpeechProvider::Espeak => self.ask_espeak(inner, &wish.text, &path, site).await,
        }
    }

    /// The text goes through a file: nothing of it is shell.
    async fn ask_espeak(&self, inner: &Inner, words: &str, path: &str, site: &CallSite) -> Result<String, String> {
        // A name that nothing has: it goes away again.
        let source = format!("{path}.{}.txt", uuid::Uuid::new_v4().simple());
        let written = inner
            .hands("write", json!({"path": source, "content": words}), site)
            .await;
        if written.is_error {
            return Err(written.text);
        }
        let voice = self.voice.as_deref().unwrap_or("en");
        let source = quoted_path(&source);
        let (voice, target, program) = (quoted(voice), quoted_path(path), self.program);
        let command = format!(
            "if command -v {program} >/dev/null; then {program} -v {voice} -w {target} -f {source}; code=$?\n\
             else echo '{program} is not installed: install it, or set tools.speech.provider to polly'; code=127; fi\n\
             rm -f -- {source}; exit $code"
        );
        let arguments = json!({"command": command, "yieldMs": 60_000, "timeoutSeconds": 60});
        let done = inner.hands("exec", arguments, site).await;
        if done.is_error || done.text.contains("[exit code") {
            return Err(text::short(&done.text, 1000));
        }
        Ok(format!("Spoke {} characters into {path}.", words.chars().count()))
    }

    async fn ask_polly(&self, words: &str) -> Result<Vec<u8>, String> {
        let aws = self.aws.get_or_init(|| self.connect()).await;
        let region = aws
            .region()
            .map(Region::as_ref)
            .ok_or("no region is known: set tools.speech.region")?;
        let own = || format!("https://polly.{region}.amazonaws.com");
        let base = self.endpoint.clone().unwrap_or_else(own);
        let url = format!("{}/v1/speech", base.trim_end_matches('/'));
        let voice = self.voice.as_deref().unwrap_or("Joanna");
        let body = json!({"Engine": "neural", "OutputFormat": "mp3", "Text": words, "VoiceId": voice}).to_string();
        let headers = signed(aws, region, &url, &body).await?;
        let fault = |error: &dyn std::fmt::Display| format!("Amazon Polly cannot be asked: {error}");
        let answer = self.caller.call(Method::POST, &url, headers, body).await;
        let mut answer = answer.map_err(|error| fault(&error))?;
        if answer.status.is_success() {
            return answer.whole(MOST_SOUND).await.map_err(|error| fault(&error));
        }
        let said = answer.some(4096).await;
        let said: Value = serde_json::from_slice(&said).unwrap_or_default();
        let words = said["message"]
            .as_str()
            .or(said["Message"].as_str())
            .unwrap_or("no reason given");
        let words = text::short(&text::readable(words.as_bytes()), 300);
        Err(match answer.status.as_u16() {
            403 => format!("The role of this instance lacks polly:SynthesizeSpeech: {words}"),
            429 => format!("Amazon Polly takes no more requests at the moment: {words}"),
            status => format!("Amazon Polly answers {status}: {words}"),
        })
    }

    async fn connect(&self) -> aws_config::SdkConfig {
        let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12());
        if let Some(region) = &self.region {
            loader = loader.region(Region::new(region.clone()));
        }
        loader.load().await
    }
}

/// The headers of a request that AWS accepts as this instance's.
async fn signed(aws: &aws_config::SdkConfig, region: &str, url: &str, body: &str) -> Result<HeaderMap, String> {
    let missing = |error: &dyn std::fmt::Display| format!("There are no AWS credentials: {error}");
    let provider = aws
        .credentials_provider()
        .ok_or_else(|| missing(&"the instance has no role"))?;
    let credentials = provider.provide_credentials().await.map_err(|error| missing(&error))?;
    let identity = credentials.into();
    let wrong = |error: &dyn std::fmt::Display| format!("The request to Amazon Polly cannot be signed: {error}");
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name("polly")
        .time(SystemTime::now())
        .settings(SigningSettings::default())
        .build()
        .map_err(|error| wrong(&error))?
        .into();
    let own = [("content-type", "application/json")];
    let request = SignableRequest::new("POST", url, own.into_iter(), SignableBody::Bytes(body.as_bytes()))
        .map_err(|error| wrong(&error))?;
    let (instructions, _) = sign(request, &params).map_err(|error| wrong(&error))?.into_parts();
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for (name, value) in instructions.headers() {
        let name = HeaderName::try_from(name).map_err(|error| wrong(&error))?;
        headers.insert(name, HeaderValue::from_str(value).map_err(|error| wrong(&error))?);
    }
    Ok(headers)
}

/// A word that the shell takes as it is.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// A path that is never an option.
fn quoted_path(path: &str) -> String {
    match path.strip_prefix("~/") {
        Some(rest) => format!("\"$HOME\"/{}", quoted(rest)),
        None if path.starts_with('/') => quoted(path),
        None => quoted(&format!("./{path}")),
    }
}
