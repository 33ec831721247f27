//! Texts of token rows without copies.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;

use arrow::array::{Array, StringArray};
use arrow::buffer::Buffer;

/// A text: a part of a mapped file, or bytes in memory.
#[derive(Clone, Default)]
pub struct RowText(Buffer);

impl RowText {
    /// Text `i` of an array, which has no nulls.
    pub(super) fn of(array: &StringArray, i: usize) -> RowText {
        let (start, len) = (array.value_offsets()[i] as usize, array.value_length(i) as usize);
        debug_assert!(array.is_valid(i));
        RowText(array.values().slice_with_length(start, len))
    }

    /// The text.
    ///
    /// # Panics
    /// Where another program has changed the file in place since it was read.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("a token file was changed while it was in use")
    }
}

impl Deref for RowText {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for RowText {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl std::borrow::Borrow<str> for RowText {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl From<&str> for RowText {
    fn from(text: &str) -> RowText {
        RowText(Buffer::from_slice_ref(text))
    }
}

impl From<String> for RowText {
    fn from(text: String) -> RowText {
        RowText(Buffer::from_vec(text.into_bytes()))
    }
}

impl fmt::Display for RowText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self)
    }
}

impl fmt::Debug for RowText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl PartialEq for RowText {
    fn eq(&self, other: &RowText) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for RowText {}

impl PartialEq<String> for RowText {
    fn eq(&self, other: &String) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for RowText {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

impl PartialOrd for RowText {
    fn partial_cmp(&self, other: &RowText) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for RowText {
    fn cmp(&self, other: &RowText) -> std::cmp::Ordering {
        self.as_str().cmp(other)
    }
}

impl Hash for RowText {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}
