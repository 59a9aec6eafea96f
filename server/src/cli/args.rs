//! Options shared by the commands that load models, and their value parsers. Leaves defaults to the configuration:
//! an option that is absent here is the configuration's.

use std::path::PathBuf;
use std::str::FromStr;

pub use crate::config::ByteSize;

/// Which models to load and how.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Models")]
pub struct ModelArgs {
    /// The policy: a folder in Hugging Face's layout, a GGUF file, or an id on the hub, as owner/name, owner/name@revision
    /// or owner/name/FILE.gguf; without it, the embedded demo.
    #[arg(long, value_name = "PATH|ID")]
    pub policy: Option<PathBuf>,
    /// A reward model and its name: a sequence-classification folder (decoder or encoder), a PEFT adapter with a score head
    /// on the policy's base, or an id on the hub. May be given several times; the first is the default. How a classifier
    /// of several labels is read is said in the configuration's `rewards`.
    #[arg(long = "reward", value_name = "NAME=DIR|ID")]
    pub rewards: Vec<NamedDir>,
    /// A PEFT adapter of the default policy, a folder or an id on the hub, and its name. May be given several times: a server serves each under its name, and
    /// other commands answer with the first.
    #[arg(long = "adapter", value_name = "NAME=DIR|ID")]
    pub adapters: Vec<NamedDir>,
    /// Precision of weights and KV cache.
    #[arg(long, value_enum)]
    pub dtype: Option<Dtype>,
    /// The policy's weights in fewer bits, and activations too where they meet them: half the memory of bfloat16, and faster.
    #[arg(long, value_enum)]
    pub quantize: Option<Quantization>,
    /// Threads that compute; by default one per core.
    #[arg(long, value_parser = positive)]
    pub threads: Option<usize>,
    /// Memory for the KV cache of the policies together, such as 4GiB or 512MiB.
    #[arg(long, value_name = "SIZE")]
    pub kv_cache_memory: Option<ByteSize>,
    /// Longest sequence (prompt and answer) in tokens; by default the model's own.
    #[arg(long, value_name = "TOKENS", value_parser = positive)]
    pub max_model_len: Option<usize>,
    /// A YAML configuration file; options given here override it.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Folder for what the server keeps.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

/// Precision of weights, as people name it to vLLM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Dtype {
    /// Single precision.
    Float32,
    /// Half the memory and more than twice the speed.
    Bfloat16,
    /// As much memory as bfloat16, and faster where the processor multiplies in half precision.
    Float16,
}

/// Bits of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Quantization {
    /// Eight.
    Int8,
}

/// A folder and the name it goes by, written `NAME=DIR`; a bare `DIR` is named after its last component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedDir {
    /// How requests name it.
    pub name: String,
    /// The folder.
    pub path: PathBuf,
}

impl FromStr for NamedDir {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, path) = match text.split_once('=') {
            Some((name, path)) => (name.to_owned(), PathBuf::from(path)),
            None => {
                let path = PathBuf::from(text);
                let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
                (name.unwrap_or_default(), path)
            }
        };
        if name.is_empty() || path.as_os_str().is_empty() {
            return Err("write NAME=DIR, such as helpful=./rm-helpful".to_owned());
        }
        Ok(Self { name, path })
    }
}

/// A count of at least one.
pub(crate) fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".to_owned()),
        Ok(count) => Ok(count),
        Err(_) => Err("must be a whole number of at least 1".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reward_is_named_or_takes_its_folders_name() {
        let named = |name: &str, path: &str| Ok(NamedDir { name: name.into(), path: path.into() });
        assert_eq!("safe=./rm".parse(), named("safe", "./rm"));
        assert_eq!("models/rm-safe".parse(), named("rm-safe", "models/rm-safe"));
        for bad in ["", "=", "a=", "=b"] {
            assert!(bad.parse::<NamedDir>().is_err(), "{bad}");
        }
    }
}
