//! Rules of the repository that no compiler checks: headers, file sizes, the one-way dependencies, paths and links in
//! the documents. Leaves formatting and lints to `cargo fmt` and `cargo clippy`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a file before its tests; more needs an entry in [`LONG_FILES`].
const MAX_LINES: usize = 400;

/// Files that may be longer, with the reason.
const LONG_FILES: &[(&str, &str)] = &[];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every file below the root with this extension, relative to it, build output and hidden folders left out.
fn files(extension: &str) -> Vec<PathBuf> {
    let (root, mut found, mut folders) = (root(), Vec::new(), vec![root()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
            if name.starts_with('.') || ["target", "rectify-data"].contains(&name.as_str()) {
                continue;
            }
            if entry.file_type().unwrap().is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(path.strip_prefix(&root).unwrap().to_owned());
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "no .{extension} file found below {}", root.display());
    found
}

fn read(path: &Path) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The part of a source file above its tests.
fn without_tests(text: &str) -> impl Iterator<Item = &str> {
    text.lines().take_while(|line| !line.trim_start().starts_with("#[cfg(test)]"))
}

fn none(problems: Vec<String>, rule: &str) {
    assert!(problems.is_empty(), "{rule}:\n  {}", problems.join("\n  "));
}

#[test]
fn every_source_file_says_what_it_owns() {
    let bare = files("rs").into_iter().filter(|path| !read(path).starts_with("//! "));
    none(bare.map(|p| p.display().to_string()).collect(), "these files do not begin with `//! `");
}

#[test]
fn files_own_one_idea() {
    let mut problems = Vec::new();
    for path in files("rs") {
        if path.iter().any(|part| part == "tests" || part == "tests.rs") {
            continue;
        }
        let lines = without_tests(&read(&path)).count();
        let listed = LONG_FILES.iter().any(|(name, _)| Path::new(name) == path);
        if lines > MAX_LINES && !listed {
            problems
                .push(format!("{} has {lines} lines without its tests, at most {MAX_LINES}", path.display()));
        } else if lines <= MAX_LINES && listed {
            problems.push(format!("{} is short now: take it off LONG_FILES", path.display()));
        }
    }
    none(problems, "files too long");
}

#[test]
fn nothing_is_left_undone_or_silenced() {
    // Written in two halves, so that this file does not find itself.
    let marks = [
        ("to", "do!"),
        ("unimple", "mented!"),
        ("#[al", "low("),
        ("#![al", "low("),
        ("FIX", "ME"),
        ("XX", "X:"),
    ];
    let mut problems = Vec::new();
    for path in files("rs") {
        for (number, line) in read(&path).lines().enumerate() {
            for (a, b) in marks {
                if line.contains(&format!("{a}{b}")) {
                    problems.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
                }
            }
        }
    }
    none(problems, "marks of unfinished work or silenced lints");
}

#[test]
fn unsafe_stays_in_the_kernels_and_one_loader() {
    let word = |line: &str| {
        // What stands in quotes is data.
        let mut code = line.split("//").next().unwrap().split('"').step_by(2);
        code.any(|code| code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|token| token == "unsafe"))
    };
    let elsewhere = files("rs").into_iter().filter(|path| {
        let home = path.starts_with("kernels") || path == Path::new("engine/src/model/mmap.rs");
        // Raw strings and this test aside, the keyword stands in code only where it may.
        !home && path != Path::new("tests/tidy.rs") && read(path).lines().any(word)
    });
    none(
        elsewhere.map(|p| p.display().to_string()).collect(),
        "`unsafe` outside kernels and the mmap loader",
    );
}

/// The crates of the workspace each crate may use, besides itself.
const MAY_USE: &[(&str, &[&str])] = &[
    ("kernels", &[]),
    ("feedback", &[]),
    ("engine", &["kernels"]),
    ("trainer", &["engine", "feedback", "kernels"]),
    ("server", &["engine", "feedback", "kernels", "trainer"]),
];

#[test]
fn dependencies_go_one_way() {
    let mut problems = Vec::new();
    for (owner, allowed) in MAY_USE {
        let manifest = read(&Path::new(owner).join("Cargo.toml"));
        let dependencies = manifest.split("[dependencies]").nth(1).unwrap_or_default();
        for line in dependencies.lines().take_while(|line| !line.starts_with('[')) {
            let Some(rest) = line.strip_prefix("rectify-") else { continue };
            let used = rest.split(['.', ' ', '=']).next().unwrap();
            if !allowed.contains(&used) {
                problems.push(format!("{owner} depends on {used}"));
            }
        }
    }
    none(problems, "dependencies against the order server → trainer → {engine, feedback} → kernels");
}

/// `a/{b,c}.rs` as `a/b.rs`, `a/c.rs`.
fn expand_braces(text: &str) -> Vec<String> {
    let Some((before, rest)) = text.split_once('{') else { return vec![text.to_owned()] };
    let Some((inside, after)) = rest.split_once('}') else { return vec![text.to_owned()] };
    inside.split(',').flat_map(|part| expand_braces(&format!("{before}{}{after}", part.trim()))).collect()
}

/// The code spans of a document that name a place in the repository: they start with a folder or file of its root.
fn named_paths(document: &str) -> BTreeSet<String> {
    let top: BTreeSet<String> = fs::read_dir(root())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let spans = document.split('`').skip(1).step_by(2);
    let path_like = |text: &&str| {
        let known = [".rs", ".md", ".toml", ".py", ".sh", ".jsonl"].iter().any(|end| text.ends_with(end));
        let first = text.split('/').next().unwrap();
        !text.contains([' ', '\n', '<', '*', '(']) && (known || (text.contains('/') && top.contains(first)))
    };
    spans.filter(path_like).flat_map(expand_braces).collect()
}

#[test]
fn every_path_the_architecture_names_exists() {
    let named = named_paths(&read(Path::new("ARCHITECTURE.md")));
    assert!(named.len() >= 12, "ARCHITECTURE.md names only {named:?}: is it still a map of the repository?");
    let missing = named.into_iter().filter(|path| !root().join(path).exists()).collect();
    none(missing, "ARCHITECTURE.md names paths that do not exist");
}

#[test]
fn the_architecture_names_every_crate() {
    let text = read(Path::new("ARCHITECTURE.md"));
    let manifest = read(Path::new("Cargo.toml"));
    let members = manifest.split("members = [").nth(1).unwrap().split(']').next().unwrap();
    let unnamed = members
        .split(',')
        .map(|member| member.trim().trim_matches('"'))
        .filter(|member| !member.is_empty() && !text.contains(&format!("{member}/")));
    none(unnamed.map(str::to_owned).collect(), "ARCHITECTURE.md does not name these crates");
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut problems = Vec::new();
    for path in files("md") {
        let (text, folder) = (read(&path), root().join(path.parent().unwrap()));
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap();
            if !target.is_empty() && !target.contains("://") && !folder.join(target).exists() {
                problems.push(format!("{}: ({link})", path.display()));
            }
        }
    }
    none(problems, "links to files that do not exist");
}

#[test]
fn ci_runs_the_command_the_readme_promises() {
    let (readme, ci) = (read(Path::new("README.md")), read(Path::new(".ci/run")));
    for command in ["cargo run --release -- serve", "cargo test --release"] {
        assert!(readme.contains(command), "README.md does not show `{command}`");
    }
    assert!(ci.lines().any(|line| line.trim() == "cargo test --release"), ".ci/run must run exactly that");
}
