//! An object as a watch keeps it: metadata to find it by, and the rest as compressed text.
//!
//! A parsed agent weighs ten times its text, most of it in maps with one entry and strings with spare room, and is looked at for some
//! microseconds an hour. So it is parsed when it is looked at.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::io::{Read as _, Write as _};
use std::marker::PhantomData;
use std::sync::LazyLock;

use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use k8s_openapi::api::core::v1::Secret;
use koi_core::api::{GROUP, KoiAgent};
use koi_core::gist::Gist;
use kube::Resource;
use kube::core::ObjectMeta;
use kube::core::error_boundary::InvalidObject;
use lz4_flex::block::{compress_prepend_size_with_dict, decompress_size_prepended_with_dict};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::streams::trim;

/// What of an object is asked so often that it is kept beside the text.
pub trait Summed {
    /// That.
    type Gist: Clone + std::fmt::Debug + Send + Sync + 'static;

    /// Of this object.
    fn gist(&self) -> Self::Gist;

    /// Takes away what nobody reads of this kind's metadata.
    fn prune(metadata: &mut ObjectMeta);

    /// Makes a text of this kind small.
    fn squeeze(text: &[u8]) -> Result<Vec<u8>, String>;

    /// The text again.
    fn expand(body: &[u8]) -> Result<Vec<u8>, String>;
}

/// A settled agent, as nearly all of them are: what others have in common with it costs them nothing.
static TYPICAL: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let parsed = serde_json::from_str::<KoiAgent>(include_str!("packed/agent.json"));
    parsed.and_then(|agent| serde_json::to_vec(&agent)).unwrap_or_default()
});

impl Summed for KoiAgent {
    type Gist = Gist;

    fn gist(&self) -> Gist {
        Gist::of(self)
    }

    fn prune(metadata: &mut ObjectMeta) {
        trim(metadata);
        keep_our_annotations(metadata);
        // Agents are found by name, and by nothing else.
        metadata.labels = None;
    }

    /// Agents are looked at often, and look alike.
    fn squeeze(text: &[u8]) -> Result<Vec<u8>, String> {
        Ok(compress_prepend_size_with_dict(text, &TYPICAL))
    }

    fn expand(body: &[u8]) -> Result<Vec<u8>, String> {
        decompress_size_prepended_with_dict(body, &TYPICAL).map_err(|error| error.to_string())
    }
}

impl Summed for Secret {
    type Gist = ();

    fn gist(&self) {}

    fn prune(metadata: &mut ObjectMeta) {
        trim(metadata);
        keep_our_annotations(metadata);
        // The watch chose it by its label.
        metadata.labels = None;
        for owner in metadata.owner_references.iter_mut().flatten() {
            owner.api_version.clear();
            owner.api_version.shrink_to_fit();
        }
    }

    /// Read once for each change. Keys in base64, twice over, become half as long.
    fn squeeze(text: &[u8]) -> Result<Vec<u8>, String> {
        let mut encoder = DeflateEncoder::new(Vec::with_capacity(text.len() / 2), Compression::default());
        let written = encoder.write_all(text).and_then(|()| encoder.finish());
        written.map_err(|error| error.to_string())
    }

    fn expand(body: &[u8]) -> Result<Vec<u8>, String> {
        let mut text = Vec::with_capacity(body.len() * 4);
        let read = DeflateDecoder::new(body).read_to_end(&mut text);
        read.map(|_| text).map_err(|error| error.to_string())
    }
}

/// Others may write a quarter of a megabyte of theirs.
fn keep_our_annotations(metadata: &mut ObjectMeta) {
    if let Some(annotations) = &mut metadata.annotations {
        annotations.retain(|key, _| key.strip_prefix(GROUP).is_some_and(|rest| rest.starts_with('/')));
    }
    metadata.annotations.take_if(|annotations| annotations.is_empty());
}

/// An object that is put away until somebody looks at it; or why it is none of its kind.
#[derive(Clone, Debug)]
pub struct Packed<K: Summed> {
    metadata: ObjectMeta,
    kept: Result<Kept<K::Gist>, Box<str>>,
    kind: PhantomData<fn() -> K>,
}

