//! JSON5 with positions: a reader that remembers where each key and value stands.
//!
//! The usual readers give a value or one error; a config error must point at the key in the file, also when the fault is in what the
//! value means. Tests hold this reader against the `json5` crate.

use std::collections::HashMap;

use serde_json::{Map, Number, Value};

/// How deep a document may be nested.
const MAX_DEPTH: usize = 64;

/// Text that is not JSON5, or says something twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Byte offset in the text.
    pub(crate) at: usize,
    /// The key that it is about, dotted; empty when it is about the text itself.
    pub(crate) key: String,
    /// What is wrong.
    pub(crate) reason: String,
}

/// A value and where it begins.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    /// Byte offset in the text.
    pub(crate) at: usize,
    /// The value.
    pub(crate) kind: Kind,
}

/// A value whose parts know where they are.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    /// null, a truth value, a number or a string.
    Scalar(Value),
    /// A list.
    Array(Vec<Node>),
    /// Keys in the order of the text; none occurs twice.
    Object(Vec<Member>),
}

/// A key, where it begins, and its value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Member {
    /// The key.
    pub(crate) key: String,
    /// Byte offset of the key.
    pub(crate) at: usize,
    /// Its value.
    pub(crate) node: Node,
}

impl Node {
    /// The plain value.
    pub(crate) fn to_value(&self) -> Value {
        match &self.kind {
            Kind::Scalar(value) => value.clone(),
            Kind::Array(items) => items.iter().map(Self::to_value).collect(),
            Kind::Object(members) => {
                let map: Map<String, Value> = members.iter().map(|m| (m.key.clone(), m.node.to_value())).collect();
                Value::Object(map)
            }
        }
    }
}

