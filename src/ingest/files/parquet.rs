//! Parquet, decoded a few thousand rows at a time whatever the size of its row groups. Texts are views
//! into the pages they came from, so that a text that a dictionary repeats is held once.

use std::fs::File;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Field, FieldRef, Schema};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::basic::Compression;
use polars::prelude::{CompatLevel, IpcWriter, ParquetReader, SerReader, SerWriter};

use super::super::names::{Names, Step};
use super::super::{Input, Limits};
use super::arrow::batches;
use super::columns::{is_text, leaves};
use super::guard::guarded;
use super::text::{BLOCK_BYTES, BLOCK_ROWS};
use crate::error::{Error, Result};

const KIND: &str = "Parquet";

/// A Parquet file whose metadata was read.
pub struct Parquet<'a> {
    input: &'a Input,
    metadata: ArrowReaderMetadata,
    /// Names of the columns that are read.
    columns: Vec<String>,
    /// Names of all columns.
    pub keys: Vec<String>,
    /// Indices of the leaves that are read, among those of all columns.
    leaves: Vec<usize>,
    pub rows: u64,
}

impl<'a> Parquet<'a> {
    /// Opens a file and reads its metadata.
    ///
    /// # Errors
    /// [`Error::Data`] where it is damaged, has rows but no known column, or is larger than allowed.
    pub fn open(input: &'a Input, names: &Names, limits: Limits) -> Result<Parquet<'a>> {
        let file = File::open(&input.path).map_err(Error::io(&input.label))?;
        let metadata = guarded(input, KIND, || {
            let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
            let plain = ArrowReaderMetadata::load(&file, options.clone())?;
            let fields: Vec<FieldRef> = plain.schema().fields().iter().map(viewed).collect();
            let schema = Schema::new_with_metadata(fields, plain.schema().metadata().clone());
            ArrowReaderMetadata::try_new(plain.metadata().clone(), options.with_schema(Arc::new(schema)))
        })?;
        let fields = metadata.schema().fields();
        let columns: Vec<String> = fields.iter().map(|f| f.name().clone()).filter(|name| names.knows(name)).collect();
        let keys: Vec<String> = fields.iter().map(|f| f.name().clone()).collect();
        let rows = u64::try_from(metadata.metadata().file_metadata().num_rows()).unwrap_or(0);
        if columns.is_empty() && rows > 0 {
            return Err(none_known(input, &keys));
        }
        let (mut read, mut next) = (Vec::new(), 0);
        for field in fields {
            let step = match names.top(field.name()) {
                Step::Take(_) => None,
                step => Some(step),
            };
            leaves(field, step, names, &mut next, &mut read);
        }
        let parquet = Parquet { input, metadata, columns, keys, leaves: read, rows };
        if parquet.bytes() > limits.decompressed_bytes {
            return Err(super::too_large(input, None, limits));
        }
        Ok(parquet)
    }

    /// A batch of no rows, with the columns that are read.
    pub fn empty(&self) -> std::result::Result<RecordBatch, arrow::error::ArrowError> {
        let fields = self.metadata.schema().fields().iter().filter(|f| self.columns.contains(f.name())).cloned();
        Ok(RecordBatch::new_empty(Arc::new(Schema::new(fields.collect::<Vec<_>>()))))
    }

    /// Bytes of what is read, after decompression.
    fn bytes(&self) -> u64 {
        let groups = self.metadata.metadata().row_groups().iter();
        let sizes = groups.flat_map(|g| self.leaves.iter().filter_map(|l| g.columns().get(*l)));
        sizes.map(|c| u64::try_from(c.uncompressed_size()).unwrap_or(0)).fold(0, u64::saturating_add)
    }

    /// Sends the rows batch by batch, with the number of rows before each, until the end or until the receiver is gone.
    ///
    /// # Errors
    /// [`Error::Data`] where the file is damaged.
    pub fn send(&self, to: &SyncSender<(u64, RecordBatch)>) -> Result<()> {
        let known =
            |c: &Compression| matches!(c, Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::ZSTD(_));
        let mut chunks = self.metadata.metadata().row_groups().iter().flat_map(|g| g.columns());
        let sent = if chunks.all(|c| known(&c.compression())) { self.stream(to)? } else { self.by_polars(to)? };
        match sent {
            Some(sent) if sent != self.rows => {
                Err(self.input.fault(None, &format!("expected {} rows, read {sent}", self.rows)))
            }
            _ => Ok(()),
        }
    }

    /// Sends the rows and returns their number; `None` where the receiver is gone.
    fn stream(&self, to: &SyncSender<(u64, RecordBatch)>) -> Result<Option<u64>> {
        let file = File::open(&self.input.path).map_err(Error::io(&self.input.label))?;
        // It depends on the file alone, so that batches end at the same rows in every run.
        let rows = (BLOCK_BYTES as u64 / (self.bytes() / self.rows).max(1)).clamp(64, BLOCK_ROWS as u64);
        let mut reader = guarded(self.input, KIND, || {
            let mask = ProjectionMask::leaves(self.metadata.parquet_schema(), self.leaves.iter().copied());
            let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, self.metadata.clone());
            builder.with_projection(mask).with_batch_size(rows as usize).build()
        })?;
        let mut sent = 0;
        while let Some(batch) = guarded(self.input, KIND, || reader.next().transpose())? {
            let before = sent;
            sent += batch.num_rows() as u64;
            if to.send((before, batch)).is_err() {
                return Ok(None);
            }
        }
        Ok(Some(sent))
    }

    /// As [`Parquet::stream`], through polars, for compressions that the other reader lacks (gzip, Brotli, LZ4).
    fn by_polars(&self, to: &SyncSender<(u64, RecordBatch)>) -> Result<Option<u64>> {
        let mut sent = 0;
        while sent < self.rows {
            let take = (self.rows - sent).min(BLOCK_ROWS as u64);
            let file = File::open(&self.input.path).map_err(Error::io(&self.input.label))?;
            let bytes = guarded(self.input, KIND, || {
                let reader = ParquetReader::new(file).with_columns(Some(self.columns.clone()));
                let mut frame = reader.with_slice(Some((sent as usize, take as usize))).finish()?;
                let mut bytes = Vec::new();
                IpcWriter::new(&mut bytes).with_compat_level(CompatLevel::newest()).finish(&mut frame)?;
                polars::prelude::PolarsResult::Ok(bytes)
            })?;
            let mut listening = true;
            let before = sent;
            batches(self.input, Buffer::from(bytes), &mut |batch| {
                let rows = batch.num_rows() as u64;
                listening = to.send((sent, batch)).is_ok();
                sent += rows;
                Ok(listening)
            })?;
            if !listening {
                return Ok(None);
            }
            if sent == before {
                break;
            }
        }
        Ok(Some(sent))
    }
}

/// The fault of a table without any column that is read.
pub fn none_known(input: &Input, columns: &[String]) -> Error {
    let message = format!("none of the columns is known: {}", columns.join(", "));
    input.fault(None, &message).with_hint(super::super::NAME_COLUMNS)
}

/// The same field, its texts as views.
fn viewed(field: &FieldRef) -> FieldRef {
    let kind = match field.data_type() {
        kind if is_text(kind) => DataType::Utf8View,
        DataType::List(inner) => DataType::List(viewed(inner)),
        DataType::LargeList(inner) => DataType::LargeList(viewed(inner)),
        DataType::FixedSizeList(inner, size) => DataType::FixedSizeList(viewed(inner), *size),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(viewed).collect()),
        kind => kind.clone(),
    };
    Arc::new(Field::clone(field).with_data_type(kind))
}
