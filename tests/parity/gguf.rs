//! GGUF files beside llama.cpp's and PyTorch's logits, and their tokenizer and template beside the folder they were made from.

use std::path::PathBuf;

use rectify_engine::batch::Executor;
use rectify_engine::model::source::ModelSource;
use rectify_engine::request::Message;
use rectify_engine::text::{ChatTemplate, TemplateInput, Tokenizer};
use rectify_kernels::WeightDtype;
use rectify_tests::fixture::fixtures;
use rectify_tests::harness::Setup;
use rectify_tests::sheet::{Sheet, log_softmax};

const MODELS: [&str; 2] = ["llama2", "qwen3"];
/// Files of other architectures: `tests/fixtures/gguf_families.py`.
const FAMILIES: [&str; 9] =
    ["gemma2", "gemma3", "phi3", "olmo2", "granite", "starcoder2", "gpt2", "qwen3moe", "mixtral"];
/// Of the largest difference between log-probabilities, in nats.
const TOLERANCE: f64 = 1e-4;
/// The same of products with blocks, in which both sides round activations: where a value lies between two codes, a last
/// bit decides.
const BLOCKS_TOLERANCE: f64 = 2e-3;

fn file(name: &str) -> PathBuf {
    fixtures().join("gguf").join(format!("{name}.gguf"))
}

/// What others computed with a model: `tests/fixtures/gguf_files.py` says what is what.
struct Expected(Vec<u8>);

impl Expected {
    fn of(model: &str) -> Self {
        Self(std::fs::read(file(model).with_extension("safetensors")).unwrap())
    }

    fn numbers<const BYTES: usize, T>(&self, name: &str, from: fn([u8; BYTES]) -> T) -> Vec<T> {
        let tensors = safetensors::SafeTensors::deserialize(&self.0).unwrap();
        let tensor = tensors.tensor(name).unwrap();
        tensor.data().as_chunks().0.iter().copied().map(from).collect()
    }

    fn ids(&self) -> Vec<u32> {
        self.numbers("ids", |bytes| i64::from_le_bytes(bytes) as u32)
    }

    fn logits(&self, name: &str) -> Vec<f32> {
        self.numbers(name, f32::from_le_bytes)
    }
}

/// Logits of every position.
fn logits(file: PathBuf, ids: &[u32], dtype: WeightDtype) -> Vec<f32> {
    let setup = Setup { dtype, ..Setup::default() };
    let mut executor = setup.executor(file, setup.pool()).unwrap();
    let mut sheet = Sheet::new(&executor);
    let mut rows = [sheet.row(ids, None)];
    let batch = sheet.batch(&mut rows, &[ids.len()], false);
    executor.execute(&batch).unwrap().logits.to_vec()
}

/// Largest and mean difference between log-probabilities, in nats.
fn differences(a: &[f32], b: &[f32], num_rows: usize) -> (f64, f64) {
    let (a, b) = (log_softmax(a, a.len() / num_rows), log_softmax(b, b.len() / num_rows));
    let differences: Vec<f64> =
        a.iter().flatten().zip(b.iter().flatten()).map(|(a, b)| (a - b).abs()).collect();
    let mean = differences.iter().sum::<f64>() / differences.len() as f64;
    (differences.into_iter().fold(0.0, f64::max), mean)
}

#[test]
fn log_probabilities_are_llama_cpps_of_whole_weights_and_pytorchs_of_blocks() {
    for name in MODELS {
        let expected = Expected::of(name);
        let ids = expected.ids();
        for (file_name, reference) in [(format!("{name}-f32"), "f32"), (name.to_owned(), "dequantised")] {
            let found = logits(file(&file_name), &ids, WeightDtype::F32);
            let (largest, mean) = differences(&found, &expected.logits(reference), ids.len());
            eprintln!(
                "{file_name}.gguf beside {reference}: largest difference {largest:.1e}, mean {mean:.1e}"
            );
            assert!(largest <= TOLERANCE, "{file_name}.gguf beside {reference}: {largest}");
        }
    }
}

