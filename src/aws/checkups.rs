//! What EC2 says of the health of running instances, and what AWS has planned for them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_sdk_ec2::Client;
use aws_sdk_ec2::types::{self, StatusName, SummaryStatus};
use koi_core::observed::{Checkup, Impairment, ScheduledEvent};

use super::error::ask;
use super::instances::PAGE;
use super::{convert, pages, request};
use crate::cloud::Answer;

/// From so many pages on it is cheaper to ask for what is wrong than to look through all instances of the account.
const CROWD: usize = 3;
/// The kinds of trouble that a filter finds. EC2 joins filters by "and", so that each needs a call of its own.
const TROUBLES: [(&str, &[&str]); 3] = [
    ("instance-status.status", &["impaired"]),
    ("system-status.status", &["impaired"]),
    (
        "event.code",
        &[
            "instance-reboot",
            "instance-retirement",
            "instance-stop",
            "system-maintenance",
            "system-reboot",
        ],
    ),
];

/// Instances that are not well. One look at all of them, or one for each kind of trouble where the account is crowded.
pub(super) async fn all(ec2: &Client, crowded: &AtomicBool) -> Answer<BTreeMap<String, Checkup>> {
    let mut found = BTreeMap::new();
    if !crowded.load(Ordering::Relaxed) {
        let pages = filtered(ec2, None, &mut found).await?;
        crowded.store(pages > CROWD, Ordering::Relaxed);
        return Ok(found);
    }
    for (name, values) in TROUBLES {
        let filter = request::filter(name, values.iter().map(|value| (*value).to_owned()));
        filtered(ec2, Some(filter), &mut found).await?;
    }
    Ok(found)
}

/// Takes all pages in and says how many there were.
async fn filtered(ec2: &Client, filter: Option<types::Filter>, found: &mut BTreeMap<String, Checkup>) -> Answer<usize> {
    let mut count = 0;
    let shown = pages::all(|next| {
        count += 1;
        let call = ec2.describe_instance_status();
        let call = call.set_filters(filter.clone().map(|filter| vec![filter]));
        let call = call.max_results(PAGE).set_next_token(next);
        async move {
            let page = ask("DescribeInstanceStatus", || call.send()).await?;
            let shown = page.instance_statuses.unwrap_or_default().into_iter();
            let checkups = shown.filter_map(|status| checkup(&status));
            Ok((checkups.collect(), page.next_token))
        }
    });
    found.extend(shown.await?);
    Ok(count)
}

/// What is worth knowing of one instance; nothing of one that is well.
fn checkup(status: &types::InstanceStatus) -> Option<(String, Checkup)> {
    let checkup = Checkup {
        impaired: impairment(status),
        events: status.events().iter().filter_map(event).collect(),
    };
    (checkup != Checkup::default()).then_some((status.instance_id()?.to_owned(), checkup))
}

fn impairment(status: &types::InstanceStatus) -> Option<Impairment> {
    let failed = |summary: Option<&types::InstanceStatusSummary>| {
        summary.and_then(types::InstanceStatusSummary::status) == Some(&SummaryStatus::Impaired)
    };
    let (system, instance) = (failed(status.system_status()), failed(status.instance_status()));
    let details = [status.system_status(), status.instance_status()]
        .into_iter()
        .flatten()
        .flat_map(types::InstanceStatusSummary::details)
        .filter(|detail| detail.name() == Some(&StatusName::Reachability))
        .filter_map(|detail| detail.impaired_since().and_then(convert::timestamp));
    (system || instance).then(|| Impairment {
        system,
        instance,
        since: details.min(),
    })
}

/// Events that are over stay listed for a week, and say so at the start of their description.
fn event(event: &types::InstanceStatusEvent) -> Option<ScheduledEvent> {
    let told = event.description().unwrap_or_default();
    let over = told.starts_with("[Completed]") || told.starts_with("[Canceled]");
    (!over).then_some(ScheduledEvent {
        id: event.instance_event_id().unwrap_or_default().to_owned(),
        code: event.code()?.as_str().to_owned(),
        not_before: event.not_before().and_then(convert::timestamp),
    })
}

#[cfg(test)]
mod tests {
    use aws_smithy_types::DateTime;

    use super::*;

    fn summary(status: SummaryStatus, since: Option<i64>) -> types::InstanceStatusSummary {
        let details = types::InstanceStatusDetails::builder()
            .name(StatusName::Reachability)
            .set_impaired_since(since.map(DateTime::from_secs))
            .build();
        types::InstanceStatusSummary::builder()
            .status(status)
            .details(details)
            .build()
    }

    fn status(system: SummaryStatus, instance: SummaryStatus) -> types::InstanceStatus {
        types::InstanceStatus::builder()
            .instance_id("i-1")
            .system_status(summary(system, None))
            .instance_status(summary(instance, Some(1_700_000_000)))
            .build()
    }

    #[test]
    fn only_failed_checks_are_impairments_and_a_healthy_instance_is_not_told() {
        assert_eq!(checkup(&status(SummaryStatus::Ok, SummaryStatus::Initializing)), None);
        assert_eq!(
            checkup(&status(SummaryStatus::InsufficientData, SummaryStatus::Ok)),
            None
        );
        let (id, seen) = checkup(&status(SummaryStatus::Ok, SummaryStatus::Impaired)).unwrap();
        let impaired = Impairment {
            system: false,
            instance: true,
            since: "2023-11-14T22:13:20Z".parse().ok(),
        };
        assert_eq!((id.as_str(), seen.impaired), ("i-1", Some(impaired)));
    }

    #[test]
    fn events_that_are_over_do_not_count() {
        let event = |told: &str| {
            types::InstanceStatusEvent::builder()
                .instance_event_id("e")
                .code(types::EventCode::InstanceRetirement)
                .description(told)
                .not_before(DateTime::from_secs(1_700_000_000))
                .build()
        };
        let with = |told| {
            let mut status = status(SummaryStatus::Ok, SummaryStatus::Ok);
            status.events = Some(vec![event(told)]);
            checkup(&status).map(|(_, seen)| seen.events)
        };
        let due = ScheduledEvent {
            id: "e".into(),
            code: "instance-retirement".into(),
            not_before: "2023-11-14T22:13:20Z".parse().ok(),
        };
        assert_eq!(with("The instance is running on degraded hardware"), Some(vec![due]));
        assert_eq!((with("[Completed] done"), with("[Canceled] not needed")), (None, None));
    }
}
