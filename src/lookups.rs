//! What changes rarely and is shared by many agents: asked once, remembered for a while.
//!
//! One question is in flight for each thing at a time, whoever waits for it. When the cloud cannot be asked, the last answer stands
//! for as long as this process lives; a thing that is not there is asked for again sooner than one that is. What failed is asked again
//! when a sweep works again: nobody is told of an outage that is over.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use koi_core::names;
use koi_core::observed::{Known, OwnerRecord, Place, Subnet};
use tokio::sync::watch;

use crate::clock::{Clock, after, since};
use crate::cloud::{Answer, Cloud, CloudError, ProfileFacts, SubnetChoice, Tagged};
use crate::fleet::SweepHealth;

const PLACE: Duration = Duration::from_secs(300);
const OWNER: Duration = Duration::from_secs(300);
const IMAGE: Duration = Duration::from_secs(900);
const SUBNET: Duration = Duration::from_secs(900);
const PROFILE: Duration = Duration::from_secs(900);
/// So long IAM may not show what we made.
const IAM_LAG: Duration = Duration::from_secs(30);
/// A profile is called in question no more often than this.
const DOUBT: Duration = Duration::from_secs(5);
/// For a thing that is not there: people may be about to make it.
const ABSENT: Duration = Duration::from_secs(30);
/// What only people can change is asked for again after this at the latest.
const FAILED: Duration = Duration::from_secs(600);
/// No answer is good for longer.
const LONGEST: Duration = Duration::from_secs(3600);
/// The last answer is good for so much longer to all but the one who asks anew.
const LASTING: Duration = Duration::from_secs(60);
/// What nobody asked for during this time is not kept: a settled agent is looked at every ten minutes.
const UNUSED: Duration = Duration::from_secs(3600);

/// The memory of all look-ups.
pub struct Lookups<C> {
    cloud: Arc<C>,
    clock: Clock,
    cluster_id: String,
    kube_system_uid: String,
    health: watch::Receiver<SweepHealth>,
    place: Cache<Place>,
    owner: Cache<OwnerRecord>,
    images: Cache<Option<String>>,
    subnets: Cache<Option<Subnet>>,
    profiles: Cache<Profile>,
    /// When profiles were last called in question.
    doubts: Mutex<HashMap<String, Timestamp>>,
}

/// A profile, and when we last changed it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// What IAM shows.
    pub facts: ProfileFacts,
    /// Our last change to it.
    pub changed_at: Option<Timestamp>,
}

impl<C: Cloud> Lookups<C> {
    /// Nothing is remembered. `health` tells how the sweeps of the same account go.
    pub fn new(
        cloud: Arc<C>,
        clock: Clock,
        cluster_id: &str,
        kube_system_uid: &str,
        health: watch::Receiver<SweepHealth>,
    ) -> Self {
        Self {
            cloud,
            clock,
            cluster_id: cluster_id.to_owned(),
            kube_system_uid: kube_system_uid.to_owned(),
            health,
            place: Cache::default(),
            owner: Cache::default(),
            images: Cache::default(),
            subnets: Cache::default(),
            profiles: Cache::default(),
            doubts: Mutex::default(),
        }
    }

    /// Now, and how often sweeps have come back so far.
    fn moment(&self) -> Moment {
        Moment {
            now: self.clock.now(),
            recovered: self.health.borrow().recovered,
        }
    }

    /// Where our credentials work.
    ///
    /// # Errors
    /// When it was never known and cannot be asked.
    pub async fn place(&self) -> Answer<Place> {
        self.place
            .get("", self.moment(), |_| PLACE, || self.cloud.place())
            .await
    }

    /// The same, as far as it is known.
    #[must_use]
    pub fn known_place(&self) -> Option<Place> {
        self.place.peek("")
    }

    /// How often in a row it could not be asked where this is, or whose.
    #[must_use]
    pub fn failed_at_home(&self) -> u32 {
        self.place.failures("").max(self.owner.failures(""))
    }

