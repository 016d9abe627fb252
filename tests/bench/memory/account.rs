//! The account behind it, and what it weighs.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use koi_core::names;
use koi_core::observed::Place;
use koi_sim::bucket::Buckets;
use koi_sim::{Account, Wanted};

/// An account with nothing in it, with the lags and transits that the test world has.
pub(crate) fn empty(buckets: bool) -> Account {
    let place = Place {
        account: "123456789012".into(),
        region: "us-east-1".into(),
    };
    let mut account = Account::new(place, Timestamp::now());
    account.manners.transit = SignedDuration::from_millis(500);
    account.manners.read_lag = SignedDuration::from_millis(300);
    account.manners.iam_lag = SignedDuration::from_secs(2);
    account.buckets = buckets.then(Buckets::default);
    account
}

/// An account with the things of so many agents, and how many KiB it made this process grow.
pub(crate) fn weigh(count: usize) -> anyhow::Result<(i64, Account)> {
    let before = resident()?;
    let mut account = empty(false);
    for number in 0..count {
        launch(&mut account, number).map_err(|refused| anyhow::anyhow!("{}: {}", refused.code, refused.message))?;
    }
    let later = account.now().saturating_add(SignedDuration::from_secs(60))?;
    account.advance(later);
    Ok((resident()? - before, account))
}

fn launch(account: &mut Account, number: usize) -> koi_sim::Answer {
    let uid = format!("{number:08x}-0000-4000-8000-000000000000");
    let tags = BTreeMap::from([
        (names::TAG_CLUSTER.to_owned(), "demo".to_owned()),
        (names::TAG_AGENT_UID.to_owned(), uid.clone()),
        (names::TAG_LAUNCH.to_owned(), "1.1".to_owned()),
        ("Name".to_owned(), format!("koi/default/a{number}")),
        ("skykoi:namespace".to_owned(), "default".to_owned()),
        ("skykoi:agent-name".to_owned(), format!("a{number}")),
    ]);
    let instance = account.run_instances(&Wanted {
        token: format!("{uid}-1-1"),
        image: "ami-0123456789abcdef0".into(),
        instance_type: "t3.medium".into(),
        subnet_id: account.subnets[0].id.clone(),
        volume_gib: Some(20),
        tags: tags.clone(),
        user_data_sha256: "0".repeat(64),
        ..Wanted::default()
    })?;
    let name = names::bundle_parameter("demo", &uid, &instance.id);
    account.put_parameter(&name, "", &tags, false)
}

fn resident() -> anyhow::Result<i64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.unwrap_or_default().parse()?)
}
