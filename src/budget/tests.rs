use std::time::Duration;

use jiff::Timestamp;

use tokio_util::sync::CancellationToken;

use super::*;
use crate::clock::Clock;
use crate::lease::Leadership;

const RUN: &str = "RunInstances";
/// So that nobody waits for long: ten launches at once, then one each 250 ms.
const SCALE: f64 = 2.0;
const FULL: usize = 10;
const EACH: Duration = Duration::from_millis(250);

fn asker(tenant: &str, agent: &str) -> Asker {
    Asker {
        tenant: tenant.into(),
        agent: agent.into(),
        urgency: Urgency::Create,
    }
}

fn open() -> Gate {
    Gate::new(Leadership::always(), CancellationToken::new())
}

/// A budget with what wakes agents.
fn budget() -> (Arc<Budget>, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let (fleet, woken) = Fleet::new("c", Clock::new(Timestamp::now));
    let metrics = Arc::new(Metrics::new("1").unwrap());
    (Arc::new(Budget::new("own", Some(SCALE), fleet, metrics, open())), woken)
}

#[test]
fn buckets_that_nobody_draws_from_any_more_are_not_told() {
    let (fleet, _woken) = Fleet::new("c", Clock::new(Timestamp::now));
    let metrics = Arc::new(Metrics::new("1").unwrap());
    let of = |account: &str| Budget::new(account, Some(SCALE), fleet.clone(), Arc::clone(&metrics), open());
    let (own, other) = (of("own"), of("111122223333/eu-west-2"));
    for budget in [&own, &other] {
        budget.turn(RUN, &asker("a", "agent"));
        budget.serve();
    }
    assert!(metrics.text().contains("account=\"111122223333/eu-west-2\""));
    drop(other);
    let told = metrics.text();
    assert!(
        !told.contains("111122223333") && told.contains("account=\"own\""),
        "{told}"
    );
}

fn refused(code: &str) -> CloudError {
    CloudError {
        code: code.into(),
        ..CloudError::unintelligible(RUN, "no")
    }
}

/// So many calls were made and answered.
fn land(budget: &Budget, calls: usize) {
    for _ in 0..calls {
        budget.landed(RUN);
    }
}

