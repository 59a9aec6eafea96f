//! The settings of a run from defaults, a YAML file and options, each overriding the one before. Every key is checked
//! alone, so that an error names it. Leaves what values mean to the trainer.

use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use rectify_trainer::{LoraConfig, RolloutConfig, TrainConfig};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::{Keys, MethodArgs, TrainArgs};
use crate::cli::{CliError, ProgressMode};
use crate::hub::{Hub, Wanted};

/// Keys whose place in the trainer's structs is not their own name.
const PLACED: [&str; 5] = ["model_name_or_path", "init", "use_peft", "data", "eval_data"];

/// Settings of a method; a model that is an id of the hub's is downloaded.
///
/// # Errors
/// [`CliError`] naming the key, the option or the id.
pub(super) fn read<C, K>(args: &MethodArgs<K>, progress: ProgressMode) -> Result<C, CliError>
where
    C: Default + Serialize + DeserializeOwned,
    K: Keys,
{
    let keys = [args.shared.given(), args.keys.given()].concat();
    Merged::<C>::new()?.read(&args.shared, &keys, &Hub::from_env(progress))
}

/// Keys that the learning loop decides.
const DECIDED: [&str; 9] = [
    "model_name_or_path",
    "init",
    "use_peft",
    "data",
    "eval_data",
    "output_dir",
    "resume",
    "init_adapter",
    "reference",
];

/// What the loop changes of a method's defaults: an adapter takes a higher learning rate than a whole model.
const LOOP_DEFAULTS: [(&str, f64); 2] = [("learning_rate", 2e-4), ("lora_alpha", 32.0)];

/// Settings of a method from its section of the server's configuration; what the loop decides itself is left open.
///
/// # Errors
/// [`CliError::Usage`] naming the section and the key.
pub(crate) fn section<C>(name: &str, keys: &Map<String, Value>) -> Result<C, CliError>
where
    C: Default + Serialize + DeserializeOwned,
{
    let place = |sentence: String| format!("configuration: `{name}`: {sentence}");
    if let Some(key) = keys.keys().find(|key| DECIDED.contains(&key.as_str())) {
        return Err(CliError::Usage(place(format!("{key}: leave it out; the loop decides it"))));
    }
    let mut merged = Merged::<C>::new()?;
    for (key, value) in LOOP_DEFAULTS {
        merged.set(key, json!(value), &place)?;
    }
    for (key, value) in keys {
        merged.set(key, value.clone(), &place)?;
    }
    for (key, value) in [("model_name_or_path", "served"), ("data", "snapshot"), ("output_dir", "run")] {
        merged.set(key, json!(value), &place)?;
    }
    merged.use_peft = true;
    merged.build()
}

/// Flat keys on their way to `T`, whose `train` is a [`TrainConfig`].
struct Merged<T> {
    train: Map<String, Value>,
    lora: Map<String, Value>,
    method: Map<String, Value>,
    /// What online methods share; `None` for the others.
    rollout: Option<Map<String, Value>>,
    model: Option<Value>,
    use_peft: bool,
    target: PhantomData<T>,
}

impl<T: Default + Serialize + DeserializeOwned> Merged<T> {
    fn new() -> Result<Self, CliError> {
        let mut method = object(&T::default())?;
        let train = method.shift_remove("train").unwrap_or_default();
        let mut train = object(&train)?;
        train.shift_remove("model");
        let rollout = method.shift_remove("rollout").map(|rollout| object(&rollout)).transpose()?;
        let tuned = train.shift_remove("tuning").and_then(|tuning| tuning.get("lora").cloned());
        let use_peft = tuned.is_some();
        let lora = match tuned {
            Some(lora) => object(&lora)?,
            None => object(&LoraConfig::default())?,
        };
        Ok(Self { train, lora, method, rollout, model: None, use_peft, target: PhantomData })
    }

