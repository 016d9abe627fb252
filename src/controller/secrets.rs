//! The Secrets of the agents, as the watch shows them: of each, whose it is and in which version, and what is in it until that was read.
//!
//! What a settled agent needs of its Secret are digests, and those are with what is remembered of the agent. Two keys and a certificate for
//! each agent would be a quarter of all that is kept of it. Who needs them again, for a new bundle, asks the API server.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use k8s_openapi::api::core::v1::Secret;
use koi_core::api::Reason;
use koi_core::names;
use koi_core::plan::Why;
use koi_core::render::bundle::SecretMaterial;
use kube::ResourceExt as _;
use kube::api::Api;
use kube::runtime::watcher::Event;

use super::secret::{self, GatewaySecret};
use super::troubles::denied;
use super::{Packed, Round};
use crate::cloud::Cloud;

/// No agent's Secret is as large, compressed.
const LARGEST: usize = 32 << 10;

/// All of them, by namespace and name.
#[derive(Clone, Default)]
pub struct Secrets(Arc<RwLock<HashMap<Box<str>, Shown>>>);

/// One of them.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    /// UIDs of those that own it.
    pub(super) owners: Box<[Box<str>]>,
    /// Its resource version.
    pub(super) version: Box<str>,
    /// All of it; `None` once it was read.
    unread: Option<Arc<Packed<Secret>>>,
}

impl Shown {
    fn of(secret: &Packed<Secret>, before: Option<&Self>) -> Self {
        let owners = secret.owner_references().iter().map(|owner| owner.uid.as_str().into());
        let version: Box<str> = secret.resource_version().unwrap_or_default().into();
        // A list that begins anew shows again what was read long ago.
        let is_read = before.is_some_and(|before| before.unread.is_none() && before.version == version);
        Self {
            owners: owners.collect(),
            unread: (!is_read && is_kept(secret)).then(|| Arc::new(secret.clone())),
            version,
        }
    }
}

/// Whether somebody will read it: anybody may put our label on anything. What an agent's own one holds is some kilobytes; of a larger one the API
/// server is asked when it is needed.
fn is_kept(secret: &Packed<Secret>) -> bool {
    let name = secret.name_any();
    let mut owners = secret.owner_references().iter();
    owners.any(|owner| names::token_secret(&owner.name) == name) && secret.weight() <= LARGEST
}

impl Secrets {
    /// One of them.
    pub(super) fn get(&self, namespace: &str, name: &str) -> Option<Shown> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        all.get(key(namespace, name).as_str()).cloned()
    }

    /// All of one, in the version that is shown, if nobody has read it; and from now on somebody has.
    pub(super) fn read(&self, namespace: &str, name: &str) -> Option<Arc<Packed<Secret>>> {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        all.get_mut(key(namespace, name).as_str())?.unread.take()
    }

    /// Remembers one as after it was read: for the test that weighs it.
    #[doc(hidden)]
    pub fn remember_read(&self, secret: &Packed<Secret>) {
        self.keeper()(&Event::Apply(secret.clone()));
        drop(self.read(&secret.namespace().unwrap_or_default(), &secret.name_any()));
    }

    /// What keeps them, for the watch: a list is taken in when it is complete.
    pub(super) fn keeper(&self) -> impl FnMut(&Event<Packed<Secret>>) + Send + use<> {
        let all = Arc::clone(&self.0);
        let mut listed = HashMap::new();
        move |event| {
            let mut all = all.write().unwrap_or_else(PoisonError::into_inner);
            match event {
                Event::Apply(secret) => {
                    let key = key_of(secret);
                    let shown = Shown::of(secret, all.get(key.as_str()));
                    all.insert(key.into(), shown);
                }
                Event::Delete(secret) => drop(all.remove(key_of(secret).as_str())),
                Event::Init => listed = HashMap::new(),
                Event::InitApply(secret) => {
                    let key = key_of(secret);
                    let shown = Shown::of(secret, all.get(key.as_str()));
                    listed.insert(key.into(), shown);
                }
                Event::InitDone => *all = std::mem::take(&mut listed),
            }
        }
    }
}

