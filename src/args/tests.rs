use super::*;

fn parse(line: &[&str]) -> Result<RunArgs, String> {
    let words = ["koi-operator", "run"].iter().chain(line);
    match Cli::try_parse_from(words) {
        Ok(Cli {
            command: Command::Run(args),
        }) => Ok(*args),
        Ok(other) => panic!("not run: {other:?}"),
        Err(error) => Err(advice(&error, Some("run"))),
    }
}

#[test]
fn defaults_are_those_of_the_documentation() {
    let wanted = RunArgs {
        cluster_id: "c1".into(),
        watch_namespace: None,
        metrics_addr: "0.0.0.0:8080".parse().unwrap(),
        sweep_interval: Duration::from_secs(30),
        probe_interval: Duration::from_secs(60),
        aws_rate: Rate(Some(1.0)),
        reap: Reap::Report,
        reap_grace: Duration::from_secs(3600),
        leader_election: true,
        namespace: None,
        log_format: None,
        otlp_endpoint: None,
        gateway_artifact_url: None,
        gateway_artifact_sha256: None,
    };
    assert_eq!(parse(&["--cluster-id", "c1"]), Ok(wanted));
}

#[test]
fn every_flag_has_its_environment_variable() {
    use clap::CommandFactory as _;
    let command = Cli::command();
    let run = command.find_subcommand("run").unwrap();
    for arg in run
        .get_arguments()
        .filter(|arg| !matches!(arg.get_id().as_str(), "help" | "version"))
    {
        let flag = arg.get_long().unwrap();
        let wanted = format!("KOI_{}", flag.to_uppercase().replace('-', "_"));
        assert_eq!(
            arg.get_env().map(|env| env.to_string_lossy().into_owned()),
            Some(wanted),
            "--{flag}"
        );
    }
}

#[test]
fn mistakes_are_told_in_one_line_that_says_what_to_do() {
    for (line, told) in [
        (vec!["--cluster-id", "Not_Valid"], "must be 1 to 63 of a-z, 0-9 and -"),
        (
            vec!["--cluster-id", "c", "--sweep-interval", "soon"],
            "must be a duration above zero such as 30s",
        ),
        (vec!["--cluster-id", "c", "--reap", "all"], "report, delete, off"),
        (
            vec!["--cluster-id", "c", "--metrics-addr", "nope"],
            "must be an IP address and a port, such as 0.0.0.0:8080",
        ),
        (vec!["--cluster-id", "c", "--bogus"], "--bogus"),
        (
            vec!["--cluster-id", "c", "--watch-namespace", "a,b"],
            "must be the name of one namespace",
        ),
        (
            vec!["--cluster-id", "c", "--namespace", "Koi"],
            "must be the name of one namespace",
        ),
        (
            vec!["--cluster-id", "c", "--aws-rate", "fast"],
            "must be a number from 0.01 to 1000",
        ),
        (vec!["--cluster-id", "c", "--leader-election", "maybe"], "true, false"),
        (
            vec!["--cluster-id", "c", "--gateway-artifact-url", "https://x/y"],
            "--gateway-artifact-sha256",
        ),
    ] {
        let line = parse(&line).expect_err(told);
        assert!(
            line.contains(told) && line.contains("--help") && line.lines().count() == 1,
            "{line}"
        );
    }
}

#[test]
fn an_empty_value_is_as_good_as_none() {
    let args = parse(&["--cluster-id", "c", "--watch-namespace", "", "--namespace", "koi"]).unwrap();
    assert_eq!(
        (args.watch_namespace(), args.namespace(), args.artifact()),
        (None, Some("koi"), None)
    );
}

#[test]
fn advice_is_about_the_command_that_was_meant() {
    let told = |words: &[&str]| {
        let error = Cli::try_parse_from(words).expect_err("not valid");
        advice(&error, words.get(1).copied())
    };
    assert!(told(&["koi-operator", "render"]).contains("`koi-operator render --help`"));
    let labels = told(&["koi-operator", "render", "-f", "-", "--namespace-labels", "team"]);
    assert!(labels.contains("must be labels such as team=research"), "{labels}");
    let account = told(&["koi-operator", "render", "-f", "-", "--account", "1"]);
    assert!(account.contains("12 digits"), "{account}");
    let region = told(&["koi-operator", "render", "-f", "-", "--region", "x;y"]);
    assert!(region.contains("must be an AWS region such as us-east-1"), "{region}");
    assert!(told(&["koi-operator", "crds", "--x"]).contains("`koi-operator crds --help`"));
    assert!(told(&["koi-operator", "rnu"]).contains("`koi-operator --help`"));
}
