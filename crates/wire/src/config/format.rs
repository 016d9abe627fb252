//! Forms of strings: for each a pattern, which the schema shows, and a function, which decides. A test holds the two against each other.

use std::net::IpAddr;
use std::sync::LazyLock;

/// A number with `s`, `m` or `h`.
pub(super) const SPAN: &str = "^[0-9]{1,15}[smh]$";
/// A number other than 0 with `m`, `h` or `d`.
pub(super) const LONG_SPAN: &str = "^0{0,7}[1-9][0-9]{0,7}[mhd]$";
/// A time of the day.
pub(super) const TIME: &str = "^([01][0-9]|2[0-3]):[0-5][0-9]$";
/// A time of the day, or its end.
pub(super) const END_TIME: &str = "^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$";
/// The form of a time zone's name; whether there is such a zone [`super::zone`] knows.
pub(super) const ZONE: &str = "^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z][A-Za-z0-9_+-]*)*$";
/// A model that can be reached: on Bedrock; at an endpoint with the OpenAI API; an echo, for a gateway without a model; a script, for tests.
pub(super) const MODEL: &str = "^(amazon-bedrock|openai|echo|scripted)/[!-~]+$";
/// Who offers models.
const PROVIDERS: [&str; 4] = ["amazon-bedrock", "openai", "echo", "scripted"];
/// An absolute path.
pub(super) const PATH: &str = "^/";
/// An absolute path, or one below the home.
pub(super) const HOME_PATH: &str = "^(/|~/)";
/// The name of an environment variable.
pub(super) const VARIABLE: &str = "^[A-Za-z_][A-Za-z0-9_]*$";
/// The name of a parameter.
pub(super) const PARAMETER: &str = "^/[A-Za-z0-9_./-]+$";
/// The origin of a web page.
pub(super) const ORIGIN: &str = "^https?://[A-Za-z0-9.:\\[\\]-]+$";
/// A slash command.
pub(super) const COMMAND: &str = "^/[!-~]+$";
/// A peer of a channel.
pub(super) const PEER: &str = "^[^:]+:[\\s\\S]+$";
/// A secret: visible characters, blanks in the middle only.
pub(super) const SECRET: &str = "^[!-~][ -~]{14,4094}[!-~]$";
/// An address that is called.
pub(super) const URL: &str = "^https?://[A-Za-z0-9.:\\[\\]_-]+(/[A-Za-z0-9_.~/-]*)?$";
/// A path of a URL.
pub(super) const URL_PATH: &str = "^/[A-Za-z0-9_.~/-]*$";

/// An address or a network.
pub(super) fn network() -> String {
    static PATTERN: LazyLock<String> = LazyLock::new(|| {
        let octet = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])";
        let v4 = format!("{octet}(\\.{octet}){{3}}");
        let h = "[0-9a-fA-F]{1,4}";
        let mut v6 = vec![
            format!("({h}:){{7}}{h}"),
            format!("({h}:){{6}}{v4}"),
            format!("({h}:){{7}}:"),
        ];
        for head in 0..=6_usize {
            let begin = if head == 0 {
                "::".to_owned()
            } else {
                format!("({h}:){{{head}}}:")
            };
            v6.push(format!("{begin}({h}(:{h}){{0,{}}})?", 6 - head));
            if head <= 5 {
                v6.push(format!("{begin}({h}:){{0,{}}}{v4}", 5 - head));
            }
        }
        let short = "([0-9]|[12][0-9]|3[0-2])";
        let long = "([0-9]|[1-9][0-9]|1[01][0-9]|12[0-8])";
        format!("^({v4}(/{short})?|({})(/{long})?)$", v6.join("|"))
    });
    PATTERN.clone()
}

/// A form.
struct Form {
    pattern: fn() -> String,
    accepts: fn(&str) -> bool,
    /// What a text is that has not this form.
    is_not: &'static str,
    allowed: &'static str,
    /// The text is a secret and is not repeated.
    secret: bool,
}

const fn form(pattern: fn() -> String, accepts: fn(&str) -> bool, is_not: &'static str, allowed: &'static str) -> Form {
    Form {
        pattern,
        accepts,
        is_not,
        allowed,
        secret: false,
    }
}

