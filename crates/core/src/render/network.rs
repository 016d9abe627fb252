//! The rule set of an agent: who may reach 443, and the name of the group that stands for it.

use std::collections::BTreeSet;

use crate::desired::IngressWish;
use crate::desired::cidr::Cidr;
use crate::names;
use crate::observed::{Rule, Source, Subnet, WornGroup};

/// How many hex digits of a rule set's hash stand in names.
const HASH_DIGITS: usize = 12;

/// The wished rules in a VPC.
#[must_use]
pub fn rules(wish: &IngressWish, subnet: &Subnet) -> BTreeSet<Rule> {
    let own: BTreeSet<Cidr> = match &wish.cidrs {
        Some(cidrs) => cidrs.clone(),
        None => subnet.vpc_cidrs.iter().filter_map(|text| Cidr::lenient(text)).collect(),
    };
    let own = own.into_iter().map(|cidr| Source::Cidr(cidr.to_string()));
    own.chain(wish.operator.iter().cloned()).map(Rule::https).collect()
}

/// The hash of a rule set: the same for the same rules, in whichever order they were asked for.
#[must_use]
pub fn rule_set(rules: &BTreeSet<Rule>) -> String {
    let texts: Vec<String> = rules.iter().map(rule_text).collect();
    let parts: Vec<&str> = texts.iter().map(String::as_str).collect();
    names::short_hash(&parts, HASH_DIGITS)
}

/// What a group of ours lets in that no rule set of ours does: anything but HTTPS, and the one source too many that its name tells of.
#[must_use]
pub fn strange_rules(cluster_id: &str, group: &WornGroup) -> Vec<Rule> {
    let is_https = |rule: &&Rule| **rule == Rule::https(rule.source.clone());
    let (https, mut strange): (Vec<&Rule>, Vec<&Rule>) = group.facts.ingress.iter().partition(is_https);
    let is_named = |rules: BTreeSet<Rule>| names::security_group(cluster_id, &rule_set(&rules)) == group.name;
    let without = |rule: Option<&Rule>| {
        https
            .iter()
            .copied()
            .filter(|other| Some(*other) != rule)
            .cloned()
            .collect()
    };
    if !is_named(without(None)) {
        strange.extend(https.iter().find(|rule| is_named(without(Some(rule)))));
    }
    strange.into_iter().cloned().collect()
}

fn rule_text(rule: &Rule) -> String {
    let source = match &rule.source {
        Source::Cidr(cidr) => format!("cidr {cidr}"),
        Source::Group(group) => format!("group {group}"),
        Source::PrefixList(list) => format!("prefix-list {list}"),
    };
    format!("{} {}-{} {source}", rule.protocol, rule.from_port, rule.to_port)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{rule_set, rules};
    use crate::desired::IngressWish;
    use crate::desired::cidr::Cidr;
    use crate::observed::{Rule, Source, Subnet};

    fn subnet() -> Subnet {
        Subnet {
            id: "subnet-1".into(),
            vpc_id: "vpc-1".into(),
            zone: "a".into(),
            vpc_cidrs: vec!["172.31.0.0/16".into()],
        }
    }

    #[test]
    fn the_vpc_and_the_operator_come_in_when_nobody_says_anything() {
        let wish = IngressWish {
            cidrs: None,
            operator: BTreeSet::from([Source::Group("sg-op".into())]),
        };
        let expected = BTreeSet::from([
            Rule::https(Source::Cidr("172.31.0.0/16".into())),
            Rule::https(Source::Group("sg-op".into())),
        ]);
        assert_eq!(rules(&wish, &subnet()), expected);
    }

    #[test]
    fn an_empty_list_admits_the_operator_alone_and_names_differ() {
        let nobody = IngressWish {
            cidrs: Some(BTreeSet::new()),
            operator: BTreeSet::new(),
        };
        assert_eq!(rules(&nobody, &subnet()), BTreeSet::new());
        let one = IngressWish {
            cidrs: Some(BTreeSet::from([Cidr::parse("10.0.0.0/8").unwrap()])),
            operator: BTreeSet::new(),
        };
        let (nobody, one) = (rule_set(&rules(&nobody, &subnet())), rule_set(&rules(&one, &subnet())));
        assert_ne!(nobody, one);
        assert_eq!((nobody.len(), one.len()), (12, 12));
    }

    #[test]
    fn each_set_of_rules_has_a_name_of_its_own() {
        let sources = [
            Source::Cidr("10.0.0.0/8".into()),
            Source::Cidr("10.0.0.0/9".into()),
            Source::Group("sg-1".into()),
            Source::PrefixList("pl-1".into()),
        ];
        let mut sets: Vec<BTreeSet<Rule>> = sources.map(|source| BTreeSet::from([Rule::https(source)])).into();
        let other_port = Rule {
            to_port: 444,
            ..Rule::https(Source::Group("sg-1".into()))
        };
        sets.push(BTreeSet::from([other_port]));
        let names: BTreeSet<String> = sets.iter().map(rule_set).collect();
        assert_eq!(names.len(), sets.len());
    }
}
