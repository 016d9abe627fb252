//! What the API server refuses us: a kind that is not installed any more, a verb that we lost, an object that makes no sense.
//!
//! It is told on `/readyz` in the API server's own words, which name the verb and the resource, until it works again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kube::runtime::watcher;
use tokio::time::Instant;

/// A refused write is tried again every few seconds: one that was not refused lately works again.
const STANDS: Duration = Duration::from_secs(30);

/// All that stands now.
#[derive(Clone, Debug, Default)]
pub struct Troubles(Arc<Mutex<BTreeMap<String, Trouble>>>);

#[derive(Clone, Debug)]
struct Trouble {
    told: String,
    until: Option<Instant>,
}

impl Troubles {
    /// A watch broke. Whatever heals by itself, such as an API server that is away or a version that is too old, is no trouble.
    pub(super) fn watch_broke(&self, kind: &str, error: &watcher::Error) {
        let refused = match error {
            watcher::Error::InitialListFailed(error)
            | watcher::Error::WatchStartFailed(error)
            | watcher::Error::WatchFailed(error) => api_status(error),
            watcher::Error::WatchError(status) => Some(status.as_ref()),
            watcher::Error::NoResourceVersion => None,
        };
        let told = match refused {
            Some(status) if status.code == 404 => {
                format!("the kind {kind} is not installed: `koi-operator crds | kubectl apply -f -`")
            }
            Some(status) if status.is_forbidden() => denied(&status.message),
            _ => return,
        };
        self.lock().insert(kind.to_owned(), Trouble { told, until: None });
    }

    /// The watch works.
    pub(super) fn watch_works(&self, kind: &str) {
        self.lock().remove(kind);
    }

    /// A call was refused for lack of a right; other errors are no trouble.
    pub(super) fn call_failed(&self, what: &str, error: &kube::Error) {
        let Some(status) = api_status(error).filter(|status| status.is_forbidden()) else {
            return;
        };
        let trouble = Trouble {
            told: denied(&status.message),
            until: Some(Instant::now() + STANDS),
        };
        self.lock().insert(what.to_owned(), trouble);
    }

    /// An object is not what its kind says.
    pub(super) fn malformed(&self, object: &str, error: &str) {
        let told = format!("is not valid, and left aside: {error}");
        self.lock().insert(object.to_owned(), Trouble { told, until: None });
    }

    /// The object is gone, or valid again.
    pub(super) fn mended(&self, object: &str) {
        self.lock().remove(object);
    }

    /// Of all objects that are told with this beginning only these are there.
    pub(super) fn keep(&self, beginning: &str, there: &BTreeSet<String>) {
        self.lock()
            .retain(|object, _| !object.starts_with(beginning) || there.contains(object));
    }

    /// What is wrong with an object, if it is told as malformed.
    #[must_use]
    pub fn of(&self, object: &str) -> Option<String> {
        self.lock().get(object).map(|trouble| trouble.told.clone())
    }

    /// One line for all of it; `None` when there is none.
    #[must_use]
    pub fn report(&self) -> Option<String> {
        let now = Instant::now();
        let mut troubles = self.lock();
        troubles.retain(|_, trouble| trouble.until.is_none_or(|until| now < until));
        let lines: Vec<String> = troubles
            .iter()
            .map(|(what, trouble)| format!("{what}: {}", trouble.told))
            .collect();
        (!lines.is_empty()).then(|| lines.join("; "))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Trouble>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn api_status(error: &kube::Error) -> Option<&kube::core::Status> {
    match error {
        kube::Error::Api(status) => Some(status.as_ref()),
        _ => None,
    }
}

/// The API server's words name the user, the verb and the resource.
pub(super) fn denied(message: &str) -> String {
    format!("{message}; grant it to the operator's ServiceAccount, as the chart's ClusterRole does")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: u16, reason: &str, message: &str) -> kube::Error {
        let status = kube::core::Status::failure(message, reason).with_code(code);
        kube::Error::Api(Box::new(status))
    }

    #[test]
    fn a_missing_kind_and_a_lost_verb_are_told_until_they_are_back() {
        let troubles = Troubles::default();
        let gone = watcher::Error::InitialListFailed(refused(
            404,
            "NotFound",
            "the server could not find the requested resource",
        ));
        troubles.watch_broke("KoiPlan", &gone);
        let lost = "koiagents.skykoi.io is forbidden: User \"koi\" cannot watch resource \"koiagents\"";
        troubles.watch_broke(
            "KoiAgent",
            &watcher::Error::WatchStartFailed(refused(403, "Forbidden", lost)),
        );
        let told = troubles.report().unwrap();
        assert!(told.contains("the kind KoiPlan is not installed"), "{told}");
        assert!(told.contains("cannot watch resource \"koiagents\""), "{told}");
        troubles.watch_works("KoiPlan");
        troubles.watch_works("KoiAgent");
        assert_eq!(troubles.report(), None);
    }

    #[test]
    fn an_api_server_that_is_away_and_an_expired_watch_are_no_trouble() {
        let troubles = Troubles::default();
        let expired = watcher::Error::WatchError(Box::new(
            kube::core::Status::failure("too old resource version", "Expired").with_code(410),
        ));
        troubles.watch_broke("KoiPlan", &expired);
        troubles.call_failed("write of status", &refused(409, "Conflict", "somebody was quicker"));
        assert_eq!(troubles.report(), None);
    }

    #[test]
    fn a_refused_write_is_told_with_its_verb() {
        let troubles = Troubles::default();
        let message = "secrets is forbidden: User \"koi\" cannot create resource \"secrets\" in API group \"\" in the namespace \"a\"";
        troubles.call_failed("creation of the Secret", &refused(403, "Forbidden", message));
        let told = troubles.report().unwrap();
        assert!(
            told.starts_with("creation of the Secret: ") && told.contains("cannot create resource \"secrets\""),
            "{told}"
        );
    }
}
