//! Statements whose conditions are known only when they run. Leaves fixed statements where they are used.

use sqlx::any::AnyArguments;
use sqlx::query::Query;
use sqlx::{Any, Arguments, AssertSqlSafe, Encode, Type};

use super::StoreError;

/// A statement under construction. Only fixed text goes into it; values are bound.
#[derive(Default)]
pub(super) struct Statement {
    text: String,
    arguments: AnyArguments,
}

impl Statement {
    pub(super) fn new(text: &'static str) -> Self {
        Self { text: text.into(), arguments: AnyArguments::default() }
    }

    /// Adds `text`, in which each `?` is the next of `values`.
    pub(super) fn push(&mut self, text: &'static str) -> &mut Self {
        self.text.push_str(text);
        self
    }

    /// Adds a placeholder for `value`.
    pub(super) fn bind<'v, T>(&mut self, value: T) -> Result<&mut Self, StoreError>
    where
        T: Encode<'v, Any> + Type<Any>,
    {
        self.arguments
            .add(value)
            .map_err(|cause| StoreError::Database { action: "take a value", cause: cause.to_string() })?;
        self.text.push('$');
        self.text.push_str(&self.arguments.len().to_string());
        Ok(self)
    }

    /// Adds `text` and a placeholder, if there is a value.
    pub(super) fn push_bind<'v, T>(
        &mut self,
        text: &'static str,
        value: Option<T>,
    ) -> Result<&mut Self, StoreError>
    where
        T: Encode<'v, Any> + Type<Any>,
    {
        match value {
            Some(value) => self.push(text).bind(value),
            None => Ok(self),
        }
    }

    /// Adds `(…, …)` of placeholders.
    pub(super) fn bind_list<'v, T>(
        &mut self,
        values: impl IntoIterator<Item = T>,
    ) -> Result<&mut Self, StoreError>
    where
        T: Encode<'v, Any> + Type<Any>,
    {
        for (index, value) in values.into_iter().enumerate() {
            self.push(if index == 0 { "(" } else { ", " }).bind(value)?;
        }
        Ok(self.push(")"))
    }

    pub(super) fn query(self) -> Query<'static, Any, AnyArguments> {
        sqlx::query_with(AssertSqlSafe(self.text), self.arguments)
    }
}

/// JSON text of a value of ours.
pub(super) fn to_json<T: serde::Serialize + ?Sized>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value)
        .map_err(|error| StoreError::Database { action: "write a record as JSON", cause: error.to_string() })
}

/// A value of ours from the JSON text in a column.
pub(super) fn from_json<T: serde::de::DeserializeOwned>(
    table: &str,
    id: &str,
    text: &str,
) -> Result<T, StoreError> {
    serde_json::from_str(text)
        .map_err(|error| StoreError::Damaged(format!("the row `{id}` of {table} cannot be read: {error}")))
}
