//! Named tensors of a model: safetensors files, one or sharded, mapped from disk or embedded, a GGUF file, or tensors
//! in memory. Leaves packing to the backends; nothing is copied here but what is unaligned, half precision or in blocks.

mod validate;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};

use rectify_kernels::WeightDtype;
use safetensors::tensor::{Dtype, SafeTensors};

use super::backend::{Matrix, Result, Values};
use super::config::ModelConfig;
use super::gguf::blocks::Storage;
use super::gguf::{self, Gguf};
use super::layout::{self, TensorRole};
use super::mmap::MappedFile;
use super::source::{FileBytes, ModelSource};
use super::stored_values::{INITIALIZER_RANGE, normal, of_gguf, read, transposed};
use crate::EngineError;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Named tensors.
#[derive(Debug)]
pub struct Checkpoint {
    /// What messages about missing tensors name.
    origin: PathBuf,
    files: Vec<(PathBuf, FileBytes)>,
    tensors: HashMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    shape: Vec<usize>,
    data: Data,
}

#[derive(Debug)]
enum Data {
    File(Stored),
    Memory(Values<'static>),
}

/// A range of bytes of a file.
#[derive(Debug)]
struct Stored {
    file: usize,
    range: Range<usize>,
    form: Form,
}

/// What bytes of a file stand for.
#[derive(Clone, Copy, Debug)]
enum Form {
    Safetensors(Dtype),
    Gguf(Storage, gguf::Change),
}

impl Checkpoint {
    /// Opens `model.safetensors`, or the shards of `model.safetensors.index.json`.
    ///
    /// # Errors
    /// [`EngineError::Load`] naming the file, and the tensor if it is about one.
    pub fn open(source: &ModelSource) -> Result<Self> {
        if let ModelSource::Folder(path) = source
            && gguf::is_gguf(path)
        {
            return Self::open_gguf(path);
        }
        if source.contains(INDEX) && !source.contains(SINGLE) {
            return Self::open_sharded(source);
        }
        if let ModelSource::Folder(folder) = source
            && folder.is_dir()
            && !source.contains(SINGLE)
        {
            let message = format!("has no weights: neither {SINGLE} nor {INDEX} is there");
            return Err(EngineError::load(folder, message));
        }
        Self::open_files(source, SINGLE, &[SINGLE])
    }

    fn open_gguf(path: &Path) -> Result<Self> {
        let gguf = Gguf::open(path)?;
        let mut tensors = HashMap::new();
        for stored in gguf.stored()? {
            let gguf::Stored { name, shape, kind, start, end, change } = stored;
            let stored = Stored { file: 0, range: start..end, form: Form::Gguf(kind, change) };
            tensors.insert(name, Entry { shape, data: Data::File(stored) });
        }
        let files = vec![(gguf.path, FileBytes::Mapped(gguf.bytes))];
        Ok(Self { origin: path.to_owned(), files, tensors })
    }

    /// Opens one safetensors file of `source`.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open_file(source: &ModelSource, file: &str) -> Result<Self> {
        Self::open_files(source, file, &[file])
    }

    fn open_files(source: &ModelSource, origin: &str, files: &[&str]) -> Result<Self> {
        let mut checkpoint =
            Self { origin: source.path_of(origin), files: Vec::new(), tensors: HashMap::new() };
        for file in files {
            checkpoint.add_file(source.path_of(file), source.require(file)?)?;
        }
        Ok(checkpoint)
    }

    fn open_sharded(source: &ModelSource) -> Result<Self> {
        let index = source.require_json(INDEX)?;
        let Some(map) = index.get("weight_map").and_then(|map| map.as_object()) else {
            return Err(index.error("weight_map", "is missing, but must map tensor names to files"));
        };
        let mut shards: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (tensor, file) in map {
            // A name with a path in it could reach outside of the folder.
            let file = file.as_str().filter(|file| Path::new(file).file_name() == Some(file.as_ref()));
            let Some(file) = file else {
                return Err(
                    index.error(&format!("weight_map.{tensor}"), "must be the name of a file in the folder")
                );
            };
            shards.entry(file).or_default().push(tensor);
        }
        let files: Vec<&str> = shards.keys().copied().collect();
        let checkpoint = Self::open_files(source, INDEX, &files)?;
        for (file, tensors) in shards {
            let missing = tensors.into_iter().find(|tensor| !checkpoint.contains(tensor));
            if let Some(tensor) = missing {
                let message = format!("lacks the tensor `{tensor}`, which {INDEX} says it holds");
                return Err(EngineError::load(source.path_of(file), message));
            }
        }
        Ok(checkpoint)
    }