#[test]
fn every_architecture_has_pytorchs_log_probabilities() {
    let mut wrong = Vec::new();
    for name in FAMILIES {
        let expected = Expected::of(name);
        let ids = expected.ids();
        let (largest, mean) =
            differences(&logits(file(name), &ids, WeightDtype::F32), &expected.logits("logits"), ids.len());
        eprintln!("{name}.gguf: largest difference {largest:.1e}, mean {mean:.1e}");
        if largest.is_nan() || largest > TOLERANCE {
            wrong.push(name);
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[derive(serde::Deserialize)]
struct Tokenised {
    file: String,
    text: String,
    ids: Vec<u32>,
}

#[test]
fn sentence_piece_has_llama_cpps_tokens_and_turns_them_back() {
    let json = std::fs::read(fixtures().join("gguf/spm.json")).unwrap();
    let texts: Vec<Tokenised> = serde_json::from_slice(&json).unwrap();
    let mut wrong = Vec::new();
    for case in &texts {
        let tokenizer = Tokenizer::load(&ModelSource::Folder(file(&case.file))).unwrap();
        let found = tokenizer.encode(&case.text, true).unwrap();
        if found != case.ids {
            wrong.push(format!("{} {:?}: {found:?} instead of {:?}", case.file, case.text, case.ids));
        }
        let text = tokenizer.decode(&case.ids, true).unwrap();
        // The lower block is how the tokenizer writes a space.
        if !case.text.contains('<') && text != case.text.replace('▁', " ") {
            wrong.push(format!("{} {:?} comes back as {text:?}", case.file, case.text));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn products_with_blocks_are_llama_cpps() {
    for name in MODELS {
        let expected = Expected::of(name);
        let ids = expected.ids();
        let found = logits(file(name), &ids, WeightDtype::Blocks);
        let (largest, mean) = differences(&found, &expected.logits("q8_0"), ids.len());
        let (_, exact) = differences(&found, &expected.logits("dequantised"), ids.len());
        eprintln!(
            "{name}.gguf beside llama.cpp: largest difference {largest:.1e}, mean {mean:.1e}; \
             beside PyTorch without rounding: mean {exact:.1e}"
        );
        assert!(largest <= BLOCKS_TOLERANCE, "{name}: {largest}");
        assert!(exact > 1e-2, "{name}: {exact} is too little to have rounded anything");
    }
}

/// llama.cpp rounds the other factor of a product with Q8_0 blocks to Q8_0 blocks as well. That nothing else lies between
/// it and PyTorch: PyTorch with that rounding gives its numbers.
#[test]
fn what_is_between_llama_cpp_and_pytorch_is_the_rounding_of_activations() {
    for name in MODELS {
        let expected = Expected::of(name);
        let (ids, theirs) = (expected.ids(), expected.logits("q8_0"));
        let (largest, mean) = differences(&theirs, &expected.logits("rounded"), ids.len());
        eprintln!("{name}.gguf, llama.cpp beside PyTorch with rounding: {mean:.1e} in the mean");
        assert!(largest <= TOLERANCE, "{name}: {largest}");
    }
}

#[test]
fn tokens_and_template_are_the_folders() {
    for name in MODELS {
        let folder = ModelSource::Folder(fixtures().join("models").join(name).join("policy"));
        let gguf = ModelSource::Folder(file(name));
        let (ours, theirs) = (Tokenizer::load(&gguf).unwrap(), Tokenizer::load(&folder).unwrap());
        for text in
            ["How do I reset my password?", "<|im_start|>user\nÜnïcödé 東京 😀<|im_end|>\n", "  a\t\n 12345"]
        {
            assert_eq!(
                ours.encode(text, true).unwrap(),
                theirs.encode(text, true).unwrap(),
                "{name}: {text}"
            );
        }
        let render = |source: &ModelSource| {
            let template = ChatTemplate::load(source).unwrap().unwrap();
            let messages = [Message { role: "user".into(), content: "Hello".into() }];
            template.render(&TemplateInput::new(&messages, true)).unwrap()
        };
        assert_eq!(render(&gguf), render(&folder));
        assert_eq!(gguf.name(), name);
    }
}
