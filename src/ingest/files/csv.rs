//! CSV as RFC 4180 has it: a header, cells in quotes where they hold delimiters or line breaks, quotes
//! in them written twice. Cells become values by the key of their column: numbers where a number is
//! wanted, texts otherwise; message lists in them are read as in every text ([`super::super::written`]).

use std::borrow::Cow;

use super::super::Input;
use super::super::names::{Names, Step};
use super::super::value::{Object, Read, RowFault, Value};
use crate::rejects::reason;

/// Keys whose cells are numbers.
const NUMBERS: [&str; 9] = [
    "score_chosen",
    "score_rejected",
    "chosen-rating",
    "rejected-rating",
    "flip_probability",
    "weight",
    "preference_strength",
    "overall_preference",
    "overall_score",
];

/// Keys whose empty cells are null.
const OPTIONAL: [&str; 9] = [
    "source",
    "annotator",
    "chosen_model",
    "rejected_model",
    "chosen-model",
    "rejected-model",
    "system",
    "input",
    "history",
];

/// How a file's cells are separated, and what its columns are.
#[derive(Debug)]
pub struct Dialect {
    pub delimiter: u8,
    /// The columns as the file names them.
    pub keys: Vec<String>,
    /// The key of each column; `None` where it is not read.
    columns: Vec<Option<&'static str>>,
}

impl Dialect {
    pub fn new(header: &[u8], delimiter: u8, names: &Names) -> Result<Dialect, String> {
        let header = std::str::from_utf8(header).map_err(|_| "the header is not UTF-8")?;
        let cells = cells(header, delimiter).map_err(|fault| fault.message)?;
        let column = |cell: &Cow<'_, str>| match names.top(cell.trim()) {
            Step::Take(name) => Some(name),
            _ => None,
        };
        let columns: Vec<_> = cells.iter().map(column).collect();
        let keys: Vec<String> = cells.iter().map(|c| c.trim().to_string()).collect();
        let twice = |(at, key): (usize, &String)| columns[at].is_some() && keys[..at].contains(key);
        if let Some((_, key)) = keys.iter().enumerate().find(|(at, key)| twice((*at, key))) {
            return Err(format!("two columns have the name {key}: it is not clear which one is meant"));
        }
        if columns.iter().all(Option::is_none) {
            return Err(format!("none of the columns is known: {}", cells.join(", ")));
        }
        Ok(Dialect { delimiter, keys, columns })
    }

    pub fn row<'a>(&self, record: &'a str) -> Read<Object<'a>> {
        let cells = cells(record, self.delimiter)?;
        if cells.len() != self.columns.len() {
            let message = format!("expected {} cells as in the header, got {}", self.columns.len(), cells.len());
            return Err(RowFault::new("", reason::BAD_CSV, message));
        }
        let fields = self.columns.iter().zip(cells).filter_map(|(key, cell)| key.map(|key| (key, value(key, cell))));
        Ok(Object(fields.collect()))
    }
}

/// A cell as the value that its key asks for.
fn value<'a>(key: &'static str, cell: Cow<'a, str>) -> Value<'a> {
    if cell.is_empty() && (NUMBERS.contains(&key) || OPTIONAL.contains(&key)) {
        return Value::Null;
    }
    if NUMBERS.contains(&key) {
        return cell.trim().parse().map_or(Value::Text(cell), Value::Number);
    }
    if key == "annotator" && cell.ends_with(".0") && cell.parse::<f64>().is_ok_and(|x| x.is_finite()) {
        // Data frames write 7 as `7.0` if the column has an empty cell, else as `7`: both are one annotator.
        return Value::Number(cell.parse().unwrap_or_default());
    }
    Value::Text(cell)
}

/// Splits a record into its cells.
fn cells(record: &str, delimiter: u8) -> Read<Vec<Cow<'_, str>>> {
    let bytes = record.as_bytes();
    let mut cells = Vec::new();
    let mut at = 0;
    loop {
        if bytes.get(at) != Some(&b'"') {
            let end = bytes[at..].iter().position(|b| *b == delimiter).map_or(bytes.len(), |n| at + n);
            cells.push(Cow::Borrowed(&record[at..end]));
            if end == bytes.len() {
                return Ok(cells);
            }
            at = end + 1;
            continue;
        }
        let start = at + 1;
        let mut doubled = false;
        at = start;
        loop {
            match bytes[at..].iter().position(|b| *b == b'"') {
                None => return Err(RowFault::new("", reason::BAD_CSV, "not valid CSV: a quote is not closed")),
                Some(n) if bytes.get(at + n + 1) == Some(&b'"') => {
                    doubled = true;
                    at += n + 2;
                }
                Some(n) => {
                    at += n;
                    break;
                }
            }
        }
        let cell = &record[start..at];
        cells.push(if doubled { Cow::Owned(cell.replace("\"\"", "\"")) } else { Cow::Borrowed(cell) });
        at += 1;
        match bytes.get(at) {
            None => return Ok(cells),
            Some(byte) if *byte == delimiter => at += 1,
            Some(_) => {
                let message = format!("not valid CSV: text after a closing quote (byte {})", at + 1);
                return Err(RowFault::new("", reason::BAD_CSV, message));
            }
        }
    }
}

/// Finds the end of a record: a line break outside of quotes.
#[derive(Debug)]
pub struct Scan {
    delimiter: u8,
    state: State,
    breaks: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// At the start of a cell, where a quote opens.
    Start,
    Plain,
    Quoted,
    /// After a quote inside quotes: the cell has ended, or the quote is the first of two that stand for one.
    Quote,
}