    fn add_file(&mut self, path: PathBuf, bytes: FileBytes) -> Result<()> {
        let (header, metadata) = SafeTensors::read_metadata(&bytes).map_err(|error| {
            EngineError::load(
                &path,
                format!("is not a whole safetensors file, perhaps a broken copy: {error}"),
            )
        })?;
        let data_start = header + 8;
        for (name, info) in metadata.tensors() {
            let range = data_start + info.data_offsets.0..data_start + info.data_offsets.1;
            let stored = Stored { file: self.files.len(), range, form: Form::Safetensors(info.dtype) };
            let entry = Entry { shape: info.shape.clone(), data: Data::File(stored) };
            if self.tensors.insert(name.clone(), entry).is_some() {
                return Err(EngineError::load(
                    &path,
                    format!("holds `{name}`, which another shard holds too"),
                ));
            }
        }
        self.files.push((path, bytes));
        Ok(())
    }

    /// No tensors yet; `origin` is what messages call it.
    pub fn in_memory(origin: impl Into<PathBuf>) -> Self {
        Self { origin: origin.into(), files: Vec::new(), tensors: HashMap::new() }
    }

    /// Adds or replaces a tensor.
    ///
    /// # Errors
    /// [`EngineError::Load`] if `values` does not fill `shape`.
    pub fn insert(
        &mut self,
        name: impl Into<String>,
        shape: Vec<usize>,
        values: Values<'static>,
    ) -> Result<()> {
        let (name, wanted) = (name.into(), shape.iter().product::<usize>());
        if wanted != values.len() {
            let message = format!("the tensor `{name}` has {} values, but shape {shape:?}", values.len());
            return Err(EngineError::load(&self.origin, message));
        }
        self.tensors.insert(name, Entry { shape, data: Data::Memory(values) });
        Ok(())
    }

    /// A model to be trained from nothing: matrices drawn from a normal distribution of standard deviation 0.02, norms
    /// 1, biases 0. The same seed gives the same numbers, whatever the shapes of other tensors.
    pub fn random(config: &ModelConfig, seed: u64) -> Self {
        let mut checkpoint = Self::in_memory("random weights");
        for (stream, spec) in layout::tensors(config).into_iter().enumerate() {
            let count = spec.shape.iter().product();
            let values = match spec.role {
                TensorRole::Weight => normal(seed, stream as u64, count, INITIALIZER_RANGE),
                TensorRole::Norm => vec![1.0; count],
                TensorRole::Bias => vec![0.0; count],
            };
            let data = Data::Memory(Values::F32(Cow::Owned(values)));
            checkpoint.tensors.insert(spec.name, Entry { shape: spec.shape, data });
        }
        checkpoint
    }

    /// What messages call it: the file, or the index of the shards.
    pub fn origin(&self) -> &Path {
        &self.origin
    }

