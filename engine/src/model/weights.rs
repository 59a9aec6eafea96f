//! Packed weights that several users of one model hold together: the engine that serves it, and a tape that trains
//! adapters on it. Leaves the layout to the kernels.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use rectify_kernels::{self as kernels, PackedLinear, Pool, Scratch, Source, WeightDtype};

use super::backend::{Matrix, Result, Values};
use super::layout::{self, MatrixRole};
use super::mmap::MappedFile;
use crate::EngineError;

type ByNameAndFormat = HashMap<(String, WeightDtype), Arc<PackedLinear>>;

/// Packed projections of one checkpoint, by name and format. Whoever asks first packs them; clones share them.
#[derive(Clone, Debug, Default)]
pub struct WeightStore(Arc<Mutex<ByNameAndFormat>>);

impl WeightStore {
    /// The matrices of a projection, stacked along the output. `dtype` is for the projections of layers; embedding and
    /// heads never have fewer than eight bits, unless the file has them so, and what is in blocks stays so only if
    /// blocks are asked for; then what is not is kept in single precision.
    ///
    /// # Errors
    /// [`EngineError::Load`] if a matrix has another size than it says.
    pub fn pack<'a>(
        &self,
        pool: &Pool,
        parts: &[Matrix<'a>],
        dtype: WeightDtype,
    ) -> Result<Arc<PackedLinear>> {
        let Some(first) = parts.first() else {
            return Err(EngineError::Execution("a projection has no matrix".into()));
        };
        let dtype = held_as(parts, &first.module, dtype);
        let mut packed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(weights) = packed.get(&(first.module.clone(), dtype)) {
            return Ok(Arc::clone(weights));
        }
        let numbers: Vec<_> = parts.iter().map(|part| as_wanted(&part.values, dtype)).collect();
        let source = |(part, numbers): (&Matrix<'a>, _)| InFile { values: borrow(numbers), file: part.file };
        let sources: Vec<_> = parts.iter().zip(&numbers).map(source).collect();
        let weights = PackedLinear::pack(pool, &sources, first.in_features, dtype)
            .map_err(|error| EngineError::load(&first.module, error.to_string()))?;
        let weights = Arc::new(weights);
        packed.insert((first.module.clone(), dtype), Arc::clone(&weights));
        Ok(weights)
    }

    /// Memory of all weights.
    pub fn num_bytes(&self) -> usize {
        let packed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        packed.values().map(|weights| weights.num_bytes()).sum()
    }
}

/// A choice hangs on small differences, and costs next to nothing; logits and embeddings suffer more from few bits than
/// projections do.
fn held_as(parts: &[Matrix<'_>], module: &str, dtype: WeightDtype) -> WeightDtype {
    let in_blocks = || parts.iter().any(|part| matches!(part.values, Values::Blocks(..)));
    match (layout::role(module), dtype) {
        (MatrixRole::Choice, _) => WeightDtype::F32,
        (MatrixRole::Vocabulary, WeightDtype::Nf4) => WeightDtype::Bf16,
        (_, WeightDtype::Blocks) if !in_blocks() => WeightDtype::F32,
        (_, dtype) => dtype,
    }
}

/// The values as they are, but blocks as numbers unless blocks are wanted.
fn as_wanted<'a>(values: &'a Values<'_>, dtype: WeightDtype) -> Values<'a> {
    match values {
        Values::Blocks(kind, bytes) if dtype != WeightDtype::Blocks => {
            Values::F32(Cow::Owned(kind.numbers(bytes)))
        }
        values => values.reborrow(),
    }
}

fn borrow<'a>(values: &'a Values<'_>) -> kernels::Values<'a> {
    match values {
        Values::F32(values) => kernels::Values::F32(values),
        Values::Bf16(values) => kernels::Values::Bf16(values),
        Values::Blocks(kind, bytes) => kernels::Values::Blocks(*kind, bytes),
    }
}

/// Values that may lie in a mapped file, which is then read rather than looked at.
struct InFile<'a> {
    values: kernels::Values<'a>,
    file: Option<&'a MappedFile>,
}

impl Source for InFile<'_> {
    fn values(&self) -> kernels::Values<'_> {
        self.values
    }

    fn read<'a>(&'a self, range: Range<usize>, scratch: &'a mut Scratch) -> io::Result<kernels::Values<'a>> {
        let values = self.values.slice(range);
        let Some(file) = self.file else { return Ok(values) };
        let part = values.bytes();
        let out = scratch.bytes(part.len());
        Ok(if file.read(part, out)? { values.at(out) } else { values })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(module: &str) -> Vec<Matrix<'static>> {
        let values = Values::F32(Cow::Owned((0..32 * 16).map(|i| i as f32 * 0.01).collect()));
        vec![Matrix {
            module: module.into(),
            out_features: 16,
            in_features: 32,
            values,
            bias: None,
            file: None,
        }]
    }

    #[test]
    fn clones_share_what_was_packed_and_quantise_layers_alone() {
        let pool = Pool::new(1).unwrap();
        let store = WeightStore::default();
        let pack =
            |store: &WeightStore, module: &str, dtype| store.pack(&pool, &matrix(module), dtype).unwrap();
        let name = "model.layers.1.mlp.down_proj";
        let first = pack(&store, name, WeightDtype::Nf4);
        assert!(Arc::ptr_eq(&first, &pack(&store.clone(), name, WeightDtype::Nf4)));
        assert_eq!(first.dtype(), WeightDtype::Nf4);
        assert_eq!(pack(&store, "model.embed_tokens", WeightDtype::Nf4).dtype(), WeightDtype::Bf16);
        assert_eq!(pack(&store, "lm_head", WeightDtype::Int8).dtype(), WeightDtype::Int8);
        // Not in blocks, so that there are none to keep.
        assert_eq!(
            pack(&store, "model.layers.2.mlp.down_proj", WeightDtype::Blocks).dtype(),
            WeightDtype::F32
        );
        assert_eq!(pack(&store, layout::SCORE_HEAD, WeightDtype::Bf16).dtype(), WeightDtype::F32);
        assert_eq!(pack(&store, name, WeightDtype::F32).dtype(), WeightDtype::F32);
        // Half a byte a weight and a scale for each 64; eight bits in blocks of 64, half of which are empty; two and four
        // bytes for the others.
        let (few, eight, half, whole) = (16 * 32 / 2 + 16 * 4, 16 * 64 + 16 * 2, 2 * 16 * 32, 4 * 16 * 32);
        assert_eq!(store.num_bytes(), few + eight + half + 3 * whole);
    }
}
