use std::path::PathBuf;

use clap::Parser as _;

use super::render;
use crate::args::{Cli, Command, RenderArgs};

fn args(line: &[&str]) -> RenderArgs {
    let head = ["koi-operator", "render"];
    match Cli::try_parse_from(head.iter().chain(line)).unwrap().command {
        Command::Render(args) => args,
        other => panic!("{other:?}"),
    }
}

fn example(name: &str) -> String {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "examples", name].iter().collect();
    path.display().to_string()
}

fn rendered(line: &[&str]) -> Result<String, String> {
    render(&args(line), &mut "".as_bytes()).map_err(|error| format!("{error:#}"))
}

#[test]
fn every_example_renders() {
    let (agent, plan) = (example("agent-full.yaml"), example("plan-team.yaml"));
    let made = rendered(&["-f", &agent, "-f", &plan]).unwrap();
    assert!(made.starts_with(
        "---\n# KoiAgent default/everything\n# Taken for granted: KoiPlan team admits the namespace default"
    ));
    assert!(made.contains("amazon-bedrock/us.anthropic.claude-opus-4-6-v1"));
    let quick = rendered(&["-f", &example("quickstart.yaml")]).unwrap();
    assert!(
        quick.starts_with("---\n# KoiAgent default/quickstart\nconfig:\n"),
        "{quick}"
    );
}

#[test]
fn labels_of_the_namespace_are_held_against_the_plan() {
    let (agent, plan) = (example("agent-full.yaml"), example("plan-team.yaml"));
    let files = ["-f", &agent, "-f", &plan, "--namespace-labels"];
    let made = rendered(&[&files[..], &["skykoi.io/team=research,tier=gold"]].concat()).unwrap();
    assert!(
        made.starts_with("---\n# KoiAgent default/everything\nconfig:\n"),
        "{made}"
    );
    let refused = rendered(&[&files[..], &["skykoi.io/team=sales"]].concat()).unwrap_err();
    assert!(
        refused.starts_with("KoiAgent everything: PlanNotAllowed: "),
        "{refused}"
    );
    let refused = rendered(&[&files[..], &[""]].concat()).unwrap_err();
    assert!(
        refused.starts_with("KoiAgent everything: PlanNotAllowed: "),
        "{refused}"
    );
}

#[test]
fn a_namespace_among_the_documents_counts() {
    let agent = example("agent-full.yaml");
    let plan = example("plan-team.yaml");
    let args = args(&["-f", &agent, "-f", &plan, "-f", "-"]);
    let namespace = |team: &str| {
        format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: default, labels: {{skykoi.io/team: {team}}}}}}}")
    };
    assert!(
        render(&args, &mut namespace("research").as_bytes())
            .unwrap()
            .contains("\nconfig:\n")
    );
    let refused = render(&args, &mut namespace("sales").as_bytes())
        .unwrap_err()
        .to_string();
    assert!(refused.contains("PlanNotAllowed"), "{refused}");
}

#[test]
fn what_is_missing_is_told_with_what_to_do() {
    let plan = example("plan-team.yaml");
    assert_eq!(
        rendered(&["-f", &plan]).unwrap_err(),
        "none of the files holds a KoiAgent: name one with -f"
    );
    let alone = rendered(&["-f", &example("agent-full.yaml")]).unwrap_err();
    assert!(
        alone.contains("PlanNotFound") && alone.ends_with("name the file of the plan with -f, too."),
        "{alone}"
    );
    let none = rendered(&["-f", "/nowhere.yaml"]).unwrap_err();
    assert!(none.starts_with("/nowhere.yaml: cannot be read: "), "{none}");
    let endless = rendered(&["-f", "/dev/zero"]).unwrap_err();
    assert!(
        endless.starts_with("/dev/zero: cannot be read: it has more than 33554432 bytes"),
        "{endless}"
    );
}

#[test]
fn a_bad_model_is_blamed_on_the_model() {
    let text =
        "{apiVersion: skykoi.io/v1alpha1, kind: KoiAgent, metadata: {name: ada}, spec: {model: {id: openai/gpt}}}";
    let refused = render(&args(&["-f", "-"]), &mut text.as_bytes())
        .unwrap_err()
        .to_string();
    assert!(refused.starts_with("standard input:1:"), "{refused}");
    assert!(
        refused.contains(": KoiAgent ada: spec.model.id: must be amazon-bedrock/"),
        "{refused}"
    );
}
