//! JSON objects as rows of a Parquet file: columns are what the rows have, nested as they are (Dremel's levels). Leaves
//! reading to `parquet`.
//!
//! Every column may be null, and a field that a row lacks is a null: Parquet knows no difference.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use parquet::basic::{Compression, ConvertedType, LogicalType, Repetition, Type as Physical, ZstdLevel};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::schema::types::{Type, TypePtr};
use serde_json::{Map, Value};

use crate::FeedbackError;

/// Rows of a row group.
const GROUP: usize = 10_000;

/// Writes rows to a new file; one that exists is replaced.
///
/// # Errors
/// [`FeedbackError`] if the file cannot be written, or if a field holds values of different kinds.
pub fn write_parquet(path: impl AsRef<Path>, rows: &[Map<String, Value>]) -> Result<(), FeedbackError> {
    let path = path.as_ref();
    let mut columns: Vec<(String, Shape)> = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        merge_fields(&mut columns, row, "").map_err(|message| FeedbackError::Line {
            path: path.to_owned(),
            line: index as u64 + 1,
            message,
        })?;
    }
    write(path, &columns, rows)
        .map_err(|error| FeedbackError::file(path, format!("cannot write the file: {error}")))
}

fn write(path: &Path, columns: &[(String, Shape)], rows: &[Map<String, Value>]) -> Result<(), ParquetError> {
    let fields = columns.iter().map(|(name, shape)| shape.schema(name)).collect::<Result<_, _>>()?;
    let schema = Arc::new(Type::group_type_builder("rows").with_fields(fields).build()?);
    let compression = Compression::ZSTD(ZstdLevel::default());
    let properties = WriterProperties::builder().set_compression(compression).build();
    let mut writer = SerializedFileWriter::new(File::create(path)?, schema, Arc::new(properties))?;
    for group in rows.chunks(GROUP) {
        let mut leaves: Vec<Leaf> = columns.iter().flat_map(|(_, shape)| shape.leaves()).collect();
        for row in group {
            let mut rest = leaves.as_mut_slice();
            for (name, shape) in columns {
                let (own, others) = rest.split_at_mut(shape.num_leaves());
                shape.shred(row.get(name), Levels::default(), own);
                rest = others;
            }
        }
        let mut group = writer.next_row_group()?;
        for leaf in &leaves {
            if let Some(mut column) = group.next_column()? {
                leaf.write(&mut column)?;
                column.close()?;
            }
        }
        group.close()?;
    }
    writer.close()?;
    Ok(())
}

/// What the values of a column are.
#[derive(Clone, Debug, PartialEq)]
enum Shape {
    /// Nothing but nulls so far.
    Unknown,
    Bool,
    Int,
    Float,
    Text,
    List(Box<Shape>),
    Group(Vec<(String, Shape)>),
}

fn merge_fields(
    fields: &mut Vec<(String, Shape)>,
    row: &Map<String, Value>,
    path: &str,
) -> Result<(), String> {
    for (name, value) in row {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let index = fields.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
            fields.push((name.clone(), Shape::Unknown));
            fields.len() - 1
        });
        fields[index].1.merge(value, &path)?;
    }
    Ok(())
}

impl Shape {
    /// Widens the shape so that it holds `value`.
    fn merge(&mut self, value: &Value, path: &str) -> Result<(), String> {
        let simple = match value {
            Value::Null => return Ok(()),
            Value::Bool(_) => Self::Bool,
            Value::Number(number) if number.is_i64() => Self::Int,
            Value::Number(_) => Self::Float,
            Value::String(_) => Self::Text,
            Value::Array(elements) => {
                if *self == Self::Unknown {
                    *self = Self::List(Box::new(Self::Unknown));
                }
                let Self::List(element) = self else { return Err(mixed(path)) };
                return elements.iter().try_for_each(|value| element.merge(value, path));
            }
            Value::Object(fields) if fields.is_empty() => {
                return Err(format!(
                    "`{path}` is an empty object, which Parquet cannot hold; leave the field out"
                ));
            }
            Value::Object(fields) => {
                if *self == Self::Unknown {
                    *self = Self::Group(Vec::new());
                }
                let Self::Group(known) = self else { return Err(mixed(path)) };
                return merge_fields(known, fields, path);
            }
        };
        *self = match (&*self, simple) {
            (Self::Unknown, simple) => simple,
            (Self::Int, Self::Float) | (Self::Float, Self::Int) => Self::Float,
            (known, simple) if *known == simple => simple,
            _ => return Err(mixed(path)),
        };
        Ok(())
    }

