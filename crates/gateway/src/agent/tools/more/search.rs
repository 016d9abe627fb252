//! `web_search`: asks a SearXNG instance, or Brave.

use std::fmt::Write;
use std::time::Duration;

use http::header::ACCEPT;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use koi_hands::text;
use koi_wire::config::{SearchProvider, Secret, WebSearch};
use serde::Deserialize;
use serde_json::Value;

use crate::agent::http::Caller;
use crate::secret::Secrets;

/// Where Brave is asked.
const BRAVE: &str = "https://api.search.brave.com/res/v1";

/// How long a search may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Bytes of an answer.
const MOST_BYTES: usize = 4 * 1024 * 1024;

/// The longest query.
const MOST_QUERY: usize = 400;

/// One who searches.
pub(super) struct Search {
    provider: SearchProvider,
    base: String,
    key: Option<Secret>,
    secrets: Secrets,
    caller: Caller,
}

#[derive(Deserialize)]
struct Wish {
    query: String,
    #[serde(default)]
    count: Option<usize>,
}

/// Something that was found.
struct Hit {
    title: String,
    url: String,
    words: String,
}

impl Search {
    pub(super) fn new(config: &WebSearch, secrets: Secrets) -> Self {
        let base = config.base_url.as_deref().unwrap_or(BRAVE);
        Self {
            provider: config.provider,
            base: base.trim_end_matches('/').to_owned(),
            key: config.api_key.clone(),
            secrets,
            caller: Caller::default(),
        }
    }

    /// Searches.
    pub(super) async fn search(&self, arguments: Value) -> Result<String, String> {
        let wish: Wish = super::read(arguments)?;
        let query = wish.query.trim();
        if query.is_empty() || query.chars().count() > MOST_QUERY {
            return Err(format!("query must have 1 to {MOST_QUERY} characters"));
        }
        let count = wish.count.unwrap_or(8).clamp(1, 20);
        let asked = tokio::time::timeout(PATIENCE, self.ask(query, count)).await;
        let found = asked.map_err(|_| "The search did not come back in time.".to_owned())??;
        let mut hits = match self.provider {
            SearchProvider::Searxng => hits(&found["results"], "content"),
            SearchProvider::Brave => hits(&found["web"]["results"], "description"),
        };
        hits.truncate(count);
        Ok(told(&hits))
    }

    async fn ask(&self, query: &str, count: usize) -> Result<Value, String> {
        let query = escaped(query);
        let url = match self.provider {
            SearchProvider::Searxng => format!("{}/search?q={query}&format=json", self.base),
            SearchProvider::Brave => format!("{}/web/search?q={query}&count={count}", self.base),
        };
        let mut answer = self
            .caller
            .call(Method::GET, &url, self.headers()?, "")
            .await
            .map_err(|error| format!("The search failed: {error}"))?;
        let status = answer.status.as_u16();
        let hint = match (status, self.provider) {
            (200, _) => None,
            (401 | 403 | 422, SearchProvider::Brave) => Some("is tools.web.search.apiKey right?"),
            (403, SearchProvider::Searxng) => Some("its settings have to allow the format json"),
            (429, _) => Some("too many searches; wait a while"),
            _ => Some("try again later"),
        };
        if let Some(hint) = hint {
            return Err(format!("The search failed: the other side answers {status}; {hint}."));
        }
        let body = answer
            .whole(MOST_BYTES)
            .await
            .map_err(|error| format!("The search failed: {error}"))?;
        serde_json::from_slice(&body).map_err(|error| format!("The search failed: its answer is no JSON: {error}"))
    }

    fn headers(&self) -> Result<HeaderMap, String> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        if let Some(key) = &self.key {
            let fault = |why: &str| format!("The search failed: tools.web.search.apiKey: {why}");
            let key = self.secrets.read(key).map_err(|why| fault(&why))?;
            let mut value = HeaderValue::from_str(key.expose()).map_err(|_| fault("it fits into no header"))?;
            value.set_sensitive(true);
            headers.insert(HeaderName::from_static("x-subscription-token"), value);
        }
        Ok(headers)
    }
}

fn hits(results: &Value, words: &str) -> Vec<Hit> {
    let line = |value: &Value, most: usize| {
        let text = text::readable(value.as_str().unwrap_or_default().as_bytes());
        text::short(&text.split_whitespace().collect::<Vec<_>>().join(" "), most)
    };
    let hit = |result: &Value| {
        let url = line(&result["url"], 500);
        let reachable = url.starts_with("https://") || url.starts_with("http://");
        reachable.then(|| Hit {
            title: plain(&line(&result["title"], 200)),
            words: plain(&line(&result[words], 500)),
            url,
        })
    };
    results.as_array().into_iter().flatten().filter_map(hit).collect()
}

/// Without the marks that a provider puts around words.
fn plain(text: &str) -> String {
    text.replace("<strong>", "").replace("</strong>", "")
}

/// Marked as what it is: words of somebody else, and nobody's orders.
fn told(hits: &[Hit]) -> String {
    if hits.is_empty() {
        return "Nothing was found.".to_owned();
    }
    let mut lines = String::new();
    for (number, hit) in (1..).zip(hits) {
        let _ = writeln!(lines, "{number}. {}\n   {}\n   {}", hit.title, hit.url, hit.words);
    }
    super::super::web::outside("What was found", &lines)
}

/// As a part of an address.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}
