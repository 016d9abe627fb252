//! What `render` reads: the documents of files and of standard input, each held against the definition of its kind.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path as File;

use koi_core::api::{KoiAgent, KoiPlan, crd_documents};
use kube_cel::Validator;
use serde::Deserialize as _;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::place::{Path, locate};
use super::structure;
use super::{Fault, Refused};

/// The version of our kinds.
const VERSION: &str = "skykoi.io/v1alpha1";

/// Many times what an API server takes in one request.
const TEXT_MAX: u64 = 32 * 1024 * 1024;

/// Everything that was read.
#[derive(Debug, Default)]
pub(super) struct Manifests {
    pub(super) agents: Vec<KoiAgent>,
    pub(super) plans: Vec<KoiPlan>,
    /// Labels of the namespaces whose documents were there, by name.
    pub(super) namespaces: BTreeMap<String, BTreeMap<String, String>>,
}

/// The schemas of our kinds, by name.
pub(super) struct Definitions(BTreeMap<String, Value>);

impl Definitions {
    pub(super) fn new() -> Self {
        let schema = |crd: Value| {
            let kind = crd.pointer("/spec/names/kind")?.as_str()?.to_owned();
            let schema = crd.pointer("/spec/versions/0/schema/openAPIV3Schema")?.clone();
            Some((kind, schema))
        };
        Self(crd_documents().into_iter().filter_map(schema).collect())
    }

    pub(super) fn of(&self, kind: &str) -> Option<&Value> {
        self.0.get(kind)
    }

    /// Every fault of an object, as an API server would find it: of the structure first, of the rules where that is right.
    pub(super) fn faults(&self, kind: &str, object: &Value) -> Vec<Fault> {
        let Some(schema) = self.of(kind) else {
            return Vec::new();
        };
        let faults = structure::faults(schema, object);
        if !faults.is_empty() {
            return faults;
        }
        let broken = Validator::new().validate(schema, object, None).err();
        let fault = |error: kube_cel::ValidationError| Fault {
            path: entered(schema, &error.field_path),
            says: error.message,
        };
        broken.into_iter().flatten().map(fault).collect()
    }
}

/// The path of a broken rule: a key of a map is people's own, whatever is in it.
fn entered(schema: &Value, told: &str) -> Path {
    let (mut schema, mut path, mut rest) = (schema, Path::default(), told);
    while !rest.is_empty() {
        let (key, below) = rest.split_once('.').unwrap_or((rest, ""));
        let properties = schema.get("properties");
        let name = key.split('[').next().unwrap_or(key);
        match properties.and_then(|properties| properties.get(name)) {
            Some(found) => {
                path = Path::parse(key).below(&path);
                schema = if name == key {
                    found
                } else {
                    found.get("items").unwrap_or(found)
                };
                rest = below;
            }
            None if schema.get("additionalProperties").is_some() => return path.entry(rest),
            None => return Path::parse(rest).below(&path),
        }
    }
    path
}

/// One YAML document of a file.
struct Document<'a> {
    /// How the file is called.
    file: &'a str,
    /// The line before its first.
    before: usize,
    text: &'a str,
}

impl Document<'_> {
    /// A line for people about a field.
    fn line(&self, about: &str, path: &Path, says: &str) -> String {
        let (line, column) = locate(self.text, path);
        self.placed(line, column, about, says)
    }

    fn placed(&self, line: usize, column: usize, about: &str, says: &str) -> String {
        let says = says.split_whitespace().collect::<Vec<_>>().join(" ");
        format!("{}:{}:{column}: {about}{says}", self.file, self.before + line)
    }

    fn broken(&self, error: &serde_yaml::Error) -> Refused {
        let (line, column) = error.location().map_or((1, 1), |at| (at.line(), at.column()));
        // The place of the whole text is what is said in front; the reader's own is of this document alone.
        let text = error.to_string();
        let told = text.split(" at line ").next().unwrap_or(&text);
        Refused(vec![self.placed(line, column, "is not YAML: ", told)])
    }
}

