use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::model::{FaultClass, Request, bytes};
use super::super::tool::ToolSpec;
use super::*;
use crate::session;

fn spec(name: &str, parallel: bool) -> ToolSpec {
    ToolSpec {
        name: name.to_owned(),
        description: String::new(),
        schema: json!({"type": "object"}),
        parallel,
    }
}

fn plan() -> Plan {
    Plan {
        run_id: "run".to_owned(),
        history: Vec::new(),
        prompts: vec![prompt("run", "hello")],
        models: vec!["scripted/a".to_owned(), "scripted/b".to_owned()],
        tools: vec![spec("read", true), spec("exec", false)].into(),
        limits: Limits {
            model_calls: 30,
            tool_calls: 50,
            same_call: 2,
            answer_bytes: 1 << 20,
            tokens: None,
            retries: 1,
            pause_ms: 500,
        },
    }
}

fn prompt(id: &str, text: &str) -> Prompt {
    Prompt {
        id: Some(id.to_owned()),
        content: Content::text(text),
    }
}

fn call(id: &str, name: &str, arguments: Value) -> ToolCall {
    ToolCall {
        id: id.to_owned(),
        name: name.to_owned(),
        arguments: Ok(arguments),
    }
}

fn result(text: &str) -> ToolResult {
    ToolResult {
        content: Content::text(text),
        is_error: false,
    }
}

fn fault(class: FaultClass) -> ModelEvent {
    ModelEvent::Failed(Fault::new(class, "a fault"))
}

/// One word for each effect, so that a whole turn can be compared.
fn words(effects: &[Effect]) -> Vec<String> {
    let word = |effect: &Effect| match effect {
        Effect::Ask(ask) => Some(format!("ask {} {} +{}", ask.number, ask.model, ask.after_ms)),
        Effect::HangUp => Some("hang up".to_owned()),
        Effect::Run(calls) => Some(format!(
            "run {}",
            calls.iter().map(|call| call.id.as_str()).collect::<Vec<_>>().join(" ")
        )),
        Effect::CancelTools => Some("cancel".to_owned()),
        Effect::Boundary => Some("boundary".to_owned()),
        Effect::Record(id, message) => Some(match message.as_ref() {
            Message::User { content, .. } => format!("user[{id}] {}", content.to_text()),
            Message::Assistant(answer) => format!("{}: {}", answer.stop_reason, answer.content.to_text()),
            Message::ToolResult {
                tool_call_id, content, ..
            } => format!("result {tool_call_id}: {}", content.to_text()),
        }),
        Effect::Tell(Say::Withdrawn) => Some("withdrawn".to_owned()),
        Effect::Tell(Say::NewPiece) => Some("piece".to_owned()),
        Effect::Tell(_) => None,
        Effect::End(end) => Some(match end {
            End::Final { stop_reason } => format!("final {stop_reason}"),
            End::Aborted { stop_reason } => format!("aborted {stop_reason}"),
            End::Error { kind, message } => format!("error {kind:?}: {message}"),
        }),
    };
    effects.iter().filter_map(word).collect()
}

fn play(turn: &mut Turn, inputs: Vec<Input>) -> Vec<String> {
    inputs
        .into_iter()
        .flat_map(|input| words(&turn.step(7, input)))
        .collect()
}

fn say(number: u32, text: &str) -> Input {
    Input::Model(number, ModelEvent::Text(text.to_owned()))
}

fn done(number: u32) -> Input {
    Input::Model(number, ModelEvent::Done("stop".to_owned()))
}

fn wish(number: u32, call: ToolCall) -> Input {
    Input::Model(number, ModelEvent::Call(call))
}

#[test]
fn an_answer_without_wishes_is_the_end() {
    let mut turn = Turn::new(plan());
    let told = play(
        &mut turn,
        vec![Input::Begin, say(1, "Hi "), say(1, "you"), done(1), say(1, "late")],
    );
    assert_eq!(
        told,
        ["user[run] hello", "ask 1 scripted/a +0", "stop: Hi you", "final stop"]
    );
    assert!(turn.is_over());
}

