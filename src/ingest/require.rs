//! Columns that the user named must be in some file.

use std::sync::mpsc::Receiver;

use super::files::columns::Columns;
use super::files::guard::guarded;
use super::files::parquet::Parquet;
use super::files::text::{Block, Text};
use super::files::{Packing, arrow};
use super::names::Names;
use super::reader::{ahead, keys_of, keys_of_batch, parse_row};
use super::{IngestConfig, Input};
use crate::error::{Error, Result};

/// Refuses columns that the user named and that no file has, before anything is read. Parquet's schema and Arrow's
/// first batch show their columns; text is searched until each column was seen.
///
/// # Errors
/// [`Error::Config`] with the entries of all that are missing; [`Error::Data`] where a file is damaged.
pub fn require_columns(inputs: &[Input], config: &IngestConfig, names: &Names) -> Result<()> {
    let mut missing: Vec<(&str, &str)> = names.given().collect();
    let mut keys: Vec<String> = Vec::new();
    for input in inputs {
        if missing.is_empty() {
            break;
        }
        let mut in_file = |has: &dyn Fn(&str) -> bool, all: &dyn Fn() -> Vec<String>| {
            missing.retain(|(target, _)| !has(target));
            if keys.is_empty() {
                keys = all();
            }
            missing.is_empty()
        };
        match Packing::of(input)? {
            Packing::Empty => {}
            Packing::Parquet => {
                let parquet = Parquet::open(input, names, config.limits())?;
                let columns = guarded(input, "Parquet", || Columns::new(&parquet.empty()?, names))?;
                in_file(&|name| columns.has(name), &|| parquet.keys.clone());
            }
            Packing::Arrow => ahead(
                |to| arrow::send(input, names, to),
                |from| {
                    let Ok((_, batch)) = from.recv() else { return Ok(()) };
                    let columns = guarded(input, "Arrow", || Columns::new(&batch, names))?;
                    in_file(&|name| columns.has(name), &|| keys_of_batch(&batch));
                    Ok(())
                },
            )?,
            packing => {
                let text = Text::open(input, packing, names, config.limits())?;
                let framing = text.framing();
                let mut found_all = |block: Block| {
                    block.rows.iter().any(|row| {
                        let bytes = &block.bytes[row.range.clone()];
                        let Ok(object) = parse_row(row, bytes, &framing, names, config.max_line_bytes) else {
                            return false;
                        };
                        in_file(&|name| object.get(name).is_some(), &|| keys_of(bytes, &framing))
                    })
                };
                let look = |from: &Receiver<Block>| {
                    from.iter().any(&mut found_all);
                    Ok(())
                };
                ahead(|to| text.send(to), look)?;
            }
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let entries: Vec<&str> = missing.iter().map(|(_, entry)| *entry).collect();
    let has = if keys.is_empty() { String::new() } else { format!("; the rows have {}", keys.join(", ")) };
    let message = format!("no row has the column of {} (--columns){has}", entries.join(", "));
    Err(Error::config("prepare.ingest.columns", message))
}