impl<C: Cloud> Round<'_, C> {
    /// Reads the Secret as the watch shows it, once for each change. What is known of it stays where it cannot be read.
    ///
    /// # Errors
    /// Why it cannot be read, for the conditions.
    pub(super) async fn read_secret(&mut self) -> Result<(), Why> {
        let (namespace, name) = self.place_of_secret();
        let (uid, now) = (self.agent.uid().unwrap_or_default(), self.context.clock.now());
        let shown = self.context.stores.secrets.get(&namespace, &name);
        let Some(shown) = shown.filter(|shown| shown.owners.iter().any(|owner| **owner == *uid)) else {
            return self.look_for_unshown().await;
        };
        self.memory.work().foreign_secret = false;
        if let Some(known) = &self.memory.secret {
            if self.memory.secret_is_fresh(now) && known.is_newer_than(&shown.version) {
                return Ok(());
            }
            if known.version.as_deref() == Some(&*shown.version) {
                self.memory.secret_shown();
                drop(self.context.stores.secrets.read(&namespace, &name));
                return Ok(());
            }
        }
        let unread = self.context.stores.secrets.read(&namespace, &name);
        match unread.and_then(|unread| unread.unpack().ok()) {
            Some(found) => {
                self.adopt_secret(&found);
                self.memory.secret_shown();
            }
            None => drop(self.fetch_own_secret().await?),
        }
        Ok(())
    }

    /// The watch shows none of the agent's own: it may be behind our own write, and what somebody else had put there may be gone.
    async fn look_for_unshown(&mut self) -> Result<(), Why> {
        if self.memory.secret_is_fresh(self.context.clock.now()) {
            return Ok(());
        }
        self.memory.forget_secret();
        if self.memory.work().foreign_secret {
            let found = self.fetch_secret().await?;
            self.memory.work().foreign_secret = found.is_some_and(|found| !secret::is_owned(&found, &self.agent));
        }
        Ok(())
    }

    /// The Secret, as this round knows it.
    pub(super) fn secret(&self) -> Option<Arc<GatewaySecret>> {
        self.memory.secret.clone()
    }

    /// What goes into the bundle, of exactly this state of the Secret: remembered while there is work to do, else asked for. `None`: the API
    /// server has another one by now, which is the one that is known from here on.
    pub(super) async fn material(&mut self, secret: &GatewaySecret) -> Result<Option<SecretMaterial>, Why> {
        if self.memory.work().material.is_none() {
            let found = self.fetch_own_secret().await?;
            if found.is_none_or(|found| found.resource_version() != secret.version) {
                return Ok(None);
            }
        }
        Ok(self.memory.work().material.clone())
    }

    /// Asks the API server for the agent's own Secret: what it has counts, whatever the watch shows.
    async fn fetch_own_secret(&mut self) -> Result<Option<Secret>, Why> {
        let found = self.fetch_secret().await?;
        let found = found.filter(|found| secret::is_owned(found, &self.agent));
        match &found {
            Some(found) => self.adopt_secret(found),
            None => self.memory.forget_secret(),
        }
        Ok(found)
    }

    /// What the gateway has of an earlier one stays good until it takes this.
    pub(super) fn adopt_secret(&mut self, found: &Secret) {
        let (uid, now) = (self.agent.uid().unwrap_or_default(), self.context.clock.now());
        let (read, material) = secret::read(found, &uid, now);
        let told = self.status.gateway.as_ref();
        let told = told.and_then(|gateway| gateway.tls_sha256.as_deref());
        self.memory.handover.meet(&read, told, now);
        self.memory.keep_secret(Some((read, material)), now);
    }

    /// What the API server has under the name.
    async fn fetch_secret(&self) -> Result<Option<Secret>, Why> {
        let (namespace, name) = self.place_of_secret();
        let api: Api<Secret> = Api::namespaced(self.context.client.clone(), &namespace);
        let error = match api.get_opt(&name).await {
            Ok(found) => return Ok(found),
            Err(error) => error,
        };
        self.context.stores.troubles.call_failed("read of the Secret", &error);
        Err(unreadable("the agent's Secret", error))
    }

    fn place_of_secret(&self) -> (String, String) {
        let namespace = self.agent.namespace().unwrap_or_default();
        (namespace, names::token_secret(&self.agent.name_any()))
    }
}