/// Reads all files; `-` is standard input.
///
/// # Errors
/// One line for each fault, with file, line, column, object and field.
pub(super) fn read(files: &[std::path::PathBuf], stdin: &mut dyn Read) -> Result<Manifests, Refused> {
    let definitions = Definitions::new();
    let mut manifests = Manifests::default();
    let mut faults = Vec::new();
    for file in files {
        let (name, text) = text(file, stdin)?;
        for document in documents(&name, &text) {
            if let Err(Refused(lines)) = take(&document, &definitions, &mut manifests) {
                faults.extend(lines);
            }
        }
    }
    if faults.is_empty() {
        Ok(manifests)
    } else {
        Err(Refused(faults))
    }
}

fn text(file: &File, stdin: &mut dyn Read) -> Result<(String, String), Refused> {
    let (name, text) = if file == File::new("-") {
        ("standard input".to_owned(), bounded(stdin))
    } else {
        let opened = std::fs::File::open(file);
        (
            file.display().to_string(),
            opened.and_then(|mut opened| bounded(&mut opened)),
        )
    };
    match text {
        Ok(text) => Ok((name, text)),
        Err(error) => Err(Refused(vec![format!(
            "{name}: cannot be read: {error}; name a file of YAML or JSON, or - for standard input"
        )])),
    }
}

/// A whole text, unless it is without end.
fn bounded(source: &mut dyn Read) -> std::io::Result<String> {
    let mut text = String::new();
    source.take(TEXT_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > TEXT_MAX {
        let told = format!("it has more than {TEXT_MAX} bytes");
        return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, told));
    }
    Ok(text)
}

/// The documents of a text, without those that hold comments only.
fn documents<'a>(file: &'a str, text: &'a str) -> Vec<Document<'a>> {
    let mut starts = vec![(0, 0)];
    let mut at = 0;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        if line
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
        {
            starts.push((number, at));
        }
        at += line.len();
    }
    let ends = starts.iter().skip(1).map(|(_, at)| *at).chain([text.len()]);
    let parts = starts.iter().zip(ends).map(|((before, start), end)| Document {
        file,
        before: *before,
        text: text.get(*start..end).unwrap_or_default(),
    });
    let says_something = |line: &str| {
        let line = line.trim();
        !(line.is_empty() || line == "---" || line == "..." || line.starts_with('#') || line.starts_with('%'))
    };
    parts.filter(|part| part.text.lines().any(says_something)).collect()
}

fn take(document: &Document<'_>, definitions: &Definitions, manifests: &mut Manifests) -> Result<(), Refused> {
    let value = parse(document)?;
    let items = value.get("items").and_then(Value::as_array);
    let (Some(items), Some(_)) = (
        items,
        value
            .get("kind")
            .and_then(Value::as_str)
            .filter(|kind| kind.ends_with("List")),
    ) else {
        return object(document, &Path::default(), value, definitions, manifests);
    };
    let mut faults = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let path = Path::default().key("items").index(index);
        if let Err(Refused(lines)) = object(document, &path, item.clone(), definitions, manifests) {
            faults.extend(lines);
        }
    }
    if faults.is_empty() {
        Ok(())
    } else {
        Err(Refused(faults))
    }
}

/// The document as JSON, read as strictly as YAML allows: a key that is there twice is an error.
fn parse(document: &Document<'_>) -> Result<Value, Refused> {
    let broken = |error: serde_yaml::Error| document.broken(&error);
    let mut value =
        serde_yaml::Value::deserialize(serde_yaml::Deserializer::from_str(document.text)).map_err(broken)?;
    value.apply_merge().map_err(broken)?;
    if let Some(path) = no_number(&value, &Path::default()) {
        let says = "is not a number (.nan) or has no end (.inf), which JSON has no word for";
        return Err(Refused(vec![document.line(&format!("{path}: "), &path, says)]));
    }
    serde_yaml::from_value(value).map_err(broken)
}

