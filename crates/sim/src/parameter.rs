//! SSM parameters.

use std::collections::BTreeMap;

use crate::{Account, Answer, refuse};

/// A parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Its value.
    pub value: String,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// How often it was written.
    pub version: u32,
}

/// AWS's limit for a standard parameter.
const STANDARD_BYTES: usize = 4096;

impl Account {
    /// PutParameter: tags and overwriting exclude each other; what is there is overwritten only when asked.
    ///
    /// # Errors
    /// What SSM refuses.
    pub fn put_parameter(
        &mut self,
        name: &str,
        value: &str,
        tags: &BTreeMap<String, String>,
        overwrite: bool,
    ) -> Answer {
        self.call("PutParameter", name, |account| {
            if overwrite && !tags.is_empty() {
                return refuse("ValidationException", "tags and overwrite can't be used together.");
            }
            if value.len() > STANDARD_BYTES {
                return refuse(
                    "ValidationException",
                    "Standard tier parameters support a maximum of 4096 characters.",
                );
            }
            match account.parameters.get_mut(name) {
                Some(_) if !overwrite => refuse("ParameterAlreadyExists", "The parameter already exists."),
                Some(found) => {
                    value.clone_into(&mut found.value);
                    found.version += 1;
                    Ok(())
                }
                None => {
                    let parameter = Parameter {
                        value: value.to_owned(),
                        tags: tags.clone(),
                        version: 1,
                    };
                    account.parameters.insert(name.to_owned(), parameter);
                    Ok(())
                }
            }
        })
    }

    /// DeleteParameter.
    ///
    /// # Errors
    /// What SSM refuses.
    pub fn delete_parameter(&mut self, name: &str) -> Answer {
        self.call("DeleteParameter", name, |account| {
            match account.parameters.remove(name) {
                Some(_) => Ok(()),
                None => refuse("ParameterNotFound", format!("Parameter {name} not found.")),
            }
        })
    }

    /// The parameter of this name.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&Parameter> {
        self.parameters.get(name)
    }

    /// Names of all parameters.
    pub fn parameters(&self) -> impl Iterator<Item = &str> {
        self.parameters.keys().map(String::as_str)
    }
}