/// Kubernetes does not give the operator what an agent needs: for lack of a right, or for the moment.
pub(super) fn unreadable(what: &str, error: kube::Error) -> Why {
    match error {
        kube::Error::Api(refused) if refused.is_forbidden() => no_access(what, &refused.message),
        error => Why {
            reason: Reason::Pending,
            message: format!("Kubernetes does not answer for {what}: {error}."),
        },
    }
}

/// Kubernetes refuses the operator something of an agent's.
pub(super) fn no_access(what: &str, told: &str) -> Why {
    Why {
        reason: Reason::Unauthorized,
        message: format!("Kubernetes denies the operator {what}: {}.", denied(told)),
    }
}

fn key_of(secret: &Packed<Secret>) -> String {
    key(&secret.namespace().unwrap_or_default(), &secret.name_any())
}

/// Neither of the two has a slash.
fn key(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use serde_json::json;

    use super::*;

    fn secret(name: &str, version: &str) -> Packed<Secret> {
        let owner = json!({ "apiVersion": "skykoi.io/v1alpha1", "kind": "KoiAgent", "name": name, "uid": format!("uid-of-{name}") });
        let metadata = json!({ "namespace": "ns", "name": names::token_secret(name), "resourceVersion": version, "ownerReferences": [owner] });
        serde_json::from_value(json!({ "metadata": metadata, "data": { "token": "dG9rZW4=" } })).unwrap()
    }

    fn versions(secrets: &Secrets) -> [Option<String>; 2] {
        ["a", "b"].map(|name| {
            secrets
                .get("ns", &names::token_secret(name))
                .map(|shown| shown.version.into())
        })
    }

    #[test]
    fn what_was_read_is_kept_no_longer_and_shown_all_the_same() {
        let secrets = Secrets::default();
        let mut keeper = secrets.keeper();
        keeper(&Event::Apply(secret("a", "1")));
        let shown = secrets.get("ns", &names::token_secret("a")).unwrap();
        assert_eq!((&*shown.owners, &*shown.version), (["uid-of-a".into()].as_slice(), "1"));
        let read = secrets.read("ns", &names::token_secret("a")).unwrap().unpack().unwrap();
        assert_eq!(read.data.unwrap()["token"].0, b"token");
        assert!(secrets.read("ns", &names::token_secret("a")).is_none());
        assert_eq!(versions(&secrets), [Some("1".to_owned()), None]);
        keeper(&Event::Apply(secret("a", "2")));
        assert!(
            secrets.read("ns", &names::token_secret("a")).is_some(),
            "another version"
        );
    }

    #[test]
    fn a_list_takes_the_place_of_all_that_was_shown_when_it_is_complete() {
        let secrets = Secrets::default();
        let mut keeper = secrets.keeper();
        keeper(&Event::Apply(secret("a", "1")));
        keeper(&Event::Apply(secret("b", "1")));
        drop(secrets.read("ns", &names::token_secret("b")));
        keeper(&Event::Init);
        keeper(&Event::InitApply(secret("b", "1")));
        assert_eq!(versions(&secrets), [Some("1".to_owned()), Some("1".to_owned())]);
        keeper(&Event::InitDone);
        assert_eq!(versions(&secrets), [None, Some("1".to_owned())]);
        assert!(
            secrets.read("ns", &names::token_secret("b")).is_none(),
            "it was read before"
        );
        keeper(&Event::Delete(secret("b", "1")));
        assert_eq!(versions(&secrets), [None, None]);
    }

    #[test]
    fn what_nobody_will_read_is_not_kept() {
        let secrets = Secrets::default();
        let mut keeper = secrets.keeper();
        let mut large = secret("a", "1").unpack().unwrap();
        let mut noise = vec![0; 3 * LARGEST];
        getrandom::fill(&mut noise).unwrap();
        large
            .data
            .get_or_insert_default()
            .insert("more".to_owned(), ByteString(noise));
        keeper(&Event::Apply(Packed::new(large)));
        let mut strange = secret("b", "1").unpack().unwrap();
        strange.metadata.name = Some("other".to_owned());
        keeper(&Event::Apply(Packed::new(strange)));
        for name in [names::token_secret("a"), "other".to_owned()] {
            assert!(secrets.get("ns", &name).is_some(), "that it is there is known");
            assert!(secrets.read("ns", &name).is_none(), "{name}");
        }
    }
}