/// Reads a text.
///
/// # Errors
/// The first [`Fault`].
pub(crate) fn parse(text: &str) -> Result<Node, Fault> {
    let mut reader = Reader {
        text,
        at: text.strip_prefix('\u{feff}').map_or(0, |_| 3),
        path: Vec::new(),
    };
    reader.skip()?;
    let node = reader.value()?;
    reader.skip()?;
    if reader.at < text.len() {
        Err(reader.fault("unexpected text after the document"))
    } else {
        Ok(node)
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    path: Vec<String>,
}

impl Reader<'_> {
    fn fault(&self, reason: impl Into<String>) -> Fault {
        Fault {
            at: self.at.min(self.text.len()),
            key: String::new(),
            reason: reason.into(),
        }
    }

    fn unexpected(&self, wanted: &str) -> Fault {
        match self.peek() {
            Some(found) => self.fault(format!("unexpected {found:?}, expected {wanted}")),
            None => self.fault(format!("the file ends, expected {wanted}")),
        }
    }

    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let found = self.peek()?;
        self.at += found.len_utf8();
        Some(found)
    }

    fn eat(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.at += wanted.len_utf8();
        }
        found
    }

    /// White space and comments.
    fn skip(&mut self) -> Result<(), Fault> {
        loop {
            let rest = self.rest();
            if rest.starts_with("//") {
                self.at += rest.find(['\n', '\r', '\u{2028}', '\u{2029}']).unwrap_or(rest.len());
            } else if let Some(comment) = rest.strip_prefix("/*") {
                let Some(end) = comment.find("*/") else {
                    return Err(self.fault("this comment has no end"));
                };
                self.at += "/*".len() + end + "*/".len();
            } else if let Some(blank) = rest.chars().next().filter(|c| c.is_whitespace() || *c == '\u{feff}') {
                self.at += blank.len_utf8();
            } else {
                return Ok(());
            }
        }
    }

    fn value(&mut self) -> Result<Node, Fault> {
        if self.path.len() >= MAX_DEPTH {
            return Err(self.fault(format!("nested more than {MAX_DEPTH} levels deep")));
        }
        let at = self.at;
        let kind = match self.peek() {
            Some('{') => self.object()?,
            Some('[') => self.array()?,
            Some('"' | '\'') => Kind::Scalar(Value::String(self.string()?)),
            Some('0'..='9' | '.' | '+' | '-') => Kind::Scalar(self.number()?),
            Some(c) if is_id_start(c) => Kind::Scalar(self.word()?),
            _ => return Err(self.unexpected("a value")),
        };
        Ok(Node { at, kind })
    }

    fn object(&mut self) -> Result<Kind, Fault> {
        self.next();
        let mut members: Vec<Member> = Vec::new();
        let mut seen: HashMap<String, usize> = HashMap::new();
        loop {
            self.skip()?;
            if self.eat('}') {
                return Ok(Kind::Object(members));
            }
            let at = self.at;
            let key = self.key()?;
            self.path.push(key.clone());
            if let Some(first) = seen.insert(key.clone(), at) {
                let (line, _) = line_and_column(self.text, first);
                return Err(Fault {
                    at,
                    key: self.path.join("."),
                    reason: format!("is set twice, first in line {line}"),
                });
            }
            self.skip()?;
            if !self.eat(':') {
                return Err(self.unexpected("':' after the key"));
            }
            self.skip()?;
            let node = self.value()?;
            self.path.pop();
            members.push(Member { key, at, node });
            self.skip()?;
            if !self.eat(',') && self.peek() != Some('}') {
                return Err(self.unexpected("',' or '}'"));
            }
        }
    }

    fn array(&mut self) -> Result<Kind, Fault> {
        self.next();
        let mut items = Vec::new();
        loop {
            self.skip()?;
            if self.eat(']') {
                return Ok(Kind::Array(items));
            }
            self.path.push(items.len().to_string());
            items.push(self.value()?);
            self.path.pop();
            self.skip()?;
            if !self.eat(',') && self.peek() != Some(']') {
                return Err(self.unexpected("',' or ']'"));
            }
        }
    }

    fn key(&mut self) -> Result<String, Fault> {
        match self.peek() {
            Some('"' | '\'') => self.string(),
            Some(c) if is_id_start(c) || c == '\\' => self.identifier(),
            _ => Err(self.unexpected("a key or '}'")),
        }
    }

    fn identifier(&mut self) -> Result<String, Fault> {
        let mut name = String::new();
        while let Some(c) = self.peek() {
            if c == '\\' {
                self.next();
                if !self.eat('u') {
                    return Err(self.unexpected("u and four hexadecimal digits"));
                }
                let c = self.unicode_escape()?;
                let fits = if name.is_empty() { is_id_start(c) } else { is_id_part(c) };
                if !fits {
                    return Err(self.fault(format!("{c:?} cannot be part of a key without quotes")));
                }
                name.push(c);
            } else if is_id_part(c) {
                self.next();
                name.push(c);
            } else {
                break;
            }
        }
        Ok(name)
    }

    fn word(&mut self) -> Result<Value, Fault> {
        let start = self.at;
        let word = self.identifier()?;
        let refuse = |reason: String| Fault {
            at: start,
            key: String::new(),
            reason,
        };
        match word.as_str() {
            "null" => Ok(Value::Null),
            "true" => Ok(Value::Bool(true)),
            "false" => Ok(Value::Bool(false)),
            "Infinity" | "NaN" => Err(refuse(format!("{word} is not a number that any key takes"))),
            // It may be a secret that lost its quotes: it is not repeated.
            _ => Err(refuse(
                "unexpected word, expected a value; strings need quotes".to_owned(),
            )),
        }
    }

    fn string(&mut self) -> Result<String, Fault> {
        let start = self.at;
        let quote = self.next();
        let mut text = String::new();
        loop {
            match self.next() {
                None => {
                    return Err(Fault {
                        at: start,
                        key: String::new(),
                        reason: "this string has no end".to_owned(),
                    });
                }
                end if end == quote => return Ok(text),
                Some('\\') => self.escape(&mut text)?,
                Some('\n' | '\r') => {
                    return Err(Fault {
                        at: start,
                        key: String::new(),
                        reason: "this string has no end on its line".to_owned(),
                    });
                }
                Some(c) => text.push(c),
            }
        }
    }

    fn escape(&mut self, text: &mut String) -> Result<(), Fault> {
        let escaped = match self.next() {
            None => return Err(self.unexpected("an escape sequence")),
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('v') => '\u{b}',
            Some('0') if !matches!(self.peek(), Some('0'..='9')) => '\0',
            Some('0'..='9') => return Err(self.fault("this escape sequence is not known")),
            Some('x') => char::from_u32(self.hex_digits(2)?).unwrap_or('\u{fffd}'),
            Some('u') => self.unicode_escape()?,
            Some('\r') => {
                self.eat('\n');
                return Ok(());
            }
            Some('\n' | '\u{2028}' | '\u{2029}') => return Ok(()),
            Some(c) => c,
        };
        text.push(escaped);
        Ok(())
    }

    /// Four digits, and the second half of a pair where the first asks for one. Half a pair is a fault.
    fn unicode_escape(&mut self) -> Result<char, Fault> {
        let first = self.hex_digits(4)?;
        let code = if (0xd800..0xdc00).contains(&first) && self.rest().starts_with("\\u") {
            self.at += 2;
            let second = self.hex_digits(4)?;
            0x10000 + ((first - 0xd800) << 10) + second.wrapping_sub(0xdc00) % 0x400
        } else {
            first
        };
        char::from_u32(code).ok_or_else(|| self.fault("half of a surrogate pair is not a character"))
    }

    fn hex_digits(&mut self, count: usize) -> Result<u32, Fault> {
        let digits = self
            .rest()
            .get(..count)
            .filter(|digits| digits.chars().all(|c| c.is_ascii_hexdigit()));
        let code = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let code = code.ok_or_else(|| self.fault(format!("expected {count} hexadecimal digits")))?;
        self.at += count;
        Ok(code)
    }

    fn number(&mut self) -> Result<Value, Fault> {
        let start = self.at;
        let negative = self.eat('-');
        if !negative {
            self.eat('+');
        }
        let refuse = || Fault {
            at: start,
            key: String::new(),
            reason: "is not a number; strings need quotes".to_owned(),
        };
        let body_at = self.at;
        while self.peek().is_some_and(|c| c.is_ascii_alphanumeric() || c == '.') || self.sign_of_exponent(body_at) {
            self.next();
        }
        let body = self.text.get(body_at..self.at).unwrap_or_default();
        number_value(negative, body).ok_or_else(refuse)
    }

    /// Is this the sign in `1e-5`?
    fn sign_of_exponent(&self, body_at: usize) -> bool {
        let body = self.text.get(body_at..self.at).unwrap_or_default();
        matches!(self.peek(), Some('+' | '-'))
            && body.ends_with(['e', 'E'])
            && !body.starts_with("0x")
            && !body.starts_with("0X")
    }
}