impl Scan {
    pub fn new(delimiter: u8) -> Scan {
        Scan { delimiter, state: State::Start, breaks: 0 }
    }

    /// Offset of the line break that ends the record.
    pub fn end(&mut self, chunk: &[u8]) -> Option<usize> {
        for (at, byte) in chunk.iter().enumerate() {
            self.state = match (self.state, *byte) {
                (State::Quoted, b'"') => State::Quote,
                (State::Quoted, b'\n') => {
                    self.breaks += 1;
                    State::Quoted
                }
                (State::Quoted, _) => State::Quoted,
                (_, b'\n') => return Some(at),
                (_, byte) if byte == self.delimiter => State::Start,
                (State::Start | State::Quote, b'"') => State::Quoted,
                _ => State::Plain,
            };
        }
        None
    }

    /// Whether a quoted cell is still open.
    pub fn inside_quotes(&self) -> bool {
        self.state == State::Quoted
    }

    /// Line breaks inside of the record.
    pub fn breaks(&self) -> u64 {
        self.breaks
    }
}

/// The delimiter of a text that is CSV: one whose first line splits into several cells, of which one at
/// least is a column that is read. Where the file's name says that it is CSV, its columns may all be unknown.
pub fn delimiter(head: &[u8], whole: bool, input: &Input, names: &Names) -> Option<u8> {
    let first = head.iter().position(|b| !b.is_ascii_whitespace())?;
    let line = &head[first..];
    let end = match line.iter().position(|b| *b == b'\n') {
        Some(end) => end,
        None if whole => line.len(),
        None => return None,
    };
    let line = std::str::from_utf8(&line[..end]).ok()?.trim_end();
    if line.starts_with(['{', '[']) {
        return None;
    }
    let parted = |delimiter: u8| {
        let cells = cells(line, delimiter).ok().filter(|cells| cells.len() > 1)?;
        let known = cells.iter().filter(|cell| names.knows(cell.trim())).count();
        Some((known, cells.len(), delimiter))
    };
    let (known, _, delimiter) = [b',', b';', b'\t'].into_iter().filter_map(parted).max_by_key(|(k, n, _)| (*k, *n))?;
    let name = input.label.to_string_lossy().to_lowercase();
    let named =
        [".csv", ".tsv"].iter().any(|ending| name.trim_end_matches(".gz").trim_end_matches(".zst").ends_with(ending));
    (known > 0 || named).then_some(delimiter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_parted_at_delimiters_outside_of_quotes() {
        let parted = |record| cells(record, b',').map(|c| c.iter().map(|c| c.to_string()).collect::<Vec<_>>());
        assert_eq!(parted("a,\"b,\n\"\"c\"\"\",,d").unwrap(), ["a", "b,\n\"c\"", "", "d"]);
        assert_eq!(parted("a b\"c,").unwrap(), ["a b\"c", ""]);
        assert_eq!(parted("\"\"").unwrap(), [""]);
        assert!(parted("\"a\" b,c").unwrap_err().message.contains("text after a closing quote (byte 4)"));
        assert!(parted("\"a").unwrap_err().message.contains("a quote is not closed"));
    }

    #[test]
    fn cells_become_what_their_column_asks_for() {
        let dialect =
            Dialect::new(b"prompt,\"chosen\",rejected,score_chosen,source,x", b',', &Names::default()).unwrap();
        assert_eq!(dialect.keys, ["prompt", "chosen", "rejected", "score_chosen", "source", "x"]);
        let record = "[1],\"[{\"\"role\"\": \"\"assistant\"\"}]\",b, 2.5 ,,y";
        let mut row = dialect.row(record).unwrap();
        assert_eq!(row.text("prompt").unwrap(), "[1]");
        assert_eq!(row.text("chosen").unwrap(), "[{\"role\": \"assistant\"}]");
        assert_eq!(row.number("score_chosen").unwrap(), 2.5);
        assert_eq!(row.optional_text("source").unwrap(), None);
        assert!(row.take("x").is_none());
        let fault = dialect.row("a,b").unwrap_err();
        assert_eq!(
            (fault.reason, fault.message.as_str()),
            (reason::BAD_CSV, "expected 6 cells as in the header, got 2")
        );
        assert!(
            Dialect::new(b"a,b", b',', &Names::default()).unwrap_err().contains("none of the columns is known: a, b")
        );
        let fault = Dialect::new(b"prompt,chosen,x,x,chosen", b',', &Names::default()).unwrap_err();
        assert!(fault.starts_with("two columns have the name chosen"), "{fault}");
        assert!(Dialect::new(b"prompt,chosen,x,x", b',', &Names::default()).is_ok(), "a column that nobody reads");
    }

    #[test]
    fn csv_is_told_by_its_header() {
        let told = |head: &str, name: &str| delimiter(head.as_bytes(), true, &Input::new(name), &Names::default());
        assert_eq!(told("prompt,chosen\n", "x"), Some(b','));
        assert_eq!(told("\n prompt;chosen;a,b,c,d", "x"), Some(b';'));
        assert_eq!(told("a\tb\n", "x.tsv.gz"), Some(b'\t'));
        assert_eq!(told("a,b\n", "x"), None);
        assert_eq!(told("{\"prompt\": 1, \"chosen\": 2}\n", "x.csv"), None);
        assert_eq!(told("prompt\n", "x.csv"), None);
        assert_eq!(told("", "x.csv"), None);
    }
}
