//! `rectify bench load`: how long a policy takes from its files into memory, beside reading the same files once, past a
//! buffer and into fresh memory, and the most memory on the way beside that of the packed weights. One measurement a process, as a server loads: memory that was
//! used before is faster than fresh one. Leaves rounds and cold files to `benches/alone.py load`.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use rectify_engine::model::source::ModelSource;
use serde::Serialize;

use crate::boot;
use crate::cli::{ByteSize, CliError, ModelArgs, ProgressMode};

/// Bytes of one read: what stays in a second-level cache.
const PIECE: u64 = 256 << 10;
/// Bytes of one read into fresh memory.
const LARGE_PIECE: usize = 4 << 20;

/// Memory of the KV cache, unless an option says otherwise.
const KV_MEMORY: ByteSize = ByteSize(16 << 20);

/// Options of `rectify bench load`.
#[derive(Clone, Debug, clap::Args)]
pub struct BenchLoadArgs {
    /// Measure one alone; by default the files are read, read again and timed, and then loaded.
    #[arg(long, value_enum)]
    pub only: Option<LoadPart>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
    /// Models.
    #[command(flatten)]
    pub model: ModelArgs,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LoadPart {
    /// Reading the files of weights into a buffer that is used again.
    Read,
    /// Reading them into memory of their size, fresh as a loader's is.
    Copy,
    /// Loading them.
    Load,
}

/// What `--json` prints. Times are in seconds, memory in bytes.
#[derive(Clone, Debug, Default, Serialize)]
struct Report {
    file_bytes: u64,
    threads: usize,
    /// By `read` into a buffer that is used again, on as many threads.
    read_s: Option<f64>,
    /// Into memory of their size that nobody had before, on as many threads.
    copy_s: Option<f64>,
    /// Until the engine takes requests.
    load_s: Option<f64>,
    /// `load_s` over `read_s`.
    ratio: Option<f64>,
    packed_bytes: Option<usize>,
    /// Resident memory at its highest, less what was resident before.
    peak_bytes: Option<u64>,
    /// `peak_bytes` over `packed_bytes`.
    peak_ratio: Option<f64>,
}

pub(super) fn run(args: &BenchLoadArgs, mode: ProgressMode) -> Result<(), CliError> {
    let mut config = boot::configure(&args.model)?;
    // Room for keys and values is no part of loading.
    config.cache.memory.get_or_insert(KV_MEMORY);
    let Some(policy) = &config.model.path else {
        return Err(CliError::Usage(
            "--policy is missing: the demo is in the binary and is not read".to_owned(),
        ));
    };
    let files = files_of(policy)?;
    let mut report = Report { file_bytes: files.iter().map(|(_, bytes)| bytes).sum(), ..Report::default() };
    report.threads = config
        .scheduler
        .threads
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    if args.only == Some(LoadPart::Copy) {
        let start = Instant::now();
        copy(&files, report.threads)?;
        report.copy_s = Some(start.elapsed().as_secs_f64());
    }
    if matches!(args.only, None | Some(LoadPart::Read)) {
        if args.only.is_none() {
            read(&files, report.threads)?;
        }
        let start = Instant::now();
        read(&files, report.threads)?;
        report.read_s = Some(start.elapsed().as_secs_f64());
    }
    if matches!(args.only, None | Some(LoadPart::Load)) {
        let before = resident("VmRSS:");
        let start = Instant::now();
        let booted = boot::start_one(&config, None, mode)?;
        report.load_s = Some(start.elapsed().as_secs_f64());
        let packed = booted.weights.num_bytes();
        report.packed_bytes = Some(packed);
        report.peak_bytes = resident("VmHWM:").zip(before).map(|(peak, before)| peak.saturating_sub(before));
        report.peak_ratio = report.peak_bytes.map(|peak| peak as f64 / packed as f64);
    }
    report.ratio = report.load_s.zip(report.read_s).map(|(load, read)| load / read);
    let text = if args.json { serde_json::to_string(&report).unwrap_or_default() } else { report.table() };
    super::print(&text)
}

impl Report {
    fn table(&self) -> String {
        let gib = |bytes: f64| format!("{:.2} GiB", bytes / f64::from(1 << 30));
        let mut lines = vec![format!("files    {} on {} threads", gib(self.file_bytes as f64), self.threads)];
        lines.extend(self.read_s.map(|seconds| format!("read     {seconds:.3} s")));
        lines.extend(self.copy_s.map(|seconds| format!("copy     {seconds:.3} s")));
        lines.extend(self.load_s.map(|seconds| format!("load     {seconds:.3} s")));
        lines.extend(self.ratio.map(|ratio| format!("         {ratio:.2} times")));
        lines.extend(self.packed_bytes.map(|bytes| format!("packed   {}", gib(bytes as f64))));
        lines.extend(self.peak_bytes.map(|bytes| format!("peak     {}", gib(bytes as f64))));
        lines.extend(self.peak_ratio.map(|ratio| format!("         {ratio:.2} times")));
        lines.join("\n")
    }
}

/// The files of weights, with their sizes.
fn files_of(policy: &Path) -> Result<Vec<(PathBuf, u64)>, CliError> {
    let path = ModelSource::from(policy).path();
    let entries = match path.is_dir() {
        true => std::fs::read_dir(&path).map_err(|error| CliError::io(&path, "list the folder", &error))?,
        false => return Ok(vec![sized(path)?]),
    };
    let paths = entries.flatten().map(|entry| entry.path());
    paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "safetensors"))
        .map(sized)
        .collect()
}

