//! The commands besides `serve`, as people run them: chat, training, benchmarks of a server, configuration, refusals,
//! exit codes and Ctrl-C. Leaves what generation writes to `offline`.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::harness::{Server, model};

/// A folder with `prompts.jsonl`, in which commands run.
struct Desk {
    folder: tempfile::TempDir,
}

/// How a command ended.
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ended {
    fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        self
    }

    /// The one sentence of a refusal with this exit code.
    fn refused(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{}", self.stderr);
        let sentence = self.stderr.trim_end().lines().last().unwrap_or_default().to_owned();
        assert!(sentence.starts_with("rectify: "), "{}", self.stderr);
        sentence
    }
}

impl Desk {
    fn new(num_prompts: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let desk = Self { folder };
        let line = |index| match index % 2 {
            0 => json!({"prompt": format!("What is {index} + {index}?"), "id": index}),
            _ => json!({"messages": [{"role": "user", "content": format!("Say {index}.")}], "id": index}),
        };
        let lines: Vec<String> = (0..num_prompts).map(|index| line(index).to_string() + "\n").collect();
        desk.write("prompts.jsonl", &lines.concat());
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    fn lines(&self, name: &str) -> Vec<Value> {
        self.read(name).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rectify"));
        command.args(line.split_whitespace()).current_dir(self.folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, line: &str) -> Ended {
        end(self.command(line).spawn().unwrap())
    }

    fn generate(&self, output: &str, options: &str) -> Ended {
        self.run(&format!(
            "generate -i prompts.jsonl -o {output} -n 4 --max-tokens 24 --progress never {options}"
        ))
    }
}

fn end(child: Child) -> Ended {
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ended { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status();
    assert!(status.unwrap().success());
}

#[test]
fn ctrl_c_keeps_what_is_done_and_exits_130() {
    let desk = Desk::new(200);
    let options = "generate -i prompts.jsonl -o out.jsonl -n 4 --max-tokens 24 --progress never";
    let child = desk.command(options).spawn().unwrap();
    let deadline = Instant::now() + super::harness::PATIENCE;
    while std::fs::metadata(desk.path("out.jsonl")).map_or(0, |file| file.len()) == 0 {
        assert!(Instant::now() < deadline, "nothing is written");
        std::thread::sleep(Duration::from_millis(5));
    }
    signal(&child, "INT");
    let sentence = end(child).refused(130);
    assert!(sentence.contains("--resume"), "{sentence}");
    let done = desk.lines("out.jsonl").len();
    assert!(sentence.contains(&format!("{done} of 200")), "{sentence}");
}

#[test]
fn batch_sizes_and_threads_do_not_change_the_text_but_the_seed_does() {
    let desk = Desk::new(10);
    desk.generate("whole.jsonl", "--keep all").ok();
    let line = "generate -i prompts.jsonl -o few.jsonl -n 4 --max-tokens 24 --keep all --threads 1";
    end(desk.command(line).env("RECTIFY_SCHEDULER__MAX_NUM_SEQS", "5").spawn().unwrap()).ok();
    assert_eq!(desk.read("few.jsonl"), desk.read("whole.jsonl"));
    desk.generate("other.jsonl", "--keep all --seed 1").ok();
    assert_ne!(desk.read("other.jsonl"), desk.read("whole.jsonl"));
}

#[test]
fn bad_input_is_one_sentence_that_names_the_place() {
    let desk = Desk::new(2);
    desk.write("broken.jsonl", "{\"prompt\": \"a\"}\n{\"prompt\": 3}\n");
    desk.write("long.jsonl", &(json!({"prompt": "word ".repeat(20_000)}).to_string() + "\n"));
    desk.write("bad.yaml", "cache: {memry: 1GiB}\n");
    desk.write("taken.jsonl", "{}\n");
    let refusals = [
        ("generate -i none.jsonl -o out.jsonl", "none.jsonl"),
        ("generate -i broken.jsonl -o out.jsonl", "broken.jsonl:2: `prompt` must be"),
        ("generate -i long.jsonl -o out.jsonl", "long.jsonl:1:"),
        ("generate -i prompts.jsonl -o prompts.jsonl --overwrite", "--output"),
        ("generate -i prompts.jsonl -o taken.jsonl", "--resume"),
        ("generate -i prompts.jsonl -o taken.jsonl --resume", "taken.jsonl:1:"),
        ("generate -i prompts.jsonl -o out.jsonl --policy nowhere", "nowhere"),
        ("generate -i prompts.jsonl -o out.jsonl --reward r=nowhere", "nowhere"),
        ("generate -i prompts.jsonl -o out.jsonl --top-p 7", "top_p"),
        ("generate -i prompts.jsonl -o missing/out.jsonl", "missing/out.jsonl"),
        ("generate -i prompts.jsonl -o out.jsonl --config bad.yaml", "memory"),
        ("score -i prompts.jsonl -o out.jsonl", "prompts.jsonl:1:"),
        ("train sft --data none.jsonl --policy nowhere --output out", "nowhere"),
        ("config check --config bad.yaml", "cache.memry"),
        ("chat --url nowhere", "--url"),
        ("frobnicate", "frobnicate"),
    ];
    for (line, part) in refusals {
        let sentence = desk.run(line).refused(2);
        assert!(sentence.contains(part), "{line}: {sentence}");
    }
    // A policy of one's own has no reward model until one is named.
    let policy = model("llama/policy");
    let sentence = desk.generate("out.jsonl", &format!("--policy {policy}")).refused(2);
    assert!(sentence.contains("--reward"), "{sentence}");
    assert!(!desk.path("out.jsonl").exists(), "a refused command leaves no file");
    let sentence = desk.run("bench serving --url http://127.0.0.1:9 --requests 1").refused(1);
    assert!(sentence.contains("127.0.0.1:9"), "{sentence}");
    assert_eq!(desk.read("taken.jsonl"), "{}\n");
}

#[test]
fn config_prints_what_takes_effect_and_its_schema() {
    let desk = Desk::new(1);
    desk.write("good.yaml", "cache: {memory: 64MiB}\n");
    let printed = desk.run("config print --config good.yaml").ok().stdout;
    assert!(printed.contains("memory: 64MiB") && printed.contains("port: 8080"), "{printed}");
    desk.write("printed.yaml", &printed);
    assert_eq!(desk.run("config print --config printed.yaml").ok().stdout, printed);
    desk.run("config check --config good.yaml").ok();
    let schema: Value = serde_json::from_str(&desk.run("config schema").ok().stdout).unwrap();
    assert!(schema["properties"]["cache"].is_object());
}

/// Lines typed into a chat and what comes out.
fn chat(desk: &Desk, options: &str, lines: &str) -> Ended {
    use std::io::Write;
    let mut command = desk.command(&format!("chat --max-tokens 12 --seed 1 {options}"));
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    end(child)
}

#[tokio::test]
async fn a_chat_in_the_process_and_with_a_server_say_the_same() {
    let desk = Desk::new(1);
    let talk = "Hello.\n/n 4\nAnd again.\n/quit\nnever said\n";
    let here = chat(&desk, "", talk).ok().stdout;
    assert!(!here.trim().is_empty());
    let server = Server::demo().await;
    let url = format!("--url {}", server.url);
    let there = tokio::task::spawn_blocking(move || chat(&desk, &url, talk)).await.unwrap().ok().stdout;
    assert_eq!(here, there);
}

#[tokio::test]
async fn bench_serving_counts_every_request() {
    let server = Server::demo().await;
    let desk = Desk::new(1);
    let line = format!(
        "bench serving --url {} --requests 8 --rate 0 --prompt-len 8-40 --gen-len 2-8 --json --progress never",
        server.url
    );
    let report = tokio::task::spawn_blocking(move || desk.run(&line)).await.unwrap().ok().stdout;
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!((&report["completed"], &report["failed"]), (&json!(8), &json!(0)), "{report}");
    assert!(report["ttft_s"]["p50"].as_f64() > Some(0.0) && report["tokens_per_s"].as_f64() > Some(0.0));
}

#[test]
fn bench_overhead_takes_turns_and_leaves_nothing_behind() {
    let desk = Desk::new(1);
    std::fs::create_dir(desk.path("tmp")).unwrap();
    let line = "bench overhead --streams 3 --prompt-len 8 --gen-len 4 --rounds 4 --json --progress never";
    let mut command = desk.command(line);
    let child = command.env("TMPDIR", desk.path("tmp")).spawn().unwrap();
    let report: Value = serde_json::from_str(&end(child).ok().stdout).unwrap();
    let rounds = report["rounds"].as_array().unwrap();
    let seconds = |key: &str| rounds.iter().map(|round| round[key].as_f64().unwrap()).collect::<Vec<_>>();
    let mut lost: Vec<f64> = std::iter::zip(seconds("engine_s"), seconds("server_s"))
        .map(|(engine, server)| 1.0 - engine / server)
        .collect();
    lost.sort_by(f64::total_cmp);
    // Too few rounds to know the median any better than that it lies among them.
    let near = |key: &Value, expected: f64| (key.as_f64().unwrap() - expected).abs() < 1e-9;
    assert!(lost.len() == 4 && near(&report["lost"], f64::midpoint(lost[1], lost[2])), "{report}");
    let [low, high] = [&report["lost_interval"][0], &report["lost_interval"][1]];
    assert!(near(low, lost[0]) && near(high, lost[3]), "{report}");
    assert_eq!(std::fs::read_dir(desk.path("tmp")).unwrap().count(), 0);
}

/// Eight short conversations as `sft.jsonl`, and the folder of the demo's policy.
fn demonstrations(desk: &Desk) -> PathBuf {
    let data: Vec<String> = (0..8)
        .map(|index| {
            let turns = json!([
                {"role": "user", "content": format!("Say {index}.")},
                {"role": "assistant", "content": index.to_string()},
            ]);
            json!({"messages": turns}).to_string() + "\n"
        })
        .collect();
    desk.write("sft.jsonl", &data.concat());
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("assets/demo/policy")
}

#[test]
fn a_dry_run_of_training_shows_what_bears_loss_and_trains_nothing() {
    let desk = Desk::new(1);
    let demo = demonstrations(&desk).display().to_string();
    let shown =
        desk.run(&format!("train sft --data sft.jsonl --policy {demo} --dry-run --assistant-only-loss true"));
    let shown = shown.ok().stdout;
    assert_eq!(shown.matches("── example ").count(), 3, "{shown}");
    for index in 0..3 {
        assert!(shown.contains(&format!("Say {index}.")) && shown.contains(&format!("[[{index}")), "{shown}");
    }
    desk.write("pairs.jsonl", "{\"prompt\": \"2+2=\", \"chosen\": \"4\", \"rejected\": \"5\"}\n");
    let shown =
        desk.run(&format!("train reward --data pairs.jsonl --policy {demo} --dry-run --eval-split 0"));
    let shown = shown.ok().stdout;
    assert!(shown.contains("example 1, chosen") && shown.contains("example 1, rejected"), "{shown}");
    let left = std::fs::read_dir(desk.path(".")).unwrap().count();
    assert_eq!(left, 3, "nothing but the data");
}

#[test]
fn ctrl_c_saves_an_adapter_run_which_resumes_and_tells_its_metrics() {
    use std::io::{BufRead, BufReader, Read, Write};
    let desk = Desk::new(1);
    let demo = demonstrations(&desk).display().to_string();
    let line = format!(
        "train sft --data sft.jsonl --policy {demo} --output out --use-peft true --max-steps 100000 --logging-steps 1 \
         --save-steps 0 --metrics-port 0 --progress never"
    );
    let mut last = 0;
    for resume in ["", "--resume"] {
        let mut child = desk.command(format!("{line} {resume}").trim()).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        while !said.contains("/metrics") {
            assert!(stderr.read_line(&mut said).unwrap() > 0, "{said}");
        }
        let address = said.split("http://").nth(1).unwrap().split('/').next().unwrap().to_owned();
        let deadline = Instant::now() + super::harness::PATIENCE;
        loop {
            let mut stream = std::net::TcpStream::connect(&address).unwrap();
            stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            if answer.contains("rectify_sft_loss ") && answer.contains("rectify_train_step ") {
                break;
            }
            assert!(Instant::now() < deadline, "{answer}");
            std::thread::sleep(Duration::from_millis(20));
        }
        signal(&child, "INT");
        stderr.read_to_string(&mut said).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130), "{said}");
        let sentence = said.trim_end().lines().last().unwrap();
        assert!(sentence.contains("is saved in out") && sentence.contains("--resume"), "{said}");
        let lines = desk.lines("out/train_log.jsonl");
        let steps: Vec<u64> = lines.iter().map(|line| line["step"].as_u64().unwrap()).collect();
        assert_eq!(steps, (1..=steps.len() as u64).collect::<Vec<_>>(), "no step is lost or told twice");
        assert!(steps.len() > last, "{said}");
        last = steps.len();
    }
}

#[test]
fn a_trained_policy_generates() {
    let desk = Desk::new(2);
    let demo = demonstrations(&desk);
    desk.write("sft.yaml", "learning_rate: 1e-3\nper_device_train_batch_size: 4\nmax_steps: 9\n");
    let line = format!(
        "train sft --data sft.jsonl --policy {} --output trained --config sft.yaml --max-steps 2 --json --progress never",
        demo.display()
    );
    let report: Value = serde_json::from_str(&desk.run(&line).ok().stdout).unwrap();
    assert_eq!(report["steps"], json!(2), "the option overrides the file: {report}");
    desk.run("generate -i prompts.jsonl -o out.jsonl -n 1 --max-tokens 4 --policy trained").ok();
    assert_eq!(desk.lines("out.jsonl").len(), 2);
}