/// Some endpoints give no ids, and some begin to count anew with each answer.
#[test]
fn no_two_calls_of_a_conversation_have_the_same_id() {
    let mut turn = Turn::new(plan());
    let told = play(
        &mut turn,
        vec![
            Input::Begin,
            wish(1, call("call-1-2", "read", json!({"path": "a"}))),
            wish(1, call("", "read", json!({"path": "b"}))),
            wish(1, call("0", "read", json!({"path": "c"}))),
            done(1),
            Input::ToolDone("call-1-2".to_owned(), result("a")),
            Input::ToolDone("call-1-3".to_owned(), result("b")),
            Input::ToolDone("0".to_owned(), result("c")),
            Input::Steered(Vec::new()),
            wish(2, call("0", "read", json!({"path": "d"}))),
            done(2),
        ],
    );
    let runs: Vec<&String> = told.iter().filter(|word| word.starts_with("run ")).collect();
    assert_eq!(runs, ["run call-1-2 call-1-3 0", "run call-2-4"]);
}

#[test]
fn a_model_that_wishes_without_end_is_hung_up_on() {
    let mut turn = Turn::new(plan());
    let wishes = (0..60).map(|number| wish(1, call(&number.to_string(), "read", json!({"number": number}))));
    let told = play(&mut turn, [Input::Begin].into_iter().chain(wishes).collect());
    assert_eq!(
        told[2..],
        [
            "hang up",
            "error Refusal: the model wished for more than 50 calls in one turn, and was hung up on"
        ]
    );
}

#[test]
fn calls_run_side_by_side_where_they_may_and_one_by_one_where_not() {
    let mut turn = Turn::new(plan());
    let told = play(
        &mut turn,
        vec![
            Input::Begin,
            say(1, "Look:"),
            wish(1, call("1", "read", json!({"path": "a"}))),
            wish(1, call("2", "read", json!({"path": "b"}))),
            wish(1, call("3", "exec", json!({"command": "ls"}))),
            wish(1, call("4", "exec", json!({"command": "pwd"}))),
            done(1),
            Input::ToolDone("2".to_owned(), result("B")),
            Input::ToolDone("1".to_owned(), result("A")),
            Input::Steered(vec![]),
            Input::ToolDone("3".to_owned(), result("C")),
            Input::Steered(vec![prompt("s", "stop that")]),
            say(2, "Well."),
            done(2),
        ],
    );
    let expected = [
        "user[run] hello",
        "ask 1 scripted/a +0",
        "toolUse: Look:",
        "run 1 2",
        "result 2: B",
        "result 1: A",
        "boundary",
        "run 3",
        "result 3: C",
        "boundary",
        "result 4: Skipped: a new message of the user came first.",
        "user[s] stop that",
        "ask 2 scripted/a +0",
        "piece",
        "stop: Well.",
        "final stop",
    ];
    assert_eq!(told, expected);
}

#[test]
fn garbage_of_the_model_is_answered_in_words() {
    let mut turn = Turn::new(plan());
    let broken = ToolCall {
        arguments: Err("expected value".to_owned()),
        ..call("1", "read", Value::Null)
    };
    let told = play(
        &mut turn,
        vec![
            Input::Begin,
            wish(1, broken),
            wish(1, call("1", "fly", json!({}))),
            done(1),
            Input::Steered(vec![]),
            done(2),
        ],
    );
    let expected = [
        "user[run] hello",
        "ask 1 scripted/a +0",
        "toolUse: ",
        "result 1: The arguments are no valid JSON object: expected value",
        "result call-1-2: There is no tool \"fly\". Tools: read, exec",
        "boundary",
        "ask 2 scripted/a +0",
        "stop: ",
        "final stop",
    ];
    assert_eq!(told, expected);
}