    /// Whose the cluster id is.
    ///
    /// # Errors
    /// When it was never known and cannot be asked.
    pub async fn owner(&self) -> Answer<OwnerRecord> {
        self.owner.get("", self.moment(), owner_ttl, || self.read_owner()).await
    }

    /// The same, asked now: who removes what has no agent goes by nothing older.
    ///
    /// # Errors
    /// When it cannot be asked, whatever was known of it.
    pub async fn owner_now(&self) -> Answer<OwnerRecord> {
        let now = self.clock.now();
        let owner = self.read_owner().await?;
        self.owner.put("", owner.clone(), after(now, owner_ttl(&owner)));
        Ok(owner)
    }

    async fn read_owner(&self) -> Answer<OwnerRecord> {
        let name = names::owner_parameter(&self.cluster_id);
        let text = self.cloud.parameter(&name).await?;
        Ok(read_owner(text.as_deref(), &self.kube_system_uid))
    }

    /// The text of our own owner record.
    #[must_use]
    pub fn owner_text(&self) -> String {
        serde_json::json!({ "kubeSystemUid": self.kube_system_uid }).to_string()
    }

    /// The owner record may have changed: it is read again.
    pub fn forget_owner(&self) {
        self.owner.forget("");
    }

    /// The image that a parameter names; one that holds anything else names none.
    ///
    /// # Errors
    /// When it was never known and cannot be asked.
    pub async fn image(&self, parameter: &str) -> Answer<Known<String>> {
        let ask = || async { Ok(read_image(self.cloud.parameter(parameter).await?)) };
        let ttl = |image: &Option<String>| ttl(image.as_ref(), IMAGE);
        let found = self.images.get(parameter, self.moment(), ttl, ask).await?;
        Ok(known(found))
    }

    /// Those of these subnets that there are, in their order; where none is named the default one. With a `zone` those in it, or the
    /// first of all where none is.
    ///
    /// # Errors
    /// When one that counts was never known and cannot be asked.
    pub async fn subnets(&self, ids: &[String], zone: Option<&str>) -> Answer<Vec<Subnet>> {
        let named = ids.iter().map(|id| SubnetChoice::Id(id));
        let default = [Some(SubnetChoice::Default), zone.map(SubnetChoice::DefaultIn)];
        let default = default.into_iter().flatten().filter(|_| ids.is_empty());
        let mut found = Vec::new();
        for choice in named.chain(default) {
            found.extend(self.one_subnet(choice).await?);
        }
        if let Some(zone) = zone
            && found.iter().any(|subnet| subnet.zone == zone)
        {
            found.retain(|subnet| subnet.zone == zone);
        }
        Ok(found)
    }

    async fn one_subnet(&self, choice: SubnetChoice<'_>) -> Answer<Option<Subnet>> {
        let key = match choice {
            SubnetChoice::Id(id) => id.to_owned(),
            SubnetChoice::DefaultIn(zone) => format!("default in {zone}"),
            SubnetChoice::Default => "default".to_owned(),
        };
        self.subnets
            .get(
                &key,
                self.moment(),
                |subnet| ttl(subnet.as_ref(), SUBNET),
                || self.cloud.subnet(choice),
            )
            .await
    }

    /// An instance profile.
    ///
    /// # Errors
    /// When it was never known and cannot be asked.
    pub async fn profile(&self, name: &str) -> Answer<Profile> {
        let whole = |profile: &Profile| if profile.facts.role_in_profile { PROFILE } else { ABSENT };
        let ask = || async {
            let facts = self.cloud.profile(name).await?;
            let changed_at = self.profiles.peek(name).and_then(|profile: Profile| profile.changed_at);
            Ok(Profile { facts, changed_at })
        };
        self.profiles.get(name, self.moment(), whole, ask).await
    }

    /// We changed a profile, its role or its policy: `change` does the same to what is remembered, since IAM shows it only later.
    pub fn note_profile(&self, name: &str, change: impl FnOnce(&mut ProfileFacts)) {
        let now = self.clock.now();
        let mut profile = self.profiles.peek(name).unwrap_or_default();
        change(&mut profile.facts);
        profile.changed_at = Some(now);
        self.profiles.put(name, profile, after(now, PROFILE));
    }

