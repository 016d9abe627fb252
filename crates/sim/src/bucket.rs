//! Token buckets for each operation, with the sizes that AWS documents.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::{Answer, refuse};

/// Capacity, and tokens for each second.
pub type Size = (f64, f64);

/// The buckets of one account and region.
#[derive(Clone, Debug, Default)]
pub struct Buckets {
    levels: BTreeMap<&'static str, (f64, Timestamp)>,
    /// How many calls were refused.
    pub refused: u64,
    /// How many were let through, by bucket.
    pub drawn: BTreeMap<&'static str, u64>,
}

/// The bucket that an operation draws from, its size, and the code of its service's refusal.
#[must_use]
pub fn of(action: &str) -> (&'static str, Size, &'static str) {
    const EC2: &str = "RequestLimitExceeded";
    const SSM: &str = "ThrottlingException";
    const IAM: &str = "Throttling";
    match action {
        "RunInstances" => ("RunInstances", (5.0, 2.0), EC2),
        "StartInstances" => ("StartInstances", (5.0, 2.0), EC2),
        "StopInstances" => ("StopInstances", (100.0, 5.0), EC2),
        "TerminateInstances" => ("TerminateInstances", (100.0, 5.0), EC2),
        "CreateTags" => ("CreateTags", (100.0, 10.0), EC2),
        "AttachVolume" => ("AttachVolume", (100.0, 5.0), EC2),
        "DetachVolume" => ("DetachVolume", (100.0, 5.0), EC2),
        "DeleteVolume" => ("DeleteVolume", (100.0, 5.0), EC2),
        "ModifyVolume" => ("ModifyVolume", (100.0, 5.0), EC2),
        "CreateSnapshot" => ("CreateSnapshot", (100.0, 5.0), EC2),
        "CreateSecurityGroup" => ("CreateSecurityGroup", (50.0, 5.0), EC2),
        "GetParameter" => ("ssm-get", (40.0, 40.0), SSM),
        "PutParameter" => ("ssm-put", (10.0, 3.0), SSM),
        "DeleteParameter" => ("ssm-delete", (10.0, 5.0), SSM),
        "GetRole" | "GetRolePolicy" | "GetInstanceProfile" => ("iam-read", (60.0, 20.0), IAM),
        "CreateRole"
        | "PutRolePolicy"
        | "CreateInstanceProfile"
        | "AddRoleToInstanceProfile"
        | "RemoveRoleFromInstanceProfile"
        | "DeleteInstanceProfile"
        | "DeleteRolePolicy"
        | "DeleteRole" => ("iam-write", (20.0, 5.0), IAM),
        "DescribeInstances" => ("DescribeInstances", (100.0, 20.0), EC2),
        "DescribeVolumes" => ("DescribeVolumes", (100.0, 20.0), EC2),
        other if other.starts_with("Describe") => ("describe", (100.0, 20.0), EC2),
        _ => ("write", (50.0, 5.0), EC2),
    }
}

impl Buckets {
    /// Takes one token.
    ///
    /// # Errors
    /// The throttle answer of the service when none is left.
    pub fn draw(&mut self, action: &str, now: Timestamp) -> Answer {
        let (name, (capacity, rate), code) = of(action);
        let (level, then) = self.levels.get(name).copied().unwrap_or((capacity, now));
        let level = capacity.min(level + now.duration_since(then).as_secs_f64() * rate);
        if level < 1.0 {
            self.levels.insert(name, (level, now));
            self.refused += 1;
            return refuse(code, "Rate exceeded.");
        }
        self.levels.insert(name, (level - 1.0, now));
        *self.drawn.entry(name).or_default() += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    #[test]
    fn a_bucket_empties_and_fills_again() {
        let mut buckets = Buckets::default();
        let now = Timestamp::UNIX_EPOCH;
        let burst = (0..9).filter(|_| buckets.draw("RunInstances", now).is_ok()).count();
        assert_eq!((burst, buckets.refused), (5, 4));
        let soon = crate::later(now, SignedDuration::from_secs(1));
        let more = (0..9).filter(|_| buckets.draw("RunInstances", soon).is_ok()).count();
        assert_eq!(more, 2);
        assert_eq!(buckets.drawn, BTreeMap::from([("RunInstances", 7)]));
    }
}