#[test]
fn faults_that_pass_are_tried_again_and_then_another_model_is() {
    let mut turn = Turn::new(plan());
    let told = play(
        &mut turn,
        vec![
            Input::Begin,
            say(1, "half"),
            Input::Model(1, fault(FaultClass::Cut)),
            Input::Model(2, fault(FaultClass::Throttled)),
            Input::Model(3, fault(FaultClass::Denied)),
        ],
    );
    let expected = [
        "user[run] hello",
        "ask 1 scripted/a +0",
        "hang up",
        "withdrawn",
        "ask 2 scripted/a +500",
        "hang up",
        "ask 3 scripted/b +0",
        "hang up",
        "error Unknown: a fault",
    ];
    assert_eq!(told, expected);
    let mut turn = Turn::new(plan());
    let told = play(
        &mut turn,
        vec![Input::Begin, say(1, "no"), Input::Model(1, fault(FaultClass::Refused))],
    );
    assert_eq!(
        told[2..],
        ["hang up", "error: no", "error Refusal: a fault"],
        "no other model will either"
    );
}

#[test]
fn an_abort_pairs_every_call() {
    let begun = |inputs: Vec<Input>| {
        let mut turn = Turn::new(plan());
        play(&mut turn, vec![Input::Begin]);
        play(&mut turn, inputs);
        play(&mut turn, vec![Input::Stop(Stop::Asked("rpc"))])
    };
    assert_eq!(
        begun(vec![say(1, "half"), wish(1, call("1", "exec", json!({})))]),
        ["hang up", "aborted: half", "aborted rpc"],
        "a wish that is not granted is not written down"
    );
    assert_eq!(begun(vec![]), ["hang up", "aborted rpc"]);
    let calls = vec![
        wish(1, call("1", "exec", json!({"a": 1}))),
        wish(1, call("2", "exec", json!({"a": 2}))),
        done(1),
    ];
    assert_eq!(
        begun(calls.clone()),
        [
            "cancel",
            "result 1: Aborted while it ran. It may have had effects.",
            "result 2: Not run: the turn was aborted.",
            "aborted rpc"
        ]
    );
    let at_boundary = [calls, vec![Input::ToolDone("1".to_owned(), result("A"))]].concat();
    assert_eq!(
        begun(at_boundary),
        ["result 2: Not run: the turn was aborted.", "aborted rpc"]
    );
    let mut turn = Turn::new(plan());
    assert_eq!(
        play(&mut turn, vec![Input::Stop(Stop::Deadline)]),
        ["user[run] hello", "error Timeout: the run took longer than it may"]
    );
}

#[test]
fn circles_are_told_and_then_ended() {
    let mut turn = Turn::new(plan());
    play(&mut turn, vec![Input::Begin]);
    let mut told = Vec::new();
    for number in 1..=5 {
        told.extend(play(
            &mut turn,
            vec![
                wish(number, call(&format!("c{number}"), "read", json!({"path": "a"}))),
                done(number),
                Input::ToolDone(format!("c{number}"), result("same")),
                Input::Steered(vec![]),
            ],
        ));
    }
    assert_eq!(told.iter().filter(|word| word.starts_with("run ")).count(), 2);
    assert_eq!(
        told.iter()
            .filter(|word| word.contains("Not run: this very call"))
            .count(),
        2
    );
    assert_eq!(
        told.last().unwrap(),
        "error Unknown: the model is going in circles: read was called 4 times in the same way"
    );
}

#[test]
fn waiting_for_something_is_no_circle() {
    let mut turn = Turn::new(plan());
    play(&mut turn, vec![Input::Begin]);
    for number in 1..=20 {
        let told = play(
            &mut turn,
            vec![
                wish(number, call(&format!("c{number}"), "read", json!({"path": "log"}))),
                done(number),
                Input::ToolDone(format!("c{number}"), result(&number.to_string())),
                Input::Steered(vec![]),
            ],
        );
        assert!(told.contains(&format!("run c{number}")), "{told:?}");
    }
}

#[test]
fn budgets_end_a_turn_with_a_reason() {
    let mut plan = plan();
    plan.limits.tokens = Some(100);
    let mut turn = Turn::new(plan);
    let usage = Usage {
        input: 90,
        output: 20,
        ..Usage::default()
    };
    let told = play(
        &mut turn,
        vec![
            Input::Begin,
            Input::Model(1, ModelEvent::Usage(usage)),
            wish(1, call("1", "read", json!({}))),
            done(1),
            Input::ToolDone("1".to_owned(), result("A")),
            Input::Steered(vec![]),
        ],
    );
    assert_eq!(
        told.last().unwrap(),
        "error RateLimit: this turn used 110 tokens; a turn may use 100: write again to go on, or raise agents.defaults.budget.turnTokens"
    );
    assert_eq!(turn.used(), usage);
}

