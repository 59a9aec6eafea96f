//! Rows of Parquet files as JSON objects. Leaves their meaning to the records.

use std::fs::File;
use std::path::{Path, PathBuf};

use parquet::errors::ParquetError;
use parquet::file::reader::SerializedFileReader;
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};
use serde_json::{Map, Number, Value};

use crate::{FeedbackError, Line};

/// Rows of a file, in its order.
pub(crate) struct Rows {
    path: PathBuf,
    rows: RowIter<'static>,
    number: u64,
}

/// Opens a file; its rows are read one by one.
///
/// # Errors
/// [`FeedbackError::File`] if it is not a whole Parquet file.
pub(crate) fn read(path: &Path) -> Result<Rows, FeedbackError> {
    let torn =
        |error: ParquetError| FeedbackError::file(path, format!("is not a whole Parquet file: {error}"));
    let file = File::open(path)
        .map_err(|error| FeedbackError::file(path, format!("cannot open the file: {error}")))?;
    let reader = SerializedFileReader::new(file).map_err(torn)?;
    Ok(Rows { path: path.to_owned(), rows: RowIter::from_file_into(Box::new(reader)), number: 0 })
}

impl Iterator for Rows {
    type Item = Result<Line<Map<String, Value>>, FeedbackError>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.rows.next()?;
        self.number += 1;
        let record = row.map_err(|error| error.to_string()).and_then(object);
        let refuse = |message| FeedbackError::Line { path: self.path.clone(), line: self.number, message };
        Some(record.map(|record| Line { number: self.number, record }).map_err(refuse))
    }
}

fn object(row: Row) -> Result<Map<String, Value>, String> {
    row.into_columns()
        .into_iter()
        .map(|(name, field)| match value(field) {
            Ok(value) => Ok((name, value)),
            Err(reason) => Err(format!("`{name}` {reason}")),
        })
        .collect()
}

fn value(field: Field) -> Result<Value, String> {
    let float = |number: f64| Number::from_f64(number).map_or(Value::Null, Value::Number);
    Ok(match field {
        Field::Null => Value::Null,
        Field::Bool(value) => value.into(),
        Field::Byte(value) => value.into(),
        Field::Short(value) => value.into(),
        Field::Int(value) => value.into(),
        Field::Long(value) => value.into(),
        Field::UByte(value) => value.into(),
        Field::UShort(value) => value.into(),
        Field::UInt(value) => value.into(),
        Field::ULong(value) => value.into(),
        // Through text, so that 0.1 does not become 0.10000000149011612.
        Field::Float(value) => value.to_string().parse().map_or(Value::Null, float),
        Field::Double(value) => float(value),
        Field::Str(value) => value.into(),
        Field::Group(row) => Value::Object(object(row)?),
        Field::ListInternal(list) => {
            list.elements().iter().cloned().map(value).collect::<Result<Vec<_>, _>>()?.into()
        }
        // Dates, decimals and binary data are columns of the user's own; they are kept as people read them.
        other => other.to_string().into(),
    })
}
