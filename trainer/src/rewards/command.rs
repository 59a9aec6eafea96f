//! A program that judges one completion at a time, in a sandbox: `unshare` takes the network away, `prlimit` bounds memory
//! and processor time, and a clock of our own ends what sleeps. Both are util-linux's; without them, or where the system
//! forbids new namespaces, a program is only run if the network is allowed, and that is said.

use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Judge, Judged};
use crate::error::TrainError;

/// What a program may use.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Longest run, by the clock and of the processor.
    pub timeout_seconds: f64,
    /// Most memory, in MiB of address space.
    pub memory_mib: u64,
    /// Run with the network.
    pub allow_network: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self { timeout_seconds: 10.0, memory_mib: 1024, allow_network: false }
    }
}

/// Bytes of output that are read.
const MAX_OUTPUT: u64 = 64 << 10;

/// A program and how it is run.
pub(super) struct Program {
    /// The sandbox's words, then the program's.
    words: Vec<String>,
    name: String,
    timeout: Duration,
}

impl Program {
    pub(super) fn new(command: &[String], limits: Limits) -> Result<Self, TrainError> {
        let name = command.join(" ");
        let refuse = |reason: String| TrainError::config("reward", format!("command `{name}`: {reason}"));
        let timeout = Duration::try_from_secs_f64(limits.timeout_seconds)
            .map_err(|_| refuse("timeout_seconds must be above 0".to_owned()))?;
        let Some(program) = command.first() else {
            return Err(refuse("names no program".to_owned()));
        };
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let mut sandbox = Vec::new();
        if !limits.allow_network {
            // A process namespace of its own, too: whatever the program leaves behind ends with it.
            sandbox = words("unshare --map-root-user --net --pid --fork --kill-child --");
            if !works(&sandbox) {
                return Err(refuse(
                    "this system gives no namespace without a network (`unshare --map-root-user --net` fails), so the \
                     program would not be cut off; set allow_network in its limits to run it all the same"
                        .to_owned(),
                ));
            }
        }
        let bytes = limits.memory_mib << 20;
        let seconds = limits.timeout_seconds.ceil().max(1.0);
        let bounds = words(&format!("prlimit --as={bytes} --cpu={seconds} --"));
        if works(&bounds) {
            sandbox.extend(bounds);
        } else {
            return Err(refuse("`prlimit` of util-linux is missing, which bounds its memory".to_owned()));
        }
        if !program.contains('/') && !works(&["which".to_owned(), program.clone()]) {
            return Err(refuse(format!("there is no program `{program}`")));
        }
        sandbox.extend(command.iter().cloned());
        Ok(Self { words: sandbox, name, timeout })
    }

