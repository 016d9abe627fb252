//! IAM documents: who may be the agent's role, and what the role may do.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::observed::Place;

/// Stands for every model in a set of model ids.
pub const ANY_MODEL: &str = "*";
/// Models of this provider are called through Bedrock; the rest of the id is Bedrock's.
pub const BEDROCK: &str = "amazon-bedrock/";
/// Prefixes of inference profiles that spread over regions.
const GEOGRAPHIES: &[&str] = &["us.", "us-gov.", "eu.", "apac.", "jp.", "au.", "ca.", "sa.", "global."];

/// Whose bundle the role may read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum BundleScope {
    /// A role that many agents share: each instance reads the parameter that is tagged with its own id.
    SharedByInstance,
    /// The agent's own path.
    Agent(String),
}

/// Who may take the role: EC2, for the instances that carry it.
#[must_use]
pub fn trust_policy(region: &str) -> String {
    let service = if partition(region) == "aws-cn" {
        "ec2.amazonaws.com.cn"
    } else {
        "ec2.amazonaws.com"
    };
    json!({
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}],
    })
    .to_string()
}

/// What the role may do: call the allowed models and read the bundle.
#[must_use]
pub fn role_policy(cluster_id: &str, place: &Place, models: &BTreeSet<String>, scope: &BundleScope) -> String {
    let mut statements = model_statements(place, models);
    statements.push(bundle_statement(cluster_id, place, scope));
    json!({"Version": "2012-10-17", "Statement": statements}).to_string()
}

/// The ARNs of the models and inference profiles that the role may call.
#[must_use]
pub fn model_arns(place: &Place, models: &BTreeSet<String>) -> BTreeSet<String> {
    let arns = ModelArns::of(place, models);
    arns.profiles.into_iter().chain(arns.models).collect()
}

fn model_statements(place: &Place, models: &BTreeSet<String>) -> Vec<Value> {
    let arns = ModelArns::of(place, models);
    if arns.is_empty() {
        return Vec::new();
    }
    let mut statements = vec![json!({
        "Sid": "InvokeModels",
        "Effect": "Allow",
        "Action": ["bedrock:InvokeModel", "bedrock:InvokeModelWithResponseStream"],
        "Resource": arns.profiles.iter().chain(&arns.models).collect::<Vec<_>>(),
    })];
    if !arns.profiles.is_empty() {
        statements.push(json!({
            "Sid": "ReadInferenceProfiles",
            "Effect": "Allow",
            "Action": ["bedrock:GetInferenceProfile"],
            "Resource": arns.profiles,
        }));
    }
    statements
}

/// What has to be named so that the models can be called: a profile, and the models behind it wherever it sends the call.
struct ModelArns {
    profiles: BTreeSet<String>,
    models: BTreeSet<String>,
}

impl ModelArns {
    fn of(place: &Place, ids: &BTreeSet<String>) -> Self {
        let mut arns = Self {
            profiles: BTreeSet::new(),
            models: BTreeSet::new(),
        };
        if ids.contains(ANY_MODEL) {
            arns.add_profile(place, "*", "*");
            return arns;
        }
        for id in ids.iter().filter_map(|id| id.strip_prefix(BEDROCK)) {
            arns.add(place, id);
        }
        arns
    }

    fn add(&mut self, place: &Place, id: &str) {
        if id.starts_with("arn:") {
            // An inference profile by ARN. What stands behind one that the account made is not in its name.
            let name = id.rsplit('/').next().unwrap_or_default();
            let model = GEOGRAPHIES
                .iter()
                .find_map(|prefix| name.strip_prefix(prefix))
                .unwrap_or("*");
            self.profiles.insert(id.into());
            self.add_model(place, "*", model);
        } else if let Some(model) = GEOGRAPHIES.iter().find_map(|prefix| id.strip_prefix(prefix)) {
            self.add_profile(place, id, model);
        } else if id
            .strip_suffix('*')
            .is_some_and(|stem| GEOGRAPHIES.iter().any(|prefix| prefix.starts_with(stem)))
        {
            // A pattern so wide that it takes in whole geographies.
            self.add_profile(place, id, "*");
        } else {
            self.add_model(place, &place.region, id);
        }
    }

    fn add_profile(&mut self, place: &Place, profile: &str, model: &str) {
        let Place { account, region } = place;
        self.profiles.insert(format!(
            "arn:{}:bedrock:{region}:{account}:inference-profile/{profile}",
            partition(region)
        ));
        self.add_model(place, "*", model);
    }

    fn add_model(&mut self, place: &Place, region: &str, model: &str) {
        self.models.insert(format!(
            "arn:{}:bedrock:{region}::foundation-model/{model}",
            partition(&place.region)
        ));
    }

    fn is_empty(&self) -> bool {
        self.profiles.is_empty() && self.models.is_empty()
    }
}

fn bundle_statement(cluster_id: &str, place: &Place, scope: &BundleScope) -> Value {
    let Place { account, region } = place;
    let path = match scope {
        BundleScope::SharedByInstance => format!("/koi/{cluster_id}/*"),
        BundleScope::Agent(uid) => format!("/koi/{cluster_id}/{uid}/*"),
    };
    let mut statement = json!({
        "Sid": "ReadOwnBundle",
        "Effect": "Allow",
        "Action": "ssm:GetParameter",
        "Resource": format!("arn:{}:ssm:{region}:{account}:parameter{path}", partition(region)),
    });
    if *scope == BundleScope::SharedByInstance {
        statement["Condition"] = json!({"StringLike": {"ec2:SourceInstanceARN": "*/${aws:ResourceTag/InstanceId}"}});
    }
    statement
}

/// The partition of a region: the second part of its ARNs.
#[must_use]
pub fn partition(region: &str) -> &'static str {
    const BY_PREFIX: &[(&str, &str)] = &[
        ("cn-", "aws-cn"),
        ("us-gov-", "aws-us-gov"),
        ("us-isob-", "aws-iso-b"),
        ("us-isof-", "aws-iso-f"),
        ("eu-isoe-", "aws-iso-e"),
        ("us-iso-", "aws-iso"),
        ("eusc-", "aws-eusc"),
    ];
    BY_PREFIX
        .iter()
        .find(|(prefix, _)| region.starts_with(prefix))
        .map_or("aws", |(_, partition)| partition)
}

/// Whether two policy documents say the same: order of keys, statements and list members does not count, nor whether a list of one is
/// written as a list. IAM gives documents back URL-encoded; both forms are read.
#[must_use]
pub fn policy_equal(left: &str, right: &str) -> bool {
    match (canonical(left), canonical(right)) {
        (Some(left), Some(right)) => left == right,
        _ => left == right,
    }
}

fn canonical(document: &str) -> Option<Value> {
    let value = match serde_json::from_str(document) {
        Ok(value) => value,
        Err(_) => serde_json::from_str(&percent_decoded(document)?).ok()?,
    };
    Some(canonical_value(value))
}

/// Lists become sorted sets and every other leaf a list of one; what stays objects are the document, statements, principals, conditions.
fn canonical_value(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .map(|(key, value)| (key, canonical_member(value)))
            .collect(),
        other => other,
    }
}

fn canonical_member(value: Value) -> Value {
    let members = match value {
        Value::Array(members) => members,
        one => vec![one],
    };
    let mut members: Vec<Value> = members.into_iter().map(canonical_value).collect();
    members.sort_by_key(Value::to_string);
    members.dedup();
    Value::Array(members)
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests;