    /// The file first, then the options; what they name on the hub is fetched once all of them are understood.
    fn read(mut self, args: &TrainArgs, keys: &[(&'static str, Value)], hub: &Hub) -> Result<T, CliError> {
        if let Some(path) = &args.config {
            for (key, value) in yaml(path)? {
                self.set(&key, value, &|sentence| format!("{}: {sentence}", path.display()))?;
            }
        }
        let option = |sentence: String| format!("--{sentence}");
        for (key, value) in keys {
            self.set(key, value.clone(), &|sentence| {
                option(sentence.replacen(key, &key.replace('_', "-"), 1))
            })?;
        }
        let given = [
            (!args.data.is_empty()).then(|| ("data", json!(args.data))),
            (!args.eval_data.is_empty()).then(|| ("eval_data", json!(args.eval_data))),
            args.policy.as_ref().map(|path| ("model_name_or_path", json!(path))),
            args.init.as_ref().map(|path| ("init", json!(path))),
            args.output.as_ref().map(|path| ("output_dir", json!(path))),
            args.threads.map(|threads| ("num_threads", json!(threads))),
            args.resume.then(|| ("resume", json!(true))),
            args.dry_run.then(|| ("dry_run", json!(true))),
        ];
        for (key, value) in given.into_iter().flatten() {
            self.set(key, value, &option)?;
        }
        if let Some(folder) = self.model.as_mut().and_then(|model| model.get_mut("folder")) {
            let path = PathBuf::from(folder.as_str().unwrap_or_default());
            *folder = json!(hub.locate(&path, Wanted::Model)?.path);
        }
        self.build()
    }

    /// Sets one key; `place` puts the file or the dashes before the sentence.
    fn set(&mut self, key: &str, value: Value, place: &dyn Fn(String) -> String) -> Result<(), CliError> {
        let refuse = |reason: String| CliError::Usage(place(format!("{key}: {reason}")));
        match key {
            "model_name_or_path" | "init" => {
                let path: PathBuf =
                    serde_json::from_value(value).map_err(|error| refuse(error.to_string()))?;
                let start = if key == "init" { "init" } else { "folder" };
                self.model = Some(json!({ start: path }));
            }
            "use_peft" => {
                self.use_peft = value.as_bool().ok_or_else(|| refuse("must be true or false".to_owned()))?;
            }
            "data" | "eval_data" => {
                // One file is written as a string by most people.
                let files = if value.is_string() { json!([value]) } else { value };
                check::<TrainConfig>(&mut self.train, key, files).map_err(refuse)?;
            }
            _ if self.train.contains_key(key) => {
                check::<TrainConfig>(&mut self.train, key, value).map_err(refuse)?
            }
            _ if self.lora.contains_key(key) => {
                check::<LoraConfig>(&mut self.lora, key, value).map_err(refuse)?
            }
            _ if self.rollout.as_ref().is_some_and(|rollout| rollout.contains_key(key)) => {
                // One reward is written without a list by most people.
                let is_one = key == "reward" && !value.is_array();
                let value = if is_one { json!([value]) } else { value };
                let rollout = self.rollout.get_or_insert_default();
                check::<RolloutConfig>(rollout, key, value).map_err(refuse)?;
            }
            _ if self.method.contains_key(key) => check::<T>(&mut self.method, key, value).map_err(refuse)?,
            _ => return Err(refuse(self.unknown(key))),
        }
        Ok(())
    }

    fn unknown(&self, key: &str) -> String {
        let rollout = self.rollout.iter().flat_map(Map::keys);
        let known = self.train.keys().chain(self.lora.keys()).chain(self.method.keys()).chain(rollout);
        let known = known.map(String::as_str);
        let closest = known
            .chain(PLACED)
            .map(|name| (strsim::jaro_winkler(name, key), name))
            .max_by(|a, b| a.0.total_cmp(&b.0));
        match closest {
            Some((likeness, name)) if likeness > 0.8 => {
                format!("there is no such key here; did you mean `{name}`?")
            }
            _ => "there is no such key for this method".to_owned(),
        }
    }

    fn build(mut self) -> Result<T, CliError> {
        let refuse = |sentence: &str| Err(CliError::Usage(sentence.to_owned()));
        let Some(model) = self.model else {
            return refuse(
                "--policy is missing: name the model's folder, or with --init one for random weights",
            );
        };
        let empty =
            |key: &str| self.train.get(key).is_none_or(|value| *value == json!([]) || *value == json!(""));
        if empty("data") {
            return refuse("--data is missing: name a file of records");
        }
        if empty("output_dir") && self.train.get("dry_run") != Some(&json!(true)) {
            return refuse("--output is missing: name a folder");
        }
        let tuning = if self.use_peft { json!({ "lora": self.lora }) } else { json!("full") };
        self.train.insert("model".to_owned(), model);
        self.train.insert("tuning".to_owned(), tuning);
        self.method.insert("train".to_owned(), Value::Object(self.train));
        if let Some(rollout) = self.rollout {
            self.method.insert("rollout".to_owned(), Value::Object(rollout));
        }
        serde_json::from_value(Value::Object(self.method)).map_err(|error| CliError::Usage(error.to_string()))
    }
}

/// Puts `value` at `key` if the struct takes it there.
fn check<T: DeserializeOwned>(
    fields: &mut Map<String, Value>,
    key: &str,
    value: Value,
) -> Result<(), String> {
    let old = fields.insert(key.to_owned(), value);
    match serde_json::from_value::<T>(Value::Object(fields.clone())) {
        Ok(_) => Ok(()),
        Err(error) => {
            if let Some(old) = old {
                fields.insert(key.to_owned(), old);
            }
            Err(error.to_string())
        }
    }
}

fn object(value: &impl Serialize) -> Result<Map<String, Value>, CliError> {
    match serde_json::to_value(value) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(other) => Err(CliError::Refused(format!("settings are an object, not {other}"))),
        Err(error) => Err(CliError::Refused(error.to_string())),
    }
}

fn yaml(path: &Path) -> Result<Map<String, Value>, CliError> {
    let text = std::fs::read_to_string(path).map_err(|error| CliError::io(path, "read the file", &error))?;
    match serde_yaml_ng::from_str(&text) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(Value::Null) => Ok(Map::new()),
        Ok(_) => Err(CliError::Usage(format!("{}: the file must hold `key: value` lines", path.display()))),
        Err(error) => Err(CliError::Usage(format!("{}: the file is not YAML: {error}", path.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command, TrainCommand};
    use clap::Parser;
    use rectify_trainer::losses::DpoLossType;
    use rectify_trainer::{DpoConfig, GrpoConfig, LrScheduler, ModelStart, RewardConfig, SftConfig, Tuning};

    fn command(line: &str) -> TrainCommand {
        match Cli::try_parse_from(line.split(' ')).expect(line).command {
            Command::Train(command) => command,
            other => panic!("{other:?}"),
        }
    }

    fn sft(line: &str) -> Result<SftConfig, CliError> {
        let TrainCommand::Sft(args) = command(line) else { panic!("{line}") };
        read(&args, ProgressMode::Never)
    }

    fn reward(line: &str) -> Result<RewardConfig, CliError> {
        let TrainCommand::Reward(args) = command(line) else { panic!("{line}") };
        read(&args, ProgressMode::Never)
    }

    fn grpo(line: &str) -> Result<GrpoConfig, CliError> {
        let TrainCommand::Grpo(args) = command(line) else { panic!("{line}") };
        read(&args, ProgressMode::Never)
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), text).expect("write");
        file
    }

    #[test]
    fn options_override_the_file_which_overrides_the_defaults() {
        let file = file(
            "model_name_or_path: base\ndata: a.jsonl\noutput_dir: out\nlearning_rate: 2e-4\nlr_scheduler_type: cosine\n\
             max_steps: 10\nuse_peft: true\nlora_r: 8\nassistant_only_loss: true\n",
        );
        let line = format!(
            "rectify train sft --config {} --max-steps 20 --data b.jsonl --data c.jsonl --lora-alpha 32 --resume",
            file.path().display()
        );
        let config = sft(&line).expect("valid");
        assert_eq!(config.train.learning_rate, 2e-4);
        assert_eq!(config.train.lr_scheduler_type, LrScheduler::Cosine);
        assert_eq!(config.train.max_steps, 20);
        assert_eq!(config.train.data, [PathBuf::from("b.jsonl"), PathBuf::from("c.jsonl")]);
        assert_eq!(config.train.model, ModelStart::Folder("base".into()));
        assert!(config.train.resume && config.assistant_only_loss);
        let Tuning::Lora(lora) = config.train.tuning else { panic!("{:?}", config.train.tuning) };
        assert_eq!((lora.lora_r, lora.lora_alpha), (8, 32.0));
        assert_eq!(config.train.weight_decay, TrainConfig::default().weight_decay);
    }

    #[test]
    fn online_methods_train_an_adapter_and_take_rewards_in_both_forms() {
        let base = "rectify train grpo --data a --policy p --output o";
        let file = file(
            "reward:\n- regex:^Yes\n- kind: http\n  url: http://judge:1/score\n  timeout_seconds: 2.0\nreward_weights: [1, 0.5]\n\
             temperature: 0.7\nlora_r: 4\n",
        );
        let config = grpo(&format!("{base} --config {}", file.path().display())).expect("valid");
        assert_eq!(Ok(config.rollout.reward[0].clone()), "regex:^Yes".parse());
        assert_eq!(config.rollout.reward[1].name(), "http");
        assert_eq!((config.rollout.reward_weights, config.rollout.temperature), (vec![1.0, 0.5], 0.7));
        let Tuning::Lora(lora) = config.train.tuning else { panic!("{:?}", config.train.tuning) };
        assert_eq!(lora.lora_r, 4);
        let config = grpo(&format!("{base} --reward json --beta 0.1")).expect("valid");
        assert_eq!((config.rollout.reward.len(), config.beta), (1, 0.1));
        assert_eq!(config.num_generations, GrpoConfig::default().num_generations);
        let error = grpo(&format!("{base} --reward rgx:a")).expect_err("no such kind").to_string();
        assert!(error.starts_with("--reward: the reward `rgx:a` is of no known kind"), "{error}");
        let error = grpo(&format!("{base} --loss-type sum")).expect_err("no such loss").to_string();
        assert!(error.starts_with("--loss-type: unknown variant `sum`"), "{error}");
    }

    #[test]
    fn losses_are_a_list_on_the_command_line_and_a_name_or_a_list_in_a_file() {
        let dpo = |options: &str| -> Result<DpoConfig, CliError> {
            let line = format!("rectify train dpo --data a --policy p --output o {options}");
            let TrainCommand::Dpo(args) = command(line.trim()) else { panic!("{line}") };
            read(&args, ProgressMode::Never)
        };
        use DpoLossType::{Ipo, Sft, Sigmoid};
        let config = dpo("--loss-type sigmoid,sft --loss-weights 1,0.5 --ld-alpha 0.3").expect("valid");
        assert_eq!((config.loss_type, config.loss_weights), (vec![Sigmoid, Sft], Some(vec![1.0, 0.5])));
        assert_eq!((config.ld_alpha, config.train.learning_rate), (Some(0.3), 1e-6));
        for (text, want) in [("loss_type: ipo", vec![Ipo]), ("loss_type: [ipo, sft]", vec![Ipo, Sft])] {
            let file = file(text);
            let config = dpo(&format!("--config {}", file.path().display())).expect("valid");
            assert_eq!(config.loss_type, want);
        }
        let error = dpo("--loss-type sigmund").expect_err("unknown").to_string();
        assert!(error.starts_with("--loss-type: unknown variant `sigmund`"), "{error}");
    }

    #[test]
    fn a_yes_may_be_said_by_the_flag_alone() {
        let base = "rectify train sft --data a --policy p --output o";
        for (flags, packing) in [
            ("--packing --use-peft --lora-r 4", true),
            ("--packing true --use-peft=true", true),
            ("--packing false", false),
        ] {
            let config = sft(&format!("{base} {flags}")).expect(flags);
            assert_eq!(config.packing, packing, "{flags}");
            assert_eq!(matches!(config.train.tuning, Tuning::Lora(_)), packing, "{flags}");
        }
        let config =
            sft(&format!("{base} --use-peft --target-modules q_proj,v_proj --dry-run")).expect("a list");
        let Tuning::Lora(lora) = config.train.tuning else { panic!("no adapter") };
        assert_eq!(lora.target_modules, ["q_proj", "v_proj"]);
        assert!(config.train.dry_run);
    }

    #[test]
    fn a_section_of_the_server_holds_the_same_keys() {
        let keys = |text: &str| serde_json::from_str::<Map<String, Value>>(text).expect("an object");
        let config: DpoConfig =
            section("dpo", &keys(r#"{"beta": 0.5, "lora_r": 8, "max_steps": 9}"#)).expect("valid");
        let Tuning::Lora(lora) = &config.train.tuning else { panic!("no adapter") };
        assert_eq!((config.beta, lora.lora_r, lora.lora_alpha), (0.5, 8, 32.0));
        assert_eq!((config.train.learning_rate, config.train.max_steps), (2e-4, 9));
        for (text, part) in [
            (r#"{"output_dir": "x"}"#, "`dpo`: output_dir: leave it out"),
            (r#"{"bata": 1}"#, "did you mean `beta`"),
            (r#"{"beta": "high"}"#, "`dpo`: beta: invalid type"),
        ] {
            let error = section::<DpoConfig>("dpo", &keys(text)).expect_err(text).to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn each_method_keeps_its_own_defaults() {
        let config = reward("rectify train reward --data a --policy p --output o").expect("valid");
        let defaults = RewardConfig::default();
        assert_eq!(config.train.learning_rate, defaults.train.learning_rate);
        assert_eq!(config.train.eval_split, defaults.train.eval_split);
        assert_eq!(config.train.tuning, Tuning::Full);
    }

    #[test]
    fn errors_name_the_file_or_the_option_and_the_key() {
        let base = "rectify train sft --data a --policy p --output o";
        for (text, part) in [
            ("learning_rat: 1", "did you mean `learning_rate`"),
            ("learning_rate: fast", "learning_rate: invalid type"),
            ("assistant_only_loss: 3", "assistant_only_loss: invalid type"),
            ("center_rewards_coefficient: 0.1", "no such key for this method"),
            ("[1, 2]", "must hold `key: value` lines"),
            ("a: [", "not YAML"),
        ] {
            let file = file(text);
            let name = file.path().display().to_string();
            let error = sft(&format!("{base} --config {name}")).expect_err(text).to_string();
            assert!(error.contains(part) && error.contains(&name), "{text}: {error}");
        }
        let error = sft(&format!("{base} --lr-scheduler-type steep")).expect_err("unknown").to_string();
        assert!(error.starts_with("--lr-scheduler-type: unknown variant `steep`"), "{error}");
        let error = sft("rectify train sft --policy p --output o").expect_err("missing").to_string();
        assert!(error.starts_with("--data"), "{error}");
        let error = sft("rectify train sft --data p --output o").expect_err("missing").to_string();
        assert!(error.starts_with("--policy"), "{error}");
        let error = sft("rectify train sft --data p --policy o").expect_err("missing").to_string();
        assert!(error.starts_with("--output"), "{error}");
    }
}
