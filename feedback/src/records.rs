//! One reader over the files people have: JSON lines, a JSON list, Parquet, each of records or of Argilla's. Leaves what
//! a record holds to its type, and each format to its file.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek};
use std::path::Path;

use serde_json::{Map, Value};

use crate::argilla;
use crate::{FeedbackError, JsonlReader, Line, Record, parquet};

type Fields = Map<String, Value>;
/// Rows of a file as they are.
pub(crate) type Source = Box<dyn Iterator<Item = Result<Line<Fields>, FeedbackError>>>;

/// Records of a file, in its order; see [`read_records`].
pub struct Records<T> {
    path: std::path::PathBuf,
    source: Source,
    record: std::marker::PhantomData<T>,
}

/// Reads the records of a file. What kind of file it is, its first bytes say: Parquet, a JSON list of objects, or JSON
/// lines. A record with `fields` and `responses` or `suggestions` is Argilla's; one that nobody has answered is left out.
///
/// [`Line::number`] counts lines of JSON lines, and records of the others, from 1.
///
/// # Errors
/// [`FeedbackError::File`]; later [`FeedbackError::Line`] for the first record that is none of `T`.
pub fn read_records<T: Record>(path: impl AsRef<Path>) -> Result<Records<T>, FeedbackError> {
    let path = path.as_ref();
    Ok(Records { path: path.to_owned(), source: open(path)?, record: std::marker::PhantomData })
}

/// Opens a file of any kind.
pub(crate) fn open(path: &Path) -> Result<Source, FeedbackError> {
    let fail = |error: std::io::Error| FeedbackError::file(path, format!("cannot open the file: {error}"));
    let mut file = BufReader::new(File::open(path).map_err(fail)?);
    Ok(match first_byte(&mut file).map_err(fail)? {
        Start::Parquet => Box::new(parquet::read(path)?),
        Start::List => Box::new(list(path, file)?),
        Start::Other => Box::new(JsonlReader::<Fields, _>::new(path, file)),
    })
}

impl<T: Record> Iterator for Records<T> {
    type Item = Result<Line<T>, FeedbackError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Line { number, record: fields } = match self.source.next()? {
                Ok(line) => line,
                Err(error) => return Some(Err(error)),
            };
            let fields =
                if argilla::is_record(&fields) { argilla::columns(fields) } else { Ok(Some(fields)) };
            let record = match fields {
                Ok(Some(fields)) => T::from_fields(fields),
                Ok(None) => continue,
                Err(error) => Err(error),
            };
            let refuse = |error: crate::RecordError| FeedbackError::Line {
                path: self.path.clone(),
                line: number,
                message: error.0,
            };
            return Some(record.map(|record| Line { number, record }).map_err(refuse));
        }
    }
}

enum Start {
    Parquet,
    List,
    Other,
}

/// Looks at the beginning of a file and goes back to it.
fn first_byte(file: &mut BufReader<File>) -> std::io::Result<Start> {
    let mut magic = [0; 4];
    let is_parquet = file.read_exact(&mut magic).is_ok() && magic == *b"PAR1";
    file.rewind()?;
    if is_parquet {
        return Ok(Start::Parquet);
    }
    let is_blank = |byte: &u8| byte.is_ascii_whitespace() || b"\xef\xbb\xbf".contains(byte);
    let start = file.fill_buf()?.iter().find(|byte| !is_blank(byte)).copied();
    Ok(if start == Some(b'[') { Start::List } else { Start::Other })
}

/// The objects of a JSON list.
fn list(
    path: &Path,
    mut file: BufReader<File>,
) -> Result<impl Iterator<Item = Result<Line<Fields>, FeedbackError>> + use<>, FeedbackError> {
    let mut text = String::new();
    file.read_to_string(&mut text)
        .map_err(|error| FeedbackError::file(path, format!("cannot read the file: {error}")))?;
    let objects: Vec<Fields> =
        serde_json::from_str(text.trim_start_matches('\u{feff}')).map_err(|error| {
            FeedbackError::file(path, format!("begins as a JSON list, but is no list of objects: {error}"))
        })?;
    Ok((1..).zip(objects).map(|(number, record)| Ok(Line { number, record })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PreferenceRecord, PromptRecord, SftRecord};

    fn read<T: Record>(name: &str, bytes: &[u8]) -> Result<Vec<T>, FeedbackError> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).expect("write");
        read_records(&path)?.map(|line| line.map(|line| line.record)).collect()
    }

    #[test]
    fn a_list_of_objects_reads_as_lines_do() {
        let lines = b"{\"prompt\":\"a\",\"id\":1}\n\n{\"prompt\":\"b\"}";
        let list = b"\xef\xbb\xbf \n[{\"prompt\":\"a\",\"id\":1},\n{\"prompt\":\"b\"}]";
        let records = read::<PromptRecord>("a.jsonl", lines).expect("lines");
        assert_eq!(records.len(), 2);
        assert_eq!(read::<PromptRecord>("a.json", list).expect("a list"), records);
    }

    #[test]
    fn what_is_wrong_in_a_list_is_named() {
        let error =
            read::<PromptRecord>("a.json", b"[{\"prompt\":\"a\"},{\"prompt\":1}]").expect_err("a number");
        assert!(
            error
                .to_string()
                .ends_with("a.json:2: `prompt` must be a string or a list of messages, but is a number")
        );
        let error = read::<PromptRecord>("a.json", b"[{\"prompt\":\"a\"}").expect_err("torn");
        assert!(error.to_string().contains("begins as a JSON list"), "{error}");
    }

    #[test]
    fn parquet_reads_as_lines_do() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
        let all = |name: &str| -> Vec<Fields> {
            let lines = read_records(folder.join(name)).expect(name);
            lines.map(|line| line.expect(name).record).collect()
        };
        let expected = all("columns.jsonl");
        assert_eq!(expected.len(), 3);
        for name in ["snappy.parquet", "zstd.parquet"] {
            assert_eq!(all(name), expected, "{name}");
        }
        let pairs: Vec<PreferenceRecord> = read_records(folder.join("snappy.parquet"))
            .expect("a file")
            .map(|line| line.expect("a pair").record)
            .collect();
        assert_eq!(pairs[1].chosen.to_messages("assistant")[0].content, "4");
        assert_eq!(pairs[1].margin, Some(0.5));
        let error = read::<Fields>("a.parquet", b"PAR1 and no more").expect_err("torn").to_string();
        assert!(error.contains("a.parquet: is not a whole Parquet file"), "{error}");
    }

    #[test]
    fn argilla_records_are_what_their_answers_say() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
        let records: Vec<SftRecord> = read_records(folder.join("argilla_edits.json"))
            .expect("a file")
            .map(|line| line.expect("a demonstration").record)
            .collect();
        assert_eq!(records.len(), 1, "the second has no answer");
    }
}
