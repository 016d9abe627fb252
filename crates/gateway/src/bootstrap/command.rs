//! Commands: programs that are run to their end.

use std::time::Duration;

use super::{Failure, Ground};

/// A program, its arguments, and how long it may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Command {
    pub(crate) program: String,
    pub(crate) arguments: Vec<String>,
    pub(crate) timeout: Duration,
}

/// How a program ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Output {
    /// Exit code; -1 when a signal ended it.
    pub(crate) code: i32,
    /// What it wrote, both streams.
    pub(crate) text: String,
}

impl Command {
    /// From words; two minutes.
    pub(crate) fn new(words: &[&str]) -> Self {
        let mut words = words.iter().map(|word| (*word).to_owned());
        Self {
            program: words.next().unwrap_or_default(),
            arguments: words.collect(),
            timeout: Duration::from_secs(120),
        }
    }

    /// The same with another bound.
    pub(crate) fn within(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    fn line(&self) -> String {
        format!("{} {}", self.program, self.arguments.join(" "))
    }
}

impl Ground<'_> {
    /// Runs a program; any exit code is an answer.
    pub(super) fn ask(&self, command: &Command) -> Result<Output, Failure> {
        self.machine
            .run(command)
            .map_err(|reason| Failure::Failed(format!("{}: {reason}", command.line())))
    }

    /// Runs a program that must succeed.
    pub(super) fn must(&self, command: &Command) -> Result<Output, Failure> {
        let output = self.ask(command)?;
        if output.code == 0 {
            Ok(output)
        } else {
            Err(Failure::Failed(told(command, &output)))
        }
    }

    /// Does this program succeed?
    pub(super) fn holds(&self, words: &[&str]) -> Result<bool, Failure> {
        Ok(self.ask(&Command::new(words))?.code == 0)
    }
}

/// What went wrong, with the end of what the program wrote on one line.
pub(super) fn told(command: &Command, output: &Output) -> String {
    let lines: Vec<&str> = output
        .text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let tail = lines
        .get(lines.len().saturating_sub(4)..)
        .unwrap_or_default()
        .join(" | ");
    let shown: String = tail.chars().take(400).collect();
    format!("{} exited with {}: {shown}", command.line(), output.code)
}
