//! The scalars, strings and lists of a GGUF header. Leaves their order to `mod`.

use serde_json::{Number, Value};

/// Nested lists deeper than this are mistakes.
const MAX_DEPTH: usize = 4;

/// Bytes and how many of them are read. Everything is `None` past the end.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    pub(super) fn position(&self) -> usize {
        self.position
    }

    pub(super) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let end = self.position.checked_add(len)?;
        let bytes = self.bytes.get(self.position..end)?;
        self.position = end;
        Some(bytes)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn size(&mut self) -> Option<usize> {
        usize::try_from(u64::from_le_bytes(self.array()?)).ok()
    }

    /// A string; what is not UTF-8 in it is replaced.
    pub(super) fn string(&mut self) -> Option<String> {
        let len = self.size()?;
        Some(String::from_utf8_lossy(self.take(len)?).into_owned())
    }

    /// A value after its type.
    pub(super) fn value(&mut self) -> Option<Value> {
        let kind = self.u32()?;
        self.of_kind(kind, 0)
    }

    fn of_kind(&mut self, kind: u32, depth: usize) -> Option<Value> {
        let float = |x: f64| Number::from_f64(x).map_or(Value::Null, Value::Number);
        Some(match kind {
            0 => u8::from_le_bytes(self.array()?).into(),
            1 => i8::from_le_bytes(self.array()?).into(),
            2 => u16::from_le_bytes(self.array()?).into(),
            3 => i16::from_le_bytes(self.array()?).into(),
            4 => self.u32()?.into(),
            5 => i32::from_le_bytes(self.array()?).into(),
            6 => float(f64::from(f32::from_le_bytes(self.array()?))),
            7 => (self.array::<1>()? != [0]).into(),
            8 => self.string()?.into(),
            9 if depth < MAX_DEPTH => {
                let (kind, len) = (self.u32()?, self.size()?);
                // Not reserved: a broken file may say any length.
                (0..len).map(|_| self.of_kind(kind, depth + 1)).collect::<Option<Vec<Value>>>()?.into()
            }
            10 => u64::from_le_bytes(self.array()?).into(),
            11 => i64::from_le_bytes(self.array()?).into(),
            12 => float(f64::from_le_bytes(self.array()?)),
            _ => return None,
        })
    }
}