/// Everything but the metadata.
#[derive(Clone, Debug)]
struct Kept<G> {
    gist: G,
    body: Box<[u8]>,
}

impl<K: Summed> Packed<K> {
    /// What is asked of all; `None` of an object that is none of its kind.
    #[must_use]
    pub fn gist(&self) -> Option<&K::Gist> {
        self.kept.as_ref().ok().map(|kept| &kept.gist)
    }
}

impl<K: Summed> Hash for Packed<K> {
    /// What it says, metadata aside.
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        match &self.kept {
            Ok(kept) => kept.body.hash(hasher),
            Err(error) => error.hash(hasher),
        }
    }
}

impl<K: Resource + Summed + Serialize + DeserializeOwned> Packed<K> {
    /// Puts an object away, without what nobody reads.
    pub fn new(mut object: K) -> Self {
        let mut metadata = std::mem::take(object.meta_mut());
        K::prune(&mut metadata);
        let kept = packed(&object).map(|body| Kept {
            gist: object.gist(),
            body,
        });
        Self {
            metadata,
            kept: kept.map_err(String::into_boxed_str),
            kind: PhantomData,
        }
    }

    /// How many bytes are kept beside the metadata.
    pub(super) fn weight(&self) -> usize {
        self.kept.as_ref().map_or(0, |kept| kept.body.len())
    }

    /// The object; or what is wrong with it.
    ///
    /// # Errors
    /// When it is none of its kind.
    pub fn unpack(&self) -> Result<K, Box<InvalidObject>> {
        let told = |error: String| {
            Box::new(InvalidObject {
                error,
                metadata: self.metadata.clone(),
            })
        };
        let kept = self.kept.as_ref().map_err(|error| told(error.to_string()))?;
        let mut object: K = unpacked(&kept.body).map_err(told)?;
        *object.meta_mut() = self.metadata.clone();
        Ok(object)
    }
}

fn packed<K: Summed + Serialize>(object: &K) -> Result<Box<[u8]>, String> {
    let text = serde_json::to_vec(object).map_err(|error| error.to_string())?;
    K::squeeze(&text).map(Vec::into_boxed_slice)
}

fn unpacked<K: Summed + DeserializeOwned>(body: &[u8]) -> Result<K, String> {
    serde_json::from_slice(&K::expand(body)?).map_err(|error| error.to_string())
}

impl<'de, K: Resource + Summed + Serialize + DeserializeOwned> Deserialize<'de> for Packed<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Checked(checked) = Checked::deserialize(deserializer)?;
        let InvalidObject { error, mut metadata } = match checked {
            Ok(object) => return Ok(Self::new(object)),
            Err(invalid) => invalid,
        };
        K::prune(&mut metadata);
        Ok(Self {
            metadata,
            kept: Err(error.into()),
            kind: PhantomData,
        })
    }
}

/// An object, or why it is none of its kind. Kube's own guard makes a tree of every object before it parses it: that costs more than all the
/// rest, and a tree has a limit of depth, so that one object in a list would take all others with it.
#[derive(Clone, Debug)]
pub(super) struct Checked<K>(pub(super) Result<K, InvalidObject>);

impl<'de, K: DeserializeOwned> Deserialize<'de> for Checked<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Box::<RawValue>::deserialize(deserializer)?;
        let error = match serde_json::from_str(text.get()) {
            Ok(object) => return Ok(Self(Ok(object))),
            Err(error) => told(&error),
        };
        let metadata = bare(text.get()).map_err(D::Error::custom)?;
        Ok(Self(Err(InvalidObject { error, metadata })))
    }
}

impl<K: Resource> Resource for Checked<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(dynamic: &Self::DynamicType) -> Cow<'_, str> {
        K::kind(dynamic)
    }

    fn group(dynamic: &Self::DynamicType) -> Cow<'_, str> {
        K::group(dynamic)
    }

    fn version(dynamic: &Self::DynamicType) -> Cow<'_, str> {
        K::version(dynamic)
    }

    fn plural(dynamic: &Self::DynamicType) -> Cow<'_, str> {
        K::plural(dynamic)
    }

    fn meta(&self) -> &ObjectMeta {
        self.0.as_ref().map_or_else(|invalid| &invalid.metadata, Resource::meta)
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        match &mut self.0 {
            Ok(object) => object.meta_mut(),
            Err(invalid) => &mut invalid.metadata,
        }
    }
}

