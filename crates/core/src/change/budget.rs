//! How many agents of a plan may be interrupted at a time.

use std::fmt;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// `disruption.maxConcurrent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaxConcurrent {
    /// So many agents.
    Count(usize),
    /// So many of a hundred, rounded up.
    Percent(usize),
}

impl Default for MaxConcurrent {
    fn default() -> Self {
        Self::Percent(10)
    }
}

impl MaxConcurrent {
    /// Reads a plan's value; `None` when it makes no sense.
    #[must_use]
    pub fn read(value: &IntOrString) -> Option<Self> {
        match value {
            IntOrString::Int(count) => usize::try_from(*count).ok().map(Self::Count),
            IntOrString::String(text) => match text.trim().strip_suffix('%') {
                Some(percent) => percent
                    .parse()
                    .ok()
                    .filter(|percent| *percent <= 100)
                    .map(Self::Percent),
                None => text.trim().parse().ok().map(Self::Count),
            },
        }
    }

    /// How many of so many agents.
    #[must_use]
    pub fn of(self, agents: usize) -> usize {
        match self {
            Self::Count(count) => count,
            Self::Percent(percent) => agents.saturating_mul(percent).div_ceil(100),
        }
    }
}

impl fmt::Display for MaxConcurrent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentage_is_rounded_up_and_zero_holds_everything_back() {
        let read = |text: &str| MaxConcurrent::read(&IntOrString::String(text.into()));
        assert_eq!(MaxConcurrent::default().of(1), 1);
        assert_eq!(MaxConcurrent::default().of(10), 1);
        assert_eq!(MaxConcurrent::default().of(11), 2);
        assert_eq!(MaxConcurrent::default().of(1000), 100);
        assert_eq!(read("0%").map(|limit| limit.of(1000)), Some(0));
        assert_eq!(
            MaxConcurrent::read(&IntOrString::Int(3)).map(|limit| limit.of(1)),
            Some(3)
        );
        assert_eq!(
            (read("101%"), read("many"), MaxConcurrent::read(&IntOrString::Int(-1))),
            (None, None, None)
        );
        assert_eq!(read("25%").map(|limit| limit.to_string()).as_deref(), Some("25%"));
    }
}