    /// What is remembered of a profile cannot be right: it is asked for again.
    pub fn forget_profile(&self, name: &str) {
        self.profiles.forget(name);
    }

    /// The same, unless we changed it so recently that IAM may only be late.
    pub fn forget_older_profile(&self, name: &str) {
        let changed_at = self.profiles.peek(name).and_then(|profile| profile.changed_at);
        if changed_at.is_none_or(|changed_at| since(changed_at, self.clock.now()) > IAM_LAG) {
            self.forget_profile(name);
        }
    }

    /// Asks IAM anew what there is of a profile, and says whether that is something else than what was remembered. What cannot be asked
    /// is not.
    pub async fn turns_out_different(&self, name: &str) -> bool {
        let shape = |profile: Profile| {
            let ProfileFacts {
                profile,
                role,
                role_in_profile,
                ..
            } = profile.facts;
            (profile.is_some(), role.is_some(), role_in_profile)
        };
        let before = self.profiles.peek(name).map(shape);
        self.forget_profile(name);
        self.profile(name).await.is_ok_and(|now| Some(shape(now)) != before)
    }

    /// A launch was refused for its profile: IAM is asked at once and not in its own time, however many are refused together.
    pub fn doubt_profile(&self, name: &str) {
        let now = self.clock.now();
        let mut doubts = self.doubts.lock().unwrap_or_else(PoisonError::into_inner);
        let lately = doubts.get(name).is_some_and(|at| since(*at, now) < DOUBT);
        if !lately {
            doubts.insert(name.to_owned(), now);
            self.forget_older_profile(name);
        }
    }

    /// Forgets what nobody asks for any more. Shared profiles stay, for who removes them goes by what is remembered.
    pub fn forget_unused(&self) {
        let now = self.clock.now();
        let is_own = |thing: &Option<Tagged>| {
            let tags = thing.as_ref().map(|thing| &thing.tags);
            tags.is_none_or(|tags| tags.contains_key(names::TAG_AGENT_UID))
        };
        self.images.forget_unused(now, |_| true);
        self.subnets.forget_unused(now, |_| true);
        let unshared = |profile: &Profile| is_own(&profile.facts.profile) && is_own(&profile.facts.role);
        self.profiles.forget_unused(now, unshared);
        let mut doubts = self.doubts.lock().unwrap_or_else(PoisonError::into_inner);
        doubts.retain(|_, at| since(*at, now) < DOUBT);
    }

    /// Profiles that are remembered as there.
    #[must_use]
    pub fn profiles(&self) -> Vec<(String, Profile)> {
        self.profiles.all()
    }
}

fn owner_ttl(owner: &OwnerRecord) -> Duration {
    if *owner == OwnerRecord::Ours { OWNER } else { ABSENT }
}

fn ttl<T>(found: Option<&T>, present: Duration) -> Duration {
    if found.is_some() { present } else { ABSENT }
}

fn known<T>(found: Option<T>) -> Known<T> {
    found.map_or(Known::Absent, Known::Present)
}

/// The image that a parameter's text names, with the blanks around it cut. What else it may hold is nobody's business: agents choose the
/// parameter, and its text would be told in their status.
fn read_image(text: Option<String>) -> Option<String> {
    text.map(|text| text.trim().to_owned())
        .filter(|text| names::is_image_id(text))
}

/// Reads the owner record. One that makes no sense is somebody else's.
fn read_owner(text: Option<&str>, kube_system_uid: &str) -> OwnerRecord {
    let Some(text) = text else {
        return OwnerRecord::Unbound;
    };
    let parsed: Option<serde_json::Value> = serde_json::from_str(text).ok();
    match parsed.as_ref().and_then(|record| record.get("kubeSystemUid")?.as_str()) {
        Some(uid) if uid == kube_system_uid => OwnerRecord::Ours,
        Some(uid) => OwnerRecord::Foreign {
            kube_system_uid: uid.to_owned(),
        },
        None => OwnerRecord::Foreign {
            kube_system_uid: "unreadable".to_owned(),
        },
    }
}