#[test]
fn a_model_that_does_not_stop_is_hung_up_on() {
    let mut plan = plan();
    plan.limits.answer_bytes = 10;
    let mut turn = Turn::new(plan);
    turn.step(0, Input::Begin);
    let thought = Input::Model(1, ModelEvent::Thinking("12345".to_owned()));
    turn.step(0, thought);
    turn.step(0, say(1, "12345"));
    let wished = wish(1, call("1", "read", json!({})));
    turn.step(0, wished);
    let effects = turn.step(0, say(1, "6"));
    assert_eq!(effects.first(), Some(&Effect::HangUp));
    let Some(Effect::End(End::Error { message, .. })) = effects.last() else {
        panic!("{effects:?}");
    };
    assert_eq!(
        message,
        "the model said more than 10 bytes in one answer, and was hung up on"
    );
    assert!(turn.is_over());
}

#[test]
fn what_a_crash_left_open_is_closed_first() {
    let mut plan = plan();
    plan.prompts.clear();
    let parts = [call("1", "exec", json!({})), call("2", "read", json!({}))].map(|call| {
        Part::Known(Known::ToolCall {
            id: call.id,
            name: call.name,
            arguments: json!({}),
        })
    });
    plan.history = vec![
        Arc::new(Message::user("hello", 1)),
        Arc::new(Message::Assistant(Box::new(Answer {
            content: Content(parts.to_vec()),
            stop_reason: "toolUse".to_owned(),
            ..Answer::default()
        }))),
        Arc::new(Message::ToolResult {
            tool_call_id: "2".to_owned(),
            tool_name: "read".to_owned(),
            content: Content::text("B"),
            is_error: false,
            timestamp: 2,
        }),
    ];
    let mut turn = Turn::new(plan);
    let told = play(&mut turn, vec![Input::Begin]);
    assert_eq!(
        told,
        [
            "result 1: Interrupted: the gateway was restarted while this ran. It may have had effects.",
            "ask 1 scripted/a +0"
        ]
    );
}

/// What happens next; numbers choose among what is possible.
fn happening() -> impl Strategy<Value = Input> {
    let class = prop::sample::select(vec![
        FaultClass::Throttled,
        FaultClass::Cut,
        FaultClass::Denied,
        FaultClass::TooLong,
    ]);
    let id = || prop::sample::select(vec!["", "1", "2", "3"]).prop_map(str::to_owned);
    let wish = (
        id(),
        prop::sample::select(vec!["read", "exec", "fly"]),
        0..3_u8,
        any::<bool>(),
    )
        .prop_map(|(id, name, argument, broken)| {
            ModelEvent::Call(ToolCall {
                arguments: if broken && argument == 0 {
                    Err("broken".to_owned())
                } else {
                    Ok(json!({"a": argument}))
                },
                ..call(&id, name, Value::Null)
            })
        });
    let event = prop_oneof![
        4 => "[a-z ]{0,6}".prop_map(ModelEvent::Text),
        1 => "[a-z]{0,3}".prop_map(ModelEvent::Thinking),
        6 => wish,
        5 => Just(ModelEvent::Done("stop".to_owned())),
        1 => class.prop_map(fault),
        1 => (0..50_u64).prop_map(|input| ModelEvent::Usage(Usage { input, ..Usage::default() })),
    ];
    prop_oneof![
        12 => (0..3_u32, event).prop_map(|(back, event)| Input::Model(back, event)),
        8 => (id(), "[a-z]{0,3}").prop_map(|(id, text)| Input::ToolDone(id, result(&text))),
        8 => prop::collection::vec("[a-z]{1,3}", 0..2)
            .prop_map(|texts| Input::Steered(texts.iter().map(|text| prompt(text, text)).collect())),
        1 => Just(Input::Stop(Stop::Asked("rpc"))),
        1 => Just(Input::NotRecorded("disk full".to_owned())),
        1 => Just(Input::Begin),
    ]
}