    fn schema(&self, name: &str) -> Result<TypePtr, ParquetError> {
        let primitive =
            |physical| Type::primitive_type_builder(name, physical).with_repetition(Repetition::OPTIONAL);
        let text = || primitive(Physical::BYTE_ARRAY).with_logical_type(Some(LogicalType::String));
        let built = match self {
            Self::Bool => primitive(Physical::BOOLEAN).build(),
            Self::Int => primitive(Physical::INT64).build(),
            Self::Float => primitive(Physical::DOUBLE).build(),
            Self::Text | Self::Unknown => text().with_converted_type(ConvertedType::UTF8).build(),
            Self::List(element) => {
                let repeated = Type::group_type_builder("list")
                    .with_repetition(Repetition::REPEATED)
                    .with_fields(vec![element.schema("element")?])
                    .build()?;
                Type::group_type_builder(name)
                    .with_repetition(Repetition::OPTIONAL)
                    .with_converted_type(ConvertedType::LIST)
                    .with_logical_type(Some(LogicalType::List))
                    .with_fields(vec![Arc::new(repeated)])
                    .build()
            }
            Self::Group(fields) => {
                let fields =
                    fields.iter().map(|(name, shape)| shape.schema(name)).collect::<Result<_, _>>()?;
                Type::group_type_builder(name)
                    .with_repetition(Repetition::OPTIONAL)
                    .with_fields(fields)
                    .build()
            }
        };
        built.map(Arc::new)
    }

    fn leaves(&self) -> Vec<Leaf> {
        let leaf = |values| vec![Leaf { values, definitions: Vec::new(), repetitions: Vec::new() }];
        match self {
            Self::Bool => leaf(Values::Bool(Vec::new())),
            Self::Int => leaf(Values::Int(Vec::new())),
            Self::Float => leaf(Values::Float(Vec::new())),
            Self::Text | Self::Unknown => leaf(Values::Text(Vec::new())),
            Self::List(element) => element.leaves(),
            Self::Group(fields) => fields.iter().flat_map(|(_, shape)| shape.leaves()).collect(),
        }
    }

    fn num_leaves(&self) -> usize {
        match self {
            Self::List(element) => element.num_leaves(),
            Self::Group(fields) => fields.iter().map(|(_, shape)| shape.num_leaves()).sum(),
            _ => 1,
        }
    }

    /// Adds one value to its leaves.
    fn shred(&self, value: Option<&Value>, at: Levels, leaves: &mut [Leaf]) {
        match (self, value) {
            (_, None | Some(Value::Null)) => leaves.iter_mut().for_each(|leaf| leaf.push(None, at)),
            (Self::Group(fields), Some(value)) => {
                let mut rest = leaves;
                for (name, shape) in fields {
                    let (own, others) = rest.split_at_mut(shape.num_leaves());
                    shape.shred(value.get(name), at.defined(1), own);
                    rest = others;
                }
            }
            (Self::List(element), Some(value)) => {
                let elements = value.as_array().map(Vec::as_slice).unwrap_or_default();
                if elements.is_empty() {
                    leaves.iter_mut().for_each(|leaf| leaf.push(None, at.defined(1)));
                }
                for (index, value) in elements.iter().enumerate() {
                    element.shred(Some(value), at.element(index == 0), leaves);
                }
            }
            (_, Some(value)) => leaves.iter_mut().for_each(|leaf| leaf.push(Some(value), at.defined(1))),
        }
    }
}

fn mixed(path: &str) -> String {
    format!("`{path}` holds values of different kinds, but a column of Parquet has one kind")
}

/// Where a value stands: how much of its path is there, and at which list it repeats.
#[derive(Clone, Copy, Default)]
struct Levels {
    definition: i16,
    repetition: i16,
    /// Lists around the value.
    depth: i16,
}

impl Levels {
    fn defined(self, by: i16) -> Self {
        Self { definition: self.definition + by, ..self }
    }

    fn element(self, first: bool) -> Self {
        let depth = self.depth + 1;
        Self {
            definition: self.definition + 2,
            repetition: if first { self.repetition } else { depth },
            depth,
        }
    }
}

/// One column of plain values with their levels.
struct Leaf {
    values: Values,
    definitions: Vec<i16>,
    repetitions: Vec<i16>,
}

enum Values {
    Bool(Vec<bool>),
    Int(Vec<i64>),
    Float(Vec<f64>),
    Text(Vec<ByteArray>),
}