/// When something is asked.
#[derive(Clone, Copy)]
struct Moment {
    now: Timestamp,
    /// How many times the cloud could be asked again after it could not.
    recovered: u64,
}

/// Answers by key, each with its time to live.
struct Cache<V> {
    slots: Mutex<HashMap<String, Arc<Slot<V>>>>,
}

struct Slot<V> {
    /// Held while one asks: the others wait for the same answer.
    asking: tokio::sync::Mutex<()>,
    kept: Mutex<Kept<V>>,
}

struct Kept<V> {
    value: Option<V>,
    error: Option<CloudError>,
    failures: u32,
    /// How often sweeps had come back when it was asked.
    recovered: u64,
    fresh_until: Timestamp,
}

impl<V> Default for Cache<V> {
    fn default() -> Self {
        Self {
            slots: Mutex::new(HashMap::new()),
        }
    }
}

impl<V: Clone> Cache<V> {
    fn slot(&self, key: &str) -> Arc<Slot<V>> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || {
            let kept = Kept {
                value: None,
                error: None,
                failures: 0,
                recovered: 0,
                fresh_until: Timestamp::MIN,
            };
            Arc::new(Slot {
                asking: tokio::sync::Mutex::new(()),
                kept: Mutex::new(kept),
            })
        };
        Arc::clone(slots.entry(key.to_owned()).or_insert_with(fresh))
    }

    async fn get<F>(&self, key: &str, at: Moment, ttl: impl Fn(&V) -> Duration, ask: impl FnOnce() -> F) -> Answer<V>
    where
        F: Future<Output = Answer<V>>,
    {
        let slot = self.slot(key);
        if let Some(answer) = slot.fresh(at) {
            return answer;
        }
        let _asking = match slot.asking.try_lock() {
            Ok(asking) => asking,
            // Somebody asks, and may have to wait for that: the last answer is good until the next one comes.
            Err(_) => match slot.lasting(at) {
                Some(value) => return Ok(value),
                None => slot.asking.lock().await,
            },
        };
        if let Some(answer) = slot.fresh(at) {
            return answer;
        }
        let answer = ask().await;
        slot.keep(answer, at, ttl)
    }

    fn peek(&self, key: &str) -> Option<V> {
        self.slot(key).kept().value.clone()
    }

    fn failures(&self, key: &str) -> u32 {
        self.slot(key).kept().failures
    }

    fn put(&self, key: &str, value: V, fresh_until: Timestamp) {
        *self.slot(key).kept() = Kept {
            value: Some(value),
            error: None,
            failures: 0,
            recovered: 0,
            fresh_until,
        };
    }

    fn forget(&self, key: &str) {
        self.slot(key).kept().fresh_until = Timestamp::MIN;
    }

    /// Forgets what ran out long ago, as far as it may go.
    fn forget_unused(&self, now: Timestamp, may_go: impl Fn(&V) -> bool) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.retain(|_, slot| {
            let kept = slot.kept();
            let is_used = Arc::strong_count(slot) > 1 || after(kept.fresh_until, UNUSED) > now;
            is_used || !kept.value.as_ref().is_none_or(&may_go)
        });
    }

    fn all(&self) -> Vec<(String, V)> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots
            .iter()
            .filter_map(|(key, slot)| Some((key.clone(), slot.kept().value.clone()?)))
            .collect()
    }
}

