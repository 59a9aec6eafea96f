//! Sequences laid end to end, with no padding; those that begin alike may share their beginning. Leaves attention to
//! the kernels, what the sequences are to the methods.

/// Shared beginnings shorter than this are not worth a sequence of their own.
const MIN_SHARED: usize = if cfg!(test) { 2 } else { 8 };

/// Sequences laid end to end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PackedBatch {
    /// Token ids, `[num_tokens]`.
    pub ids: Vec<u32>,
    /// Position of each token in its sequence, `[num_tokens]`.
    pub positions: Vec<u32>,
    /// Sequence `i` is tokens `cu_seqlens[i]..cu_seqlens[i + 1]`.
    pub cu_seqlens: Vec<u32>,
    /// Sequence `i` goes on after all of sequence `prefixes[i]`, or starts from nothing if that is itself.
    pub prefixes: Vec<u32>,
}

/// Where a text lies in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// First row of the beginning it shares.
    shared: usize,
    shared_len: usize,
    /// First row of the rest.
    own: usize,
}

impl Placed {
    /// Row of the text's token `index`.
    pub fn row(&self, index: usize) -> u32 {
        let row = match index.checked_sub(self.shared_len) {
            Some(own) => self.own + own,
            None => self.shared + index,
        };
        row as u32
    }
}

impl PackedBatch {
    /// Packs sequences.
    pub fn new<'a>(sequences: impl IntoIterator<Item = &'a [u32]>) -> Self {
        let mut batch = Self { cu_seqlens: vec![0], ..Self::default() };
        for ids in sequences {
            batch.push(ids, None);
        }
        batch
    }

    /// Packs texts; neighbours that begin alike, such as the answers to one prompt, share the rows of their common
    /// beginning: its work is done once, forward and backward.
    pub fn sharing(texts: &[&[u32]]) -> (Self, Vec<Placed>) {
        let mut batch = Self { cu_seqlens: vec![0], ..Self::default() };
        let mut placed = Vec::with_capacity(texts.len());
        let mut rest = texts;
        while let Some((first, others)) = rest.split_first() {
            let (mut shared, mut count) = (first.len(), 1);
            for other in others {
                let common = common(&first[..shared], other);
                // Two answers may begin alike by chance; another family's text does not share half of the prompt.
                if common < MIN_SHARED || count > 1 && 2 * common < shared {
                    break;
                }
                (shared, count) = (common, count + 1);
            }
            let start = batch.ids.len();
            if count == 1 {
                batch.push(first, None);
                placed.push(Placed { shared: start, shared_len: 0, own: start });
            } else {
                let prefix = batch.push(&first[..shared], None);
                for text in &rest[..count] {
                    placed.push(Placed { shared: start, shared_len: shared, own: batch.ids.len() });
                    batch.push(&text[shared..], Some((prefix, shared)));
                }
            }
            rest = &rest[count..];
        }
        (batch, placed)
    }

    /// Adds a sequence, which goes on after another of some length, and returns its number.
    fn push(&mut self, ids: &[u32], prefix: Option<(u32, usize)>) -> u32 {
        let index = self.prefixes.len() as u32;
        let (prefix, first) = prefix.unwrap_or((index, 0));
        self.ids.extend_from_slice(ids);
        self.positions.extend(first as u32..(first + ids.len()) as u32);
        self.cu_seqlens.push(self.ids.len() as u32);
        self.prefixes.push(prefix);
        index
    }
}

/// Tokens two texts have in common at their beginning.
fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_share_their_prompt_and_each_knows_its_rows() {
        let texts: [&[u32]; 5] = [&[1, 2, 3, 4], &[1, 2, 3, 5, 6], &[1, 2, 3], &[9, 1], &[8]];
        let (batch, placed) = PackedBatch::sharing(&texts);
        assert_eq!(batch.ids, [1, 2, 3, 4, 5, 6, 9, 1, 8]);
        assert_eq!(batch.positions, [0, 1, 2, 3, 3, 4, 0, 1, 0]);
        assert_eq!(batch.cu_seqlens, [0, 3, 4, 6, 6, 8, 9]);
        assert_eq!(batch.prefixes, [0, 0, 0, 0, 4, 5]);
        for (text, placed) in texts.iter().zip(placed) {
            for (index, id) in text.iter().enumerate() {
                assert_eq!(batch.ids[placed.row(index) as usize], *id);
            }
        }
    }
}