    /// Whether there is a tensor of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.tensors.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// Shape of a tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|entry| entry.shape.as_slice())
    }

    /// What a tensor is stored in: of sixteen bits if not f32.
    pub fn weight_dtype(&self, name: &str) -> WeightDtype {
        match (self.find(name).map(|entry| &entry.data), self.stored(name).map(|stored| &stored.form)) {
            (_, Some(Form::Safetensors(Dtype::F32) | Form::Gguf(Storage::F32, _))) => WeightDtype::F32,
            (_, Some(Form::Safetensors(Dtype::F16) | Form::Gguf(Storage::F16, _))) => WeightDtype::F16,
            (_, Some(_)) | (Some(Data::Memory(Values::Bf16(_))), None) => WeightDtype::Bf16,
            _ => WeightDtype::F32,
        }
    }

    /// Whether a tensor is stored in blocks of few bits.
    pub fn is_in_blocks(&self, name: &str) -> bool {
        let stored = self.stored(name);
        matches!(stored, Some(Stored { form: Form::Gguf(Storage::Blocks(_), _), .. }))
    }

    /// The values of a tensor, which must have `shape`.
    ///
    /// # Errors
    /// [`EngineError::Load`] naming file and tensor if it is missing, has another shape or a dtype we do not read.
    pub fn values(&self, name: &str, shape: &[usize]) -> Result<Values<'_>> {
        match &self.entry(name, shape)?.data {
            Data::Memory(values) => Ok(values.reborrow()),
            Data::File(stored) => {
                let bytes = self.files[stored.file].1.part(stored.range.clone());
                self.interpret(stored, bytes, name, shape)
            }
        }
    }

    /// The values that the bytes of a tensor stand for.
    fn interpret<'a>(
        &self,
        stored: &Stored,
        bytes: &'a [u8],
        name: &str,
        shape: &[usize],
    ) -> Result<Values<'a>> {
        match stored.form {
            Form::Gguf(kind, change) => Ok(of_gguf(kind, bytes, change, shape)),
            Form::Safetensors(dtype) => {
                read(bytes, dtype).ok_or_else(|| unreadable(&self.files[stored.file].0, name, dtype))
            }
        }
    }

    /// What is known of a tensor, which must have `shape` and a dtype we read; its values are not looked at.
    fn entry(&self, name: &str, shape: &[usize]) -> Result<&Entry> {
        let Some(entry) = self.find(name) else {
            return Err(EngineError::load(&self.origin, format!("lacks the tensor `{name}`")));
        };
        if entry.shape != shape {
            let message = format!("the tensor `{name}` has shape {:?}, but must have {shape:?}", entry.shape);
            return Err(EngineError::load(self.file_of(entry), message));
        }
        match entry.data {
            Data::File(Stored { file, form: Form::Safetensors(dtype), .. }) if read(&[], dtype).is_none() => {
                Err(unreadable(&self.files[file].0, name, dtype))
            }
            _ => Ok(entry),
        }
    }

    /// Where a tensor of a file lies.
    fn stored(&self, name: &str) -> Option<&Stored> {
        match &self.find(name)?.data {
            Data::File(stored) => Some(stored),
            Data::Memory(_) => None,
        }
    }

    /// The mapped file that holds a tensor.
    fn mapped(&self, name: &str) -> Option<&MappedFile> {
        let (_, bytes) = &self.files[self.stored(name)?.file];
        if let FileBytes::Mapped(file) = bytes { Some(file) } else { None }
    }

    /// Lets go of a tensor's bytes in the file.
    fn release(&self, name: &str) {
        if let (Some(file), Some(stored)) = (self.mapped(name), self.stored(name)) {
            file.release(&file[stored.range.clone()]);
        }
    }

    /// The values of a tensor in single precision.
    ///
    /// # Errors
    /// As [`Checkpoint::values`].
    pub fn f32_values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        match &self.entry(name, shape)?.data {
            Data::Memory(values) => Ok(values.reborrow().into_f32()),
            Data::File(stored) => {
                let (path, bytes) = &self.files[stored.file];
                let copy = bytes.copy(stored.range.clone());
                let copy = copy.map_err(|error| EngineError::load(path, error.to_string()))?;
                Ok(self.interpret(stored, &copy, name, shape)?.into_f32())
            }
        }
    }

    /// `module.bias`, if there is to be one.
    fn bias(&self, module: &str, out_features: usize, exists: bool) -> Result<Option<Vec<f32>>> {
        exists.then(|| self.f32_values(&format!("{module}.bias"), &[out_features])).transpose()
    }

    /// The matrix `module.weight`, `[out_features, in_features]`, with `module.bias` if `bias`.
    ///
    /// # Errors
    /// As [`Checkpoint::values`].
    pub fn matrix(
        &self,
        module: &str,
        out_features: usize,
        in_features: usize,
        bias: bool,
    ) -> Result<Matrix<'_>> {
        let name = format!("{module}.weight");
        let values = self.values(&name, &[out_features, in_features])?;
        let bias = self.bias(module, out_features, bias)?;
        let file = if values.is_borrowed() { self.mapped(&name) } else { None };
        if file.is_none() {
            self.release(&name);
        }
        Ok(Matrix { module: module.to_owned(), out_features, in_features, values, bias, file })
    }

    /// As [`Checkpoint::matrix`], of a weight stored `[in_features, out_features]`.
    ///
    /// # Errors
    /// As [`Checkpoint::values`].
    pub fn transposed_matrix(
        &self,
        module: &str,
        out_features: usize,
        in_features: usize,
        bias: bool,
    ) -> Result<Matrix<'_>> {
        let stored = self.matrix(module, in_features, out_features, false)?;
        let bias = self.bias(module, out_features, bias)?;
        let values = match &stored.values {
            Values::F32(values) => Values::F32(Cow::Owned(transposed(values, out_features))),
            Values::Bf16(values) => Values::Bf16(Cow::Owned(transposed(values, out_features))),
            Values::Blocks(kind, bytes) => {
                Values::F32(Cow::Owned(transposed(&kind.numbers(bytes), out_features)))
            }
        };
        self.release(&format!("{module}.weight"));
        Ok(Matrix { module: module.to_owned(), out_features, in_features, values, bias, file: None })
    }

    /// A tensor by its name in a model with a head, if need be by its name in the trunk alone.
    fn find(&self, name: &str) -> Option<&Entry> {
        let trunk = || layout::TRUNKS.iter().find_map(|trunk| self.tensors.get(name.strip_prefix(trunk)?));
        self.tensors.get(name).or_else(trunk)
    }

    fn file_of(&self, entry: &Entry) -> &Path {
        match &entry.data {
            Data::File(stored) => &self.files[stored.file].0,
            Data::Memory(_) => &self.origin,
        }
    }
}