/// Where a number stands that JSON cannot say: it would read as if nothing stood there.
fn no_number(value: &serde_yaml::Value, path: &Path) -> Option<Path> {
    match value {
        serde_yaml::Value::Number(number) => {
            let endless = number.as_f64().is_some_and(|number| !number.is_finite());
            endless.then(|| path.clone())
        }
        serde_yaml::Value::Sequence(list) => {
            let mut items = list.iter().enumerate();
            items.find_map(|(index, item)| no_number(item, &path.index(index)))
        }
        serde_yaml::Value::Mapping(map) => map.iter().find_map(|(key, item)| {
            let path = key.as_str().map_or_else(|| path.clone(), |key| path.key(key));
            no_number(item, &path)
        }),
        serde_yaml::Value::Tagged(tagged) => no_number(&tagged.value, path),
        serde_yaml::Value::Null | serde_yaml::Value::Bool(_) | serde_yaml::Value::String(_) => None,
    }
}

fn object(
    document: &Document<'_>,
    place: &Path,
    mut value: Value,
    definitions: &Definitions,
    manifests: &mut Manifests,
) -> Result<(), Refused> {
    let word = |value: &Value, name: &str| value.pointer(name).and_then(Value::as_str).map(ToOwned::to_owned);
    let refuse = |path: &Path, says: &str| Err(Refused(vec![document.line("", &path.below(place), says)]));
    let (Some(kind), Some(version)) = (word(&value, "/kind"), word(&value, "/apiVersion")) else {
        return refuse(
            &Path::default(),
            "an object needs apiVersion and kind, such as skykoi.io/v1alpha1 and KoiAgent",
        );
    };
    let name = word(&value, "/metadata/name");
    if (kind.as_str(), version.as_str()) == ("Namespace", "v1") {
        let labels = value.pointer("/metadata/labels").cloned();
        let labels = labels.and_then(|labels| serde_json::from_value(labels).ok());
        manifests
            .namespaces
            .insert(name.unwrap_or_default(), labels.unwrap_or_default());
        return Ok(());
    }
    // What belongs to others is their affair: agents come in files together with it.
    if !version.starts_with("skykoi.io/") {
        return Ok(());
    }
    if version != VERSION || definitions.of(&kind).is_none() {
        return refuse(
            &Path::default(),
            &format!("there is no {kind} of {version}; there are KoiAgent and KoiPlan of {VERSION}"),
        );
    }
    // As an API server does with a new object.
    if let Some(map) = value.as_object_mut() {
        map.remove("status");
    }
    let value = structure::without_nulls(value);
    let about = format!("{kind} {}: ", name.as_deref().unwrap_or("without a name"));
    let line = |fault: Fault| {
        let shown = if fault.path.is_root() {
            String::new()
        } else {
            format!("{}: ", fault.path)
        };
        document.line(&format!("{about}{shown}"), &fault.path.below(place), &fault.says)
    };
    let faults = definitions.faults(&kind, &value);
    if !faults.is_empty() {
        return Err(Refused(faults.into_iter().map(line).collect()));
    }
    let broken = |fault: Fault| Refused(vec![line(fault)]);
    match kind.as_str() {
        "KoiAgent" => manifests.agents.push(typed(value).map_err(broken)?),
        _ => manifests.plans.push(typed(value).map_err(broken)?),
    }
    Ok(())
}

/// The object; else the field that is wrong.
fn typed<T: DeserializeOwned>(value: Value) -> Result<T, Fault> {
    serde_path_to_error::deserialize(value).map_err(|error| Fault {
        path: Path::parse(&error.path().to_string()),
        says: error.inner().to_string(),
    })
}

#[cfg(test)]
mod tests;