    fn reward(&self, judged: &Judged<'_>) -> Result<f64, String> {
        let input = json!({
            "completion": judged.completion,
            "prompt": judged.prompt.text,
            "columns": judged.prompt.columns,
        });
        let mut child = start(&self.words, Stdio::piped()).map_err(|error| error.to_string())?;
        let (mut stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (status, out, err) = std::thread::scope(|scope| {
            // A program may fill its output before it reads all of its input. One that does not read is no failure.
            scope.spawn(move || stdin.take().map(|mut pipe| pipe.write_all(input.to_string().as_bytes())));
            let out = scope.spawn(move || read(stdout));
            let err = scope.spawn(move || read(stderr));
            let status = wait(&mut child, self.timeout);
            (status, out.join().unwrap_or_default(), err.join().unwrap_or_default())
        });
        let last = |text: &str| text.lines().last().unwrap_or_default().trim().to_owned();
        match status {
            None => Err(format!("did not end within {} s", self.timeout.as_secs_f64())),
            Some(status) if !status.success() => Err(format!("ended with {status}: {}", last(&err))),
            Some(_) => {
                let number: f64 = last(&out).parse().map_err(|_| {
                    format!("must print a number in its last line, but printed `{}`", last(&out))
                })?;
                Ok(number)
            }
        }
    }
}

fn read(pipe: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    let _ = pipe.map(|pipe| pipe.take(MAX_OUTPUT).read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

fn start(words: &[String], input: Stdio) -> std::io::Result<Child> {
    let (program, arguments) = words.split_first().ok_or(std::io::ErrorKind::InvalidInput)?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
    // In a group of its own: the terminal's Ctrl-C is for the trainer, which ends its programs itself.
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).process_group(0).spawn()
}

/// Whether these words before `true` run it.
fn works(words: &[String]) -> bool {
    let words: Vec<String> = words.iter().cloned().chain(["true".to_owned()]).collect();
    start(&words, Stdio::null()).is_ok_and(|mut child| child.wait().is_ok_and(|status| status.success()))
}

/// Waits for the end; `None` if the time is up, and the program gone.
fn wait(child: &mut Child, timeout: Duration) -> Option<std::process::ExitStatus> {
    let end = Instant::now() + timeout;
    let mut pause = Duration::from_micros(200);
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        if Instant::now() >= end {
            // The whole group, or what the program started would hold its output open.
            let _ = rustix::process::kill_process_group(Pid::from_child(child), Signal::KILL);
            let _ = child.wait();
            return None;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

impl Judge for Program {
    fn rewards(&self, completions: &[Judged<'_>]) -> Result<Vec<f64>, TrainError> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let share = completions.len().div_ceil(threads).max(1);
        let results: Vec<Result<f64, String>> = std::thread::scope(|scope| {
            let workers: Vec<_> = completions
                .chunks(share)
                .map(|part| scope.spawn(|| part.iter().map(|judged| self.reward(judged)).collect::<Vec<_>>()))
                .collect();
            let lost = || vec![Err("its thread ended".to_owned())];
            workers.into_iter().flat_map(|worker| worker.join().unwrap_or_else(|_| lost())).collect()
        });
        // One completion that breaks the judge is the completion's fault; all of them, the judge's.
        if let Some(Err(reason)) = results.first()
            && results.iter().all(Result::is_err)
        {
            return Err(TrainError::Reward { name: self.name.clone(), reason: reason.clone() });
        }
        let reward = |result: Result<f64, String>| {
            result.unwrap_or_else(|reason| {
                tracing::warn!(command = self.name, reason, "a completion has no reward");
                f64::NAN
            })
        };
        Ok(results.into_iter().map(reward).collect())
    }
}

// The sandbox is Linux's.
#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::super::words::tests::prompt;
    use super::*;

    fn judge(script: &str, limits: Limits, completions: &[&str]) -> Result<Vec<f64>, TrainError> {
        let command = ["sh", "-c", script].map(str::to_owned);
        let prompt = prompt(r#"{"answer": 4}"#);
        let judged: Vec<Judged<'_>> = completions
            .iter()
            .map(|completion| Judged { prompt: &prompt, completion, num_tokens: 1 })
            .collect();
        Program::new(&command, limits)?.rewards(&judged)
    }

    /// Namespaces are forbidden in some containers; what does not need them is tested there all the same.
    fn limits() -> Limits {
        let cut_off = ["unshare", "--map-root-user", "--net"].map(str::to_owned);
        Limits { allow_network: !works(&cut_off), timeout_seconds: 5.0, ..Limits::default() }
    }

    #[test]
    fn a_program_reads_the_completion_and_prints_a_reward() {
        let script = r#"read -r line; case "$line" in *'"completion":"yes"'*) echo 2.5;; *) echo -1;; esac"#;
        assert_eq!(judge(script, limits(), &["yes", "no"]).unwrap(), [2.5, -1.0]);
    }

    #[test]
    fn a_completion_that_breaks_the_program_has_no_reward() {
        let script = r#"read -r line; case "$line" in *bad*) exit 3;; *) echo 1;; esac"#;
        let rewards = judge(script, limits(), &["good", "bad"]).unwrap();
        assert_eq!(rewards[0], 1.0);
        assert!(rewards[1].is_nan());
        let error = judge("echo what >&2; exit 3", limits(), &["a"]).unwrap_err().to_string();
        assert!(error.contains("ended with") && error.contains("what"), "{error}");
        let error = judge("echo many", limits(), &["a"]).unwrap_err().to_string();
        assert!(error.contains("must print a number"), "{error}");
    }

    #[test]
    fn time_and_memory_are_bounded() {
        let brief = Limits { timeout_seconds: 0.2, ..limits() };
        let error = judge("sleep 5; echo 1", brief, &["a"]).unwrap_err().to_string();
        assert!(error.contains("did not end within 0.2 s"), "{error}");
        let small = Limits { memory_mib: 32, ..limits() };
        let hungry = "x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done; echo 1";
        assert!(judge(hungry, small, &["a"]).is_err());
    }

    #[test]
    fn there_is_no_network() {
        let limits = limits();
        if limits.allow_network {
            return;
        }
        // The only device is the loopback.
        let rewards = judge("echo $(( $(wc -l < /proc/net/dev) - 2 ))", limits, &["a"]).unwrap();
        assert_eq!(rewards, [1.0]);
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = Program::new(&["no-such-judge".to_owned()], limits()).err().unwrap().to_string();
        assert!(error.contains("no-such-judge"), "{error}");
    }
}