fn unreadable(path: &Path, name: &str, dtype: Dtype) -> EngineError {
    let message = format!("the tensor `{name}` is {dtype:?}, but must be F32, BF16 or F16");
    EngineError::load(path, message)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use half::{bf16, f16};
    use serde_json::json;

    use super::*;
    use crate::model::save::{NamedTensor, save_safetensors};
    use crate::model::testing::{config, named, write_model};

    fn open_and_validate(source: &ModelSource, config: &ModelConfig) -> Result<Checkpoint> {
        let checkpoint = Checkpoint::open(source)?;
        checkpoint.validate(config).map(|()| checkpoint)
    }

    /// Rewrites the only file of a model with `change` applied to its tensors.
    fn broken(change: impl Fn(&mut Vec<NamedTensor<'_>>)) -> String {
        let folder = tempfile::tempdir().unwrap();
        let source = write_model(folder.path(), &json!({}));
        let config = ModelConfig::load(&source).unwrap();
        let random = Checkpoint::random(&config, 2);
        let mut tensors = named(&random, &config);
        change(&mut tensors);
        save_safetensors(&folder.path().join(SINGLE), &tensors).unwrap();
        open_and_validate(&source, &config).unwrap_err().to_string()
    }

    #[test]
    fn one_file_shards_and_embedded_bytes_hold_the_same_values() {
        let folder = tempfile::tempdir().unwrap();
        let source = write_model(folder.path(), &json!({}));
        let config = ModelConfig::load(&source).unwrap();
        let single = open_and_validate(&source, &config).unwrap();

        let sharded = tempfile::tempdir().unwrap();
        let mut tensors = named(&single, &config);
        let second = tensors.split_off(5);
        let mut map = serde_json::Map::new();
        for (file, shard) in [("a.safetensors", &tensors), ("b.safetensors", &second)] {
            save_safetensors(&sharded.path().join(file), shard).unwrap();
            map.extend(shard.iter().map(|tensor| (tensor.name.clone(), json!(file))));
        }
        fs::write(sharded.path().join(INDEX), json!({"weight_map": map}).to_string()).unwrap();
        let sharded = open_and_validate(&ModelSource::from(sharded.path()), &config).unwrap();

        let bytes: &'static [u8] = fs::read(folder.path().join(SINGLE)).unwrap().leak();
        let files: &'static [_] = vec![(SINGLE, bytes)].leak();
        let embedded = open_and_validate(&ModelSource::Embedded { name: "demo", files }, &config).unwrap();
        for spec in layout::tensors(&config) {
            let expected = single.f32_values(&spec.name, &spec.shape).unwrap();
            assert_eq!(sharded.f32_values(&spec.name, &spec.shape).unwrap(), expected, "{}", spec.name);
            assert_eq!(embedded.f32_values(&spec.name, &spec.shape).unwrap(), expected, "{}", spec.name);
        }
    }

    #[test]
    fn reads_every_float_dtype_at_any_alignment() {
        let numbers = [1.0f32, -0.5, 3.140625, 65280.0];
        let f32_bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
        let bf16_bytes: Vec<u8> = numbers.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect();
        let f16_bytes: Vec<u8> = numbers.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect();
        for (dtype, bytes) in [(Dtype::F32, f32_bytes), (Dtype::BF16, bf16_bytes), (Dtype::F16, f16_bytes)] {
            for shift in 0..4 {
                let mut shifted = vec![0; shift];
                shifted.extend(&bytes);
                assert_eq!(
                    read(&shifted[shift..], dtype).unwrap().into_f32()[..2],
                    numbers[..2],
                    "{dtype:?}"
                );
            }
        }
        assert!(read(&[0; 8], Dtype::I64).is_none());
    }

    #[test]
    fn every_float_dtype_is_known_as_it_is_stored() {
        let folder = tempfile::tempdir().unwrap();
        let source = write_model(folder.path(), &json!({}));
        let stored = [
            (Dtype::F32, WeightDtype::F32),
            (Dtype::BF16, WeightDtype::Bf16),
            (Dtype::F16, WeightDtype::F16),
        ];
        let bytes = [0; 16];
        let views = stored.map(|(dtype, _)| {
            let shape = vec![8 * bytes.len() / dtype.bitsize()];
            (format!("{dtype:?}"), safetensors::tensor::TensorView::new(dtype, shape, &bytes).unwrap())
        });
        fs::write(folder.path().join(SINGLE), safetensors::serialize(views, None).unwrap()).unwrap();
        let checkpoint = Checkpoint::open(&source).unwrap();
        for (dtype, expected) in stored {
            assert_eq!(checkpoint.weight_dtype(&format!("{dtype:?}")), expected);
        }
        assert_eq!(
            Checkpoint::random(&config(&json!({})).unwrap(), 2).weight_dtype("model.embed_tokens.weight"),
            WeightDtype::F32
        );
    }

    #[test]
    fn a_file_of_the_trunk_alone_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let source = write_model(folder.path(), &json!({}));
        let config = ModelConfig::load(&source).unwrap();
        let whole = Checkpoint::random(&config, 2);
        let mut tensors = named(&whole, &config);
        tensors.iter_mut().for_each(|tensor| tensor.name = tensor.name.replace("model.", ""));
        save_safetensors(&folder.path().join(SINGLE), &tensors).unwrap();
        let trunk = open_and_validate(&source, &config).unwrap();
        for spec in layout::tensors(&config) {
            let wanted = whole.f32_values(&spec.name, &spec.shape).unwrap();
            assert_eq!(trunk.f32_values(&spec.name, &spec.shape).unwrap(), wanted, "{}", spec.name);
        }
    }

    #[test]
    fn matrices_stored_the_other_way_round_are_turned() {
        let mut checkpoint = Checkpoint::in_memory("test");
        let values: Vec<f32> = (0..6).map(|i| i as f32).collect();
        checkpoint.insert("m.weight", vec![2, 3], Values::F32(values.into())).unwrap();
        let matrix = checkpoint.transposed_matrix("m", 3, 2, false).unwrap();
        assert_eq!(matrix.values.into_f32(), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    }

    #[test]
    fn refusals_name_file_and_tensor() {
        let error = broken(|tensors| tensors.retain(|tensor| tensor.name != "model.norm.weight"));
        assert!(error.ends_with("model.safetensors: lacks the tensor `model.norm.weight`"), "{error}");
        let error = broken(|tensors| {
            let extra =
                NamedTensor { name: "model.layers.2.mlp.up_proj.weight".into(), ..tensors[1].clone() };
            tensors.push(extra);
        });
        assert!(
            error.contains("holds the tensor `model.layers.2.mlp.up_proj.weight`, which a llama model"),
            "{error}"
        );
        let error = broken(|tensors| tensors[1].shape = vec![8, 4]);
        assert!(error.contains("has shape [8, 4], but must have [32]"), "{error}");
        let ignored = |tensors: &mut Vec<NamedTensor<'_>>| {
            tensors.push(NamedTensor { name: "lm_head.weight".into(), ..tensors[0].clone() });
            tensors.remove(0);
        };
        assert!(broken(ignored).contains("lacks the tensor `model.embed_tokens.weight`"));
    }

    #[test]
    fn broken_files_are_one_sentence() {
        let folder = tempfile::tempdir().unwrap();
        let source = write_model(folder.path(), &json!({}));
        let path = folder.path().join(SINGLE);
        let whole = fs::read(&path).unwrap();
        for bytes in [&whole[..whole.len() - 1], &whole[..100], &whole[..4], &[], &[0xff; 64]] {
            fs::write(&path, bytes).unwrap();
            let error = Checkpoint::open(&source).unwrap_err().to_string();
            assert!(error.contains("model.safetensors: is not a whole safetensors file"), "{error}");
        }
        fs::remove_file(&path).unwrap();
        let error = Checkpoint::open(&source).unwrap_err().to_string();
        assert!(error.contains("has no weights"), "{error}");
        let nowhere = ModelSource::Folder(folder.path().join("nowhere"));
        let error = Checkpoint::open(&nowhere).unwrap_err().to_string();
        assert!(error.contains("nowhere: does not exist"), "{error}");
    }

    #[test]
    fn an_index_names_files_of_its_own_folder_that_hold_what_it_says() {
        let folder = tempfile::tempdir().unwrap();
        let source = write_model(folder.path(), &json!({}));
        fs::rename(folder.path().join(SINGLE), folder.path().join("a.safetensors")).unwrap();
        let open = |map: serde_json::Value| {
            fs::write(folder.path().join(INDEX), json!({"weight_map": map}).to_string()).unwrap();
            Checkpoint::open(&source).unwrap_err().to_string()
        };
        assert!(open(json!({"x": "../a.safetensors"})).contains("must be the name of a file in the folder"));
        assert!(open(json!({"x": "b.safetensors"})).contains("b.safetensors: is missing"));
        assert!(open(json!({"x": "a.safetensors"})).contains("a.safetensors: lacks the tensor `x`"));
        assert!(open(json!(7)).contains("weight_map"));
    }

    #[test]
    fn random_weights_are_normal_and_depend_on_the_seed() {
        let config = config(&json!({})).unwrap();
        let values = |seed| {
            let name = "model.layers.1.mlp.up_proj.weight";
            Checkpoint::random(&config, seed).f32_values(name, &[48, 32]).unwrap()
        };
        let (a, b) = (values(1), values(2));
        assert_eq!(a, values(1));
        assert_ne!(a, b);
        let mean = a.iter().sum::<f32>() / a.len() as f32;
        let deviation = (a.iter().map(|x| x * x).sum::<f32>() / a.len() as f32).sqrt();
        assert!(mean.abs() < 2e-3 && (deviation - 0.02).abs() < 2e-3, "{mean} {deviation}");
        let norm = Checkpoint::random(&config, 1).f32_values("model.norm.weight", &[32]).unwrap();
        assert_eq!(norm, [1.0; 32]);
    }
}
