//! The control page: a few files that are part of the binary. They refer to nothing outside and may do nothing outside.

use std::sync::LazyLock;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use sha2::{Digest, Sha256};

/// Scripts and styles from here alone, no frames, no forms that go anywhere; `connect-src 'self'` is the gateway's own socket.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What every answer with a file says beside its type.
const HEADERS: [(HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::CACHE_CONTROL, "no-cache"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (
        HeaderName::from_static("permissions-policy"),
        "camera=(), geolocation=(), microphone=()",
    ),
];

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

struct File {
    path: &'static str,
    kind: &'static str,
    text: &'static str,
}

macro_rules! file {
    ($path:literal, $kind:expr, $name:literal) => {
        File {
            path: $path,
            kind: $kind,
            text: include_str!(concat!("../../page/", $name)),
        }
    };
}

const FILES: [File; 9] = [
    file!("/", HTML, "index.html"),
    file!("/koi.css", "text/css; charset=utf-8", "koi.css"),
    file!("/koi.svg", "image/svg+xml", "koi.svg"),
    file!("/app.js", SCRIPT, "app.js"),
    file!("/chat.js", SCRIPT, "chat.js"),
    file!("/identity.js", SCRIPT, "identity.js"),
    file!("/text.js", SCRIPT, "text.js"),
    file!("/views.js", SCRIPT, "views.js"),
    file!("/wire.js", SCRIPT, "wire.js"),
];

/// One mark for all files: they belong together, and change together.
static MARK: LazyLock<Option<HeaderValue>> = LazyLock::new(|| {
    let mut hash = Sha256::new();
    for file in &FILES {
        hash.update(file.text);
    }
    let hex: String = hash
        .finalize()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    HeaderValue::from_str(&format!("\"{hex}\"")).ok()
});

/// The file at this path, if there is one.
pub(super) fn answer(path: &str, asked: &HeaderMap) -> Option<Response<Full<Bytes>>> {
    let file = FILES.iter().find(|file| file.path == path)?;
    let mark = MARK.as_ref();
    let known = mark.is_some() && asked.get(header::IF_NONE_MATCH) == mark;
    let body = if known { "" } else { file.text };
    let mut answer = Response::new(Full::from(Bytes::from_static(body.as_bytes())));
    if known {
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(file.kind));
    headers.extend(mark.map(|mark| (header::ETAG, mark.clone())));
    headers.extend(HEADERS.map(|(name, value)| (name, HeaderValue::from_static(value))));
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_served_with_the_policy_and_nothing_else_is() {
        for file in &FILES {
            let answer = answer(file.path, &HeaderMap::new()).unwrap();
            assert_eq!(
                answer.headers()[header::CONTENT_SECURITY_POLICY],
                POLICY,
                "{}",
                file.path
            );
            assert_eq!(answer.headers()[header::CONTENT_TYPE], file.kind, "{}", file.path);
        }
        for path in ["/index.html", "/../Cargo.toml", "/app.js/", "", "/koi"] {
            assert!(answer(path, &HeaderMap::new()).is_none(), "{path}");
        }
    }

    #[test]
    fn what_the_browser_has_is_not_sent_again() {
        let first = answer("/", &HeaderMap::new()).unwrap();
        let asked = HeaderMap::from_iter([(header::IF_NONE_MATCH, first.headers()[header::ETAG].clone())]);
        assert_eq!(answer("/", &asked).unwrap().status(), StatusCode::NOT_MODIFIED);
    }

    /// The policy forbids it anyway; this names the file.
    #[test]
    fn the_files_refer_to_nothing_outside_and_hold_no_inline_code() {
        for file in &FILES {
            let outside = [
                "src=\"http",
                "href=\"http",
                "url(http",
                "@import",
                "from \"http",
                "innerHTML",
                "eval(",
            ];
            for forbidden in outside {
                assert!(!file.text.contains(forbidden), "{} has {forbidden}", file.path);
            }
        }
        let page = FILES[0].text;
        assert!(!page.contains("<style") && !page.contains(" style=") && !page.contains(" onclick="));
        assert!(!page.contains("<script>"));
    }

    #[test]
    fn every_file_that_a_file_names_is_there() {
        let paths: Vec<&str> = FILES.iter().map(|file| file.path).collect();
        for file in &FILES {
            let imports = file.text.split("from \"./").skip(1);
            for name in imports.filter_map(|rest| rest.split('"').next()) {
                assert!(
                    paths.contains(&format!("/{name}").as_str()),
                    "{} names {name}",
                    file.path
                );
            }
        }
    }
}
