//! Chat messages: prompts and responses are lists of {role, content} from
//! ingest to the chat template, so that system messages and earlier turns survive.

use polars::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::frame::{ListOfStructs, list_of_structs};
use crate::schema::col;

/// Role of instructions to the model.
pub const SYSTEM: &str = "system";
/// Role of the person.
pub const USER: &str = "user";
/// Role of the model.
pub const ASSISTANT: &str = "assistant";

/// One message.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, ...
    pub role: String,
    /// The text.
    pub content: String,
}

impl Message {
    /// A message of this role.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Message {
        Message { role: role.into(), content: content.into() }
    }

    /// A user's message.
    pub fn user(content: impl Into<String>) -> Message {
        Message::new(USER, content)
    }

    /// A model's message.
    pub fn assistant(content: impl Into<String>) -> Message {
        Message::new(ASSISTANT, content)
    }
}

/// A column of message lists, read without copying text.
#[derive(Debug, Clone)]
pub struct MessageColumn {
    lists: ListOfStructs,
    roles: StringChunked,
    contents: StringChunked,
}

impl MessageColumn {
    /// Opens a `list<struct{role, content}>` column; the order of the two fields does not matter.
    ///
    /// # Errors
    /// [`crate::Error::Frame`] where it has another type.
    pub fn open(column: &Column) -> Result<MessageColumn> {
        let lists = ListOfStructs::open(column)?;
        let roles = lists.field(col::ROLE)?.str()?.clone();
        let contents = lists.field(col::CONTENT)?.str()?.clone();
        Ok(MessageColumn { lists, roles, contents })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.lists.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.lists.is_empty()
    }

    /// The messages of row `i` as (role, content); a null reads as an empty text.
    pub fn row(&self, i: usize) -> impl DoubleEndedIterator<Item = (&str, &str)> + ExactSizeIterator + Clone {
        self.lists.range(i).map(|k| (self.roles.get(k).unwrap_or(""), self.contents.get(k).unwrap_or("")))
    }

    /// The messages of row `i`, owned.
    pub fn messages(&self, i: usize) -> Vec<Message> {
        self.row(i).map(|(role, content)| Message::new(role, content)).collect()
    }
}

/// Builds a column of message lists.
pub struct MessageColumnBuilder {
    name: String,
    offsets: Vec<i64>,
    roles: StringChunkedBuilder,
    contents: StringChunkedBuilder,
    flat: i64,
}

impl MessageColumnBuilder {
    /// An empty column with room for `rows` lists.
    pub fn new(name: &str, rows: usize) -> MessageColumnBuilder {
        let mut offsets = Vec::with_capacity(rows + 1);
        offsets.push(0);
        MessageColumnBuilder {
            name: name.to_string(),
            offsets,
            roles: StringChunkedBuilder::new(col::ROLE.into(), rows),
            contents: StringChunkedBuilder::new(col::CONTENT.into(), rows),
            flat: 0,
        }
    }

    /// Appends one row.
    pub fn push<'a>(&mut self, messages: impl IntoIterator<Item = (&'a str, &'a str)>) {
        for (role, content) in messages {
            self.roles.append_value(role);
            self.contents.append_value(content);
            self.flat += 1;
        }
        self.offsets.push(self.flat);
    }

    /// The column, `list<struct{role, content}>`.
    ///
    /// # Errors
    /// [`crate::Error::Frame`].
    pub fn finish(self) -> Result<Column> {
        let fields = [self.roles.finish().into_series(), self.contents.finish().into_series()];
        list_of_structs(&self.name, self.offsets, &fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(rows: &[Vec<(&'static str, &'static str)>]) -> MessageColumn {
        let mut builder = MessageColumnBuilder::new("prompt", rows.len());
        rows.iter().for_each(|r| builder.push(r.iter().copied()));
        MessageColumn::open(&builder.finish().unwrap()).unwrap()
    }

    #[test]
    fn messages_survive_the_column() {
        let rows = vec![vec![("system", "be brief"), ("user", "hi \u{1F600}")], vec![], vec![("user", "")]];
        let read = column(&rows);
        assert_eq!(read.len(), 3);
        for (i, row) in rows.iter().enumerate() {
            assert_eq!(&read.row(i).collect::<Vec<_>>(), row);
        }
        assert_eq!(read.messages(0)[1], Message::user("hi \u{1F600}"));
    }
}
