//! Offerings: which type in which subnet the next launch asks for, and what EC2 had no room for lately.
//!
//! Never a type that nobody allowed. An agent that names its type gets this one or none. For one that leaves the choice to its plan the
//! plan's list of allowed types is the choice: the types that `limits.instanceTypes` spells out, in its order, of the same architecture.
//! Patterns such as `t3.*` allow agents to ask and offer nothing by themselves. Subnets: those of the plan's `network.subnetIds`, in
//! order; an agent that names its subnet gets this one. All subnets with the first type come before any with the second.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use crate::observed::Subnet;

/// So long an offering without room is passed over.
const NO_ROOM: Duration = Duration::from_secs(180);
/// So long one that the zone does not have at all.
const NOT_OFFERED: Duration = Duration::from_secs(3600);

/// A type in a subnet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offering {
    /// The instance type.
    pub instance_type: String,
    /// The subnet's id.
    pub subnet_id: String,
}

/// What EC2 had no room for, shared by all agents of an account and region.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exhausted {
    /// By type and subnet; without a type the subnet has no addresses left.
    until: BTreeMap<(Option<String>, String), Timestamp>,
}

impl Exhausted {
    /// EC2 refused this offering with this code.
    pub fn note(&mut self, offering: &Offering, code: &str, now: Timestamp) {
        self.until.retain(|_, until| *until > now);
        let (instance_type, pause) = match code {
            "InsufficientFreeAddressesInSubnet" => (None, NO_ROOM),
            "Unsupported" | "UnsupportedOperation" => (Some(offering.instance_type.clone()), NOT_OFFERED),
            _ => (Some(offering.instance_type.clone()), NO_ROOM),
        };
        let until = now.saturating_add(pause).unwrap_or(now);
        self.until.insert((instance_type, offering.subnet_id.clone()), until);
    }

    /// Until when it is passed over.
    #[must_use]
    pub fn until(&self, offering: &Offering, now: Timestamp) -> Option<Timestamp> {
        let subnet = &offering.subnet_id;
        let by_type = self.until.get(&(Some(offering.instance_type.clone()), subnet.clone()));
        let by_subnet = self.until.get(&(None, subnet.clone()));
        by_type
            .into_iter()
            .chain(by_subnet)
            .max()
            .copied()
            .filter(|until| *until > now)
    }

    /// Whether any of these has not been refused lately.
    #[must_use]
    pub fn leaves_any(&self, offerings: &[Offering], now: Timestamp) -> bool {
        offerings.iter().any(|offering| self.until(offering, now).is_none())
    }
}

/// All offerings, in the order in which they are asked for.
#[must_use]
pub fn all<'a>(types: impl IntoIterator<Item = &'a String>, subnets: &[Subnet]) -> Vec<Offering> {
    let of_type = |instance_type: &'a String| {
        subnets.iter().map(move |subnet| Offering {
            instance_type: instance_type.clone(),
            subnet_id: subnet.id.clone(),
        })
    };
    types.into_iter().flat_map(of_type).collect()
}

/// The one to ask for now: the first that was not refused lately, else the one whose time is over first.
#[must_use]
pub fn choose<'a>(offerings: &'a [Offering], exhausted: &Exhausted, now: Timestamp) -> Option<&'a Offering> {
    offerings.iter().min_by_key(|offering| exhausted.until(offering, now))
}

/// The types that a plan's list offers beside the first choice.
#[must_use]
pub fn fallback_types(chosen: &str, allowed: &[String]) -> Vec<String> {
    let offered = allowed
        .iter()
        .filter(|name| !name.contains('*') && *name != chosen && is_arm(name) == is_arm(chosen));
    offered.cloned().collect()
}

