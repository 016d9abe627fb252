//! Slash commands: what a message asks of the gateway instead of the model.

use super::Power;

/// What a message asks of the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// A new conversation.
    New,
    /// The conversation anew.
    Reset,
    /// How things are.
    Status,
    /// Stop what runs and what waits.
    Stop,
    /// Which model, or another one.
    Model(Option<String>),
    /// How much it thinks, or another measure.
    Think(Option<String>),
    /// Put old turns away.
    Compact,
    /// What was used.
    Usage,
    /// How messages queue, or another way.
    Queue(Option<String>),
    /// What the model is told before the conversation.
    Context,
    /// What commands there are.
    Help,
}

/// What becomes of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Routed {
    /// The model answers it.
    Turn,
    /// The model answers these words of it, in a new conversation.
    FreshTurn(String),
    /// The gateway answers it.
    Command(Command),
}

/// One line for each command.
pub(super) const HELP: &str = "Commands:\n\
    /new [message] - begin a new conversation\n\
    /reset [message] - the same\n\
    /status - what this conversation is doing\n\
    /stop - stop the run and what waits\n\
    /model [name | default] - show or set the model\n\
    /think [off | minimal | low | medium | high | default] - show or set how much it thinks\n\
    /compact - put old turns into a summary\n\
    /context - what goes in front of the conversation, and what it costs\n\
    /usage - what the last runs used\n\
    /queue [mode] [debounce:1s] [cap:20] [drop:old|new|summarize] | default - show or set how messages queue\n\
    /help - this list";

/// What becomes of a text. Unknown commands are words for the model.
pub(super) fn route(text: &str, triggers: &[String]) -> Routed {
    let text = text.trim();
    let (first, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let rest = rest.trim();
    if let Some(trigger) = triggers.iter().find(|trigger| trigger.eq_ignore_ascii_case(first)) {
        return match rest {
            "" if trigger.eq_ignore_ascii_case("/reset") => Routed::Command(Command::Reset),
            "" => Routed::Command(Command::New),
            rest => Routed::FreshTurn(rest.to_owned()),
        };
    }
    let Some(name) = first.strip_prefix('/') else {
        return Routed::Turn;
    };
    // `/think:high` is the same as `/think high`.
    let (name, argument) = match name.split_once(':') {
        Some((name, argument)) if rest.is_empty() => (name, argument),
        Some(_) => return Routed::Turn,
        None => (name, rest),
    };
    let given = (!argument.is_empty()).then(|| argument.to_owned());
    let command = match (name.to_ascii_lowercase().as_str(), given) {
        ("status", None) => Command::Status,
        ("stop" | "abort", None) => Command::Stop,
        ("model", given) => Command::Model(given),
        ("think" | "thinking" | "t", given) => Command::Think(given),
        ("compact", _) => Command::Compact,
        ("context", _) => Command::Context,
        ("usage", _) => Command::Usage,
        ("queue", given) => Command::Queue(given),
        ("help" | "commands", None) => Command::Help,
        _ => return Routed::Turn,
    };
    Routed::Command(command)
}

impl Command {
    /// What one must be allowed to do for it: what the method of the same effect needs.
    pub(super) fn needs(&self) -> Power {
        match self {
            Self::New | Self::Reset | Self::Compact => Power::Admin,
            Self::Model(_)
            | Self::Think(_)
            | Self::Queue(_)
            | Self::Status
            | Self::Stop
            | Self::Usage
            | Self::Context
            | Self::Help => Power::Write,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_known_and_the_rest_is_for_the_model() {
        let triggers = ["/new".to_owned(), "/reset".to_owned()];
        let routed = |text| route(text, &triggers);
        let some = |text: &str| Some(text.to_owned());
        for (text, command) in [
            ("/new", Command::New),
            (" /RESET ", Command::Reset),
            ("/status", Command::Status),
            ("/stop", Command::Stop),
            ("/model", Command::Model(None)),
            ("/model amazon-bedrock/x:0", Command::Model(some("amazon-bedrock/x:0"))),
            ("/think:high", Command::Think(some("high"))),
            ("/think  low", Command::Think(some("low"))),
            ("/compact keep the plan", Command::Compact),
            ("/usage", Command::Usage),
            ("/queue steer cap:5", Command::Queue(some("steer cap:5"))),
            ("/help", Command::Help),
        ] {
            assert_eq!(routed(text), Routed::Command(command), "{text}");
        }
        assert_eq!(
            routed("/new tell me a joke"),
            Routed::FreshTurn("tell me a joke".to_owned())
        );
        for text in [
            "hello",
            "/etc/passwd",
            "/unknown",
            "",
            "/",
            "/stop it",
            "not /new",
            "/newer",
        ] {
            assert_eq!(routed(text), Routed::Turn, "{text}");
        }
        assert_eq!(route("/new", &[]), Routed::Turn);
    }
}