/// Holds a turn to its promises while it goes.
#[derive(Default)]
struct Watch {
    open: BTreeMap<String, ()>,
    started: BTreeMap<String, u32>,
    ends: u32,
    unwritten: bool,
    asked: u32,
}

impl Watch {
    fn see(&mut self, effects: &[Effect]) {
        for effect in effects {
            assert_eq!(self.ends, 0, "something follows the end: {effect:?}");
            match effect {
                Effect::Record(_, message) => self.record(message),
                Effect::Ask(ask) => {
                    assert!(self.open.is_empty(), "asked with open calls");
                    assert_eq!(ask.number, self.asked + 1);
                    self.asked = ask.number;
                }
                Effect::Run(calls) => {
                    for call in calls {
                        assert!(self.open.contains_key(&call.id), "{} runs without a record", call.id);
                        *self.started.entry(call.id.clone()).or_default() += 1;
                    }
                }
                Effect::End(_) => {
                    assert!(
                        self.open.is_empty() || self.unwritten,
                        "open calls at the end: {:?}",
                        self.open
                    );
                    self.ends += 1;
                }
                _ => {}
            }
        }
    }

    fn record(&mut self, message: &Message) {
        match message {
            Message::Assistant(answer) => {
                for part in &answer.content.0 {
                    if let Part::Known(Known::ToolCall { id, .. }) = part {
                        assert!(self.open.insert(id.clone(), ()).is_none(), "{id} twice in one answer");
                    }
                }
            }
            Message::ToolResult { tool_call_id, .. } => {
                assert!(
                    self.open.remove(tool_call_id).is_some(),
                    "a result without a call: {tool_call_id}"
                );
            }
            Message::User { .. } => assert!(self.open.is_empty(), "words between a call and its result"),
        }
    }
}

proptest! {
    #[test]
    fn calls_are_paired_and_there_is_one_end(inputs in prop::collection::vec(happening(), 0..150), tokens in prop::option::of(0..300_u64)) {
        let mut plan = plan();
        plan.limits.tokens = tokens;
        let (mut turn, mut watch) = (Turn::new(plan), Watch::default());
        watch.see(&turn.step(0, Input::Begin));
        for input in inputs {
            let input = match input {
                Input::Model(back, event) => Input::Model(watch.asked.saturating_sub(back / 2), event),
                // What a hostile model named its calls is what runs.
                Input::ToolDone(id, result) => {
                    let real = watch.started.keys().find(|known| known.starts_with(&id)).cloned();
                    Input::ToolDone(real.unwrap_or(id), result)
                }
                input => input,
            };
            watch.unwritten |= matches!(input, Input::NotRecorded(_));
            watch.see(&turn.step(1, input));
        }
        watch.see(&turn.step(2, Input::Stop(Stop::Asked("rpc"))));
        prop_assert!(turn.is_over());
        prop_assert_eq!(watch.ends, 1);
        prop_assert!(turn.step(3, Input::Begin).is_empty());
    }

    #[test]
    fn what_was_written_down_gives_the_same_request_again(inputs in prop::collection::vec(happening(), 0..120)) {
        let mut turn = Turn::new(plan());
        let (mut asked, mut written) = (0, Vec::new());
        let inputs = std::iter::once(Input::Begin).chain(inputs);
        for input in inputs.filter(|input| !matches!(input, Input::NotRecorded(_))) {
            let input = match input {
                Input::Model(back, event) => Input::Model(u32::saturating_sub(asked, back / 2), event),
                input => input,
            };
            for effect in turn.step(1, input) {
                match effect {
                    Effect::Record(_, message) => written.push(message.as_ref().clone()),
                    Effect::Ask(ask) => {
                        asked = ask.number;
                        let again = session::replayed(&written).into_iter().map(Arc::new).collect();
                        prop_assert_eq!(bytes(&question(ask.messages)), bytes(&question(again)));
                    }
                    _ => {}
                }
            }
        }
    }
}

fn question(messages: Vec<Arc<Message>>) -> Request {
    Request {
        model: "amazon-bedrock/anthropic.claude-x".to_owned(),
        system: "S".into(),
        messages,
        tools: plan().tools,
        thinking: None,
    }
}