static FORMS: &[Form] = &[
    form(
        || SPAN.to_owned(),
        |text| duration_seconds(text).is_some(),
        "is not a duration",
        "a number with s, m or h, such as 30m; 0m is never",
    ),
    form(
        || LONG_SPAN.to_owned(),
        |text| super::Maintenance::duration_ms(text).is_some(),
        "is not a duration",
        "a number with m, h or d, such as 30d",
    ),
    form(
        || TIME.to_owned(),
        |text| minutes_of_day(text).is_some_and(|minutes| minutes < 24 * 60),
        "is not a time",
        "00:00 to 23:59",
    ),
    form(
        || END_TIME.to_owned(),
        |text| minutes_of_day(text).is_some(),
        "is not a time",
        "00:00 to 24:00",
    ),
    form(
        || ZONE.to_owned(),
        is_zone,
        "is not a time zone",
        "an IANA name such as Europe/Berlin",
    ),
    form(
        || MODEL.to_owned(),
        is_model,
        "names no model that can be reached",
        "amazon-bedrock/<model or inference profile id>, or openai/<model>",
    ),
    form(
        || PATH.to_owned(),
        |text| text.starts_with('/'),
        "is not absolute",
        "a path that begins with /",
    ),
    form(
        || HOME_PATH.to_owned(),
        |text| text.starts_with('/') || text.starts_with("~/"),
        "is relative",
        "a path that begins with / or ~/",
    ),
    form(
        || VARIABLE.to_owned(),
        is_variable,
        "is not the name of a variable",
        "letters, digits and _, not beginning with a digit",
    ),
    form(
        || PARAMETER.to_owned(),
        |text| {
            let allowed = |c: char| c.is_ascii_alphanumeric() || "_./-".contains(c);
            text.strip_prefix('/')
                .is_some_and(|rest| !rest.is_empty() && rest.chars().all(allowed))
        },
        "is not the name of a parameter",
        "/ and letters, digits, _ . / -",
    ),
    form(
        || ORIGIN.to_owned(),
        is_origin,
        "is not an origin",
        "https://host or https://host:port, without a path; * is not allowed",
    ),
    form(
        || URL.to_owned(),
        is_url,
        "is not an address",
        "https://host/path or http://host/path, without user, query or fragment",
    ),
    form(
        || COMMAND.to_owned(),
        |text| text.strip_prefix('/').is_some_and(is_visible),
        "is not a command",
        "/ and a word, such as /new",
    ),
    form(
        || PEER.to_owned(),
        |text| {
            text.split_once(':')
                .is_some_and(|(channel, id)| !channel.is_empty() && !id.is_empty())
        },
        "is not a peer",
        "channel:id, such as telegram:123",
    ),
    form(
        || URL_PATH.to_owned(),
        |text| text.starts_with('/') && text.chars().all(|c| c.is_ascii_alphanumeric() || "_.~/-".contains(c)),
        "is not a path",
        "a path that begins with /",
    ),
    form(
        network,
        is_network,
        "is not an address",
        "an IP address or a network such as 10.0.0.0/8",
    ),
    Form {
        secret: true,
        ..form(
            || SECRET.to_owned(),
            is_secret,
            "is too short to be safe",
            "16 or more characters",
        )
    },
];

/// What is wrong with a text that is to have the form of this pattern, and what is allowed.
pub(super) fn fault(pattern: &str, text: &str) -> Option<(String, &'static str)> {
    let form = FORMS.iter().find(|form| (form.pattern)() == pattern)?;
    if (form.accepts)(text) {
        return None;
    }
    let reason = match form.secret {
        true if text.chars().count() >= 16 => "has characters that no secret has, or blanks around it".to_owned(),
        true => form.is_not.to_owned(),
        false => {
            let shown: String = text.chars().take(64).collect();
            format!("{shown:?} {}", form.is_not)
        }
    };
    Some((reason, form.allowed))
}