/// The metadata of an object that is none of its kind, without its fields' managers: those are nested as deeply as the object is.
fn bare(text: &str) -> serde_json::Result<ObjectMeta> {
    #[derive(Deserialize)]
    struct Bare {
        metadata: BTreeMap<String, Box<RawValue>>,
    }
    let Bare { mut metadata } = serde_json::from_str(text)?;
    metadata.remove("managedFields");
    serde_json::from_str(&serde_json::to_string(&metadata)?)
}

/// What is wrong, without the place: it is one in the API server's answer, which nobody sees.
fn told(error: &serde_json::Error) -> String {
    let told = error.to_string();
    if told.starts_with("recursion limit exceeded") {
        return "something in it, such as gateway.config, is nested more than a hundred levels deep".to_owned();
    }
    let place = format!(" at line {} column {}", error.line(), error.column());
    told.strip_suffix(&place).map(ToOwned::to_owned).unwrap_or(told)
}

impl<K: Resource + Summed> Resource for Packed<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(dynamic: &Self::DynamicType) -> Cow<'_, str> {
        K::kind(dynamic)
    }

    fn group(dynamic: &Self::DynamicType) -> Cow<'_, str> {
        K::group(dynamic)
    }

    fn version(dynamic: &Self::DynamicType) -> Cow<'_, str> {
        K::version(dynamic)
    }

    fn plural(dynamic: &Self::DynamicType) -> Cow<'_, str> {
        K::plural(dynamic)
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn agent(spec: &Value) -> Packed<KoiAgent> {
        let conditions: Vec<Value> = (0..10)
            .map(|number| {
                json!({
                    "type": format!("Type{number}"), "status": "True", "reason": "AsWished", "observedGeneration": 1,
                    "message": format!("The part {number} is as it is wished."), "lastTransitionTime": "2026-11-21T10:00:00Z",
                })
            })
            .collect();
        let object = json!({
            "apiVersion": "skykoi.io/v1alpha1", "kind": "KoiAgent", "spec": spec,
            "metadata": { "name": "a", "namespace": "ns", "uid": "u", "resourceVersion": "7", "managedFields": [{ "manager": "kubectl" }] },
            "status": { "observedGeneration": 1, "conditions": conditions },
        });
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn what_is_put_away_comes_back_whole_but_for_what_nobody_reads() {
        let kept = agent(&json!({ "owner": { "displayName": "Zoë" } }));
        let expected: KoiAgent = {
            let mut agent = kept.unpack().unwrap();
            agent.spec.owner.as_mut().unwrap().email = None;
            agent
        };
        assert_eq!(kept.unpack().unwrap(), expected);
        assert_eq!(
            expected.spec.owner.as_ref().unwrap().display_name.as_deref(),
            Some("Zoë")
        );
        assert_eq!(expected.status.as_ref().unwrap().conditions.len(), 10);
        assert_eq!(expected.metadata.managed_fields, None);
        assert_eq!(kept.meta().resource_version.as_deref(), Some("7"));
        let secret: Packed<Secret> =
            serde_json::from_value(json!({ "metadata": { "name": "s" }, "data": { "token": "dG9rZW4=" } })).unwrap();
        assert_eq!(secret.unpack().unwrap().data.unwrap()["token"].0, b"token");
    }

    #[test]
    fn an_object_that_makes_no_sense_says_so_whenever_it_is_looked_at() {
        let kept = agent(&json!({ "power": "Sideways" }));
        let told = kept.unpack().unwrap_err();
        assert_eq!(told.metadata.name.as_deref(), Some("a"));
        assert!(told.error.contains("Sideways"), "{}", told.error);
        assert!(!told.error.contains("column"), "{}", told.error);
    }

    #[test]
    fn one_that_is_nested_without_end_takes_no_other_with_it() {
        let deep = |levels| (0..levels).fold("1".to_owned(), |inner, _| format!(r#"{{"f:a":{inner}}}"#));
        let object = |levels| {
            let (fields, config) = (deep(levels), deep(levels));
            format!(
                r#"{{"metadata":{{"name":"deep","uid":"u","managedFields":[{{"manager":"m","fieldsV1":{fields}}}]}},"spec":{{"gateway":{{"config":{config}}}}}}}"#
            )
        };
        for levels in [200, 5_000] {
            let list = format!(
                r#"{{"apiVersion":"skykoi.io/v1alpha1","kind":"KoiAgentList","metadata":{{}},"items":[{},{}]}}"#,
                object(levels),
                r#"{"metadata":{"name":"other"},"spec":{}}"#,
            );
            let list: kube::core::ObjectList<Packed<KoiAgent>> = serde_json::from_str(&list).unwrap();
            let told = list.items[0].unpack().unwrap_err();
            assert_eq!(told.metadata.uid.as_deref(), Some("u"));
            assert!(told.error.contains("a hundred levels"), "{}", told.error);
            assert!(list.items[1].unpack().is_ok());
            let plan: Checked<koi_core::api::KoiPlan> = serde_json::from_str(&object(levels)).unwrap();
            assert_eq!(plan.meta().name.as_deref(), Some("deep"));
        }
    }

    #[test]
    fn an_event_of_a_watch_and_a_list_bring_packed_objects() {
        use kube::core::{ObjectList, WatchEvent};
        let object = r#"{"apiVersion":"skykoi.io/v1alpha1","kind":"KoiAgent","metadata":{"name":"a"},"spec":{}}"#;
        let event = serde_json::from_str(&format!(r#"{{"type":"ADDED","object":{object}}}"#)).unwrap();
        let WatchEvent::Added(added) = event else {
            panic!("another event")
        };
        let added: Packed<KoiAgent> = added;
        assert_eq!(added.unpack().unwrap().metadata.name.as_deref(), Some("a"));
        let list = format!(
            r#"{{"apiVersion":"skykoi.io/v1alpha1","kind":"KoiAgentList","metadata":{{}},"items":[{object}]}}"#
        );
        let list: ObjectList<Packed<KoiAgent>> = serde_json::from_str(&list).unwrap();
        assert_eq!(list.items.len(), 1);
        let nameless = serde_json::from_str::<Packed<KoiAgent>>(r#"{"spec":{}}"#);
        assert!(nameless.is_err(), "nothing to find it by");
    }

    /// A settled agent with names, addresses, digests and times of its own.
    fn settled() -> KoiAgent {
        let mut number = 0;
        let mut vary = |text: &str| {
            number += 1;
            text.chars()
                .map(|letter| char::from_digit((u32::from(letter) * 7 + number * 5) % 16, 16).unwrap())
                .collect::<String>()
        };
        let mut agent: KoiAgent = serde_json::from_str(include_str!("packed/agent.json")).unwrap();
        let status = agent.status.as_mut().unwrap();
        let instance = status.instance.as_mut().unwrap();
        instance.id = format!("i-{}", vary("00000000000000001"));
        instance.private_ip = Some("10.11.12.13".to_owned());
        let id = format!("vol-{}", vary("00000000000000001"));
        status.volume.as_mut().unwrap().id = id;
        status.bundle.as_mut().unwrap().sha256 = vary(&"0".repeat(64));
        let gateway = status.gateway.as_mut().unwrap();
        gateway.config_sha256 = Some(vary(&"0".repeat(64)));
        gateway.tls_sha256 = Some(vary(&"0".repeat(64)));
        for (seconds, condition) in (1..).zip(&mut status.conditions) {
            condition.last_transition_time.0 += jiff::SignedDuration::from_secs(seconds * 321);
        }
        agent
    }

    #[test]
    fn a_settled_agent_is_small() {
        let whole = serde_json::to_vec(&settled()).unwrap().len();
        let kept = Packed::new(settled());
        assert_eq!(kept.unpack().unwrap(), settled());
        let body = kept.kept.unwrap().body.len();
        assert!(body * 5 < whole, "{body} of {whole} bytes");
    }

    #[test]
    fn the_typical_agent_parses() {
        assert!(TYPICAL.len() > 3_000, "{} bytes", TYPICAL.len());
    }
}