impl<V: Clone> Slot<V> {
    fn kept(&self) -> std::sync::MutexGuard<'_, Kept<V>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fresh(&self, at: Moment) -> Option<Answer<V>> {
        let kept = self.kept();
        let outlived = kept.error.is_some() && kept.recovered < at.recovered;
        // What is good for longer than any answer was kept before the clock was set back.
        let ages = kept.fresh_until <= after(at.now, LONGEST);
        (at.now < kept.fresh_until && ages && !outlived)
            .then(|| kept.answer())
            .flatten()
    }

    /// The last answer, where nothing but its age speaks against it, and not much of that: what ran out long ago may have changed.
    fn lasting(&self, at: Moment) -> Option<V> {
        let kept = self.kept();
        let ran_out = kept.fresh_until > Timestamp::MIN && kept.fresh_until <= at.now;
        let only_old = ran_out && at.now <= after(kept.fresh_until, LASTING);
        kept.value.clone().filter(|_| only_old)
    }

    fn keep(&self, answer: Answer<V>, at: Moment, ttl: impl Fn(&V) -> Duration) -> Answer<V> {
        let Moment { now, recovered } = at;
        let mut kept = self.kept();
        match answer {
            Ok(value) => {
                *kept = Kept {
                    fresh_until: after(now, ttl(&value)),
                    value: Some(value),
                    error: None,
                    failures: 0,
                    recovered,
                }
            }
            Err(error) => {
                tracing::warn!(%error, "a look-up failed{}", if kept.value.is_some() { "; the last answer stands" } else { "" });
                // A thousand agents do not repeat it in one breath, and a denial is not repeated all day.
                kept.failures = kept.failures.saturating_add(1);
                let pause = error.refusal().pause(kept.failures);
                kept.error = Some(error);
                kept.recovered = recovered;
                kept.fresh_until = after(now, pause.unwrap_or(FAILED));
            }
        }
        // One of the two was just set.
        kept.answer()
            .unwrap_or_else(|| Err(CloudError::unintelligible("look-up", "no answer")))
    }
}

