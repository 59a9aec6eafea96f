//! Files of records, one JSON object per line: reading with errors that name file and line, writing that survives a
//! crash at any moment. Leaves what a record holds to its type.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::{FeedbackError, RecordError, Text};

/// Longest line read, in bytes: far above any conversation, far below what hurts.
const MAX_LINE_LEN: u64 = 64 << 20;

/// A kind of record: how it comes from and goes to the fields of a JSON object.
pub trait Record: Sized {
    /// Takes the record out of the fields of a line; fields it does not know are kept as its `extra`.
    ///
    /// # Errors
    /// [`RecordError`] naming the field.
    fn from_fields(fields: Map<String, Value>) -> Result<Self, RecordError>;

    /// The fields of its line, its own first.
    fn to_fields(&self) -> Map<String, Value>;
}

/// A line as it is, whatever its columns.
impl Record for Map<String, Value> {
    fn from_fields(fields: Map<String, Value>) -> Result<Self, RecordError> {
        Ok(fields)
    }

    fn to_fields(&self) -> Map<String, Value> {
        self.clone()
    }
}

impl Text {
    /// The text as JSON: a string or a list of messages.
    pub fn to_value(&self) -> Value {
        match self {
            Self::Plain(text) => Value::String(text.clone()),
            Self::Chat(turns) => {
                Value::Array(turns.iter().map(|turn| message_value(&turn.role, &turn.content)).collect())
            }
        }
    }
}

fn message_value(role: &str, content: &str) -> Value {
    let mut turn = Map::new();
    turn.insert("role".to_owned(), role.into());
    turn.insert("content".to_owned(), content.into());
    Value::Object(turn)
}

/// Parses one line.
///
/// # Errors
/// [`RecordError`] if it is not a JSON object or not such a record.
pub fn parse<T: Record>(line: &str) -> Result<T, RecordError> {
    match serde_json::from_str(line) {
        Ok(Value::Object(fields)) => T::from_fields(fields),
        Ok(_) => Err(RecordError::new("the line is JSON, but must be an object in braces")),
        Err(error) => Err(RecordError::new(format!("the line is not JSON: {error}"))),
    }
}

/// A record and where it stood.
#[derive(Clone, Debug, PartialEq)]
pub struct Line<T> {
    /// Line of the file, counted from 1, blank lines included.
    pub number: u64,
    /// The record.
    pub record: T,
}

/// Reads a file of records one by one, skipping blank lines.
#[derive(Debug)]
pub struct JsonlReader<T, R = BufReader<File>> {
    path: PathBuf,
    source: R,
    number: u64,
    bytes: Vec<u8>,
    record: PhantomData<T>,
}

impl<T: Record> JsonlReader<T> {
    /// Opens a file.
    ///
    /// # Errors
    /// [`FeedbackError::File`].
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, FeedbackError> {
        let path = path.into();
        match File::open(&path) {
            Ok(file) => Ok(Self::new(path, BufReader::new(file))),
            Err(error) => Err(FeedbackError::file(&path, format!("cannot open the file: {error}"))),
        }
    }
}

impl<T: Record, R: BufRead> JsonlReader<T, R> {
    /// Reads from `source`; `path` is what errors call it.
    pub fn new(path: impl Into<PathBuf>, source: R) -> Self {
        Self { path: path.into(), source, number: 0, bytes: Vec::new(), record: PhantomData }
    }

    /// Reads the next line into `bytes`; false at the end.
    fn read_line(&mut self) -> Result<bool, FeedbackError> {
        self.bytes.clear();
        let mut limited = (&mut self.source).take(MAX_LINE_LEN + 1);
        let count = limited
            .read_until(b'\n', &mut self.bytes)
            .map_err(|error| FeedbackError::file(&self.path, format!("cannot read the file: {error}")))?;
        self.number += 1;
        if count as u64 > MAX_LINE_LEN {
            return Err(self.refuse(format!("the line is longer than {} MiB", MAX_LINE_LEN >> 20)));
        }
        Ok(count > 0)
    }

    fn refuse(&self, message: impl Into<String>) -> FeedbackError {
        FeedbackError::Line { path: self.path.clone(), line: self.number, message: message.into() }
    }

