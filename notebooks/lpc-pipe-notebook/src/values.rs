//! Columns and single values.

use std::cmp::Ordering;

/// A column. A value that is not there is `None`.
#[derive(Debug, Clone, PartialEq)]
pub enum Column {
    /// Texts.
    Text(Vec<Option<String>>),
    /// Numbers of every type; an integer column with a value that `f64` does not hold exactly is read as text.
    Number(Vec<Option<f64>>),
    /// Flags.
    Flag(Vec<Option<bool>>),
    /// Lists of texts. A list of records is read as a list of texts, the fields of a record separated by `: `.
    Texts(Vec<Option<Vec<String>>>),
    /// Lists of numbers.
    Numbers(Vec<Option<Vec<f64>>>),
}

impl Column {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        match self {
            Self::Text(v) => v.len(),
            Self::Number(v) => v.len(),
            Self::Flag(v) => v.len(),
            Self::Texts(v) => v.len(),
            Self::Numbers(v) => v.len(),
        }
    }

    /// What the column holds, in words.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "texts",
            Self::Number(_) => "numbers",
            Self::Flag(_) => "flags",
            Self::Texts(_) => "lists of texts",
            Self::Numbers(_) => "lists of numbers",
        }
    }

    /// The rows at `places`, in that order; null where a place is `None`. The places are below [`Self::rows`].
    pub(crate) fn take(&self, places: &[Option<usize>]) -> Self {
        fn of<T: Clone>(values: &[Option<T>], places: &[Option<usize>]) -> Vec<Option<T>> {
            places.iter().map(|place| place.and_then(|i| values[i].clone())).collect()
        }
        match self {
            Self::Text(v) => Self::Text(of(v, places)),
            Self::Number(v) => Self::Number(of(v, places)),
            Self::Flag(v) => Self::Flag(of(v, places)),
            Self::Texts(v) => Self::Texts(of(v, places)),
            Self::Numbers(v) => Self::Numbers(of(v, places)),
        }
    }

    /// The value of a row that is compared and grouped by; `None` for lists.
    pub(crate) fn value(&self, row: usize) -> Option<Value> {
        fn or_null<T>(value: Option<T>, of: impl Fn(T) -> Value) -> Option<Value> {
            Some(value.map_or(Value::Null, of))
        }
        match self {
            Self::Text(v) => or_null(v[row].clone(), Value::Text),
            Self::Number(v) => or_null(v[row], Value::Number),
            Self::Flag(v) => or_null(v[row], Value::Flag),
            Self::Texts(_) | Self::Numbers(_) => None,
        }
    }
}

/// A single value, with an order: null, flags, numbers, texts.
#[derive(Debug, Clone)]
pub enum Value {
    /// Not there.
    Null,
    /// A flag.
    Flag(bool),
    /// A number.
    Number(f64),
    /// A text.
    Text(String),
}

impl Value {
    fn place(&self) -> u8 {
        match self {
            Self::Null => 0,
            Self::Flag(_) => 1,
            Self::Number(_) => 2,
            Self::Text(_) => 3,
        }
    }
}

impl Ord for Value {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Flag(a), Self::Flag(b)) => a.cmp(b),
            // Adding 0 makes -0 the same key as 0.
            (Self::Number(a), Self::Number(b)) => (a + 0.0).total_cmp(&(b + 0.0)),
            (Self::Text(a), Self::Text(b)) => a.cmp(b),
            _ => self.place().cmp(&other.place()),
        }
    }
}

impl PartialOrd for Value {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Value {}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.into())
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Flag(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Number(value)
    }
}

/// Mean of the values that are there; `None` where there are none.
pub fn mean(values: impl IntoIterator<Item = Option<f64>>) -> Option<f64> {
    let (n, sum) = values.into_iter().flatten().fold((0u64, 0.0), |(n, sum), v| (n + 1, sum + v));
    (n > 0).then(|| sum / n as f64)
}
