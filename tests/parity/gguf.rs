//! GGUF files beside llama.cpp's logits, and their tokenizer and template beside the folder they were made from.

use std::path::PathBuf;

use rectify_engine::batch::Executor;
use rectify_engine::model::source::ModelSource;
use rectify_engine::request::Message;
use rectify_engine::text::{ChatTemplate, TemplateInput, Tokenizer};
use rectify_tests::fixture::fixtures;
use rectify_tests::harness::Setup;
use rectify_tests::sheet::{Sheet, log_softmax};

const MODELS: [&str; 2] = ["llama2", "qwen3"];
/// Of the mean difference. llama.cpp rounds activations to eight bits before it multiplies them with Q8_0, and random
/// weights carry that far; rows in a wrong order would be a hundred times this.
const TOLERANCE: f64 = 5e-2;

fn file(name: &str) -> PathBuf {
    fixtures().join("gguf").join(format!("{name}.gguf"))
}

#[test]
fn log_probabilities_are_near_llama_cpps() {
    let setup = Setup::default();
    for name in MODELS {
        let bytes = std::fs::read(file(name).with_extension("safetensors")).unwrap();
        let expected = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let ids: Vec<u32> = expected
            .tensor("ids")
            .unwrap()
            .data()
            .chunks_exact(8)
            .map(|b| i64::from_le_bytes(b.try_into().unwrap()) as u32)
            .collect();
        let wanted: Vec<f32> = expected
            .tensor("logits")
            .unwrap()
            .data()
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect();
        let mut executor = setup.executor(file(name), setup.pool()).unwrap();
        let vocab_size = executor.spec().vocab_size;
        let mut sheet = Sheet::new(&executor);
        let mut rows = [sheet.row(&ids, None)];
        let batch = sheet.batch(&mut rows, &[ids.len()], false);
        let found = executor.execute(&batch).unwrap().logits.to_vec();
        let (found, wanted) = (log_softmax(&found, vocab_size), log_softmax(&wanted, vocab_size));
        let differences = found.iter().flatten().zip(wanted.iter().flatten()).map(|(a, b)| (a - b).abs());
        let (mut sum, mut largest, mut count) = (0.0, 0.0f64, 0);
        for difference in differences {
            (sum, largest, count) = (sum + difference, largest.max(difference), count + 1);
        }
        eprintln!("{name}.gguf: largest difference {largest:.1e}, mean {:.1e}", sum / f64::from(count));
        assert!(
            sum / f64::from(count) <= TOLERANCE,
            "{name}: the mean difference is {}",
            sum / f64::from(count)
        );
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
