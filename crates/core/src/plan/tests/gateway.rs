//! What a gateway says, and what it is handed.

use super::*;

#[test]
fn what_was_said_in_another_boot_does_not_count() {
    let restarted = |launched: i64, asked: Option<i64>| {
        change(ready(), |o| {
            o.recorded.launch_time = Some(ago(500));
            o.recorded.was_healthy = true;
            if let Known::Present(instances) = &mut o.instances {
                instances[0].launch_time = Some(ago(launched));
            }
            o.probe = asked.map(|asked| Probe {
                launch_time: Some(ago(asked)),
                ..probe(Ok(()))
            });
            crate::plan::forget_past_boot(o);
        })
    };
    let booting = (vec![], Some(Reason::Booting), false);
    let settled = (vec![], None, false);
    let cases = [
        ("no restart", restarted(500, Some(500)), &settled),
        ("no restart, not asked yet", restarted(500, None), &settled),
        ("asked before the restart", restarted(3, Some(500)), &booting),
        ("restarted, not asked yet", restarted(3, None), &booting),
        ("asked after the restart", restarted(3, Some(3)), &settled),
    ];
    for (told, observed, expected) in cases {
        assert_eq!(&decided(&wish(json!({})), &observed), expected, "{told}");
    }
}

#[test]
fn a_gateway_that_does_not_answer_is_booting_late_or_broken() {
    let silent = |healthy: bool, since: i64, hop: Hop| {
        change(ready(), |o| {
            o.recorded.was_healthy = healthy;
            o.recorded.booting_since = Some(ago(since));
            o.probe = Some(probe(Err(hop)));
        })
    };
    let cases = [
        (silent(false, 30, Hop::Connect), vec![], Reason::Booting),
        (
            silent(false, 601, Hop::Connect),
            vec!["FetchConsole"],
            Reason::BootTimeout,
        ),
        (
            change(silent(false, 601, Hop::Upgrade), |o| {
                o.console = Some("step=binary".into())
            }),
            vec!["RecordRemedy"],
            Reason::BootTimeout,
        ),
        (silent(true, 30, Hop::Connect), vec![], Reason::GatewayUnreachable),
        (silent(true, 30, Hop::Tls), vec![], Reason::GatewayUnreachable),
        (silent(true, 30, Hop::Certificate), vec![], Reason::CertificateMismatch),
        (silent(true, 30, Hop::Upgrade), vec![], Reason::GatewayUnreachable),
        (silent(true, 30, Hop::Handshake), vec![], Reason::GatewayUnauthorized),
        (silent(true, 30, Hop::Health), vec![], Reason::GatewayUnhealthy),
    ];
    for (observed, steps, why) in cases {
        assert_eq!(decided(&wish(json!({})), &observed), (steps, Some(why), false), "{why}");
    }
    let late = plan(
        &wish(json!({})),
        &change(silent(false, 601, Hop::Upgrade), |o| {
            o.console = Some("koi-userdata: step=binary".into())
        }),
        now(),
    );
    let Verdict::Converging(why) = late.verdict else {
        panic!()
    };
    assert!(
        why.message.contains("did not answer within 10m") && why.message.contains("koi-userdata: step=binary"),
        "{}",
        why.message
    );
}

#[test]
fn a_newcomer_of_which_nothing_is_known_yet_is_no_warning() {
    let unseen = |observed: Observed| change(observed, |observed| observed.instances = Known::Unknown);
    let told = |observed: &Observed| decided(&wish(json!({})), observed).1;
    assert_eq!(told(&unseen(bare())), Some(Reason::Pending));
    assert_eq!(told(&unseen(ready())), Some(Reason::CloudUnreachable));
}

#[test]
fn files_are_handed_over_once_by_a_gateway_that_is_well() {
    let files = wish(json!({"workspace": {"files": {"SOUL.md": "x"}}}));
    assert_eq!(
        decided(&files, &ready()),
        (vec!["SeedWorkspace"], Some(Reason::Pushing), false)
    );
    assert_eq!(
        decided(&files, &change(ready(), |o| o.recorded.workspace_seeded = true)),
        (vec![], None, false)
    );
}