    fn next_line(&mut self) -> Result<Option<Line<T>>, FeedbackError> {
        while self.read_line()? {
            let text = std::str::from_utf8(&self.bytes).map_err(|_| self.refuse("the line is not UTF-8"))?;
            // Editors on Windows leave a byte-order mark.
            let text = if self.number == 1 { text.trim_start_matches('\u{feff}') } else { text };
            if text.trim().is_empty() {
                continue;
            }
            let record = parse(text).map_err(|error| self.refuse(error.0))?;
            return Ok(Some(Line { number: self.number, record }));
        }
        Ok(None)
    }
}

impl<T: Record, R: BufRead> Iterator for JsonlReader<T, R> {
    type Item = Result<Line<T>, FeedbackError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_line().transpose()
    }
}

/// Reads a whole file; at least one record.
///
/// # Errors
/// [`FeedbackError`] at the first line that is no such record, or if there is none.
pub fn read_all<T: Record>(path: impl AsRef<Path>) -> Result<Vec<T>, FeedbackError> {
    let path = path.as_ref();
    let records = JsonlReader::open(path)?
        .map(|line| line.map(|line| line.record))
        .collect::<Result<Vec<T>, FeedbackError>>()?;
    if records.is_empty() {
        return Err(FeedbackError::file(path, "the file has no records, but needs at least one".to_owned()));
    }
    Ok(records)
}

/// Writes records so that the file holds whole lines at every moment, whenever the process is killed: each line is one
/// write, nothing stays in a buffer.
#[derive(Debug)]
pub struct JsonlWriter {
    path: PathBuf,
    file: File,
    bytes: Vec<u8>,
}

/// What an earlier, interrupted run left in a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Whole lines.
    pub num_lines: u64,
    /// The last whole line, without its newline.
    pub last_line: Option<Vec<u8>>,
    /// Bytes of all whole lines; what follows is torn.
    pub whole_bytes: u64,
}

impl Recovered {
    /// Looks at a file without changing it; a missing one has no lines.
    ///
    /// # Errors
    /// [`FeedbackError::File`].
    pub fn read(path: impl AsRef<Path>) -> Result<Self, FeedbackError> {
        let path = path.as_ref();
        let fail =
            |error: std::io::Error| FeedbackError::file(path, format!("cannot read the file: {error}"));
        let mut source = match File::open(path) {
            Ok(file) => BufReader::new(file),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(fail(error)),
        };
        let mut recovered = Self::default();
        let mut line = Vec::new();
        while source.read_until(b'\n', &mut line).map_err(fail)? > 0 && line.ends_with(b"\n") {
            recovered.num_lines += 1;
            recovered.whole_bytes += line.len() as u64;
            line.pop();
            recovered.last_line = Some(std::mem::take(&mut line));
        }
        Ok(recovered)
    }
}

impl JsonlWriter {
    /// Makes a new, empty file; one that exists is emptied.
    ///
    /// # Errors
    /// [`FeedbackError::File`].
    pub fn create(path: impl Into<PathBuf>) -> Result<Self, FeedbackError> {
        let path = path.into();
        match File::create(&path) {
            Ok(file) => Ok(Self { path, file, bytes: Vec::new() }),
            Err(error) => Err(FeedbackError::file(&path, format!("cannot create the file: {error}"))),
        }
    }

    /// Opens a file to go on after its last whole line; a torn one is cut off. A missing file is made.
    ///
    /// # Errors
    /// [`FeedbackError::File`].
    pub fn resume(path: impl Into<PathBuf>, recovered: &Recovered) -> Result<Self, FeedbackError> {
        let path = path.into();
        let fail =
            |error: std::io::Error| FeedbackError::file(&path, format!("cannot resume the file: {error}"));
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(false).open(&path).map_err(fail)?;
        file.set_len(recovered.whole_bytes).map_err(fail)?;
        file.seek(SeekFrom::Start(recovered.whole_bytes)).map_err(fail)?;
        Ok(Self { path, file, bytes: Vec::new() })
    }