/// Graviton families have a `g` after the number of their generation (`t4g`, `c7gn`), or are called `a1`: the image of one architecture
/// does not boot on the other.
fn is_arm(instance_type: &str) -> bool {
    let family = instance_type.split('.').next().unwrap_or_default();
    let attributes = family.trim_start_matches(|c: char| c.is_ascii_alphabetic());
    let attributes = attributes.trim_start_matches(|c: char| c.is_ascii_digit());
    family == "a1" || attributes.starts_with('g')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn subnet(id: &str) -> Subnet {
        Subnet {
            id: id.into(),
            vpc_id: "vpc-1".into(),
            zone: format!("zone-of-{id}"),
            vpc_cidrs: Vec::new(),
        }
    }

    fn names(offerings: &[Offering]) -> Vec<(&str, &str)> {
        offerings
            .iter()
            .map(|offering| (offering.instance_type.as_str(), offering.subnet_id.as_str()))
            .collect()
    }

    #[test]
    fn all_subnets_come_before_the_next_type() {
        let types = ["t3.small".to_owned(), "t3.medium".to_owned()];
        let offerings = all(&types, &[subnet("a"), subnet("b")]);
        assert_eq!(
            names(&offerings),
            [
                ("t3.small", "a"),
                ("t3.small", "b"),
                ("t3.medium", "a"),
                ("t3.medium", "b")
            ]
        );
    }

    #[test]
    fn an_offering_is_asked_for_again_when_its_time_is_over_to_the_second() {
        let offering = all(&["t3.small".to_owned()], &[subnet("a")]).remove(0);
        let mut exhausted = Exhausted::default();
        exhausted.note(&offering, "InsufficientInstanceCapacity", at(0));
        let until = exhausted.until(&offering, at(0)).unwrap();
        assert_eq!(until, at(180));
        assert_eq!(exhausted.until(&offering, at(179)), Some(until));
        assert_eq!(exhausted.until(&offering, until), None);
    }

    #[test]
    fn what_was_refused_is_passed_over_for_a_while_and_then_comes_first_again() {
        let types = ["t3.small".to_owned(), "t3.medium".to_owned()];
        let offerings = all(&types, &[subnet("a"), subnet("b")]);
        let mut exhausted = Exhausted::default();
        let mut taken = Vec::new();
        for second in 0..5 {
            let offering = choose(&offerings, &exhausted, at(second)).unwrap();
            taken.push(offering.clone());
            exhausted.note(offering, "InsufficientInstanceCapacity", at(second));
        }
        assert_eq!(taken[..4], offerings[..]);
        assert_eq!(taken[4], offerings[0], "the one whose time is over first");
        assert!(!exhausted.leaves_any(&offerings, at(10)));
        assert!(exhausted.leaves_any(&offerings, at(182)));
        assert_eq!(choose(&offerings, &exhausted, at(400)), offerings.first());
    }

    #[test]
    fn a_subnet_without_addresses_is_out_for_every_type_and_a_type_that_a_zone_lacks_for_long() {
        let types = ["t3.small".to_owned(), "t3.medium".to_owned()];
        let offerings = all(&types, &[subnet("a"), subnet("b")]);
        let mut exhausted = Exhausted::default();
        exhausted.note(&offerings[0], "InsufficientFreeAddressesInSubnet", at(0));
        exhausted.note(&offerings[1], "Unsupported", at(0));
        assert_eq!(choose(&offerings, &exhausted, at(1)), offerings.get(3));
        assert_eq!(choose(&offerings[..2], &exhausted, at(1000)), offerings.first());
        assert_eq!(exhausted.until(&offerings[1], at(1000)), Some(at(3600)));
    }

    #[test]
    fn a_plan_offers_the_types_that_it_spells_out_of_the_same_architecture() {
        let allowed: Vec<String> = ["t3.*", "t3.small", "t4g.small", "m7i.large", "c7gn.large", "a1.large"]
            .map(Into::into)
            .into();
        assert_eq!(fallback_types("t3.small", &allowed), ["m7i.large"]);
        assert_eq!(fallback_types("t4g.small", &allowed), ["c7gn.large", "a1.large"]);
        assert_eq!(fallback_types("g4dn.xlarge", &allowed), ["t3.small", "m7i.large"]);
        assert_eq!(fallback_types("t3.small", &[]), Vec::<String>::new());
    }
}