#[tokio::test]
async fn an_agent_in_line_is_woken_when_it_is_its_turn_and_holds_up_nobody() {
    let (budget, mut woken) = budget();
    tokio::spawn(Arc::clone(&budget).serve_forever());
    let began = Instant::now();
    let turns: Vec<Turn> = (0..FULL + 2)
        .map(|n| budget.turn(RUN, &asker("a", &format!("agent-{n}"))))
        .collect();
    assert_eq!(turns[..FULL], [Turn::Now; FULL]);
    assert_eq!(turns[FULL..], [Turn::Later; 2]);
    land(&budget, FULL);
    assert_eq!(
        budget.turn("StopInstances", &asker("a", "other")),
        Turn::Now,
        "another bucket"
    );
    assert_eq!(woken.recv().await.as_deref(), Some("agent-10"));
    assert_eq!(budget.turn(RUN, &asker("a", "agent-10")), Turn::Now);
    land(&budget, 1);
    assert_eq!(woken.recv().await.as_deref(), Some("agent-11"));
    assert!(began.elapsed() >= EACH * 2, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_turn_that_nobody_comes_for_goes_to_the_next() {
    let (budget, mut woken) = budget();
    tokio::spawn(Arc::clone(&budget).serve_forever());
    for n in 0..FULL {
        budget.turn(RUN, &asker("a", &format!("agent-{n}")));
    }
    land(&budget, FULL);
    assert_eq!(budget.turn(RUN, &asker("a", "absent")), Turn::Later);
    assert_eq!(woken.recv().await.as_deref(), Some("absent"));
    budget.leave("absent", false);
    assert_eq!(budget.turn(RUN, &asker("a", "next")), Turn::Now);
}

#[tokio::test]
async fn calls_wait_in_place_and_a_dropped_one_leaves_the_line() {
    let (budget, _woken) = budget();
    tokio::spawn(Arc::clone(&budget).serve_forever());
    let call = || {
        let budget = Arc::clone(&budget);
        async move {
            budget.admit(RUN, &asker("a", "")).await;
            budget.landed(RUN);
        }
    };
    let began = Instant::now();
    for _ in 0..FULL {
        call().await;
    }
    let mut dropped: Vec<_> = (0..20).map(|_| Box::pin(call())).collect();
    for waiting in &mut dropped {
        assert!(futures::poll!(waiting.as_mut()).is_pending());
    }
    drop(dropped);
    call().await;
    let took = began.elapsed();
    assert!(took >= EACH && took < EACH * 10, "{took:?}");
}

#[tokio::test]
async fn a_refusal_of_the_rate_slows_its_bucket_and_others_do_not() {
    let (budget, _woken) = budget();
    let share = |budget: &Budget| {
        let state = budget.state().unwrap();
        state.lanes.lanes().find(|(name, ..)| *name == RUN).map(|lane| lane.2)
    };
    budget.answered(RUN, Some(&refused("VcpuLimitExceeded")));
    assert_eq!(share(&budget), None);
    budget.answered(RUN, Some(&refused("RequestLimitExceeded")));
    assert_eq!(share(&budget), Some(0.5));
}

#[tokio::test]
async fn a_step_that_took_its_turn_calls_without_waiting_again() {
    let (budget, _woken) = budget();
    let step = Step::StartInstance {
        instance_id: "i-1".into(),
    };
    let work = async {
        for _ in 0..FULL {
            assert_eq!(take_turn(&step), Turn::Now);
            called("StartInstances", async { Ok(()) }).await.unwrap();
            end_turn();
        }
        assert_eq!(take_turn(&step), Turn::Later);
        end_round(true);
    };
    budget.on_behalf_of(asker("a", "u"), work).await;
    let unused = async {
        assert_eq!(take_turn(&Step::BindCluster), Turn::Now);
        end_turn();
    };
    for _ in 0..20 {
        budget
            .on_behalf_of(asker("a", "v"), async { unused_turn().await })
            .await;
    }
    budget.on_behalf_of(asker("a", "v"), unused).await;
}

/// Takes a turn, does not use it and gives it back.
async fn unused_turn() {
    assert_eq!(take_turn(&Step::BindCluster), Turn::Now);
    end_turn();
}

#[tokio::test]
async fn whoever_is_not_answered_holds_the_bucket_up_for_as_long_as_a_call_may_be_on_its_way() {
    let (budget, _woken) = budget();
    tokio::spawn(Arc::clone(&budget).serve_forever());
    let call = |answer: Option<()>| {
        let budget = Arc::clone(&budget);
        tokio::spawn(async move {
            let call = called(RUN, async {
                match answer {
                    Some(()) => Ok(()),
                    None => std::future::pending().await,
                }
            });
            budget.on_behalf_of(asker("a", "u"), call).await
        })
    };
    let began = Instant::now();
    let silent: Vec<_> = (0..FULL).map(|_| call(None)).collect();
    // The test has one thread: these were sent before this one stands in line.
    call(Some(())).await.unwrap().unwrap();
    assert!(began.elapsed() >= ARRIVED, "{:?}", began.elapsed());
    silent.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn a_call_that_is_given_up_is_under_way_no_more() {
    let (budget, _woken) = budget();
    let call = || called(RUN, std::future::pending::<Answer<()>>());
    for _ in 0..FULL {
        let mut given_up = Box::pin(budget.on_behalf_of(asker("a", "u"), call()));
        assert!(futures::poll!(given_up.as_mut()).is_pending());
    }
    let now = budget.now() + EACH * 2;
    let mut state = budget.state().unwrap();
    state.lanes.ask(RUN, &asker("a", "w"), now);
    assert_eq!(state.lanes.grant(now).len(), 1, "time brings tokens again");
}

#[tokio::test]
async fn a_round_that_is_dropped_gives_its_turn_back() {
    let (budget, _woken) = budget();
    let step = Step::StartInstance {
        instance_id: "i-1".into(),
    };
    for _ in 0..FULL * 3 {
        let round = async {
            assert_eq!(take_turn(&step), Turn::Now);
        };
        budget.on_behalf_of(asker("a", "u"), round).await;
    }
}

#[tokio::test]
async fn without_a_rate_nobody_waits() {
    let (fleet, _woken) = Fleet::new("c", Clock::new(Timestamp::now));
    let metrics = Arc::new(Metrics::new("1").unwrap());
    let budget = Arc::new(Budget::new("own", None, fleet, metrics, open()));
    let began = Instant::now();
    for n in 0..100 {
        assert_eq!(budget.turn(RUN, &asker("a", &n.to_string())), Turn::Now);
        budget.admit(RUN, &asker("a", "")).await;
    }
    assert!(began.elapsed() < EACH, "{:?}", began.elapsed());
}

#[test]
fn steps_draw_from_the_bucket_of_their_operation() {
    let id = || "i-1".to_owned();
    let steps = [
        (Step::BindCluster, "PutParameter"),
        (Step::DeleteBundle { instance_id: id() }, "DeleteParameter"),
        (Step::StopInstance { instance_id: id() }, "StopInstances"),
        (Step::TerminateInstance { instance_id: id() }, "TerminateInstances"),
        (Step::DeleteRole { role: id() }, "DeleteRole"),
        (
            Step::SetSecurityGroups {
                instance_id: id(),
                group_ids: Vec::new(),
            },
            "ModifyInstanceAttribute",
        ),
    ];
    for (step, expected) in steps {
        assert_eq!(plan::operation(step.name()), expected);
    }
}

#[tokio::test]
async fn whoever_does_not_lead_reads_and_changes_nothing() {
    let (fleet, _woken) = Fleet::new("c", Clock::new(Timestamp::now));
    let metrics = Arc::new(Metrics::new("1").unwrap());
    let stopping = CancellationToken::new();
    let gate = Gate::new(Leadership::always(), stopping.clone());
    let budget = Arc::new(Budget::new("own", Some(SCALE), fleet, metrics, gate));
    let made = Arc::new(Mutex::new(Vec::new()));
    let call = |operation: &'static str| {
        let (budget, made) = (Arc::clone(&budget), Arc::clone(&made));
        async move {
            let call = called(operation, async {
                made.lock().unwrap().push(operation);
                Ok(())
            });
            budget.on_behalf_of(asker("a", "u"), call).await
        }
    };
    assert_eq!(call(RUN).await, Ok(()));
    stopping.cancel();
    for operation in [
        RUN,
        "PutParameter",
        "CreateTags",
        "DeleteRole",
        "ModifyVolume",
        "TerminateInstances",
    ] {
        assert_eq!(call(operation).await, Err(CloudError::withheld(operation)));
    }
    for operation in [
        "DescribeInstances",
        "GetParameter",
        "ListRoles",
        "AssumeRole",
        "GetConsoleOutput",
    ] {
        assert_eq!(call(operation).await, Ok(()));
    }
    let expected = [
        RUN,
        "DescribeInstances",
        "GetParameter",
        "ListRoles",
        "AssumeRole",
        "GetConsoleOutput",
    ];
    assert_eq!(*made.lock().unwrap(), expected);
}