    /// Writes one record as one line.
    ///
    /// # Errors
    /// [`FeedbackError::File`] (a full disk).
    pub fn write(&mut self, record: &impl Record) -> Result<(), FeedbackError> {
        let fail = |error: std::io::Error| {
            FeedbackError::file(&self.path, format!("cannot write the file: {error}"))
        };
        self.bytes.clear();
        serde_json::to_writer(&mut self.bytes, &record.to_fields()).map_err(|error| fail(error.into()))?;
        self.bytes.push(b'\n');
        self.file.write_all(&self.bytes).map_err(fail)
    }

    /// Waits until all lines are on the disk itself.
    ///
    /// # Errors
    /// [`FeedbackError::File`].
    pub fn sync(&self) -> Result<(), FeedbackError> {
        let synced = self.file.sync_data();
        synced.map_err(|error| FeedbackError::file(&self.path, format!("cannot write the file: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Message, PreferenceRecord, PromptRecord};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_text_survives_the_file(texts in prop::collection::vec("\\PC|[\r\n\t\"\\\\\u{2028}\u{0}]|.{0,8}", 1..6)) {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let path = folder.path().join("out.jsonl");
            let answer = |text: &str| Text::Chat(vec![Message::new("assistant", text)]);
            let records: Vec<_> = texts
                .iter()
                .map(|text| PreferenceRecord::new(answer("p"), answer(text), answer(&format!("{text}!"))))
                .collect();
            let mut writer = JsonlWriter::create(&path).expect("create");
            for record in &records {
                writer.write(record).expect("write");
            }
            prop_assert_eq!(read_all::<PreferenceRecord>(&path).expect("read"), records);
        }
    }

    fn read(bytes: &[u8]) -> Vec<Result<Line<PromptRecord>, FeedbackError>> {
        JsonlReader::new("data.jsonl", bytes).collect()
    }

    #[test]
    fn blank_lines_and_a_missing_last_newline_are_fine() {
        let lines = read("\u{feff}{\"prompt\":\"a\"}\r\n\n  \n{\"prompt\":\"é\"}".as_bytes());
        let numbers: Vec<u64> = lines.into_iter().map(|line| line.expect("valid").number).collect();
        assert_eq!(numbers, [1, 4]);
    }

    #[test]
    fn errors_name_the_file_the_line_and_the_field() {
        for (bytes, sentence) in [
            (
                &b"{\"prompt\":\"a\"}\n{\"prompt\":1}"[..],
                "data.jsonl:2: `prompt` must be a string or a list of messages, but is a number",
            ),
            (b"\n[1]\n", "data.jsonl:2: the line is JSON, but must be an object in braces"),
            (b"\xff\n", "data.jsonl:1: the line is not UTF-8"),
        ] {
            let error = read(bytes).pop().expect("a line").expect_err("refused");
            assert_eq!(error.to_string(), sentence);
        }
        let error = read(b"{\"prompt\": \"a\"").pop().expect("a line").expect_err("refused").to_string();
        assert!(error.starts_with("data.jsonl:1: the line is not JSON: "), "{error}");
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = read_all::<PromptRecord>("no/such.jsonl").expect_err("missing").to_string();
        assert!(error.starts_with("no/such.jsonl: cannot open the file"), "{error}");
    }

    #[test]
    fn a_torn_last_line_is_cut_and_writing_goes_on() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("out.jsonl");
        let record = |text: &str| PromptRecord { prompt: Text::Plain(text.into()), extra: Map::new() };
        let mut whole = Vec::new();
        for text in ["one", "two\nlines", "three"] {
            whole.extend_from_slice(Value::Object(record(text).to_fields()).to_string().as_bytes());
            whole.push(b'\n');
        }
        for torn in 0..=whole.len() {
            std::fs::write(&path, &whole[..torn]).expect("write");
            let recovered = Recovered::read(&path).expect("read");
            let mut writer = JsonlWriter::resume(&path, &recovered).expect("resume");
            let last = whole[..torn].split(|&byte| byte == b'\n').rev().nth(1).map(<[u8]>::to_vec);
            assert_eq!(recovered.last_line, last, "torn at {torn}");
            for text in ["one", "two\nlines", "three"].iter().skip(recovered.num_lines as usize) {
                writer.write(&record(text)).expect("write");
            }
            assert_eq!(std::fs::read(&path).expect("read"), whole, "torn at {torn}");
        }
    }
}