fn sized(path: PathBuf) -> Result<(PathBuf, u64), CliError> {
    let metadata = path.metadata().map_err(|error| CliError::io(&path, "read the file", &error))?;
    Ok((path, metadata.len()))
}

/// Reads all of them once, piece by piece on all threads.
fn read(files: &[(PathBuf, u64)], threads: usize) -> Result<(), CliError> {
    for (path, size) in files {
        let pieces = AtomicU64::new(0);
        on_threads(path, threads, |file| {
            let mut buffer = vec![0; PIECE as usize];
            loop {
                let at = pieces.fetch_add(PIECE, Ordering::Relaxed);
                let Some(left) = size.checked_sub(at).filter(|&left| left > 0) else { return Ok(()) };
                let piece = &mut buffer[..left.min(PIECE) as usize];
                file.read_exact_at(piece, at)?;
                std::hint::black_box(piece);
            }
        })?;
    }
    Ok(())
}

/// Reads all of them once into memory of their size, piece by piece on all threads.
fn copy(files: &[(PathBuf, u64)], threads: usize) -> Result<(), CliError> {
    for (path, size) in files {
        let mut copy = vec![0; *size as usize];
        let pieces = Mutex::new(copy.chunks_mut(LARGE_PIECE).enumerate());
        on_threads(path, threads, |file| {
            loop {
                let next = pieces.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some((index, piece)) = next else { return Ok(()) };
                file.read_exact_at(piece, (index * LARGE_PIECE) as u64)?;
            }
        })?;
        std::hint::black_box(&mut copy);
    }
    Ok(())
}

/// Opens a file and does `work` on so many threads.
fn on_threads(
    path: &Path,
    threads: usize,
    work: impl Fn(&File) -> std::io::Result<()> + Sync,
) -> Result<(), CliError> {
    let failed = |error: &std::io::Error| CliError::io(path, "read the file", error);
    let file = File::open(path).map_err(|error| failed(&error))?;
    let failure = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                if let Err(error) = work(&file) {
                    *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                }
            });
        }
    });
    let failure = failure.into_inner().unwrap_or_else(PoisonError::into_inner);
    failure.map_or(Ok(()), |error| Err(failed(&error)))
}

/// A line of the process's status, in bytes; `None` where the system keeps none.
fn resident(name: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
}
