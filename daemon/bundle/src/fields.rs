//! Reads the fields of an object; whatever is missing, surplus or of the wrong form has one cause.

use std::collections::BTreeMap;

use agentd_types::UnixTime;

use crate::{Cause, Reject, json::Value, reject::quoted};

/// An object whose fields are being read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields<'a> {
    map: &'a BTreeMap<String, Value>,
    cause: Cause,
    /// Names the object in messages, such as `the catalog`.
    what: &'a str,
}

impl<'a> Fields<'a> {
    pub(crate) fn of(value: &'a Value, cause: Cause, what: &'a str) -> Result<Self, Reject> {
        match value {
            Value::Map(map) => Ok(Self { map, cause, what }),
            _ => Err(Reject::new(cause, format!("{what} is not an object"))),
        }
    }

    /// Refuses an object that has other fields than exactly `names`.
    pub(crate) fn only(&self, names: &[&str]) -> Result<(), Reject> {
        if let Some(missing) = names.iter().find(|name| !self.map.contains_key(**name)) {
            return Err(self.refuse(&format!("lacks the field `{missing}`")));
        }
        match self.map.keys().find(|key| !names.contains(&key.as_str())) {
            Some(unknown) => Err(self.refuse(&format!("has the unknown field {}", quoted(unknown)))),
            None => Ok(()),
        }
    }

    pub(crate) fn refuse(&self, why: &str) -> Reject {
        Reject::new(self.cause, format!("{} {why}", self.what))
    }

    pub(crate) fn find(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name)
    }

    pub(crate) fn get(&self, name: &str) -> Result<&'a Value, Reject> {
        self.find(name).ok_or_else(|| self.refuse(&format!("lacks the field `{name}`")))
    }

    pub(crate) fn text(&self, name: &str) -> Result<&'a str, Reject> {
        match self.get(name)? {
            Value::Text(text) => Ok(text),
            _ => Err(self.wrong(name, "a string")),
        }
    }

    pub(crate) fn parsed<T: std::str::FromStr>(&self, name: &str, form: &str) -> Result<T, Reject> {
        self.text(name)?.parse().map_err(|_| self.wrong(name, form))
    }

    pub(crate) fn flag(&self, name: &str) -> Result<bool, Reject> {
        match self.get(name)? {
            Value::Bool(flag) => Ok(*flag),
            _ => Err(self.wrong(name, "true or false")),
        }
    }

    /// An integer of at least `least`.
    pub(crate) fn count(&self, name: &str, least: u64) -> Result<u64, Reject> {
        match self.get(name)? {
            Value::Int(number) => u64::try_from(*number).ok(),
            _ => None,
        }
        .filter(|number| *number >= least)
        .ok_or_else(|| self.wrong(name, &format!("an integer of at least {least}")))
    }

    pub(crate) fn time(&self, name: &str) -> Result<UnixTime, Reject> {
        self.count(name, 0).map(UnixTime)
    }

    pub(crate) fn list(&self, name: &str) -> Result<&'a [Value], Reject> {
        match self.get(name)? {
            Value::List(items) => Ok(items),
            _ => Err(self.wrong(name, "a list")),
        }
    }

    pub(crate) fn map(&self, name: &str) -> Result<&'a BTreeMap<String, Value>, Reject> {
        match self.get(name)? {
            Value::Map(map) => Ok(map),
            _ => Err(self.wrong(name, "an object")),
        }
    }

    /// An object whose content is read elsewhere.
    pub(crate) fn free_map(&self, name: &str) -> Result<serde_json::Map<String, serde_json::Value>, Reject> {
        Ok(self.map(name)?.iter().map(|(key, value)| (key.clone(), value.clone().into())).collect())
    }

    pub(crate) fn wrong(&self, name: &str, form: &str) -> Reject {
        self.refuse(&format!("has a field `{name}` that is not {form}"))
    }
}

/// The texts of a list, or `None` when something else stands in it.
pub(crate) fn texts(items: &[Value]) -> Option<Vec<&str>> {
    items
        .iter()
        .map(|item| match item {
            Value::Text(text) => Some(text.as_str()),
            _ => None,
        })
        .collect()
}
