//! The custom resource definitions: what the derives say, plus the few things that they cannot say.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;
use serde_json::{Value, json};

use super::{KoiAgent, KoiPlan};

/// Longest name of an agent: its Secret `<agent>-gateway` must be a valid name too.
const AGENT_NAME_MAX: i64 = 245;

/// The definitions of all kinds, as they are installed.
#[must_use]
pub fn crds() -> Vec<CustomResourceDefinition> {
    let mut agent = finished(KoiAgent::crd());
    for schema in root_schemas(&mut agent) {
        bound_name(schema, AGENT_NAME_MAX);
    }
    vec![agent, finished(KoiPlan::crd())]
}

/// The definitions as documents, for YAML: whole numbers are written as such.
#[must_use]
pub fn crd_documents() -> Vec<Value> {
    crds()
        .iter()
        .map(|crd| whole_numbers(serde_json::to_value(crd).unwrap_or_default()))
        .collect()
}

fn finished(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    for schema in root_schemas(&mut crd) {
        tidy(schema);
        default_status(schema);
    }
    crd
}

fn root_schemas(crd: &mut CustomResourceDefinition) -> impl Iterator<Item = &mut JSONSchemaProps> {
    crd.spec
        .versions
        .iter_mut()
        .filter_map(|version| version.schema.as_mut()?.open_api_v3_schema.as_mut())
}

/// An optional field is absent, not null: one way to say nothing. Descriptions lose the line breaks of the source.
fn tidy(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    if let Some(text) = &mut schema.description {
        *text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    }
    schema
        .properties
        .iter_mut()
        .flat_map(|map| map.values_mut())
        .for_each(tidy);
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => tidy(items),
        Some(JSONSchemaPropsOrArray::Schemas(list)) => list.iter_mut().for_each(tidy),
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        tidy(values);
    }
}

/// A new object has a status that says "not looked at", so that nobody takes silence for health.
fn default_status(schema: &mut JSONSchemaProps) {
    if let Some(status) = schema.properties.as_mut().and_then(|map| map.get_mut("status")) {
        status.default = Some(JSON(json!({ "observedGeneration": -1 })));
    }
}

fn bound_name(schema: &mut JSONSchemaProps, max_length: i64) {
    let name = JSONSchemaProps {
        type_: Some("string".into()),
        max_length: Some(max_length),
        ..JSONSchemaProps::default()
    };
    let metadata = JSONSchemaProps {
        type_: Some("object".into()),
        properties: Some([("name".to_owned(), name)].into()),
        ..JSONSchemaProps::default()
    };
    schema
        .properties
        .get_or_insert_default()
        .insert("metadata".into(), metadata);
}

/// `1.0` becomes `1`: the schema types hold bounds as floats.
fn whole_numbers(value: Value) -> Value {
    match value {
        Value::Array(list) => list.into_iter().map(whole_numbers).collect(),
        Value::Object(map) => map
            .into_iter()
            .map(|(key, value)| (key, whole_numbers(value)))
            .collect(),
        Value::Number(number) => number
            .as_f64()
            .filter(|_| number.is_f64())
            .map_or(Value::Number(number), whole_number),
        other => other,
    }
}

#[allow(clippy::cast_possible_truncation)]
fn whole_number(number: f64) -> Value {
    if number.fract() == 0.0 && number.abs() < 9.0e15 {
        Value::from(number as i64)
    } else {
        Value::from(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_whole_where_nothing_is_lost() {
        let cases = [
            (json!(1.0), json!(1)),
            (json!(-3.0), json!(-3)),
            (json!(1.5), json!(1.5)),
            (json!(8.0e15), json!(8_000_000_000_000_000_i64)),
            (json!(9.0e15), json!(9.0e15)),
            (json!(1.0e300), json!(1.0e300)),
            (json!([{"maximum": 2.0}, 7]), json!([{"maximum": 2}, 7])),
        ];
        for (held, written) in cases {
            assert_eq!(whole_numbers(held), written);
        }
    }
}
