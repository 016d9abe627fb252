//! AWS's token buckets: which operation draws from which, how much it holds and how fast it fills.
//!
//! EC2's figures are those of its documentation for accounts whose quotas were not raised; each of its actions has a bucket of its own
//! in each account and region. SSM's are its default throughput quotas. IAM publishes none: these are careful.

/// A bucket: how many tokens it holds, and how many it gets in a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Tokens that a full bucket holds.
    pub capacity: f64,
    /// Tokens for each second.
    pub refill: f64,
}

const fn rate(capacity: f64, refill: f64) -> Rate {
    Rate { capacity, refill }
}

/// Actions of EC2 that are not at the general figures for changes.
const EC2: &[(&str, Rate)] = &[
    ("RunInstances", rate(5.0, 2.0)),
    ("StartInstances", rate(5.0, 2.0)),
    ("StopInstances", rate(100.0, 5.0)),
    ("TerminateInstances", rate(100.0, 5.0)),
    ("CreateTags", rate(100.0, 10.0)),
    ("DeleteTags", rate(100.0, 10.0)),
    ("CreateVolume", rate(100.0, 5.0)),
    ("DeleteVolume", rate(100.0, 5.0)),
    ("ModifyVolume", rate(100.0, 5.0)),
    ("AttachVolume", rate(100.0, 5.0)),
    ("DetachVolume", rate(100.0, 5.0)),
    ("CreateSnapshot", rate(100.0, 5.0)),
    ("DeleteSnapshot", rate(100.0, 5.0)),
    ("AssociateIamInstanceProfile", rate(100.0, 5.0)),
    ("DisassociateIamInstanceProfile", rate(100.0, 5.0)),
];
const EC2_CHANGE: Rate = rate(50.0, 5.0);
/// Listings with a filter or a page size, as all of ours are.
const EC2_READ: Rate = rate(100.0, 20.0);
const IAM_READ: Rate = rate(60.0, 20.0);
const IAM_CHANGE: Rate = rate(20.0, 5.0);
const SSM_READ: Rate = rate(40.0, 40.0);
const SSM_PUT: Rate = rate(10.0, 3.0);
const SSM_DELETE: Rate = rate(10.0, 5.0);
const STS: Rate = rate(600.0, 600.0);

/// The bucket that an operation draws from: its name, for metrics, and its figures.
#[must_use]
pub fn of(operation: &'static str) -> (&'static str, Rate) {
    if is_iam(operation) {
        return if operation.starts_with("Get") || operation.starts_with("List") {
            ("iam-read", IAM_READ)
        } else {
            ("iam-change", IAM_CHANGE)
        };
    }
    match operation {
        "GetParameter" | "GetParameters" | "GetParametersByPath" => ("ssm-read", SSM_READ),
        "DescribeParameters" => (operation, SSM_DELETE),
        "PutParameter" => ("ssm-put", SSM_PUT),
        "DeleteParameter" => ("ssm-delete", SSM_DELETE),
        "GetCallerIdentity" | "AssumeRole" => ("sts", STS),
        _ if operation.starts_with("Describe") || operation.starts_with("Get") => (operation, EC2_READ),
        _ => {
            let special = EC2.iter().find(|(name, _)| *name == operation);
            (operation, special.map_or(EC2_CHANGE, |(_, rate)| *rate))
        }
    }
}

fn is_iam(operation: &str) -> bool {
    // Actions of EC2 that speak of profiles have "IamInstanceProfile" in their names.
    let speaks_of_identities = operation.contains("Role") || operation.contains("InstanceProfile");
    speaks_of_identities && !operation.contains("IamInstanceProfile") && operation != "AssumeRole"
}