impl<V: Clone> Kept<V> {
    fn answer(&self) -> Option<Answer<V>> {
        match (&self.value, &self.error) {
            (Some(value), _) => Some(Ok(value.clone())),
            (None, Some(error)) => Some(Err(error.clone())),
            (None, None) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn on(seconds: i64, recovered: u64) -> Moment {
        Moment {
            now: at(seconds),
            recovered,
        }
    }

    fn failed() -> CloudError {
        CloudError::unintelligible("GetParameter", "away")
    }

    #[tokio::test]
    async fn many_who_ask_at_once_are_one_question() {
        let cache = Cache::default();
        let asked = AtomicU32::new(0);
        let ask = || async {
            asked.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            Ok(7)
        };
        let answers = futures::future::join_all((0..20).map(|_| cache.get("k", on(0, 0), |_| PLACE, ask))).await;
        assert_eq!((answers, asked.into_inner()), (vec![Ok(7); 20], 1));
    }

    #[tokio::test]
    async fn an_answer_outlives_a_failure_and_is_asked_for_again_in_its_time() {
        let cache = Cache::default();
        let get = |seconds, answer: Answer<u8>| {
            cache.get(
                "k",
                on(seconds, 0),
                |_| Duration::from_secs(10),
                || std::future::ready(answer),
            )
        };
        assert_eq!(get(0, Err(failed())).await, Err(failed()));
        assert_eq!(get(0, Ok(1)).await, Err(failed()), "asked again too soon");
        assert_eq!(get(3, Ok(1)).await, Ok(1));
        assert_eq!(get(12, Ok(2)).await, Ok(1));
        assert_eq!(get(13, Err(failed())).await, Ok(1), "the last answer stands");
        assert_eq!(get(16, Ok(3)).await, Ok(3));
        cache.forget("k");
        assert_eq!(get(16, Ok(4)).await, Ok(4));
    }

    #[tokio::test]
    async fn what_failed_is_asked_again_once_when_the_cloud_is_back() {
        let cache = Cache::default();
        let get =
            |recovered, answer: Answer<u8>| cache.get("k", on(0, recovered), |_| PLACE, || std::future::ready(answer));
        assert_eq!(get(3, Err(failed())).await, Err(failed()));
        assert_eq!(get(3, Ok(1)).await, Err(failed()), "too soon");
        assert_eq!(get(4, Err(failed())).await, Err(failed()));
        assert_eq!(get(4, Ok(1)).await, Err(failed()), "once");
        assert_eq!(get(5, Ok(1)).await, Ok(1));
        assert_eq!(get(6, Ok(2)).await, Ok(1), "what is known stays");
    }

    #[test]
    fn a_parameter_without_an_image_id_names_no_image_and_is_not_told() {
        let read = |text: &str| read_image(Some(text.to_owned()));
        assert_eq!(read_image(None), None);
        assert_eq!(
            read("ami-0a22040000000001f\n").as_deref(),
            Some("ami-0a22040000000001f")
        );
        for text in [
            "",
            "hunter2",
            "ami-",
            "ami-0A220400",
            "ami-0a22040000000001f ami-0a22040000000001f",
            r#"{"token":"s"}"#,
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn an_owner_record_is_ours_only_when_it_says_so() {
        assert_eq!(read_owner(None, "u"), OwnerRecord::Unbound);
        assert_eq!(read_owner(Some(r#"{"kubeSystemUid":"u"}"#), "u"), OwnerRecord::Ours);
        assert_eq!(
            read_owner(Some(r#"{"kubeSystemUid":"v"}"#), "u"),
            OwnerRecord::Foreign {
                kube_system_uid: "v".into()
            }
        );
        assert_eq!(
            read_owner(Some("nonsense"), "u"),
            OwnerRecord::Foreign {
                kube_system_uid: "unreadable".into()
            }
        );
    }

    #[tokio::test]
    async fn who_waits_for_an_answer_that_is_under_way_has_the_last_one() {
        let cache = Cache::default();
        cache.put("k", 1, at(10));
        let (asked, answer) = (tokio::sync::Notify::new(), tokio::sync::Notify::new());
        let slow = || async {
            asked.notify_one();
            answer.notified().await;
            Ok(2)
        };
        let never = || async { panic!("it is asked already") };
        let first = cache.get("k", on(20, 0), |_| PLACE, slow);
        let others = async {
            asked.notified().await;
            assert_eq!(cache.get("k", on(20, 0), |_| PLACE, never).await, Ok(1));
            cache.forget("k");
            let doubted = cache.get("k", on(20, 0), |_| PLACE, never);
            answer.notify_one();
            assert_eq!(doubted.await, Ok(2), "what was called in question counts no more");
        };
        assert_eq!(futures::join!(first, others).0, Ok(2));
    }

    #[tokio::test]
    async fn who_waits_has_no_answer_that_ran_out_long_ago() {
        let cache = Cache::default();
        cache.put("k", 1, at(10));
        let late = 11 + LASTING.as_secs().cast_signed();
        let ask = || async {
            tokio::task::yield_now().await;
            Ok(2)
        };
        let answers = futures::future::join_all((0..3).map(|_| cache.get("k", on(late, 0), |_| PLACE, ask))).await;
        assert_eq!(answers, vec![Ok(2); 3]);
    }

    #[tokio::test]
    async fn what_was_kept_before_the_clock_was_set_back_is_asked_for_again() {
        let cache = Cache::default();
        cache.put("k", 1, at(7200 + 30));
        let ask = || async { Ok(2) };
        assert_eq!(cache.get("k", on(0, 0), |_| PLACE, ask).await, Ok(2));
    }

    #[test]
    fn what_nobody_asked_for_is_not_kept() {
        let cache = Cache::default();
        cache.put("old", 1, at(0));
        cache.put("shared", 2, at(0));
        cache.put("new", 3, at(100));
        let held = cache.slot("old");
        cache.forget_unused(at(3600), |value| *value != 2);
        assert_eq!(cache.all().len(), 3, "somebody holds it");
        drop(held);
        cache.forget_unused(at(3600), |value| *value != 2);
        let mut kept: Vec<u8> = cache.all().into_iter().map(|(_, value)| value).collect();
        kept.sort_unstable();
        assert_eq!(kept, [2, 3]);
    }
}