fn number_value(negative: bool, body: &str) -> Option<Value> {
    let sign = if negative { "-" } else { "" };
    if let Some(hex) = body.strip_prefix("0x").or_else(|| body.strip_prefix("0X")) {
        let digits = !hex.is_empty() && hex.chars().all(|c| c.is_ascii_hexdigit());
        let magnitude = digits.then(|| u64::from_str_radix(hex, 16).ok()).flatten()?;
        return format!("{sign}{magnitude}").parse::<Number>().ok().map(Value::Number);
    }
    let leading_zero =
        body.len() > 1 && body.starts_with('0') && body.as_bytes().get(1).is_some_and(u8::is_ascii_digit);
    let shape = body
        .chars()
        .all(|c| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-'));
    if leading_zero || !shape || !body.contains(|c: char| c.is_ascii_digit()) {
        return None;
    }
    if body.chars().all(|c| c.is_ascii_digit())
        && let Ok(number) = format!("{sign}{body}").parse::<Number>()
        && !number.is_f64()
    {
        return Some(Value::Number(number));
    }
    let float: f64 = format!("{sign}{body}").parse().ok()?;
    Number::from_f64(float).map(Value::Number)
}

fn is_id_start(c: char) -> bool {
    c.is_alphabetic() || matches!(c, '_' | '$')
}

fn is_id_part(c: char) -> bool {
    is_id_start(c) || c.is_alphanumeric() || matches!(c, '\u{200c}' | '\u{200d}')
}

/// Line and column of a byte offset, both from 1; columns count characters.
pub(crate) fn line_and_column(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let column = before.get(line_start..).unwrap_or_default().chars().count() + 1;
    (before.matches('\n').count() + 1, column)
}

#[cfg(test)]
mod tests;