impl Leaf {
    fn push(&mut self, value: Option<&Value>, at: Levels) {
        self.definitions.push(at.definition);
        self.repetitions.push(at.repetition);
        let Some(value) = value else { return };
        // The shape was made of these very values, so each is what its column holds.
        match &mut self.values {
            Values::Bool(values) => values.push(value.as_bool().unwrap_or_default()),
            Values::Int(values) => values.push(value.as_i64().unwrap_or_default()),
            Values::Float(values) => values.push(value.as_f64().unwrap_or_default()),
            Values::Text(values) => values.push(value.as_str().unwrap_or_default().into()),
        }
    }

    fn write(&self, column: &mut SerializedColumnWriter<'_>) -> Result<(), ParquetError> {
        match &self.values {
            Values::Bool(values) => self.write_as::<BoolType>(column, values),
            Values::Int(values) => self.write_as::<Int64Type>(column, values),
            Values::Float(values) => self.write_as::<DoubleType>(column, values),
            Values::Text(values) => self.write_as::<ByteArrayType>(column, values),
        }
    }

    fn write_as<T: DataType>(
        &self,
        column: &mut SerializedColumnWriter<'_>,
        values: &[T::T],
    ) -> Result<(), ParquetError> {
        column.typed::<T>().write_batch(values, Some(&self.definitions), Some(&self.repetitions)).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read_records;
    use proptest::prelude::*;
    use serde_json::json;

    fn round_trip(rows: &[Map<String, Value>]) -> Vec<Map<String, Value>> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("rows.parquet");
        write_parquet(&path, rows).expect("written");
        read_records(&path).expect("opens").map(|line| line.expect("a row").record).collect()
    }

    fn object(value: Value) -> Map<String, Value> {
        let Value::Object(fields) = value else { panic!("{value}") };
        fields
    }

    #[test]
    fn nested_rows_come_back_as_they_were() {
        let turn = |text: &str| json!({"role": "user", "content": text});
        let rows = [
            json!({"prompt": [turn("a"), turn("b")], "label": true, "n": 9_007_199_254_740_993i64, "x": 0.1, "tags": []}),
            json!({"prompt": [turn("é\u{0}")], "label": null, "n": -1, "x": 2.0, "tags": ["a", null, "b"]}),
            json!({"prompt": null, "label": false, "n": null, "x": null, "tags": null}),
        ]
        .map(object);
        assert_eq!(round_trip(&rows), rows);
    }

    #[test]
    fn mixed_kinds_and_empty_objects_are_refused_by_name() {
        for (rows, sentence) in [
            (vec![json!({"a": 1}), json!({"a": "x"})], "rows.parquet:2: `a` holds values of different kinds"),
            (vec![json!({"a": {"b": [1, "x"]}})], "rows.parquet:1: `a.b` holds values"),
            (vec![json!({"a": {}})], "rows.parquet:1: `a` is an empty object"),
        ] {
            let rows: Vec<_> = rows.into_iter().map(object).collect();
            let error = write_parquet("rows.parquet", &rows).expect_err(sentence).to_string();
            assert!(error.starts_with(sentence), "{error}");
        }
    }

    fn value(depth: u32) -> BoxedStrategy<Value> {
        let text = prop::option::of("\\PC{0,6}").prop_map(|text| json!(text));
        let number = prop::option::of(any::<i64>()).prop_map(|number| json!(number));
        if depth == 0 {
            return prop_oneof![text, number].boxed();
        }
        let lists = prop::option::of(prop::collection::vec(value(depth - 1), 0..4));
        lists.prop_map(|list| json!(list)).boxed()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Lists of lists of texts or numbers, with nulls and empty lists anywhere.
        #[test]
        fn any_rows_of_one_shape_come_back(depth in 0u32..3, seed in prop::collection::vec(value(2), 1..6)) {
            fn texts(value: &Value, depth: u32) -> Value {
                match value {
                    Value::Array(list) if depth == 0 => json!(list.len()),
                    Value::Array(list) => list.iter().map(|value| texts(value, depth - 1)).collect(),
                    Value::Null => Value::Null,
                    other if depth == 0 => json!(other.to_string().len()),
                    _ => Value::Null,
                }
            }
            let rows: Vec<Map<String, Value>> =
                seed.iter().map(|value| object(json!({"v": texts(value, depth), "w": {"u": texts(value, depth)}}))).collect();
            prop_assert_eq!(round_trip(&rows), rows);
        }
    }
}