/// Seconds of `90s`, `30m`, `2h`.
#[must_use]
pub fn duration_seconds(text: &str) -> Option<u64> {
    let unit = text.chars().last()?;
    let digits = text.strip_suffix(unit)?;
    if !(1..=15).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let factor = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

/// Minutes of `08:30`; those of `24:00` are the end of the day.
#[must_use]
pub fn minutes_of_day(text: &str) -> Option<u32> {
    let (hours, minutes) = text.split_once(':')?;
    let two = |part: &str| {
        let plain = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| part.parse::<u32>().ok()).flatten()
    };
    let (hours, minutes) = (two(hours)?, two(minutes)?);
    (minutes < 60 && hours * 60 + minutes <= 24 * 60).then_some(hours * 60 + minutes)
}

fn is_visible(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn is_zone(zone: &str) -> bool {
    let word = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic())
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '+'))
    };
    zone.split('/').all(word)
}

fn is_variable(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn is_origin(origin: &str) -> bool {
    let host = origin
        .strip_prefix("https://")
        .or_else(|| origin.strip_prefix("http://"));
    host.is_some_and(|host| !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || ".-:[]".contains(c)))
}

fn is_url(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let Some(rest) = rest else { return false };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let plain = |c: char| c.is_ascii_alphanumeric();
    !host.is_empty()
        && host.chars().all(|c| plain(c) || ".:[]_-".contains(c))
        && path.chars().all(|c| plain(c) || "_.~/-".contains(c))
}

fn is_network(text: &str) -> bool {
    let (address, bits) = text
        .split_once('/')
        .map_or((text, None), |(address, bits)| (address, Some(bits)));
    let Ok(address) = address.parse::<IpAddr>() else {
        return false;
    };
    let width = if address.is_ipv4() { 32 } else { 128 };
    bits.is_none_or(|bits| {
        let plain = !bits.is_empty() && bits.bytes().all(|byte| byte.is_ascii_digit());
        plain && (bits == "0" || !bits.starts_with('0')) && bits.parse::<u8>().is_ok_and(|bits| bits <= width)
    })
}

fn is_secret(text: &str) -> bool {
    let visible = text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
    visible && (16..=4096).contains(&text.len()) && text.trim_matches(' ').len() == text.len()
}

fn is_model(text: &str) -> bool {
    text.split_once('/')
        .is_some_and(|(provider, model)| PROVIDERS.contains(&provider) && is_visible(model))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// Texts that are near to one of the forms.
    fn near() -> impl Strategy<Value = String> {
        prop_oneof![
            "[+0-9]{0,4}[smhd]{0,2}",
            "[012+]{1,2}[0-9]?:[0-6][0-9]{0,2}",
            "[A-Z][a-z/_+-]{0,10}",
            "((amazon-bedrock|openai|echo|scripted)/)?[ -~\u{85}\u{feff}é]{0,6}",
            "[~/a-z\n]{0,6}",
            "(https?://)?[a-z.:\\[\\]/ -]{0,8}",
            "https?://[a-z.:@_?-]{1,4}(/[a-z/~?_ -]{0,4})?",
            "[0-9.]{1,12}(/[0-9+]{0,3})?",
            "[0-9a-f:]{0,20}(/[0-9]{1,3})?",
            "(::|[0-9a-f]{1,4}:){0,7}([0-9]{1,3}\\.){3}[0-9]{1,3}",
            "([0-9a-f]{1,5}:){0,7}:?[0-9a-f]{0,4}",
            "[ -~]{14,18}",
            "[a-z:]{0,4}\n?",
            any::<String>(),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(2000), ..ProptestConfig::default() })]

        #[test]
        fn patterns_and_functions_say_the_same(text in near()) {
            static VALIDATORS: LazyLock<Vec<jsonschema::Validator>> = LazyLock::new(|| {
                FORMS.iter().map(|form| jsonschema::validator_for(&json!({"pattern": (form.pattern)()})).unwrap()).collect()
            });
            for (form, validator) in FORMS.iter().zip(VALIDATORS.iter()) {
                let (accepts, pattern) = ((form.accepts)(&text), (form.pattern)());
                prop_assert_eq!(accepts, validator.is_valid(&json!(text)), "{} {:?}", pattern, text);
            }
        }
    }
}
